//! The data directory: an OCI image layout, and an index over it that can be rebuilt.
//!
//! ```text
//! oci-layout  index.json  blobs/sha256/HEX     what is published: readable by any OCI tool
//! staging/                                     what is not yet
//! index/                                       sled: may be deleted or damaged at any time
//! lock                                         held by the server while it runs
//! ```
//!
//! Publish order: blobs (fsync, rename, fsync of the folder), then `index.json` by rename, then sled. A crash between any two leaves
//! nothing wrong, only work to redo. All calls block on files; callers on the runtime wrap them in `spawn_blocking`.

mod blobs;
mod facts;
mod index;
mod layout;
mod rebuild;
mod staging;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::image::ImageName;
use crate::image::{Document, LayerRecord, Layout};
use crate::oci::{Digest, Tag};
use crate::repo::{Commit, RepoId, Visibility};

pub use layout::Reference;
pub use staging::{Order, Staging};

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
    #[error(
        "the disk of the data directory is full: {needed} bytes are needed, {free} are free; make room and ask again"
    )]
    Full {
        /// Bytes that were asked for, as far as they are known.
        needed: u64,
        /// Bytes that there are.
        free: u64,
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
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::Full { needed: 1, free: 0 }
            }
            _ => Self::Io { what, source },
        }
    }
}

/// What a repository knows of one of its digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Media type of the blob.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
}

/// An image as names refer to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageKey {
    /// The name that it was asked by; a selection is part of it.
    pub name: ImageName,
    /// How it was cut into layers.
    pub layout: Layout,
    /// The commit.
    pub commit: Commit,
}

/// An image to publish.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Under which key.
    pub key: ImageKey,
    /// The repository in its canonical spelling.
    pub repo: RepoId,
    /// Its layers, all published.
    pub layers: Vec<LayerRecord>,
    /// Its configs and manifests and, last, its index.
    pub documents: Vec<Document>,
}

/// An image that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Digest of its index.
    pub index: Digest,
    /// Length of the index in bytes.
    pub size: u64,
}

/// The data directory of one server, locked for it.
pub struct Store {
    root: PathBuf,
    index: index::Index,
    /// Held for moments only: it is read on the runtime's threads.
    layout: Mutex<layout::Layout>,
    /// Whoever writes `index.json` has this.
    writing: Mutex<()>,
    /// Whether `index.json` lacks what is in memory, because writing it failed.
    behind: AtomicBool,
    _lock: File,
}

impl Store {
    /// Opens or makes a data directory, takes its lock, sweeps what no fill can go on with, and rebuilds the index if it is missing,
    /// damaged or not of this `index.json`.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        layout::make_folders(root)?;
        let lock = lock(root)?;
        staging::sweep(root, std::time::SystemTime::now())?;
        layout::mark(root)?;
        let layout = layout::Layout::read(root)?;
        let index = rebuild::open(root, &layout)?;
        Ok(Self {
            root: root.to_owned(),
            index,
            layout: Mutex::new(layout),
            writing: Mutex::new(()),
            behind: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether `digest` (an index, manifest, config or layer) is part of an image of `repo`, whose letters are folded.
    pub fn member(&self, repo: &RepoId, digest: &Digest) -> Result<Option<Member>, StoreError> {
        self.index.member(repo, digest)
    }

    /// Opens a published blob and tells its length; `None` if it is not there.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<(File, u64)>, StoreError> {
        blobs::open(&self.root, digest)
    }

    /// Reads a whole small blob (a manifest, config or index), at most 4 MiB.
    pub fn read_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        blobs::read(&self.root, digest)
    }

    /// Reads the concatenation of some ranges of a blob; `None` if it is not there. For small files inside a layer.
    pub fn read_pieces(
        &self,
        digest: &Digest,
        pieces: &[std::ops::Range<u64>],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        blobs::read_pieces(&self.root, digest, pieces)
    }

