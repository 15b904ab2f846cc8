//! The budget: how many bytes the cache has, and how many more it has promised.
//!
//! Used are the published blobs, the staging that fills left behind, and what is reserved. A fill reserves the whole length of every layer
//! that it will write before it writes any; a layer that several fills wait for is reserved once.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::StoreError;
use crate::oci::Digest;

/// How much of the disk is to stay free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinFree {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the disk.
    Percent(u8),
}

/// How much room the cache may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of blobs, staging and reservations together; `None` is as much as the disk has.
    pub max_size: Option<u64>,
    /// How much of the disk is to stay free, whoever takes it.
    pub min_free: MinFree,
}

impl Default for Limits {
    /// No limits.
    fn default() -> Self {
        Self {
            max_size: None,
            min_free: MinFree::Bytes(0),
        }
    }
}

/// What a fill will write: the recipe of a layer, or another name for its documents, and the most bytes of it.
pub type Wanted = (Digest, u64);

/// Which limit stands in the way, and by how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Short {
    pub(super) bytes: u64,
    pub(super) limit: Limit,
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// `cache.max_size`, and how large it is.
    MaxSize(u64),
    /// `cache.min_free`, and how much that is of this disk.
    MinFree(u64),
}

impl Limit {
    /// What an operator can do about it.
    pub(super) const fn way_out(&self) -> &'static str {
        match self {
            Self::MaxSize(_) => {
                "raise cache.max_size, or give up images with hf-oci rm or hf-oci unpin"
            }
            Self::MinFree(_) => {
                "free some of the disk, lower cache.min_free, or give up images with hf-oci rm or hf-oci unpin"
            }
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaxSize(size) => write!(f, "cache.max_size of {}", Bytes(*size)),
            Self::MinFree(0) => f.write_str("the size of the disk"),
            Self::MinFree(size) => {
                write!(f, "cache.min_free, which is {} of this disk", Bytes(*size))
            }
        }
    }
}

/// Bytes as a person reads them, with a binary unit.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} bytes", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}

/// How much the cache takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Bytes of published blobs.
    pub published: u64,
    /// Bytes of staging files that no fill under way writes.
    pub staging: u64,
    /// Bytes that fills under way have reserved and not published.
    pub reserved: u64,
}

impl Used {
    /// All of it.
    pub const fn total(&self) -> u64 {
        self.published + self.staging + self.reserved
    }
}

/// The bytes of the cache, counted.
#[derive(Debug)]
pub(super) struct Room {
    root: PathBuf,
    limits: Limits,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    published: u64,
    /// How often `published` was changed.
    changes: u64,
    /// Blobs that are being put into their places now: a listing may have them, and `published` not yet.
    moving: usize,
    /// By what is wanted.
    claims: HashMap<Digest, Claim>,
    /// The staging files, by their recipes. Their bytes are taken from the disk already.
    staged: HashMap<Digest, u64>,
    /// What those come to: they are asked for with every promise, and there may be very many.
    sums: Sums,
    next: u64,
}

/// Bytes of claims and staging files together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sums {
    /// All claims.
    reserved: u64,
    /// Claims of what has no staging file.
    promised: u64,
    /// Staging files of what is not claimed.
    idle: u64,
}

/// Bytes that are promised.
#[derive(Debug)]
struct Claim {
    id: u64,
    bytes: u64,
    holders: usize,
}

/// A promise of bytes; what was not used of it is given back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    room: Arc<Room>,
    claims: Vec<(Digest, u64)>,
}

impl Room {
    pub(super) fn new(
        root: &Path,
        limits: Limits,
        published: u64,
        staged: HashMap<Digest, u64>,
    ) -> Self {
        let mut counts = Counts {
            published,
            ..Counts::default()
        };
        for (recipe, bytes) in staged {
            counts.change(&recipe, |_, staged| *staged = Some(bytes));
        }
        Self {
            root: root.to_owned(),
            limits,
            counts: Mutex::new(counts),
        }
    }

