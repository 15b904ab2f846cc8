//! Making room: what is given up, in which order, and how.
//!
//! Given up are, in this order: staging that no fill goes on with, blobs that nothing reaches, and images, the least recently used ones
//! first. Never: what is pinned, an image of which a blob is leased, a blob that another image has too. If all of it would not be enough
//! for a fill, nothing is given up.
//!
//! An image goes in steps that leave nothing wrong wherever they end: `index.json` without its references (rename), the sled index, then
//! the blobs. After a crash there are at most blobs that nothing reaches.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::budget::{Bytes, Limit, Reservation, Wanted};
use super::index::Sizes;
use super::reach::Cached;
use super::{
    ImageKey, NewImage, Reference, Store, StoreError, Stored, Writing, blobs, lock, rebuild,
};
use crate::oci::Digest;
use crate::repo::RepoId;

/// How often a fill's reservation is tried again, when others take what was freed for it.
const TRIES: usize = 8;

/// What was evicted since the start. Numbers only grow; they may be read at any time.
#[derive(Debug, Default)]
pub struct Evictions {
    images: AtomicU64,
    bytes: AtomicU64,
}

impl Evictions {
    /// Images.
    pub fn images(&self) -> u64 {
        self.images.load(Relaxed)
    }

    /// Bytes of all that was given up to make room: images, unreachable blobs and staging.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

/// What was forgotten, and the blobs that have left their places and are still to be deleted.
#[derive(Debug, Default)]
pub(super) struct Gone {
    pub(super) images: u64,
    pub(super) blobs: Sizes,
    /// Blobs that stay for now, because somebody uses them.
    pub(super) leased: u64,
}

impl Gone {
    fn bytes(&self) -> u64 {
        self.blobs.iter().map(|(_, size)| size).sum()
    }
}

/// An image that takes the place of one of its key.
type Known = (NewImage, Stored);

/// Which images go.
struct Plan<'a> {
    images: Vec<&'a Cached>,
    bytes: u64,
}

impl Store {
    /// Reserves the disk's room for all that a fill will write, and makes it if need be. The layers that the fill reuses must be leased
    /// before. If it cannot be had, nothing is given up for it.
    pub fn reserve(&self, wanted: &[Wanted]) -> Result<Reservation, StoreError> {
        let _one = lock(&self.reserving);
        let (mut tries, mut unsettled) = (0, false);
        loop {
            let short = match self.room.claim(wanted)? {
                Ok(reservation) => return Ok(reservation),
                Err(short) => short,
            };
            if std::mem::take(&mut unsettled) && matches!(short.limit, Limit::MinFree(_)) {
                self.settle();
                continue;
            }
            let possible = self.make_room(short.bytes, wanted, tries == TRIES)?;
            if possible < short.bytes || tries == TRIES {
                let needed: u64 = wanted.iter().map(|(_, bytes)| bytes).sum();
                return Err(StoreError::NoRoom {
                    needed: Bytes(needed),
                    available: Bytes((needed + possible).saturating_sub(short.bytes)),
                    limit: short.limit,
                });
            }
            tries += 1;
            unsettled = true;
        }
    }

    /// Lets the file system finish what was deleted: some tell of the room only then. Best effort.
    fn settle(&self) {
        let synced = fs::File::open(&self.root).and_then(|root| Ok(rustix::fs::syncfs(root)?));
        if let Err(error) = synced {
            tracing::warn!(%error, "the file system of the data directory could not be synced");
        }
    }

    /// Brings the cache back under its limits if others took the disk or a limit was lowered: under `max_size` as far as it can be,
    /// under `min_free` if it can be.
    pub fn trim(&self) -> Result<(), StoreError> {
        if self.room.over()?.is_empty() {
            self.told_over.store(false, Relaxed);
            return Ok(());
        }
        let _one = lock(&self.reserving);
        for short in self.room.over()? {
            let possible = self.make_room(short.bytes, &[], false)?;
            if possible >= short.bytes {
                break;
            }
            if !self.told_over.swap(true, Relaxed) {
                let missing = Bytes(short.bytes - possible);
                tracing::warn!(
                    %missing, limit = %short.limit, hint = short.limit.way_out(),
                    "the cache cannot be brought under its limit, because of what others have, is pinned or in use"
                );
            }
            // Others have taken the disk if giving up all would not do: then the images are worth more than the room.
            if let Limit::MaxSize(_) = short.limit {
                self.make_room(possible, &[], false)?;
                break;
            }
        }
        Ok(())
    }

