//! What was asked for lately, in memory, so that asking again takes no file and no thread that may block.
//!
//! What is remembered is of one generation of the store. Whatever takes an image or a blob away begins the next one, after which nothing
//! remembered before counts. What somebody else does to the folder is seen after [`LIFE`] at the latest, but for files that are open:
//! they go on being served.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;

use super::leases::{SHARDS, shard};
use super::{ImageKey, Lease, Member, Store, StoreError, Stored};
use crate::oci::Digest;
use crate::repo::RepoId;

/// How long what was found is believed.
const LIFE: Duration = Duration::from_secs(2);

/// The most images and members that are remembered.
const CAPACITY: u64 = 4096;

/// The most bytes of documents that are remembered.
const DOCUMENTS: u64 = 8 << 20;

/// The longest document that is remembered.
const LONGEST: usize = 256 << 10;

/// The most open files that a shard remembers.
const FILES: usize = 16;

/// What is remembered of a store.
pub(super) struct Hot {
    generation: AtomicU64,
    images: Cache<ImageKey, (u64, Stored)>,
    members: Cache<(RepoId, Digest), (u64, Arc<Member>)>,
    documents: Cache<Digest, Bytes>,
    files: [Mutex<HashMap<Digest, Arc<File>>>; SHARDS],
}

/// A blob, opened.
#[derive(Debug)]
pub struct Opened {
    /// The file.
    pub file: Arc<File>,
    /// Its length when it was opened.
    pub size: u64,
    /// Keeps it from being deleted.
    pub lease: Lease,
}

impl Default for Hot {
    fn default() -> Self {
        Self {
            generation: AtomicU64::new(0),
            images: Cache::builder()
                .max_capacity(CAPACITY)
                .time_to_live(LIFE)
                .build(),
            members: Cache::builder()
                .max_capacity(CAPACITY)
                .time_to_live(LIFE)
                .build(),
            documents: Cache::builder()
                .max_capacity(DOCUMENTS)
                .weigher(|_, bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX))
                .build(),
            files: Default::default(),
        }
    }
}

impl Hot {
    fn now(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Forgets everything but what is open: something else than these blobs is gone.
    pub(super) fn changed(&self) {
        self.generation.fetch_add(1, SeqCst);
    }

    /// Forgets a blob that is being taken away, so that its bytes are free when it is deleted.
    pub(super) fn gone(&self, digest: &Digest) {
        self.changed();
        self.files(digest).remove(digest);
        self.documents.invalidate(digest);
    }

    fn files(&self, digest: &Digest) -> MutexGuard<'_, HashMap<Digest, Arc<File>>> {
        let files = &self.files[shard(digest)];
        files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_file(&self, digest: &Digest, file: &Arc<File>) {
        let mut files = self.files(digest);
        if files.len() >= FILES
            && let Some(any) = files.keys().next().copied()
        {
            files.remove(&any);
        }
        files.insert(*digest, Arc::clone(file));
    }
}

impl Store {
    /// As [`image`](Self::image), if that is remembered. Does not block.
    pub fn known_image(&self, key: &ImageKey) -> Option<Stored> {
        let (generation, stored) = self.hot.images.get(key)?;
        (generation == self.hot.now()).then_some(stored)
    }

    /// As [`member`](Self::member), if that is remembered. Does not block.
    pub fn known_member(&self, repo: &RepoId, digest: &Digest) -> Option<Arc<Member>> {
        let (generation, member) = self.hot.members.get(&(repo.clone(), *digest))?;
        (generation == self.hot.now()).then_some(member)
    }

    /// As [`read_blob`](Self::read_blob), if the bytes are remembered. Does not block.
    pub fn known_document(&self, digest: &Digest) -> Option<Bytes> {
        self.hot.documents.get(digest)
    }

    /// As [`open_blob`](Self::open_blob), if it is open: `size` is what it should be, by its [`Member`]. Does not block, but for another that
    /// is renamed just now.
    pub fn known_blob(&self, digest: &Digest, size: u64) -> Option<Opened> {
        // With a lease the blob stays, or it was gone before, and with it the file that is remembered.
        let lease = self.lease(digest);
        let file = self.hot.files(digest).get(digest).map(Arc::clone)?;
        Some(Opened { file, size, lease })
    }

    /// The image under `key`, if all of it is here.
    pub fn image(&self, key: &ImageKey) -> Result<Option<Stored>, StoreError> {
        let generation = self.hot.now();
        let found = self.look_for_image(key)?;
        if let Some(stored) = found {
            self.hot.images.insert(key.clone(), (generation, stored));
        }
        Ok(found)
    }

    /// Whether `digest` (an index, manifest, config or layer) is part of an image of `repo`, whose letters are folded.
    pub fn member(
        &self,
        repo: &RepoId,
        digest: &Digest,
    ) -> Result<Option<Arc<Member>>, StoreError> {
        let generation = self.hot.now();
        let found = self
            .indexed(|index| index.member(repo, digest))?
            .map(Arc::new);
        if let Some(member) = &found {
            let known = (generation, Arc::clone(member));
            self.hot.members.insert((repo.clone(), *digest), known);
        }
        Ok(found)
    }

    /// Opens a published blob; `None` if it is not there. It stays while the lease is held.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<Opened>, StoreError> {
        let lease = self.lease(digest);
        let Some((file, size)) = super::blobs::open(&self.root, digest)? else {
            return Ok(None);
        };
        let file = Arc::new(file);
        self.hot.keep_file(digest, &file);
        Ok(Some(Opened { file, size, lease }))
    }

    /// Reads a whole small blob (a manifest, config or index), at most 4 MiB; `None` if it is not there.
    pub fn read_blob(&self, digest: &Digest) -> Result<Option<Bytes>, StoreError> {
        let generation = self.hot.now();
        let read = super::blobs::read(&self.root, digest)?.map(Bytes::from);
        if let Some(bytes) = read.as_ref().filter(|bytes| bytes.len() <= LONGEST) {
            self.hot.documents.insert(*digest, bytes.clone());
            // It may have been taken away while it was read, and been forgotten before it was remembered.
            if generation != self.hot.now() {
                self.hot.documents.invalidate(digest);
            }
        }
        Ok(read)
    }
}
