//! Files whose server ignores ranges: one body is read from the front to the end, by whoever is next.
//!
//! Some mirrors answer a range with the whole file. Reading each piece of a file that way would read its beginning again and again, so
//! here the body outlives the read that opened it: when a read has its bytes the body is *parked*, and the read that wants the bytes
//! after them takes it over. Reads of a file that come in no order wait until the body is where they begin.
//!
//! A parked body holds no permit, so it keeps nobody from reading; it is closed if nobody wants it for a while. A body that is in use
//! always ends in being parked or dropped, and a read that begins after it is woken then: nobody waits without end.

use std::collections::BTreeMap;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::body::Open;
use crate::repo::{Commit, FilePath, RepoId};

/// A file of a commit.
pub(super) type Key = (RepoId, Commit, FilePath);

/// How long the bytes between a body and the first read after it are left to a read that wants them, before they are thrown away.
const GAP: Duration = Duration::from_millis(500);

/// How long a parked body stays open. A server may close it sooner; then the next read opens another one.
const PARKED: Duration = Duration::from_secs(60);

/// Bodies of one file at once: two images may want the same file at different places.
const BODIES: usize = 4;

/// How long a file is known to be one of these after it was read last.
const KNOWN: Duration = Duration::from_secs(600);

/// The files that come as a whole only.
#[derive(Clone)]
pub(super) struct Sequences(Cache<Key, Arc<Sequence>>);

/// The bodies of one file, and the reads that wait for one.
#[derive(Default)]
pub(super) struct Sequence {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    bodies: Vec<Body>,
    /// Where those begin that wait, by their tickets.
    waiting: BTreeMap<u64, u64>,
    /// The next ticket or body's number.
    next: u64,
}

struct Body {
    id: u64,
    /// The next byte it gives, or will give once its read is done.
    at: u64,
    /// None while a read has it.
    parked: Option<Parked>,
}

struct Parked {
    open: Open,
    _closing: AbortOnDropHandle<()>,
}

/// A read's turn: the right to one body of the file, which it opens itself or was given. Dropping it drops the body.
pub(super) struct Turn {
    sequence: Arc<Sequence>,
    id: u64,
}

/// What a waiting read does next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Take over this body.
    Take(usize),
    /// Open a body.
    Open,
    /// Drop this body and open one.
    Replace(usize),
    /// Wait for a change.
    Wait,
    /// Wait for a change, but not for long.
    Gap,
}

impl Sequences {
    pub(super) fn new() -> Self {
        let cache = Cache::builder().max_capacity(10_000).time_to_idle(KNOWN);
        Self(cache.build())
    }

    /// The file's bodies, if it is known to come as a whole only.
    pub(super) async fn get(&self, key: &Key) -> Option<Arc<Sequence>> {
        self.0.get(key).await
    }

    /// Notes that a file comes as a whole only.
    pub(super) async fn mark(&self, key: &Key) -> Arc<Sequence> {
        let entry = self.0.entry_by_ref(key).or_default().await;
        if entry.is_fresh() {
            tracing::info!(repo = %key.0, path = key.2.as_str(), "its server ignores ranges; reading it in one stream");
        }
        entry.into_value()
    }
}

impl Sequence {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a read of `want` may go on. Gives its turn, and the body if there is one that leads to `want.start`.
    pub(super) async fn turn(self: &Arc<Self>, want: &Range<u64>) -> (Turn, Option<Open>) {
        let waiting = Waiting::new(self, want.start);
        let mut gap = None;
        loop {
            let patient = gap.is_none_or(|end| Instant::now() < end);
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let step = {
                let mut state = self.lock();
                let step = state.step(want.start, patient);
                if let Some((id, open)) = state.apply(&step, want) {
                    drop(state);
                    drop(waiting);
                    let sequence = Arc::clone(self);
                    return (Turn { sequence, id }, open);
                }
                step
            };
            if step == Step::Gap {
                let end = *gap.get_or_insert_with(|| Instant::now() + GAP);
                let _ = timeout_at(end, changed).await;
            } else {
                changed.await;
                gap = None;
            }
        }
    }

    /// A body of the whole file, at its beginning: kept if there is none yet.
    pub(super) fn offer(self: &Arc<Self>, open: Open) {
        let mut state = self.lock();
        if !state.bodies.is_empty() {
            return;
        }
        let id = state.number();
        state.bodies.push(Body {
            id,
            at: 0,
            parked: Some(self.parked(id, open)),
        });
        drop(state);
        self.changed.notify_waiters();
    }

    fn parked(self: &Arc<Self>, id: u64, open: Open) -> Parked {
        let sequence: Weak<Self> = Arc::downgrade(self);
        let close = tokio::spawn(async move {
            sleep(PARKED).await;
            if let Some(sequence) = sequence.upgrade() {
                sequence.remove(id);
            }
        });
        Parked {
            open,
            _closing: AbortOnDropHandle::new(close),
        }
    }

