//! How far a fill is, for logs and for whoever shows it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::image::ImageName;
use crate::oci::Digest;
use crate::repo::Commit;
use crate::store::ImageKey;

/// The counters of one fill. Numbers only grow; they may be read at any time.
#[derive(Debug)]
pub struct Progress {
    name: ImageName,
    commit: Commit,
    started: Instant,
    total_bytes: AtomicU64,
    total_files: AtomicU64,
    layers: OnceLock<Vec<Arc<LayerProgress>>>,
}

/// The counters of one layer of a fill. Numbers only grow; they may be read at any time.
#[derive(Debug, Default)]
pub struct LayerProgress {
    total_bytes: u64,
    total_files: u64,
    bytes: AtomicU64,
    reused: AtomicU64,
    files: AtomicU64,
    blob: OnceLock<(Digest, u64)>,
}

impl Progress {
    pub(super) fn new(key: &ImageKey) -> Self {
        Self {
            name: key.name.clone(),
            commit: key.commit,
            started: Instant::now(),
            total_bytes: AtomicU64::new(0),
            total_files: AtomicU64::new(0),
            layers: OnceLock::new(),
        }
    }

    pub(super) fn expect(&self, files: u64, bytes: u64) {
        self.total_files.store(files, Relaxed);
        self.total_bytes.store(bytes, Relaxed);
    }

    /// Which layers there are, the lowest first. Only the first call counts.
    pub(super) fn expect_layers(&self, layers: Vec<Arc<LayerProgress>>) {
        // A fill asks once; whoever reads has the first answer.
        let _ = self.layers.set(layers);
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

    /// The image's layers, the lowest first; none until the listing is there and it is known what is here of them.
    pub fn layers(&self) -> &[Arc<LayerProgress>] {
        self.layers.get().map_or(&[], Vec::as_slice)
    }

    /// Bytes of all the image's files; 0 until the listing is there.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Relaxed)
    }

    /// Bytes downloaded, hashed and written.
    pub fn bytes(&self) -> u64 {
        self.layers().iter().map(|layer| layer.bytes()).sum()
    }

    /// Bytes that were in the store already.
    pub fn reused(&self) -> u64 {
        self.layers().iter().map(|layer| layer.reused()).sum()
    }

    /// Files of the image; 0 until the listing is there.
    pub fn total_files(&self) -> u64 {
        self.total_files.load(Relaxed)
    }

    /// Files verified, or in the store already. Empty ones count when their layer is done.
    pub fn files(&self) -> u64 {
        self.layers().iter().map(|layer| layer.files()).sum()
    }

    /// Bytes downloaded a second, since the beginning.
    pub fn rate(&self) -> f64 {
        self.bytes() as f64 / self.started.elapsed().as_secs_f64().max(1e-3)
    }
}

impl LayerProgress {
    pub(super) fn new(files: u64, bytes: u64) -> Self {
        Self {
            total_bytes: bytes,
            total_files: files,
            ..Self::default()
        }
    }

    pub(super) fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn add_file(&self) {
        self.files.fetch_add(1, Relaxed);
    }

    /// Some of it was there already.
    pub(super) fn reuse(&self, files: u64, bytes: u64) {
        self.reused.fetch_add(bytes, Relaxed);
        self.files.fetch_add(files, Relaxed);
    }

    /// It is published as this blob of so many bytes.
    pub(super) fn done(&self, blob: Digest, size: u64) {
        // Empty files have no bytes to count, and one that was fetched twice was counted twice.
        self.files.store(self.total_files, Relaxed);
        let _ = self.blob.set((blob, size));
    }

    /// Bytes of its files.
    pub const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Bytes downloaded, hashed and written. What was wrong and is fetched again counts again.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Bytes that were here already.
    pub fn reused(&self) -> u64 {
        self.reused.load(Relaxed)
    }

    /// Its files.
    pub const fn total_files(&self) -> u64 {
        self.total_files
    }

    /// Files verified, or here already.
    pub fn files(&self) -> u64 {
        self.files.load(Relaxed)
    }

    /// Digest and length of its blob, once it is published.
    pub fn blob(&self) -> Option<(Digest, u64)> {
        self.blob.get().copied()
    }
}
