//! The sled index of a running server, and its replacement when it fails.
//!
//! sled does not come back from a failed write: after a disk was full for a moment, every later write fails. As the index can be made anew
//! from the layout at any time, that is what happens then. While there is no room for it, the old one goes on being read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::index::Index;
use super::{Store, StoreError, lock, rebuild, staging};

/// Bytes that must be free before the index is made anew.
const ROOM: u64 = 8 << 20;

/// The least time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// An index that can be replaced.
pub(super) struct Healing {
    /// `None` after an attempt to make it anew failed.
    index: RwLock<Option<Index>>,
    tried: Mutex<Option<Instant>>,
    /// Whether it was not opened yet.
    asleep: AtomicBool,
}

impl Healing {
    /// One that is opened when it is asked for the first time. Until then not a byte of it changes: sled writes when it is opened.
    pub(super) fn asleep() -> Self {
        Self {
            index: RwLock::new(None),
            tried: Mutex::default(),
            asleep: AtomicBool::new(true),
        }
    }
}

impl Store {
    /// Asks or changes the index. If it fails, it is made anew, and asked once more. `call` must not come here again.
    pub(super) fn indexed<T>(
        &self,
        call: impl Fn(&Index) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.wake()?;
        let ask = || {
            let index = self.index.index.read();
            let index = index.unwrap_or_else(PoisonError::into_inner);
            let gone = || StoreError::Index("it could not be made anew".to_owned());
            let index = index.as_ref().ok_or_else(gone)?;
            // sled panics on some damages, at the first look at them.
            let called = catch_unwind(AssertUnwindSafe(|| call(index)));
            called.unwrap_or_else(|_| Err(StoreError::Index("it is damaged".to_owned())))
        };
        match ask() {
            Err(StoreError::Index(why)) => {
                let free = staging::free(&self.root);
                if free < ROOM {
                    return Err(StoreError::Full { needed: ROOM, free });
                }
                self.heal(&why)?;
                ask()
            }
            other => other,
        }
    }

    /// Opens the index, if it was not opened yet.
    pub(super) fn wake(&self) -> Result<(), StoreError> {
        if !self.index.asleep.load(Acquire) {
            return Ok(());
        }
        let index = self.index.index.write();
        let mut index = index.unwrap_or_else(PoisonError::into_inner);
        // Another one may have done it meanwhile.
        if self.index.asleep.load(Acquire) {
            let layout = self.lock_layout().clone();
            let opened = rebuild::open(&self.root, &layout)?;
            self.usage.load(opened.uses()?);
            *index = Some(opened);
            self.index.asleep.store(false, Release);
        }
        Ok(())
    }

    /// Makes the index anew, unless that was tried a moment ago.
    fn heal(&self, why: &str) -> Result<(), StoreError> {
        let mut tried = lock(&self.index.tried);
        if tried.is_some_and(|at| at.elapsed() < PAUSE) {
            return Ok(());
        }
        tracing::warn!(why, "the index has failed: making it anew");
        let layout = self.lock_layout().clone();
        let index = self.index.index.write();
        let mut index = index.unwrap_or_else(PoisonError::into_inner);
        let old = index.take();
        // sled may panic when one that has failed is closed.
        if catch_unwind(AssertUnwindSafe(|| drop(old))).is_err() {
            tracing::warn!("the failed index did not close cleanly");
        }
        *tried = Some(Instant::now());
        *index = Some(rebuild::anew(&self.root, &layout)?);
        *tried = Some(Instant::now());
        self.usage.renew();
        Ok(())
    }
}
