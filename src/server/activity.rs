//! What goes on in an HTTP/2 connection: whether it is idle, and whether its client leaves a stream unread.
//!
//! HTTP/1.1 has one answer at a time, and a client that does not read it stops the connection, which has a timer of its own. A client of
//! HTTP/2 can leave a stream without window, or give it a byte now and then, and read and answer everything else for ever. So each piece of an
//! answer has a time in which all of it must be sent.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{Body, Piece};

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

/// How long is waited for a client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For its next request.
    pub(super) idle: Duration,
    /// For it to take what a stream has handed out: a buffer at most.
    pub(super) stall: Duration,
    /// The same for streams that have one of the common places, while there is none left.
    pub(super) hurried: Duration,
}

/// One request, from its head until the last byte of its answer is sent.
#[derive(Debug)]
pub(super) struct Stream {
    connection: Arc<Activity>,
    /// Whether it has one of the common places.
    further: AtomicBool,
    unsent: Mutex<Unsent>,
}

/// What was handed out and is still to be sent.
#[derive(Debug, Default)]
struct Unsent {
    pieces: usize,
    /// Milliseconds from the connection's start to when the first of them was handed out, or the one before it was sent.
    since: u64,
}

impl Stream {
    /// Notes that it has one of the common places.
    pub(super) fn is_further(&self) {
        self.further.store(true, Relaxed);
    }

