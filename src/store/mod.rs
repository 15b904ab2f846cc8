//! The data directory: an OCI image layout, and an index over it that can be rebuilt.
//!
//! ```text
//! oci-layout  index.json  blobs/sha256/HEX     what is published: readable by any OCI tool
//! staging/                                     what is not yet
//! index/                                       sled: may be deleted or damaged at any time
//! lock                                         held by the server while it runs
//! quarantine/                                  blobs that a verification found bad; nothing looks there
//! ```
//!
//! Publish order: blobs (fsync, rename, fsync of the folder), then `index.json` by rename, then sled. A crash between any two leaves
//! nothing wrong, only work to redo. All calls block on files; callers on the runtime wrap them in `spawn_blocking`.

mod blobs;
mod budget;
mod direct;
mod error;
mod evict;
mod facts;
mod finished;
mod gc;
mod healing;
mod hold;
mod hot;
mod import;
mod index;
mod inventory;
mod key;
mod layout;
mod leases;
mod orders;
mod pump;
mod reach;
mod rebuild;
mod staging;
mod usage;
mod verify;
mod writeback;

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::image::ImageName;
use crate::image::{Document, LayerRecord};
use crate::oci::{Digest, Tag};
use crate::repo::{Commit, RepoId, Visibility};

pub use budget::{Bytes, Limit, Limits, MinFree, Reservation, Used, Wanted};
pub use error::StoreError;
pub use evict::Evictions;
pub use gc::{Removal, Removed, Sweep};
pub use hold::{Held, Hold};
pub use hot::Opened;
pub use import::{ImportError, ImportOptions, Imported};
pub use inventory::{
    DiskRoom, Documents, HeldImage, HeldLayer, Inventory, Sum, Sums, Unfinished, Uses, last_uses,
};
pub use key::ImageKey;
pub use layout::Reference;
pub use leases::Lease;
pub use orders::Order;
pub use pump::pump;
pub use staging::Staging;
pub use verify::{Fault, Finding, Verified, Watcher};
pub use writeback::Writeback;

/// What a repository knows of one of its digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Media type of the blob.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
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
    index: healing::Healing,
    /// Held for moments only: it is read on the runtime's threads.
    layout: Mutex<layout::Layout>,
    /// Whoever writes `index.json`, or decides from it what goes, has this.
    writing: Mutex<()>,
    /// Whoever makes room has this; before `writing`.
    reserving: Mutex<()>,
    leases: leases::Leases,
    hot: hot::Hot,
    usage: usage::Usage,
    room: Arc<budget::Room>,
    evictions: Evictions,
    /// Whoever takes in a bundle has this.
    importing: Mutex<()>,
    /// Blobs that nothing reaches, and that were in use when they should have gone.
    left: Mutex<HashSet<Digest>>,
    /// Whether `index.json` lacks what is in memory, because writing it failed.
    behind: AtomicBool,
    /// Whether it was told that the cache cannot be brought under its limits.
    told_over: AtomicBool,
    _lock: File,
}

/// Proof that its holder may write `index.json`.
type Writing<'a> = MutexGuard<'a, ()>;

