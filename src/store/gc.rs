//! What an operator asks for: removing images, pinning them, and collecting what nothing reaches.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use super::evict::Gone;
use super::index::{Index, Sizes};
use super::{Reference, Store, StoreError, Writing, blobs, lock, staging};
use crate::oci::Digest;

/// Blobs that are collected between two pauses. Each step looks at all blobs, so of many there should be few steps.
const BATCH: usize = 1024;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// References.
    pub references: u64,
    /// Images that no reference means any more.
    pub images: u64,
    /// Blobs.
    pub blobs: u64,
    /// Layers that no fill goes on with.
    pub staged: u64,
    /// Bytes of blobs and staging.
    pub bytes: u64,
    /// Blobs that are in use, and stay until a later collection.
    pub leased: u64,
}

impl Removed {
    fn add(&mut self, gone: &Gone) {
        self.images += gone.images;
        self.blobs += gone.blobs.len() as u64;
        self.bytes += gone.blobs.iter().map(|(_, size)| size).sum::<u64>();
        self.leased += gone.leased;
    }
}

/// How blobs are collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    /// Whether the staging goes too that no fill goes on with.
    pub staging: bool,
    /// A layer that a later fill could use as it is stays until it is so old.
    pub young: Duration,
    /// The pause after each step.
    pub pause: Duration,
}

impl Sweep {
    /// Everything that nothing reaches, at once: for an operator.
    pub const ALL: Self = Self {
        staging: true,
        young: Duration::ZERO,
        pause: Duration::ZERO,
    };

    /// What a crash may have left, unhurried: for a server that starts.
    pub const GENTLE: Self = Self {
        staging: false,
        young: staging::ABANDONED,
        pause: Duration::from_millis(100),
    };
}

/// How a removal by name ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// There is no such reference.
    Unknown,
    /// These references are pinned; nothing was removed.
    Pinned(Vec<String>),
    /// It is gone.
    Done(Removed),
}

impl Store {
    /// Pins the image that a reference means, now and later, or ends that; tells whether there is such a reference. A pinned image is
    /// never evicted.
    pub fn pin(&self, name: &str, tag: &str, pinned: bool) -> Result<bool, StoreError> {
        let writing = self.lock_writing();
        let tag = self.lock_layout().spelled(name, tag);
        if !self.lock_layout().clone().pin(name, &tag, pinned) {
            return Ok(false);
        }
        self.write_layout(&writing, |layout| {
            layout.pin(name, &tag, pinned);
        })?;
        self.stamp(&writing)?;
        Ok(true)
    }

    /// Removes a reference, or all of a name; with the last reference of an image go the blobs that no other one has. What is in use
    /// stays until a later collection.
    pub fn remove(&self, name: &str, tag: Option<&str>) -> Result<Removal, StoreError> {
        let writing = self.lock_writing();
        let cached = self.cached(&writing)?;
        let tag = tag.map(|tag| self.lock_layout().spelled(name, tag));
        let wanted = |r: &&Reference| r.name == name && tag.as_ref().is_none_or(|t| r.tag == *t);
        let all = cached.iter().flat_map(|image| &image.references);
        let references: HashSet<_> = all.filter(wanted).collect();
        if references.is_empty() {
            return Ok(Removal::Unknown);
        }
        let pinned = references.iter().filter(|r| r.pinned);
        let mut pinned: Vec<String> = pinned.map(|r| format!("{}:{}", r.name, r.tag)).collect();
        if !pinned.is_empty() {
            pinned.sort_unstable();
            return Ok(Removal::Pinned(pinned));
        }
        let foreign = self.foreign(&writing);
        let mut gone = Gone::default();
        self.forget(&writing, &cached, &foreign, &references, &mut gone)?;
        let mut removed = Removed {
            references: references.len() as u64,
            ..Removed::default()
        };
        drop(writing);
        self.delete(&gone);
        removed.add(&gone);
        Ok(Removal::Done(removed))
    }

    /// Deletes the blobs that nothing reaches and nobody uses, in small steps with a pause after each; `go_on` is asked between them.
    pub fn collect(
        &self,
        sweep: &Sweep,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        if sweep.staging {
            let _one = lock(&self.reserving);
            self.collect_staging(&mut removed)?;
        }
        while go_on() {
            let gone = self.collect_some(|loose| self.spare(sweep, loose))?;
            self.delete(&gone);
            removed.add(&gone);
            if gone.blobs.is_empty() {
                break;
            }
            std::thread::sleep(sweep.pause);
        }
        self.recount()?;
        Ok(removed)
    }

    /// Deletes those blobs that should have gone before, and were in use then.
    pub fn collect_left(&self) -> Result<Removed, StoreError> {
        let mut removed = Removed::default();
        let left = std::mem::take(&mut *lock(&self.left));
        if !left.is_empty() {
            let gone = self.collect_some(|loose| {
                loose.retain(|(digest, _)| left.contains(digest));
                Ok(())
            });
            let gone = gone.inspect_err(|_| lock(&self.left).extend(&left))?;
            self.delete(&gone);
            removed.add(&gone);
            let mut still = lock(&self.left);
            let waiting = |digest: &&Digest| self.leases.is_leased(digest);
            still.extend(left.iter().filter(waiting));
        }
        Ok(removed)
    }

    /// Takes some of the loose blobs out of their places, as far as `choose` leaves them.
    fn collect_some(
        &self,
        choose: impl FnOnce(&mut Sizes) -> Result<(), StoreError>,
    ) -> Result<Gone, StoreError> {
        let writing = self.lock_writing();
        let (cached, foreign) = (self.cached(&writing)?, self.foreign(&writing));
        let mut loose = self.loose(&cached, &foreign, &self.noted()?)?;
        choose(&mut loose)?;
        loose.truncate(BATCH);
        let mut gone = Gone::default();
        self.take_out(&loose, u64::MAX, &mut gone)?;
        Ok(gone)
    }

    /// Takes the young layers off the list that a later fill would go on with.
    fn spare(&self, sweep: &Sweep, loose: &mut Sizes) -> Result<(), StoreError> {
        if sweep.young.is_zero() || loose.is_empty() {
            return Ok(());
        }
        let known = self.indexed(Index::layer_digests)?;
        let young = |digest: &Digest| {
            let file = fs::metadata(self.root.join(blobs::place(digest)));
            let age = file.and_then(|f| f.modified()).ok()?.elapsed();
            // One that is from the future is young.
            Some(age.map_or(true, |age| age < sweep.young))
        };
        loose.retain(|(digest, _)| !known.contains(digest) || !young(digest).unwrap_or(false));
        Ok(())
    }

    /// Counts the blobs anew: what other tools put there or took away is seen here.
    fn recount(&self) -> Result<(), StoreError> {
        let _writing: Writing<'_> = self.lock_writing();
        self.room.count(|| {
            let all = blobs::list(&self.root)?;
            Ok(all.iter().map(|(_, size)| size).sum())
        })
    }

    /// Gives up what fills have left of some layers, unless another fill goes on with them.
    pub fn give_up(&self, recipes: &[Digest]) -> Result<(), StoreError> {
        let _one = lock(&self.reserving);
        for (recipe, _) in self.room.idle() {
            if recipes.contains(&recipe) {
                self.discard(&recipe)?;
            }
        }
        Ok(())
    }

    fn collect_staging(&self, removed: &mut Removed) -> Result<(), StoreError> {
        let noted = self.noted()?;
        for (recipe, size) in self.room.idle() {
            if !noted.recipes.contains(&recipe) {
                self.discard(&recipe)?;
                removed.staged += 1;
                removed.bytes += size;
            }
        }
        Ok(())
    }
}