    /// Gives up at least `need` bytes, if that much can be; tells how much can be. `dry` only tells.
    fn make_room(&self, need: u64, own: &[Wanted], dry: bool) -> Result<u64, StoreError> {
        let writing = self.lock_writing();
        let noted = self.noted()?;
        let cached = self.cached(&writing)?;
        let foreign = self.foreign(&writing);
        let own: HashSet<&Digest> = own.iter().map(|(what, _)| what).collect();
        let mut staged = self.room.idle();
        staged.retain(|(recipe, _)| !own.contains(recipe) && !noted.recipes.contains(recipe));
        let loose = self.loose(&cached, &foreign, &noted)?;
        let small = staged.iter().chain(&loose).map(|(_, size)| size).sum();
        let plan = self.plan(&cached, &foreign, need.saturating_sub(small));
        let possible = small + plan.bytes;
        if possible < need || dry || need == 0 {
            return Ok(possible);
        }
        let mut freed = self.give_up_staging(&staged, need)?;
        let mut gone = Gone::default();
        if freed < need {
            self.take_out(&loose, need - freed, &mut gone)?;
        }
        if freed + gone.bytes() < need && !plan.images.is_empty() {
            let references = plan.images.iter().flat_map(|i| &i.references).collect();
            tell(&plan.images);
            self.forget(&writing, &cached, &foreign, &references, &mut gone)?;
        }
        drop(writing);
        freed += gone.bytes();
        self.evictions.images.fetch_add(gone.images, Relaxed);
        self.evictions.bytes.fetch_add(freed, Relaxed);
        self.delete(&gone);
        Ok(possible)
    }

    /// The least recently used images that together free `need` bytes; all that may go if they do not.
    fn plan<'a>(&self, cached: &'a [Cached], foreign: &HashSet<Digest>, need: u64) -> Plan<'a> {
        let mut owners: HashMap<&Digest, usize> = HashMap::new();
        for digest in cached.iter().flat_map(|i| i.blobs.iter().map(|(d, _)| d)) {
            *owners.entry(digest).or_default() += 1;
        }
        let leased = |image: &Cached| image.blobs.iter().any(|(d, _)| self.leases.is_leased(d));
        let mut candidates: Vec<&Cached> = cached.iter().filter(|i| !i.pinned()).collect();
        candidates.sort_by_key(|image| image.used);
        let mut plan = Plan {
            images: Vec::new(),
            bytes: 0,
        };
        for image in candidates {
            if plan.bytes >= need {
                break;
            }
            if leased(image) {
                continue;
            }
            for (digest, size) in &image.blobs {
                let left = owners.get_mut(digest).map_or(0, |count| {
                    *count -= 1;
                    *count
                });
                if left == 0 && !foreign.contains(digest) {
                    plan.bytes = plan.bytes.saturating_add(*size);
                }
            }
            plan.images.push(image);
        }
        plan
    }

    /// Gives up staging until `need` bytes are free; tells how many are.
    fn give_up_staging(&self, staged: &[(Digest, u64)], need: u64) -> Result<u64, StoreError> {
        let mut freed = 0;
        for (recipe, size) in staged {
            if freed >= need {
                break;
            }
            tracing::info!(bytes = size, "giving up a layer that no fill goes on with");
            self.discard(recipe)?;
            freed += size;
        }
        Ok(freed)
    }

    /// Takes blobs that nothing reaches out of their places, until `need` bytes are free.
    pub(super) fn take_out(
        &self,
        loose: &[(Digest, u64)],
        need: u64,
        gone: &mut Gone,
    ) -> Result<(), StoreError> {
        let until = gone.bytes().saturating_add(need);
        for (digest, _) in loose {
            if gone.bytes() >= until {
                break;
            }
            let out = || {
                self.hot.gone(digest);
                blobs::take_out(&self.root, digest)
            };
            match self.leases.unless_leased(digest, out).transpose()? {
                Some(Some(size)) => {
                    self.room.removed(size);
                    gone.blobs.push((*digest, size));
                }
                Some(None) => {}
                None => {
                    gone.leased += 1;
                    lock(&self.left).insert(*digest);
                }
            }
        }
        Ok(())
    }

    /// Forgets references, and takes the blobs out of their places that nothing else needs then.
    pub(super) fn forget(
        &self,
        writing: &Writing<'_>,
        cached: &[Cached],
        foreign: &HashSet<Digest>,
        references: &HashSet<&Reference>,
        gone: &mut Gone,
    ) -> Result<(), StoreError> {
        let stays = |image: &Cached| image.references.iter().any(|r| !references.contains(r));
        let (kept, dropped): (Vec<&Cached>, Vec<&Cached>) = cached.iter().partition(|i| stays(i));
        let needed: HashSet<&Digest> = kept
            .iter()
            .flat_map(|image| image.blobs.iter().map(|(digest, _)| digest))
            .chain(foreign)
            .collect();
        let mut free: Sizes = dropped.iter().flat_map(|i| i.blobs.clone()).collect();
        free.sort_unstable();
        free.dedup();
        free.retain(|(digest, _)| !needed.contains(digest));

        let written = self.drop_references(writing, references);
        if matches!(written, Err(StoreError::Full { .. })) && !free.is_empty() {
            // On a disk that is quite full the blobs have to go first: an image without its layers is one that is filled again.
            self.take_out(&free, u64::MAX, gone)?;
            self.delete(gone);
            self.drop_references(writing, references)?;
        } else {
            written?;
        }
        let lost = lost_members(cached, references);
        let (keys, instead) = self.orphans(cached, references)?;
        self.indexed(|index| {
            index.forget(&keys, &lost)?;
            let mut instead = instead.iter();
            instead.try_for_each(|(image, stored)| index.put_image(image, *stored))
        })?;
        self.hot.changed();
        self.stamp(writing)?;
        self.take_out(&free, u64::MAX, gone)?;
        gone.images += dropped.len() as u64;
        Ok(())
    }

    /// The keys that mean no image any more, or one that no reference is left of; with the images that take the place of those.
    fn orphans(
        &self,
        cached: &[Cached],
        references: &HashSet<&Reference>,
    ) -> Result<(Vec<ImageKey>, Vec<Known>), StoreError> {
        let keys: HashSet<ImageKey> = references.iter().filter_map(|r| r.key()).collect();
        let mut left: HashMap<ImageKey, Vec<&Reference>> = HashMap::new();
        for reference in all(cached).filter(|r| !references.contains(r)) {
            if let Some(key) = reference.key().filter(|key| keys.contains(key)) {
                left.entry(key).or_default().push(reference);
            }
        }
        let (mut gone, mut instead) = (Vec::new(), Vec::new());
        for key in keys {
            let left = left.remove(&key).unwrap_or_default();
            let now = self.indexed(|index| index.image(&key))?;
            if now.is_some_and(|(now, _)| left.iter().any(|r| r.index == now.index)) {
                continue;
            }
            let next = left.into_iter().max_by_key(|r| (!r.imported, r.time));
            let image = next.map(|r| rebuild::image(&self.root, r)).transpose()?;
            if let (Some(Some(image)), Some(r)) = (image, next) {
                let (index, size) = (r.index, r.size);
                instead.push((image, Stored { index, size }));
            }
            gone.push(key);
        }
        Ok((gone, instead))
    }

    fn drop_references(
        &self,
        writing: &Writing<'_>,
        references: &HashSet<&Reference>,
    ) -> Result<(), StoreError> {
        self.write_layout(writing, |layout| {
            for reference in references {
                layout.remove(reference);
            }
        })
    }

    /// Deletes what has left its place, and forgets it. Needs no lock.
    pub(super) fn delete(&self, gone: &Gone) {
        for (digest, _) in &gone.blobs {
            blobs::delete(&self.root, digest);
        }
        // What stays there is looked at again when it is asked for: it says where a blob was, not that it is.
        if let Err(error) = self.forget_blobs(gone) {
            tracing::warn!(%error, "the index could not forget blobs that are gone");
        }
    }

    /// Forgets what has been deleted, unless somebody publishes it again now, or has done so: such a one is known again.
    fn forget_blobs(&self, gone: &Gone) -> Result<(), StoreError> {
        let digests: HashSet<&Digest> = gone.blobs.iter().map(|(digest, _)| digest).collect();
        if digests.is_empty() {
            return Ok(());
        }
        let recipes = self.indexed(|index| index.recipes_of(&digests))?;
        for digest in digests {
            let recipes = recipes.get(digest).map_or(&[][..], Vec::as_slice);
            let forget = || {
                if self.root.join(blobs::place(digest)).exists() {
                    return Ok(());
                }
                self.usage.forget(digest);
                self.indexed(|index| index.forget_blob(digest, recipes))
            };
            // Whoever publishes has a lease from before the rename until the index knows of it.
            self.leases.unless_leased(digest, forget).transpose()?;
        }
        Ok(())
    }
}