impl Store {
    /// As [`open_with`](Self::open_with), without limits; the index is opened when it is needed.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_asleep(root, Limits::default())
    }

    /// Opens or makes a data directory, takes its lock, sweeps what no fill can go on with, and rebuilds the index if it is missing,
    /// damaged or not of this `index.json`.
    pub fn open_with(root: &Path, limits: Limits) -> Result<Self, StoreError> {
        let store = Self::open_asleep(root, limits)?;
        store.wake()?;
        Ok(store)
    }

    fn open_asleep(root: &Path, limits: Limits) -> Result<Self, StoreError> {
        layout::make_folders(root)?;
        let lock = lock_folder(root)?;
        staging::sweep(root, SystemTime::now())?;
        layout::mark(root)?;
        let layout = layout::Layout::read(root)?;
        let published = blobs::list(root)?.iter().map(|(_, size)| size).sum();
        let room = budget::Room::new(root, limits, published, staging::layers(root)?);
        Ok(Self {
            root: root.to_owned(),
            index: healing::Healing::asleep(),
            layout: Mutex::new(layout),
            writing: Mutex::new(()),
            reserving: Mutex::new(()),
            importing: Mutex::new(()),
            leases: leases::Leases::default(),
            hot: hot::Hot::default(),
            usage: usage::Usage::default(),
            room: Arc::new(room),
            evictions: Evictions::default(),
            left: Mutex::default(),
            behind: AtomicBool::new(false),
            told_over: AtomicBool::new(false),
            _lock: lock,
        })
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Keeps a blob from being deleted, if it is there. Take it first, then look.
    pub fn lease(&self, digest: &Digest) -> Lease {
        self.leases.take(*digest)
    }

    /// How much the cache takes.
    pub fn used(&self) -> Used {
        self.room.used()
    }

    /// The limits that it keeps.
    pub fn limits(&self) -> &Limits {
        self.room.limits()
    }

    /// What was evicted since the start.
    pub const fn evictions(&self) -> &Evictions {
        &self.evictions
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

    /// What a tag of a name last meant, if its image was published. Also for commits: the tag is their 40 digits. The tag of a quantisation
    /// may be spelled in any letter case.
    pub fn reference(&self, name: &ImageName, tag: &Tag) -> Option<Reference> {
        let layout = self.lock_layout();
        let spelled = layout.spelled(name.as_str(), tag.as_str());
        layout.find(name.as_str(), &spelled).cloned()
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
        let writing = self.lock_writing();
        let news = self.lock_layout().facts.note(repo, visibility);
        if !news {
            return Ok(());
        }
        tracing::info!(%repo, %visibility, "who may read a cached repository");
        self.write_layout(&writing, |_| ())?;
        self.stamp(&writing)
    }

    /// The tags that are cached of one name, sorted.
    pub fn tags_of(&self, name: &str) -> Vec<String> {
        let layout = self.lock_layout();
        let same = layout.references().filter(|r| r.name == name);
        same.map(|r| r.tag.clone()).collect()
    }

    /// All known commits of `repo`, each once.
    pub fn known_commits(&self, repo: &RepoId) -> Vec<Commit> {
        self.lock_layout().commits(repo)
    }

    /// The image under `key`, if all of its blobs are here.
    fn look_for_image(&self, key: &ImageKey) -> Result<Option<Stored>, StoreError> {
        let Some((stored, blobs)) = self.indexed(|index| index.image(key))? else {
            return Ok(None);
        };
        let whole = blobs
            .iter()
            .all(|(digest, size)| blobs::has(&self.root, digest, *size));
        Ok(whole.then_some(stored))
    }

    /// The layer of a recipe, if its blob is there. It stays while the lease is held.
    pub fn layer(&self, recipe: &Digest) -> Result<Option<(LayerRecord, Lease)>, StoreError> {
        let Some(record) = self.indexed(|index| index.layer(recipe))? else {
            return Ok(None);
        };
        let lease = self.lease(&record.descriptor.digest);
        let there = blobs::has(
            &self.root,
            &record.descriptor.digest,
            record.descriptor.size,
        );
        Ok(there.then_some((record, lease)))
    }

    /// Whether a blob is part of an image of `repo`, or of one that everybody might read when that was last known.
    pub fn is_open_to(&self, repo: &RepoId, digest: &Digest) -> Result<bool, StoreError> {
        let public = self.lock_layout().facts.public();
        for repo in std::iter::once(repo).chain(&public) {
            if self.indexed(|index| index.member(repo, digest))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether an earlier fill left something of a recipe.
    pub fn is_staged(&self, recipe: &Digest) -> Result<bool, StoreError> {
        Ok(staging::layers(&self.root)?.contains_key(recipe))
    }

    /// Opens the staging file of a recipe, of exactly `size` bytes, the disk's room for it taken: the one that an earlier fill left, or a
    /// new one. The caller sees to it that a recipe is open once at a time.
    pub fn stage(&self, recipe: &Digest, size: u64) -> Result<Staging, StoreError> {
        Staging::open(&self.root, &self.room, recipe, size)
    }

    /// Gives up what an earlier fill left of a recipe.
    pub fn discard(&self, recipe: &Digest) -> Result<(), StoreError> {
        staging::discard(&self.root, recipe)?;
        self.room.unstaged(recipe);
        Ok(())
    }

    /// Notes that a fill is under way, so that the next process goes on with it if this one dies.
    pub fn put_order(&self, order: &Order) -> Result<(), StoreError> {
        orders::put(&self.root, order)
    }

    /// Forgets a fill.
    pub fn remove_order(&self, key: &ImageKey) -> Result<(), StoreError> {
        orders::remove(&self.root, key)
    }

    /// The fills that an earlier process left under way.
    pub fn orders(&self) -> Result<Vec<Order>, StoreError> {
        orders::all(&self.root)
    }

    /// Publishes a sealed layer and remembers its recipe. It stays while the lease is held; without one it may go at once.
    pub fn publish_layer(
        &self,
        staging: Staging,
        recipe: &Digest,
        record: &LayerRecord,
    ) -> Result<Lease, StoreError> {
        let lease = self.lease(&record.descriptor.digest);
        if let Err(error) = finished::note(&self.root, recipe, record) {
            tracing::warn!(%error, "a finished layer could not be noted; a crash may cost it");
        }
        staging.publish(&record.descriptor.digest)?;
        self.indexed(|index| index.put_layer(recipe, record))?;
        Ok(lease)
    }

    /// Publishes an image whose layers are published and leased, under a tag. `now` is written into `index.json`, nowhere else.
    pub fn publish_image(
        &self,
        image: &NewImage,
        tag: &Tag,
        now: SystemTime,
    ) -> Result<Stored, StoreError> {
        let mut index = None;
        let mut leases = Vec::new();
        for document in &image.documents {
            let digest = &document.descriptor.digest;
            leases.push(self.lease(digest));
            let moving = self.room.moving();
            if blobs::put(&self.root, digest, &document.bytes)? {
                self.room.added(document.descriptor.size);
            }
            drop(moving);
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
            selection: image.key.selection.clone(),
            index: stored.index,
            size: stored.size,
            time: now,
            pinned: false,
            imported: false,
        };
        let writing = self.lock_writing();
        // The index learns first what must be there when a request comes; its stamp, last, says which index.json it is of.
        self.indexed(|index| index.put_image(image, stored))?;
        self.usage.touch(&stored.index, now);
        self.write_layout(&writing, |layout| layout.set(reference))?;
        self.stamp(&writing)?;
        drop(writing);
        let layers = image.layers.iter().map(|layer| &layer.descriptor);
        for recipe in layers.filter_map(rebuild::recipe) {
            finished::forget(&self.root, &recipe);
        }
        Ok(stored)
    }

    /// Whether a tag is noted to mean this image: noting it again would change nothing.
    pub fn has_noted(&self, key: &ImageKey, stored: Stored, tag: &Tag) -> bool {
        let known = self.reference(&key.name, tag);
        known.is_some_and(|k| k.index == stored.index) && !self.behind.load(Relaxed)
    }

    /// Notes that a tag now means a commit whose image is in the store already. One that has just been evicted is not noted.
    pub fn set_tag(
        &self,
        key: &ImageKey,
        repo: &RepoId,
        stored: Stored,
        tag: &Tag,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        if self.has_noted(key, stored, tag) {
            return Ok(());
        }
        let reference = Reference {
            name: key.name.to_string(),
            tag: tag.to_string(),
            repo: repo.clone(),
            commit: key.commit,
            layout: key.layout,
            selection: key.selection.clone(),
            index: stored.index,
            size: stored.size,
            time: now,
            pinned: false,
            imported: self.lock_layout().is_imported(&stored.index),
        };
        let writing = self.lock_writing();
        if self.indexed(|index| index.image(key))?.is_none() {
            return Ok(());
        }
        self.write_layout(&writing, |layout| layout.set(reference))?;
        self.stamp(&writing)
    }

    /// Changes what `index.json` says, and writes it. If the writing fails, what is in memory is ahead of the disk until the next writing.
    /// [`stamp`](Self::stamp) it when the sled index says the same.
    fn write_layout(
        &self,
        _: &Writing<'_>,
        change: impl FnOnce(&mut layout::Layout),
    ) -> Result<(), StoreError> {
        let bytes = {
            let mut layout = self.lock_layout();
            change(&mut layout);
            layout.render()
        };
        self.behind.store(true, Relaxed);
        layout::write(&self.root, &bytes)?;
        self.lock_layout().written(&bytes);
        self.behind.store(false, Relaxed);
        Ok(())
    }

    /// Notes in the sled index of which `index.json` it is.
    fn stamp(&self, _: &Writing<'_>) -> Result<(), StoreError> {
        let digest = self.lock_layout().digest();
        digest.map_or(Ok(()), |digest| self.indexed(|index| index.stamp(&digest)))
    }

    fn lock_writing(&self) -> Writing<'_> {
        lock(&self.writing)
    }

    /// A poisoned lock is taken all the same: the layout is replaced in one step, so it is never half changed.
    fn lock_layout(&self) -> MutexGuard<'_, layout::Layout> {
        lock(&self.layout)
    }
}

/// A poisoned lock is taken all the same; whoever locks one so sees to it that nothing is half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lock_folder(root: &Path) -> Result<File, StoreError> {
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
