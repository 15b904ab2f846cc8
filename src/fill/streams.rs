//! How many reads of a fill are under way at once: a few at first, and more while that makes it faster.
//!
//! Fewer again where a host refuses parallel reads is the upstream's matter: see [`crate::hub`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reads at once in the beginning.
const FIRST: usize = 4;

/// More reads must make it faster by so much, or they are enough.
const GAIN: f64 = 1.1;

/// The reads of one fill. Clones are the same ones.
#[derive(Clone)]
pub(super) struct Streams {
    places: Arc<Semaphore>,
    tuner: Arc<Mutex<Tuner>>,
}

impl Streams {
    /// At most so many at once.
    pub(super) fn new(most: usize) -> Self {
        let tuner = Tuner::new(most, Instant::now());
        Self {
            places: Arc::new(Semaphore::new(tuner.width)),
            tuner: Arc::new(Mutex::new(tuner)),
        }
    }

    /// Waits for a place; first come, first served. `None` is never given, as nobody closes it.
    pub(super) async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// A read of so many bytes has ended well.
    pub(super) fn done(&self, bytes: u64) {
        let mut tuner = self.tuner.lock().unwrap_or_else(PoisonError::into_inner);
        let more = tuner.done(bytes, Instant::now());
        self.places.add_permits(more);
    }
}

/// Decides on more. Pure: no clock.
struct Tuner {
    width: usize,
    most: usize,
    /// The rate that the last growth has to beat, in bytes a second.
    best: f64,
    since: Instant,
    reads: usize,
    bytes: u64,
}

impl Tuner {
    fn new(most: usize, now: Instant) -> Self {
        let most = most.max(1);
        Self {
            width: FIRST.min(most),
            most,
            best: 0.0,
            since: now,
            reads: 0,
            bytes: 0,
        }
    }

    /// A read has ended; gives how many more may be under way from now on. It looks at the rate whenever every place was used twice.
    fn done(&mut self, bytes: u64, now: Instant) -> usize {
        self.reads += 1;
        self.bytes += bytes;
        if self.width == self.most || self.reads < 2 * self.width {
            return 0;
        }
        let seconds = now.duration_since(self.since).as_secs_f64();
        let rate = self.bytes as f64 / seconds.max(1e-6);
        (self.since, self.reads, self.bytes) = (now, 0, 0);
        if rate < self.best * GAIN {
            return 0;
        }
        self.best = rate;
        let more = (self.width / 2).clamp(1, self.most - self.width);
        self.width += more;
        more
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The width that a host ends at whose rate for so many reads at once is this.
    fn settled(most: usize, rate: impl Fn(usize) -> f64) -> usize {
        let mut now = Instant::now();
        let mut tuner = Tuner::new(most, now);
        for _ in 0..1000 {
            now += Duration::from_secs_f64(1e6 / rate(tuner.width));
            tuner.done(1_000_000, now);
        }
        tuner.width
    }

    #[test]
    fn more_reads_are_made_while_that_is_faster() {
        let per_read = |width: usize| width as f64 * 10e6;
        assert_eq!(settled(8, per_read), 8);
        assert_eq!(settled(64, per_read), 64);
        assert_eq!(settled(2, per_read), 2);
    }

    #[test]
    fn no_more_are_made_when_the_line_is_full() {
        let line = |width: usize| (width as f64 * 10e6).min(60e6);
        assert_eq!(settled(64, line), 9);
        assert_eq!(settled(64, |_| 50e6), 6);
    }

    #[tokio::test]
    async fn places_come_with_what_was_read() {
        let streams = Streams::new(8);
        assert_eq!(streams.places.available_permits(), FIRST);
        for _ in 0..2 * FIRST {
            streams.done(1 << 20);
        }
        assert_eq!(streams.places.available_permits(), FIRST + FIRST / 2);
    }
}