fn all(cached: &[Cached]) -> impl Iterator<Item = &Reference> {
    cached.iter().flat_map(|image| &image.references)
}

/// The repositories under which the blobs of a reference's image are known.
fn repos(reference: &Reference) -> Vec<RepoId> {
    let asked = reference.key().map(|key| key.name.repo().folded());
    let mut repos = vec![reference.repo.folded()];
    repos.extend(asked);
    repos.dedup();
    repos
}

/// What repositories no longer know when `gone` is forgotten, because no other image of theirs has it.
fn lost_members(cached: &[Cached], gone: &HashSet<&Reference>) -> Vec<(RepoId, Digest)> {
    let mut lost: HashMap<RepoId, HashSet<Digest>> = HashMap::new();
    for image in cached {
        for repo in image
            .references
            .iter()
            .filter(|r| gone.contains(r))
            .flat_map(repos)
        {
            lost.entry(repo)
                .or_default()
                .extend(image.blobs.iter().map(|(digest, _)| digest));
        }
    }
    for image in cached {
        let left = image.references.iter().filter(|r| !gone.contains(r));
        for repo in left.flat_map(repos) {
            if let Some(digests) = lost.get_mut(&repo) {
                image.blobs.iter().for_each(|(digest, _)| {
                    digests.remove(digest);
                });
            }
        }
    }
    lost.into_iter()
        .flat_map(|(repo, digests)| digests.into_iter().map(move |d| (repo.clone(), d)))
        .collect()
}

fn tell(images: &[&Cached]) {
    for image in images {
        let names: Vec<String> = image
            .references
            .iter()
            .map(|r| format!("{}:{}", r.name, r.tag))
            .collect();
        tracing::info!(index = %image.index, names = names.join(" "), "evicting an image");
    }
}
