//! How far a fill is, for logs and for whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use crate::image::ImageName;
use crate::repo::Commit;
use crate::store::ImageKey;

/// The counters of one fill. Numbers only grow; they may be read at any time.
#[derive(Debug)]
pub struct Progress {
    name: ImageName,
    commit: Commit,
    started: Instant,
    total_bytes: AtomicU64,
    bytes: AtomicU64,
    reused: AtomicU64,
    total_files: AtomicU64,
    files: AtomicU64,
}

impl Progress {
    pub(super) fn new(key: &ImageKey) -> Self {
        Self {
            name: key.name.clone(),
            commit: key.commit,
            started: Instant::now(),
            total_bytes: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            reused: AtomicU64::new(0),
            total_files: AtomicU64::new(0),
            files: AtomicU64::new(0),
        }
    }

    pub(super) fn expect(&self, files: u64, bytes: u64) {
        self.total_files.store(files, Relaxed);
        self.total_bytes.store(bytes, Relaxed);
    }

    pub(super) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn add_file(&self) {
        self.files.fetch_add(1, Relaxed);
    }

    /// A whole layer was there already.
    pub(super) fn reuse(&self, files: u64, bytes: u64) {
        self.reused.fetch_add(bytes, Relaxed);
        self.files.fetch_add(files, Relaxed);
    }

    /// The image's name.
    pub const fn name(&self) -> &ImageName {
        &self.name
    }

    /// The image's commit.
    pub const fn commit(&self) -> Commit {
        self.commit
    }

    /// When the fill began.
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Bytes of all the image's files; 0 until the listing is there.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Relaxed)
    }

    /// Bytes downloaded, hashed and written.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Bytes that were in the store already.
    pub fn reused(&self) -> u64 {
        self.reused.load(Relaxed)
    }

    /// Files of the image; 0 until the listing is there.
    pub fn total_files(&self) -> u64 {
        self.total_files.load(Relaxed)
    }

    /// Files verified, or in the store already.
    pub fn files(&self) -> u64 {
        self.files.load(Relaxed)
    }

    /// Bytes downloaded a second, since the beginning.
    pub fn rate(&self) -> f64 {
        self.bytes() as f64 / self.started.elapsed().as_secs_f64().max(1e-3)
    }
}