    pub(super) fn used(&self) -> Used {
        self.counts().used()
    }

    pub(super) const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Promises what is wanted, if it fits.
    pub(super) fn claim(
        self: &Arc<Self>,
        wanted: &[Wanted],
    ) -> Result<Result<Reservation, Short>, StoreError> {
        self.claim_under(&self.limits, wanted)
    }

    /// The same, under other limits.
    pub(super) fn claim_under(
        self: &Arc<Self>,
        limits: &Limits,
        wanted: &[Wanted],
    ) -> Result<Result<Reservation, Short>, StoreError> {
        let disk = Disk::of(&self.root)?;
        let mut counts = self.counts();
        if let Some(short) = counts.short(limits, &disk, wanted) {
            return Ok(Err(short));
        }
        let claims = wanted.iter().map(|w| (w.0, counts.claim(*w))).collect();
        drop(counts);
        Ok(Ok(Reservation {
            room: Arc::clone(self),
            claims,
        }))
    }

    /// By how much each limit is passed as it is, the most first.
    pub(super) fn over(&self) -> Result<Vec<Short>, StoreError> {
        let disk = Disk::of(&self.root)?;
        let mut over: Vec<Short> = self.counts().shorts(&self.limits, &disk, &[]).collect();
        over.sort_by_key(|short| std::cmp::Reverse(short.bytes));
        Ok(over)
    }

    /// The staging files that no fill under way has reserved.
    pub(super) fn idle(&self) -> Vec<(Digest, u64)> {
        self.counts().idle().map(|(d, b)| (*d, *b)).collect()
    }

    pub(super) fn staged(&self, recipe: &Digest, bytes: u64) {
        let mut counts = self.counts();
        counts.change(recipe, |_, staged| *staged = Some(bytes));
    }

    pub(super) fn unstaged(&self, recipe: &Digest) {
        self.counts().change(recipe, |_, staged| *staged = None);
    }

    /// A staging file has become a blob of `bytes`; `new` unless the blob was there before.
    pub(super) fn sealed(&self, recipe: &Digest, bytes: u64, new: bool) {
        let mut counts = self.counts();
        counts.change(recipe, |claim, staged| {
            *claim = None;
            *staged = None;
        });
        if new {
            counts.publish(bytes);
        }
    }

    /// To be held from before a blob comes into its place until it is counted.
    pub(super) fn moving(&self) -> Moving<'_> {
        self.counts().moving += 1;
        Moving(self)
    }

    pub(super) fn added(&self, bytes: u64) {
        self.counts().publish(bytes);
    }

    pub(super) fn removed(&self, bytes: u64) {
        let mut counts = self.counts();
        counts.published = counts.published.saturating_sub(bytes);
        counts.changes += 1;
    }

    /// Takes a count of the published bytes for true, unless a blob came or went while it was made.
    pub(super) fn count(
        &self,
        published: impl FnOnce() -> Result<u64, StoreError>,
    ) -> Result<(), StoreError> {
        let before = self.counts().changes;
        let counted = published()?;
        let mut counts = self.counts();
        if counts.changes == before && counts.moving == 0 {
            counts.published = counted;
        }
        Ok(())
    }

    /// A poisoned lock is taken all the same: each change is a few numbers.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A blob that is being put into its place.
#[derive(Debug)]
pub(super) struct Moving<'a>(&'a Room);

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.counts().moving -= 1;
    }
}

impl Counts {
    const fn publish(&mut self, bytes: u64) {
        self.published += bytes;
        self.changes += 1;
    }

    /// Changes what there is of one recipe, and the sums with it.
    fn change<T>(
        &mut self,
        recipe: &Digest,
        change: impl FnOnce(&mut Option<Claim>, &mut Option<u64>) -> T,
    ) -> T {
        let (mut claim, mut staged) = (self.claims.remove(recipe), self.staged.remove(recipe));
        self.sums.take(Sums::of(claim.as_ref(), staged));
        let done = change(&mut claim, &mut staged);
        self.sums.add(Sums::of(claim.as_ref(), staged));
        self.claims.extend(claim.map(|claim| (*recipe, claim)));
        self.staged.extend(staged.map(|bytes| (*recipe, bytes)));
        done
    }

