//! On whose behalf images are looked for: whose credentials the upstream is asked with, and what they may have.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::hub::Upstream;
use crate::repo::{RepoId, Visibility};

/// What a credential is remembered by: nothing of it can be told from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Credential(pub [u8; 16]);

/// Looks at what the upstream said of a repository, and refuses what the asker may not have.
pub type Admits = dyn Fn(&RepoId, Visibility) -> Result<(), Error> + Send + Sync;

/// Who asks. Cheap to clone.
///
/// Answers are remembered by [`Credential`]: what a tag means to one never answers another. Whether an asker may have a repository at all
/// is settled before it is made; fills are joined across askers.
#[derive(Clone)]
pub struct Asker {
    pub(super) upstream: Arc<dyn Upstream>,
    pub(super) credential: Option<Credential>,
    /// `None`: everything.
    admits: Option<Arc<Admits>>,
    /// Whether the upstream has said that everybody may read what is asked for.
    public: bool,
}

impl Asker {
    /// Asks `upstream`. Those without a credential of their own share what is remembered, so they must all be asking the same.
    pub fn new(
        upstream: Arc<dyn Upstream>,
        credential: Option<Credential>,
        admits: Arc<Admits>,
    ) -> Self {
        Self {
            upstream,
            credential,
            admits: Some(admits),
            public: false,
        }
    }

    /// The same, for a repository that the upstream has just shown to an anonymous client.
    pub fn of_public(self) -> Self {
        Self {
            public: true,
            ..self
        }
    }

    /// Whether what it asks for was shown to an anonymous client.
    pub(super) const fn is_of_public(&self) -> bool {
        self.public
    }

    /// Asks `upstream` and may have everything that it gives.
    pub fn trusted(upstream: Arc<dyn Upstream>) -> Self {
        Self {
            upstream,
            credential: None,
            admits: None,
            public: false,
        }
    }

    /// Whether it may have everything that the upstream gives.
    pub(super) const fn is_trusted(&self) -> bool {
        self.admits.is_none()
    }

    /// Whether it asks with a credential of its own.
    pub const fn has_credential(&self) -> bool {
        self.credential.is_some()
    }

    /// Refuses a repository that the asker may not have, by what the upstream said of it just now.
    pub(super) fn admits(&self, repo: &RepoId, visibility: Visibility) -> Result<(), Error> {
        let admits = self.admits.as_ref();
        admits.map_or(Ok(()), |admits| admits(repo, visibility))
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker")
            .field("credential", &self.credential)
            .finish_non_exhaustive()
    }
}
