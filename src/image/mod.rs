//! From the listing of a commit to an image: which files, in which layers, under which config, manifests and index.
//!
//! Pure: the same snapshot gives the same bytes on any machine at any time.

mod repo;
mod snapshot;

pub use repo::{Commit, CommitError, ContentId, RepoId, RepoIdError, RepoKind};
pub use snapshot::{ContentError, Entry, FilePath, MAX_FILE, Snapshot};
