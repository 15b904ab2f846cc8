//! What can go wrong in the store.

use std::path::PathBuf;

use super::budget::{Bytes, Limit};

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the data directory could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the path relative to the data directory.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The disk has no room.
    #[error("the disk of the data directory is full{}; free some of it and ask again", shortage(*.needed, *.free))]
    Full {
        /// Bytes that were asked for, as far as they are known; else 0.
        needed: u64,
        /// Bytes that there are.
        free: u64,
    },
    /// The limits leave no room, and nothing more may be given up.
    #[error(
        "there is no room for this image: {needed} are needed, {available} can be had under {limit}; what is pinned or in use stays; {}", .limit.way_out()
    )]
    NoRoom {
        /// Bytes that are needed.
        needed: Bytes,
        /// Bytes that there are, or can be made.
        available: Bytes,
        /// What stands in the way.
        limit: Limit,
    },
    /// Another process has the data directory.
    #[error("another process holds the lock of {0}")]
    Locked(PathBuf),
    /// The data directory holds something else.
    #[error("{0} cannot be used as a data directory: {1}")]
    Foreign(PathBuf, String),
    /// The index failed; it is rebuilt at the next start.
    #[error("the index failed: {0}")]
    Index(String),
}

impl StoreError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::Full { needed: 0, free: 0 }
            }
            _ => Self::Io { what, source },
        }
    }
}

fn shortage(needed: u64, free: u64) -> String {
    match needed {
        0 => String::new(),
        needed => format!(": {} are needed, {} are free", Bytes(needed), Bytes(free)),
    }
}
