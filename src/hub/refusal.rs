//! From the Hub's status, `X-Error-Code` and message to what it means. Pure; one table.

use crate::repo::RepoId;

use super::{RemoteFile, UpstreamError};

/// What a request was about.
#[derive(Debug, Clone, Copy)]
pub(super) enum About<'a> {
    /// A repository.
    Repo(&'a RepoId),
    /// A revision of it.
    Revision(&'a RepoId, &'a str),
    /// A file of a commit.
    File(&'a RemoteFile),
}

impl<'a> About<'a> {
    fn repo(self) -> &'a RepoId {
        match self {
            Self::Repo(repo) | Self::Revision(repo, _) => repo,
            Self::File(file) => &file.repo,
        }
    }
}

/// What the Hub itself said no with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal<'a> {
    /// Neither a success, nor a redirect, nor worth another attempt.
    pub(super) status: u16,
    /// `X-Error-Code`.
    pub(super) code: Option<&'a str>,
    /// `X-Error-Message`, or the message in the body.
    pub(super) message: Option<&'a str>,
    /// Whether a token was sent along.
    pub(super) token: bool,
}

impl Refusal<'_> {
    /// The error for a request about `about`. `place` is the address without secrets.
    pub(super) fn error(&self, about: About<'_>, place: &str) -> UpstreamError {
        let repo = about.repo();
        match (self.status, self.code) {
            (_, Some("GatedRepo")) => UpstreamError::Gated(repo.clone()),
            (403, _) if self.says("disabled") => UpstreamError::Disabled(repo.clone()),
            (451, _) => UpstreamError::Disabled(repo.clone()),
            (401 | 404, Some("RepoNotFound")) => UpstreamError::RepositoryUnknown(repo.clone()),
            (401, _) if self.token => UpstreamError::BadToken(repo.clone()),
            // A good token that is not good for this.
            (403, _) if self.token => UpstreamError::Forbidden(repo.clone()),
            (401, _) => UpstreamError::RepositoryUnknown(repo.clone()),
            (400 | 404 | 410, code) => self.missing(about, code, place),
            (status, _) => UpstreamError::Unavailable(format!("{place} answered {status}")),
        }
    }

    fn missing(&self, about: About<'_>, code: Option<&str>, place: &str) -> UpstreamError {
        match (about, code) {
            (About::Revision(repo, revision), Some("RevisionNotFound")) => {
                UpstreamError::RevisionUnknown {
                    repo: repo.clone(),
                    revision: revision.to_owned(),
                }
            }
            // A text that cannot be a revision at all.
            (About::Revision(repo, revision), _) if self.status == 400 => {
                UpstreamError::RevisionUnknown {
                    repo: repo.clone(),
                    revision: revision.to_owned(),
                }
            }
            (About::File(file), Some("RevisionNotFound")) => UpstreamError::RevisionUnknown {
                repo: file.repo.clone(),
                revision: file.commit.to_string(),
            },
            (About::File(file), _) if self.status != 400 => UpstreamError::FileUnknown {
                repo: file.repo.clone(),
                commit: file.commit,
                path: file.path.as_str().to_owned(),
            },
            (_, _) if self.status == 400 => {
                UpstreamError::Unavailable(format!("{place} answered 400"))
            }
            _ => UpstreamError::RepositoryUnknown(about.repo().clone()),
        }
    }

    fn says(&self, word: &str) -> bool {
        self.message
            .is_some_and(|m| m.to_ascii_lowercase().contains(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::{ContentId, FilePath};
    use UpstreamError as E;

    fn repo() -> RepoId {
        "org/Model".parse().expect("an id")
    }

    fn answer(
        status: u16,
        code: &'static str,
        message: &'static str,
        token: bool,
        about: About<'_>,
    ) -> E {
        let some = |text: &'static str| (!text.is_empty()).then_some(text);
        let refusal = Refusal {
            status,
            code: some(code),
            message: some(message),
            token,
        };
        refusal.error(about, "http://h/x")
    }

    #[test]
    fn the_hubs_table() {
        let (repo, file) = (
            repo(),
            RemoteFile {
                repo: repo(),
                commit: "0".repeat(40).parse().expect("a commit"),
                path: FilePath::new("a").expect("a path"),
                size: 1,
                content: ContentId::Git([0; 20]),
            },
        );
        let unknown = E::RepositoryUnknown(repo.clone());
        let (r, v, f) = (
            About::Repo(&repo),
            About::Revision(&repo, "v1"),
            About::File(&file),
        );
        let no_revision = E::RevisionUnknown {
            repo: repo.clone(),
            revision: "v1".into(),
        };
        let no_file = E::FileUnknown {
            repo: repo.clone(),
            commit: file.commit,
            path: "a".into(),
        };
        let bad = "Invalid credentials in Authorization header";
        let disabled = "Access to this resource is disabled.";
        let table = [
            (answer(401, "", "", false, r), unknown.clone()),
            (answer(401, "RepoNotFound", "", true, r), unknown.clone()),
            (answer(404, "RepoNotFound", "", true, v), unknown.clone()),
            (answer(404, "", "", true, v), unknown.clone()),
            (answer(401, "", bad, true, r), E::BadToken(repo.clone())),
            (answer(403, "", "", true, r), E::Forbidden(repo.clone())),
            (
                answer(401, "GatedRepo", "", false, f),
                E::Gated(repo.clone()),
            ),
            (
                answer(403, "GatedRepo", "", true, f),
                E::Gated(repo.clone()),
            ),
            (
                answer(403, "", disabled, true, r),
                E::Disabled(repo.clone()),
            ),
            (
                answer(403, "", disabled, false, f),
                E::Disabled(repo.clone()),
            ),
            (
                answer(404, "RevisionNotFound", "", false, v),
                no_revision.clone(),
            ),
            (answer(400, "", "", false, v), no_revision),
            (answer(404, "EntryNotFound", "", false, f), no_file),
            (answer(404, "EntryNotFound", "", false, r), unknown),
        ];
        for (i, (is, should)) in table.into_iter().enumerate() {
            assert_eq!(is, should, "row {i}");
        }
        assert!(answer(403, "", "", false, r).is_outage());
        assert!(answer(418, "", "", false, r).is_outage());
    }
}