    fn unsent(&self) -> MutexGuard<'_, Unsent> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handed_out(&self) {
        let now = self.connection.now();
        let mut unsent = self.unsent();
        if unsent.pieces == 0 {
            unsent.since = now;
        }
        unsent.pieces += 1;
    }

    fn sent(&self) {
        let now = self.connection.now();
        let mut unsent = self.unsent();
        unsent.pieces -= 1;
        unsent.since = now;
    }

    /// Since when it waits for its client.
    fn waits_since(&self) -> Option<u64> {
        let unsent = self.unsent();
        (unsent.pieces > 0).then_some(unsent.since)
    }
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
            further: AtomicBool::new(false),
            unsent: Mutex::default(),
        });
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(&stream));
        stream
    }

    fn now(&self) -> u64 {
        millis(self.started.elapsed())
    }

    fn live(&self) -> Vec<Arc<Stream>> {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.iter().filter_map(Weak::upgrade).collect()
    }

    /// Waits until nothing was asked for, or a stream has been left unread, for longer than there is `patience`. `short` tells whether no
    /// common place is left.
    pub(super) async fn over(&self, patience: &Patience, short: impl Fn() -> bool) -> Verdict {
        let Patience {
            idle,
            stall,
            hurried,
        } = *patience;
        let least = idle.min(stall).min(hurried);
        let tick = (least / 4).clamp(Duration::from_millis(10), Duration::from_secs(5));
        let (mut last, mut begun) = (self.now(), self.begun.load(Relaxed));
        loop {
            tokio::time::sleep(tick).await;
            let streams = self.live();
            let (now, begun_now) = (self.now(), self.begun.load(Relaxed));
            if !streams.is_empty() || begun_now != begun {
                (last, begun) = (now, begun_now);
            }
            let is_short = short();
            let stalled = |stream: &Arc<Stream>| {
                let hurry = is_short && stream.further.load(Relaxed);
                let most = millis(if hurry { hurried.min(stall) } else { stall });
                let since = stream.waits_since();
                since.is_some_and(|since| now.saturating_sub(since) >= most)
            };
            if streams.iter().any(stalled) {
                return Verdict::Stalled;
            }
            if now - last >= millis(idle) {
                return Verdict::Idle;
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What an answer keeps until all of it is sent: its place, and its connection from being idle.
pub(super) struct Hold {
    pub(super) stream: Arc<Stream>,
    pub(super) _place: OwnedSemaphorePermit,
}

/// The body of an answer over HTTP/2. The layer below drops a body when it has taken its last bytes, long before they are sent: so the bytes
/// hold what the answer holds.
pub(super) struct Tracked {
    pub(super) body: Body,
    pub(super) hold: Arc<Hold>,
}

impl hyper::body::Body for Tracked {
    type Data = Piece;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Piece>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let held = |piece| match piece {
            Piece::Bytes(bytes) => Bytes::from_owner(Held::new(bytes, &self.hold)).into(),
            // There is none over HTTP/2.
            file @ Piece::File(_) => file,
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(held))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes that are to be sent.
struct Held {
    bytes: Bytes,
    hold: Arc<Hold>,
}

impl Held {
    fn new(bytes: Bytes, hold: &Arc<Hold>) -> Self {
        hold.stream.handed_out();
        Self {
            bytes,
            hold: Arc::clone(hold),
        }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hold.stream.sent();
    }
}

/// The body of an answer over HTTP/1.1, which keeps its request's place until it ends. Its pieces go to the socket as they are.
pub(super) struct Placed {
    pub(super) body: Body,
    pub(super) _place: OwnedSemaphorePermit,
}

impl hyper::body::Body for Placed {
    type Data = Piece;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Piece>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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
    use futures_util::FutureExt;
    use http_body_util::{BodyExt, Full};
    use tokio::sync::Semaphore;

    use super::*;

    const PATIENCE: Patience = Patience {
        idle: Duration::from_secs(30),
        stall: Duration::from_secs(600),
        hurried: Duration::from_secs(10),
    };

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_idle() {
        let activity = Activity::new();
        let start = Instant::now();
        drop(activity.begin());
        assert_eq!(activity.over(&PATIENCE, || true).await, Verdict::Idle);
        assert!(start.elapsed() >= PATIENCE.idle && start.elapsed() < PATIENCE.idle * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_stream_that_waits_for_its_client_is_stalled() {
        let activity = Activity::new();
        let waits_for_us = activity.begin();
        waits_for_us.is_further();
        let over = activity.over(&PATIENCE, || true);
        assert!(
            tokio::time::timeout(PATIENCE.stall * 2, over)
                .await
                .is_err()
        );
        let start = Instant::now();
        let unread = activity.begin();
        unread.handed_out();
        assert_eq!(activity.over(&PATIENCE, || true).await, Verdict::Stalled);
        assert!(start.elapsed() >= PATIENCE.stall && start.elapsed() < PATIENCE.stall * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_further_stream_is_waited_for_less_while_others_have_no_place() {
        let activity = Activity::new();
        let unread = activity.begin();
        unread.is_further();
        unread.handed_out();
        let over = activity.over(&PATIENCE, || false);
        assert!(
            tokio::time::timeout(PATIENCE.stall / 2, over)
                .await
                .is_err()
        );
        let start = Instant::now();
        assert_eq!(activity.over(&PATIENCE, || true).await, Verdict::Stalled);
        assert!(start.elapsed() < PATIENCE.hurried);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_are_not_sent_keep_their_connection_and_their_place() {
        let activity = Activity::new();
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().acquire_owned().await.expect("never closed");
        let text = Full::new(Piece::from(Bytes::from_static(b"last words")));
        let mut body = Tracked {
            body: text.map_err(io::Error::other).boxed_unsync(),
            hold: Arc::new(Hold {
                stream: activity.begin(),
                _place: place,
            }),
        };
        let last = body.frame().await;
        drop(body);
        let over = activity.over(&PATIENCE, || false);
        assert!(tokio::time::timeout(PATIENCE.idle * 3, over).await.is_err());
        assert_eq!(places.available_permits(), 0);
        drop(last);
        assert_eq!(places.available_permits(), 1);
        assert_eq!(activity.over(&PATIENCE, || false).await, Verdict::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_asked_for_more_too_early_still_waits_for_its_client() {
        /// One piece, and never another.
        struct One(Option<Bytes>);
        impl hyper::body::Body for One {
            type Data = Piece;
            type Error = io::Error;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<io::Result<Frame<Piece>>>> {
                let piece = self.0.take().map(Piece::from);
                piece.map_or(Poll::Pending, |piece| {
                    Poll::Ready(Some(Ok(Frame::data(piece))))
                })
            }
        }
        let activity = Activity::new();
        let places = Arc::new(Semaphore::new(1));
        let mut body = Tracked {
            body: One(Some(Bytes::from_static(b"one"))).boxed_unsync(),
            hold: Arc::new(Hold {
                stream: activity.begin(),
                _place: places.acquire_owned().await.expect("never closed"),
            }),
        };
        let unsent = body.frame().await;
        assert!(body.frame().now_or_never().is_none());
        let over = activity.over(&PATIENCE, || false);
        let verdict = tokio::time::timeout(PATIENCE.stall * 2, over).await;
        assert_eq!(verdict, Ok(Verdict::Stalled));
        drop(unsent);
    }
}