    fn idle(&self) -> impl Iterator<Item = (&Digest, &u64)> {
        let claims = &self.claims;
        self.staged
            .iter()
            .filter(move |(recipe, _)| !claims.contains_key(recipe))
    }

    const fn used(&self) -> Used {
        Used {
            published: self.published,
            staging: self.sums.idle,
            reserved: self.sums.reserved,
        }
    }

    /// The limit that is passed most if `wanted` is promised too.
    fn short(&self, limits: &Limits, disk: &Disk, wanted: &[Wanted]) -> Option<Short> {
        self.shorts(limits, disk, wanted)
            .max_by_key(|short| short.bytes)
    }

    /// The limits that are passed if `wanted` is promised too.
    fn shorts(
        &self,
        limits: &Limits,
        disk: &Disk,
        wanted: &[Wanted],
    ) -> impl Iterator<Item = Short> + use<> {
        let new = wanted.iter().filter(|w| !self.claims.contains_key(&w.0));
        let fresh: u64 = new
            .map(|(recipe, bytes)| {
                let there = self.staged.get(recipe).copied().unwrap_or(0);
                bytes.saturating_sub(there)
            })
            .sum();
        let max = limits.max_size.map(|max| Short {
            bytes: (self.used().total() + fresh).saturating_sub(max),
            limit: Limit::MaxSize(max),
        });
        let promised = self.sums.promised;
        let keep = disk.keep(limits.min_free);
        let free = Short {
            bytes: (promised + fresh)
                .saturating_add(keep)
                .saturating_sub(disk.free),
            limit: Limit::MinFree(keep),
        };
        max.into_iter()
            .chain([free])
            .filter(|short| short.bytes > 0)
    }

    fn claim(&mut self, (what, bytes): Wanted) -> u64 {
        let id = self.next;
        self.next += 1;
        self.change(&what, |claim, _| {
            let claim = claim.get_or_insert(Claim {
                id,
                bytes,
                holders: 0,
            });
            claim.holders += 1;
            claim.id
        })
    }
}

impl Sums {
    /// What one recipe adds.
    fn of(claim: Option<&Claim>, staged: Option<u64>) -> Self {
        let claimed = claim.map(|claim| claim.bytes);
        Self {
            reserved: claimed.unwrap_or(0),
            promised: claimed.filter(|_| staged.is_none()).unwrap_or(0),
            idle: staged.filter(|_| claimed.is_none()).unwrap_or(0),
        }
    }

    const fn add(&mut self, other: Self) {
        self.reserved += other.reserved;
        self.promised += other.promised;
        self.idle += other.idle;
    }

    const fn take(&mut self, other: Self) {
        self.reserved -= other.reserved;
        self.promised -= other.promised;
        self.idle -= other.idle;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut counts = self.room.counts();
        for (what, id) in &self.claims {
            // What was published meanwhile is not promised any more, or by another promise.
            counts.change(what, |promise, _| {
                if let Some(claim) = promise.as_mut().filter(|claim| claim.id == *id) {
                    claim.holders -= 1;
                }
                promise.take_if(|claim| claim.holders == 0);
            });
        }
    }
}

/// The disk of the data directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk {
    pub(super) size: u64,
    pub(super) free: u64,
}

impl Disk {
    pub(super) fn of(root: &Path) -> Result<Self, StoreError> {
        let stat = rustix::fs::statvfs(root)
            .map_err(|error| StoreError::io("looking at the disk")(error.into()))?;
        Ok(Self {
            size: stat.f_blocks.saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    pub(super) fn keep(&self, min_free: MinFree) -> u64 {
        match min_free {
            MinFree::Bytes(bytes) => bytes,
            MinFree::Percent(percent) => self.size / 100 * u64::from(percent),
        }
    }
}

#[cfg(test)]
mod tests;
