//! How requests were met, as logs and metrics say it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How a request for an image was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The tag's commit was believed and its image was there.
    Hit,
    /// Nothing was there: this request started a fill.
    Miss,
    /// Another request's fill was joined.
    Joined,
    /// The upstream was asked, and the image was there.
    Revalidated,
    /// The upstream did not answer; the last known image stands in.
    Stale,
}

impl Outcome {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 5] = [
        Self::Hit,
        Self::Miss,
        Self::Joined,
        Self::Revalidated,
        Self::Stale,
    ];

    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Joined => "joined",
            Self::Revalidated => "revalidated",
            Self::Stale => "stale",
        }
    }
}

/// A counter for each outcome. Numbers only grow; they may be read at any time.
#[derive(Debug, Default)]
pub struct Outcomes([AtomicU64; Outcome::ALL.len()]);

impl Outcomes {
    pub(super) fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Relaxed);
    }

    /// How many requests were met so.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Relaxed)
    }
}
