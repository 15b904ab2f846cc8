//! Who asks, and what they may see: the error table of the Hub.

use super::answer::Answer;
use super::world::{Commit, Kind, Repo, World};
use std::sync::Arc;

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Viewer {
    /// No token.
    Anonymous,
    /// A token that nobody knows.
    Unknown,
    /// A known token and whose it is.
    User {
        /// The token.
        token: String,
        /// Its owner.
        name: String,
    },
}

impl Viewer {
    /// Reads an `Authorization` header.
    pub fn of(authorization: Option<&str>, world: &World) -> Self {
        let Some(value) = authorization else {
            return Self::Anonymous;
        };
        let token = value.strip_prefix("Bearer ").unwrap_or_default();
        match world.user_of(token) {
            Some(name) => Self::User {
                token: token.to_owned(),
                name,
            },
            None => Self::Unknown,
        }
    }

    fn may_read(&self, repo: &Repo) -> bool {
        matches!(self, Self::User { token, .. } if repo.tokens.contains(token))
    }

    /// Whether the repository is there for them at all.
    pub fn may_see(&self, repo: &Repo) -> bool {
        !repo.private || self.may_read(repo)
    }
}

/// The repository of an id in the canonical spelling or (if `any_case`) another one, if this viewer may know of it.
pub fn visible<'a>(
    world: &'a World,
    viewer: &Viewer,
    kind: Kind,
    id: &str,
    any_case: bool,
) -> Result<&'a Repo, Box<Answer>> {
    if *viewer == Viewer::Unknown {
        return Err(bad_token().into());
    }
    let found = world.find(kind, id);
    let found = found.filter(|repo| any_case || repo.id == id);
    match found.filter(|repo| viewer.may_see(repo)) {
        None => Err(missing(world, viewer).into()),
        Some(repo) if repo.disabled => {
            let message = "Access to this resource is disabled.";
            Err(Answer::error(403, None, message).into())
        }
        Some(repo) => Ok(repo),
    }
}

/// Whether the viewer may read the content of a repository that they see.
pub fn readable(viewer: &Viewer, repo: &Repo) -> Result<(), Box<Answer>> {
    if repo.gated.is_none() || viewer.may_read(repo) {
        return Ok(());
    }
    let id = &repo.id;
    let (status, message) = match viewer {
        Viewer::User { .. } => (
            403,
            format!(
                "Access to {} {id} is restricted and you are not in the authorized list. Visit the repository's page to ask for access.",
                repo.kind.plural().trim_end_matches('s'),
            ),
        ),
        _ => (
            401,
            format!(
                "Access to {} {id} is restricted. You must have access to it and be authenticated to access it. Please log in.",
                repo.kind.plural().trim_end_matches('s'),
            ),
        ),
    };
    Err(Answer::error(status, Some("GatedRepo"), &message).into())
}

/// The commit of a revision.
pub fn revision<'a>(repo: &'a Repo, revision: &str) -> Result<&'a Arc<Commit>, Box<Answer>> {
    repo.revision(revision).ok_or_else(|| {
        let message = format!("Invalid rev id: {revision}");
        Answer::error(404, Some("RevisionNotFound"), &message).into()
    })
}

/// The answer for a path that a commit does not have.
pub fn no_entry(commit: &Commit) -> Box<Answer> {
    let answer = Answer::error(404, Some("EntryNotFound"), "Entry not found");
    answer.with("x-repo-commit", &commit.id).into()
}

/// The answer to a token that nobody knows.
pub fn bad_token() -> Answer {
    Answer::error(401, None, "Invalid credentials in Authorization header")
}

fn missing(world: &World, viewer: &Viewer) -> Answer {
    match viewer {
        Viewer::User { .. } => Answer::error(404, Some("RepoNotFound"), "Repository not found"),
        _ => {
            let code = world.options.code_on_401.then_some("RepoNotFound");
            Answer::error(401, code, "Invalid username or password.")
        }
    }
}