    /// The names of all cached images, sorted by bytes, each once.
    pub fn catalog(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.lock_layout().names())
    }

    /// What a tag of a name last meant, if its image was published. Also for commits: the tag is their 40 digits.
    pub fn reference(&self, name: &ImageName, tag: &Tag) -> Option<Reference> {
        self.lock_layout()
            .find(name.as_str(), tag.as_str())
            .cloned()
    }

    /// All tags that are known of the images of `repo`, sorted, each once.
    pub fn known_tags(&self, repo: &RepoId) -> Vec<String> {
        self.lock_layout().tags(repo)
    }

    /// Who may read `repo`, whose letters are folded, when it was last known; `None` is to be treated as private.
    pub fn visibility(&self, repo: &RepoId) -> Option<Visibility> {
        self.lock_layout().facts.visibility(repo)
    }

    /// How the upstream spelled `repo`, whose letters are folded, when its last image was published: another id if it was renamed.
    pub fn canonical(&self, repo: &RepoId) -> Option<RepoId> {
        self.lock_layout().facts.canonical(repo).cloned()
    }

    /// Notes who may read `repo`, whose letters are folded. `index.json` is written if that changes what it says.
    pub fn note_visibility(&self, repo: &RepoId, visibility: Visibility) -> Result<(), StoreError> {
        if self.lock_layout().facts.note(repo, visibility) {
            tracing::info!(%repo, %visibility, "who may read a cached repository");
            self.write_layout(|_| ())?;
        }
        Ok(())
    }

    /// All known commits of `repo`, each once.
    pub fn known_commits(&self, repo: &RepoId) -> Vec<Commit> {
        self.lock_layout().commits(repo)
    }

    /// The image of a key, if all its layers are there.
    pub fn image(&self, key: &ImageKey) -> Result<Option<Stored>, StoreError> {
        let Some((stored, layers)) = self.index.image(key)? else {
            return Ok(None);
        };
        let whole = layers
            .iter()
            .all(|(digest, size)| blobs::has(&self.root, digest, *size));
        Ok((whole && blobs::has(&self.root, &stored.index, stored.size)).then_some(stored))
    }

    /// The layer of a recipe, if its blob is there.
    pub fn layer(&self, recipe: &Digest) -> Result<Option<LayerRecord>, StoreError> {
        let record = self.index.layer(recipe)?;
        Ok(record.filter(|r| blobs::has(&self.root, &r.descriptor.digest, r.descriptor.size)))
    }

    /// Opens the staging file of a recipe, of exactly `size` bytes, the disk's room for it taken: the one that an earlier fill left, or a
    /// new one. The caller sees to it that a recipe is open once at a time.
    pub fn stage(&self, recipe: &Digest, size: u64) -> Result<Staging, StoreError> {
        Staging::open(&self.root, recipe, size)
    }

    /// Gives up what an earlier fill left of a recipe.
    pub fn discard(&self, recipe: &Digest) -> Result<(), StoreError> {
        staging::discard(&self.root, recipe)
    }

    /// Notes that a fill is under way, so that the next process goes on with it if this one dies.
    pub fn put_order(&self, order: &Order) -> Result<(), StoreError> {
        staging::put_order(&self.root, order)
    }

    /// Forgets a fill.
    pub fn remove_order(&self, key: &ImageKey) -> Result<(), StoreError> {
        staging::remove_order(&self.root, key)
    }

    /// The fills that an earlier process left under way.
    pub fn orders(&self) -> Result<Vec<Order>, StoreError> {
        staging::orders(&self.root)
    }

    /// Publishes a sealed layer and remembers its recipe.
    pub fn publish_layer(
        &self,
        staging: Staging,
        recipe: &Digest,
        record: &LayerRecord,
    ) -> Result<(), StoreError> {
        staging.publish(&record.descriptor.digest)?;
        self.index.put_layer(recipe, record)
    }

    /// Publishes an image whose layers are published, under a tag. `now` is written into `index.json`, nowhere else.
    pub fn publish_image(
        &self,
        image: &NewImage,
        tag: &Tag,
        now: std::time::SystemTime,
    ) -> Result<Stored, StoreError> {
        let mut index = None;
        for document in &image.documents {
            blobs::put(&self.root, &document.descriptor.digest, &document.bytes)?;
            index = Some(Stored {
                index: document.descriptor.digest,
                size: document.descriptor.size,
            });
        }
        let stored =
            index.ok_or_else(|| StoreError::Index("an image without documents".to_owned()))?;
        blobs::sync_folder(&self.root)?;
        let reference = Reference {
            name: image.key.name.to_string(),
            tag: tag.to_string(),
            repo: image.repo.clone(),
            commit: image.key.commit,
            layout: image.key.layout,
            index: stored.index,
            size: stored.size,
            time: now,
        };
        // The index learns first what must be there when a request comes; its stamp, last, says which index.json it is of.
        self.index.put_image(image, stored)?;
        self.write_layout(|layout| layout.set(reference))?;
        Ok(stored)
    }

    /// Notes that a tag now means a commit whose image is in the store already.
    pub fn set_tag(
        &self,
        key: &ImageKey,
        repo: &RepoId,
        stored: Stored,
        tag: &Tag,
        now: std::time::SystemTime,
    ) -> Result<(), StoreError> {
        let known = self.reference(&key.name, tag);
        if known.is_some_and(|k| k.index == stored.index) && !self.behind.load(Relaxed) {
            return Ok(());
        }
        let reference = Reference {
            name: key.name.to_string(),
            tag: tag.to_string(),
            repo: repo.clone(),
            commit: key.commit,
            layout: key.layout,
            index: stored.index,
            size: stored.size,
            time: now,
        };
        self.write_layout(|layout| layout.set(reference))
    }

    /// Changes what `index.json` says, writes it, and stamps the index with it. If the writing fails, what is in memory is ahead of the
    /// disk until the next writing.
    fn write_layout(&self, change: impl FnOnce(&mut layout::Layout)) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = {
            let mut layout = self.lock_layout();
            change(&mut layout);
            layout.render()
        };
        self.behind.store(true, Relaxed);
        layout::write(&self.root, &bytes)?;
        self.behind.store(false, Relaxed);
        self.index.stamp(&Digest::of(&bytes))
    }

    /// A poisoned lock is taken all the same: the layout is replaced in one step, so it is never half changed.
    fn lock_layout(&self) -> MutexGuard<'_, layout::Layout> {
        self.layout.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(root: &Path) -> Result<File, StoreError> {
    let path = root.join("lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StoreError::io("opening lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked(root.to_owned())),
        Err(fs::TryLockError::Error(source)) => Err(StoreError::io("locking lock")(source)),
    }
}

/// Reads bytes as `index.json`, and writes again what was understood. For fuzzing.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(layout) = layout::Layout::parse(bytes) {
        assert!(layout::Layout::parse(&layout.render()).is_ok());
    }
}

#[cfg(test)]
mod tests;