    fn remove(&self, id: u64) {
        let removed = self.lock().remove(id);
        self.changed.notify_waiters();
        drop(removed);
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn remove(&mut self, id: u64) -> Option<Body> {
        let at = self.bodies.iter().position(|body| body.id == id)?;
        Some(self.bodies.swap_remove(at))
    }

    /// What a read that begins at `want` does. `patient`: it has not yet waited in vain for what is between.
    fn step(&self, want: u64, patient: bool) -> Step {
        let before = |body: &&(usize, &Body)| body.1.at <= want;
        let bodies = || self.bodies.iter().enumerate();
        let nearest = bodies()
            .filter(|body| before(&body))
            .max_by_key(|(_, body)| (body.at, body.parked.is_some()));
        let from = nearest.map_or(0, |(_, body)| body.at);
        let others_between = self
            .waiting
            .values()
            .any(|start| (from..want).contains(start));
        match nearest {
            Some((at, body)) if body.at == want && body.parked.is_some() => Step::Take(at),
            Some((_, body)) if body.parked.is_none() => Step::Wait,
            _ if others_between => Step::Wait,
            _ if patient && want > 0 => Step::Gap,
            Some((at, _)) => Step::Take(at),
            None if self.bodies.len() < BODIES => Step::Open,
            None => match bodies().find(|(_, body)| body.parked.is_some()) {
                Some((at, _)) => Step::Replace(at),
                None => Step::Wait,
            },
        }
    }

    /// Does what can be done: gives the number of the body that the read has now, and the body if it is open.
    fn apply(&mut self, step: &Step, want: &Range<u64>) -> Option<(u64, Option<Open>)> {
        match *step {
            Step::Wait | Step::Gap => return None,
            Step::Take(at) => {
                // A new number, as the one before is still the last read's.
                let id = self.number();
                let body = &mut self.bodies[at];
                let mut open = body.parked.take()?.open;
                open.skip += want.start - body.at;
                (body.id, body.at) = (id, want.end);
                return Some((id, Some(open)));
            }
            Step::Replace(at) => drop(self.bodies.swap_remove(at)),
            Step::Open => {}
        }
        let (id, at) = (self.number(), want.end);
        self.bodies.push(Body {
            id,
            at,
            parked: None,
        });
        Some((id, None))
    }
}

impl Turn {
    /// Leaves the body, which is where this read ended, to the next one.
    pub(super) fn park(self, open: Open) {
        let parked = self.sequence.parked(self.id, open);
        if let Some(body) = self
            .sequence
            .lock()
            .bodies
            .iter_mut()
            .find(|body| body.id == self.id)
        {
            body.parked = Some(parked);
        }
        self.sequence.changed.notify_waiters();
        // A body that is parked is not dropped with its turn.
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let removed = {
            let mut state = self.sequence.lock();
            let busy = |body: &Body| body.id == self.id && body.parked.is_none();
            match state.bodies.iter().any(busy) {
                true => state.remove(self.id),
                false => None,
            }
        };
        if removed.is_some() {
            self.sequence.changed.notify_waiters();
        }
    }
}

/// A read in the queue; it leaves when this is dropped.
struct Waiting<'a> {
    sequence: &'a Sequence,
    ticket: u64,
}

impl<'a> Waiting<'a> {
    fn new(sequence: &'a Sequence, start: u64) -> Self {
        let mut state = sequence.lock();
        let ticket = state.number();
        state.waiting.insert(ticket, start);
        drop(state);
        Self { sequence, ticket }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.sequence.lock().waiting.remove(&self.ticket);
        self.sequence.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file's bodies by where they are and whether they are in use, and where the others that wait begin. None of them is parked for
    /// good: a `Parked` needs a connection.
    fn step(busy: &[u64], waiting: &[u64], want: u64, patient: bool) -> Step {
        let bodies = busy.iter().zip(0..).map(|(at, id)| Body {
            id,
            at: *at,
            parked: None,
        });
        let state = State {
            bodies: bodies.collect(),
            waiting: waiting
                .iter()
                .copied()
                .zip(0..)
                .map(|(s, t)| (t, s))
                .collect(),
            next: 100,
        };
        state.step(want, patient)
    }

    #[test]
    fn a_read_waits_for_the_body_that_leads_to_it_and_else_opens_one() {
        for (busy, waiting, want, patient, wanted) in [
            // The first read of a file, alone or with others behind it.
            (&[][..], &[0, 8, 16][..], 0, true, Step::Open),
            (&[], &[0, 8, 16], 8, true, Step::Wait),
            // A file that is gone on with in the middle: what is before may still be wanted.
            (&[], &[24, 32], 24, true, Step::Gap),
            (&[], &[24, 32], 24, false, Step::Open),
            (&[], &[24, 32], 32, false, Step::Wait),
            // A body that is in use and will be there, or somewhere before.
            (&[8], &[8], 8, true, Step::Wait),
            (&[8], &[16], 16, false, Step::Wait),
            // One that is already past it.
            (&[16], &[0], 0, true, Step::Open),
            (&[16, 24, 32, 40], &[0], 0, true, Step::Wait),
        ] {
            let got = step(busy, waiting, want, patient);
            assert_eq!(got, wanted, "{busy:?} {waiting:?} {want} {patient}");
        }
    }

    #[tokio::test]
    async fn a_turn_that_is_dropped_lets_the_next_read_go_on() {
        let sequence = Arc::new(Sequence::default());
        let (turn, open) = sequence.turn(&(0..8)).await;
        assert!(open.is_none());
        let other = Arc::clone(&sequence);
        let next = tokio::spawn(async move { other.turn(&(8..16)).await });
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(turn);
        let (_turn, open) = next.await.expect("a turn");
        assert!(open.is_none());
        assert_eq!(sequence.lock().bodies.len(), 1);
        assert!(sequence.lock().waiting.is_empty());
    }
}
