//! What goes on in an HTTP/2 connection: whether it is idle, and whether its client leaves a stream unread.
//!
//! HTTP/1.1 has one answer at a time, and a client that does not read it stops the connection, which has a timer of its own. A client of
//! HTTP/2 can leave a stream without window, and read and answer everything else for ever.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Body;

/// The requests of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    begun: AtomicU64,
    streams: Mutex<Vec<Weak<Stream>>>,
}

/// Why a connection should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is asked for.
    Idle,
    /// What is asked for is not read.
    Stalled,
}

/// One request, from its head to the end of its answer.
#[derive(Debug)]
pub(super) struct Stream {
    connection: Arc<Activity>,
    /// Milliseconds from the connection's start to when something was handed out that is still to be sent, and one more; 0 while the
    /// client waits for this side.
    unread: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            begun: AtomicU64::new(0),
            streams: Mutex::default(),
        })
    }

    pub(super) fn begin(self: &Arc<Self>) -> Arc<Stream> {
        self.begun.fetch_add(1, Relaxed);
        let stream = Arc::new(Stream {
            connection: self.clone(),
            unread: AtomicU64::new(0),
        });
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(&stream));
        stream
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How many streams there are, and since when the one that waits longest for its client does so.
    fn look(&self) -> (usize, Option<u64>) {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let live = || streams.iter().filter_map(Weak::upgrade);
        let unread = live().map(|stream| stream.unread.load(Relaxed));
        let oldest = unread.filter(|since| *since > 0).min();
        (live().count(), oldest.map(|since| since - 1))
    }

    /// Waits until nothing was asked for during `idle`, or a stream has been left unread for `stall`.
    pub(super) async fn over(&self, idle: Duration, stall: Duration) -> Verdict {
        let tick = (idle.min(stall) / 4).clamp(Duration::from_millis(10), Duration::from_secs(5));
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (mut last, mut begun) = (self.now(), self.begun.load(Relaxed));
        loop {
            tokio::time::sleep(tick).await;
            let (streams, oldest) = self.look();
            let (now, begun_now) = (self.now(), self.begun.load(Relaxed));
            if streams > 0 || begun_now != begun {
                (last, begun) = (now, begun_now);
            }
            if oldest.is_some_and(|since| now.saturating_sub(since) >= millis(stall)) {
                return Verdict::Stalled;
            }
            if now - last >= millis(idle) {
                return Verdict::Idle;
            }
        }
    }
}

/// The body of an answer, which keeps its request's place until it ends.
pub(super) struct Tracked {
    pub(super) body: Body,
    pub(super) stream: Arc<Stream>,
    pub(super) _place: Option<OwnedSemaphorePermit>,
}

impl hyper::body::Body for Tracked {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.stream.unread.store(0, Relaxed);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let now = self.stream.connection.now();
        self.stream.unread.store(now.saturating_add(1), Relaxed);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);
    const STALL: Duration = Duration::from_secs(600);

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_idle() {
        let activity = Activity::new();
        let start = Instant::now();
        drop(activity.begin());
        assert_eq!(activity.over(IDLE, STALL).await, Verdict::Idle);
        assert!(start.elapsed() >= IDLE && start.elapsed() < IDLE * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_stream_that_waits_for_its_client_is_stalled() {
        let activity = Activity::new();
        let waits_for_us = activity.begin();
        let early = tokio::time::timeout(STALL * 2, activity.over(IDLE, STALL)).await;
        assert!(early.is_err());
        let start = Instant::now();
        let unread = activity.begin();
        unread.unread.store(activity.now() + 1, Relaxed);
        assert_eq!(activity.over(IDLE, STALL).await, Verdict::Stalled);
        assert!(start.elapsed() >= STALL && start.elapsed() < STALL + IDLE);
        drop(waits_for_us);
    }
}
