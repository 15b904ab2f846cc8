//! The Hub's words as types that cannot be wrong: repositories, commits, content ids, and the checked files of a commit.
//!
//! Pure: text in, values out.

mod glob;
mod id;
mod snapshot;
mod visibility;

pub use glob::{Glob, GlobError, wildcard};
pub use id::{Commit, CommitError, ContentId, RepoId, RepoIdError, RepoKind};
pub use snapshot::{ContentError, Entry, FilePath, MAX_FILE, Snapshot};
pub use visibility::{Visibility, VisibilityError};
