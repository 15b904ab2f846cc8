//! Bounds on what the gate asks and computes at the wish of strangers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, Kind};

/// When those who are put off may ask again.
const LATER: Duration = Duration::from_secs(5);

/// A place among those who wait for something; given back when it is dropped.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// A place, if there are fewer than `most`; else an error that says what there is too much of.
    pub(super) fn new(count: &'a AtomicUsize, most: usize, what: &str) -> Result<Self, Error> {
        let place = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) < most {
            return Ok(place);
        }
        drop(place);
        let message = format!("too many {what}; ask again");
        Err(Error::new(Kind::TooManyRequests(Some(LATER)), message))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Turns to do something that few may do at once, and a bounded queue of those who wait for theirs.
pub(super) struct Turns {
    at_once: Semaphore,
    waiting: AtomicUsize,
    most: usize,
}

impl Turns {
    /// So many at once, and so many who wait.
    pub(super) const fn new(at_once: usize, queue: usize) -> Self {
        Self {
            at_once: Semaphore::const_new(at_once),
            waiting: AtomicUsize::new(0),
            most: at_once + queue,
        }
    }

    /// A place in the queue, at once; `what` as in [`Waiting::new`].
    pub(super) fn place(&self, what: &str) -> Result<Place<'_>, Error> {
        let waiting = Waiting::new(&self.waiting, self.most, what)?;
        Ok(Place {
            turns: self,
            _waiting: waiting,
        })
    }
}

/// A place in the queue for a turn. Held until the turn is over.
pub(super) struct Place<'a> {
    turns: &'a Turns,
    _waiting: Waiting<'a>,
}

impl Place<'_> {
    /// Waits for the turn, which lasts until it is dropped. `None` never comes: nobody closes the queue.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.at_once.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn few_have_a_turn_some_wait_and_the_rest_is_put_off() {
        let turns = Turns::new(1, 1);
        let first = turns.place("questions").unwrap();
        let turn = first.turn().await;
        let second = turns.place("questions").unwrap();
        assert!(turns.place("questions").is_err());
        let mut waits = std::pin::pin!(second.turn());
        assert!(futures_util::poll!(&mut waits).is_pending());
        drop(turn);
        drop(first);
        assert!(waits.await.is_some());
        assert!(turns.place("questions").is_ok());
    }
}
