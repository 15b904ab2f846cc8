//! What is told to those who may not read a repository: the same for one that is private and one that does not exist.

use super::decide::Decision;
use super::login::unauthorized;
use crate::error::{Error, Kind};
use crate::repo::RepoId;

/// To everybody, where there are no logins.
pub(super) fn to_all(repo: &RepoId, refusal: Decision) -> Error {
    const ONLY: &str = "without logins (auth.mode) this server gives public repositories only, unless upstream.share_private is set";
    match refusal {
        Decision::Disabled => disabled(repo),
        Decision::Gated => denied(format!("{repo} is gated: {ONLY}")),
        _ => Error::new(
            Kind::NameUnknown,
            format!("{repo} does not exist at the upstream, or is private: {ONLY}"),
        ),
    }
}

/// To those who did not log in.
pub(super) fn to_anonymous(repo: &RepoId, refusal: Decision) -> Error {
    const LOGIN: &str = "docker login with any name and, as the password, a Hub token that";
    match refusal {
        Decision::Disabled => disabled(repo),
        Decision::Gated => unauthorized(&format!("{repo} is gated: {LOGIN} was let in")),
        _ => unauthorized(&format!(
            "{repo} does not exist at the Hub, or is private: {LOGIN} may read it"
        )),
    }
}

/// To those who logged in.
pub(super) fn to_login(repo: &RepoId, refusal: Decision) -> Error {
    match refusal {
        Decision::Disabled => disabled(repo),
        Decision::Gated => denied(format!(
            "{repo} is gated, and your Hub token was not let in: ask for access at https://huggingface.co/{repo}"
        )),
        Decision::BadToken => {
            unauthorized("the Hub does not know your token any more; log in again")
        }
        _ => unknown(repo),
    }
}

/// To those who may read what is public, of something that is so no longer.
pub(super) fn not_public(repo: &RepoId) -> Error {
    denied(format!("{repo} is not public any more"))
}

fn unknown(repo: &RepoId) -> Error {
    Error::new(
        Kind::NameUnknown,
        format!(
            "the repository {repo} does not exist at the upstream, or is private and your credentials do not open it"
        ),
    )
}

fn disabled(repo: &RepoId) -> Error {
    denied(format!("the Hub has disabled access to {repo}"))
}

fn denied(message: String) -> Error {
    Error::new(Kind::Denied, message)
}
