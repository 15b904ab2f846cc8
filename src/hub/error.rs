//! What can go wrong between this server and where files come from.

use std::time::Duration;

use crate::repo::{Commit, ContentError, RepoId};

/// Why an upstream did not give what was asked. No variant carries a token, an address beyond its host or a path of this
/// machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The repository does not exist, or is private and the credentials at hand do not open it.
    #[error(
        "the repository {0} does not exist at the upstream, or is private and the server's Hub token does not open it"
    )]
    RepositoryUnknown(RepoId),
    /// The repository has no such revision.
    #[error("the repository {repo} has no revision '{revision}'")]
    RevisionUnknown {
        /// The repository.
        repo: RepoId,
        /// The revision asked for.
        revision: String,
    },
    /// A commit has no such file.
    #[error("{repo} at {commit} has no file {path:?}")]
    FileUnknown {
        /// The repository.
        repo: RepoId,
        /// The commit.
        commit: Commit,
        /// The path asked for.
        path: String,
    },
    /// The upstream refused the server's own token.
    #[error("the upstream refused the server's Hub token (asked for {0}); check HF_TOKEN")]
    BadToken(RepoId),
    /// The upstream refused this repository to the token, which may well be good for others.
    #[error(
        "the upstream refused {0} to the Hub token that it was asked with; give a token with read access to it"
    )]
    Forbidden(RepoId),
    /// Content that its owner gives out on request only.
    #[error(
        "{0} is gated: ask for access at https://huggingface.co/{0} and give the server a Hub token (HF_TOKEN) that has it"
    )]
    Gated(RepoId),
    /// The Hub disabled the repository.
    #[error("the Hub has disabled access to {0}")]
    Disabled(RepoId),
    /// The upstream's rate limit.
    #[error("the upstream's rate limit is reached{}", match retry_after { Some(d) => format!("; it asks to wait {} s", d.as_secs()), None => String::new() })]
    RateLimited {
        /// How long it asks to wait.
        retry_after: Option<Duration>,
    },
    /// No connection, or a status that says the upstream is broken, after all retries.
    #[error("the upstream does not answer: {0}")]
    Unavailable(String),
    /// No progress for too long, after all retries.
    #[error("the upstream is too slow: {0}")]
    Timeout(String),
    /// An answer that breaks the protocol, or bytes that are not the ones listed.
    #[error("the upstream gave a wrong answer: {0}")]
    Broken(String),
    /// The server is offline by its owner's wish: nobody was asked.
    #[error("the server is offline")]
    Offline,
    /// The listing has content that no image can hold.
    #[error("{repo} cannot be an image: {error}")]
    Content {
        /// The repository.
        repo: RepoId,
        /// What is wrong, naming the file.
        error: ContentError,
    },
}

impl UpstreamError {
    /// Whether the upstream itself failed, rather than said no: then a known older answer may stand in (stale).
    pub const fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::RateLimited { .. } | Self::Unavailable(_) | Self::Timeout(_) | Self::Broken(_)
        )
    }
}
