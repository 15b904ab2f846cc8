//! Bodies that are read while they are sent.
//!
//! [`FileBody`] sends a [`Layout`] of a blob. Nothing is read before the first poll, the first read is small and has none ahead of it (some
//! clients ask for everything and leave after one buffer), later ones grow and have one ahead; a dropped body reads nothing more.
//! [`Drip`] sends a document that is not there yet.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame, SizeHint};
use rustix::buffer::spare_capacity;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use super::multipart::{Layout, Segment};
use crate::error::Error;
use crate::oci::Digest;
use crate::store::Lease;

/// Bytes of an early answer that come at the interval; those after them take three times as long.
const QUICK: usize = 20;

/// How much is read first, and how much at most.
const FIRST: usize = 64 << 10;
const MOST: usize = 512 << 10;

/// Sends the pieces of a layout, in order.
pub struct FileBody {
    digest: Digest,
    /// Bytes not yet handed out.
    left: u64,
    step: usize,
    /// Nothing was handed out yet.
    first: bool,
    /// What was handed out last. When the next is, its buffer has mostly been sent, and is read into again: some allocators ask the system
    /// for every buffer of this size, which costs half of the speed.
    last: Option<Bytes>,
    state: State,
    /// Keeps the blob from being deleted.
    _lease: Option<Lease>,
}

enum State {
    Idle(Source),
    Reading(JoinHandle<(Source, io::Result<Vec<u8>>)>),
    /// Everything was handed out, or a read failed.
    Ended,
}

impl FileBody {
    /// Sends `layout` of `file`, which is the blob `digest`. Must be polled on a runtime.
    pub fn new(file: File, lease: Option<Lease>, layout: Layout, digest: Digest) -> Self {
        let left = layout.length();
        let segments = layout.into_segments();
        Self {
            digest,
            left,
            step: FIRST,
            first: true,
            last: None,
            state: State::Idle(Source { file, segments }),
            _lease: lease,
        }
    }

    /// Reads the next step on a thread that may block.
    fn start(&mut self, mut source: Source) {
        let step = self.step;
        self.step = (step * 2).min(MOST);
        let buffer = self.last.take().and_then(reclaimed).unwrap_or_default();
        self.state = State::Reading(tokio::task::spawn_blocking(move || {
            let read = source.read(step, buffer);
            (source, read)
        }));
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if let State::Idle(_) = self.state
            && let State::Idle(source) = std::mem::replace(&mut self.state, State::Ended)
        {
            self.start(source);
        }
        let State::Reading(reading) = &mut self.state else {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        };
        let (source, read) = ready!(Pin::new(reading).poll(cx)).map_err(io::Error::other)?;
        let bytes = Bytes::from(read?);
        self.left = self.left.saturating_sub(bytes.len() as u64);
        if self.left == 0 {
            self.state = State::Ended;
        } else if std::mem::take(&mut self.first) {
            self.state = State::Idle(source);
        } else {
            self.start(source);
            self.last = Some(bytes.clone());
        }
        Poll::Ready(Ok(bytes))
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let read = ready!(self.poll_read(cx));
        if let Err(error) = &read {
            self.state = State::Ended;
            self.left = 0;
            tracing::error!(digest = %self.digest, %error, "a blob could not be read; its connection is broken off");
        }
        Poll::Ready(Some(read.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for FileBody {
    fn drop(&mut self) {
        // Takes effect while the read is still queued.
        if let State::Reading(reading) = &self.state {
            reading.abort();
        }
    }
}

/// The buffer behind `bytes`, if nobody else has it any more.
fn reclaimed(mut bytes: Bytes) -> Option<Vec<u8>> {
    bytes.is_unique().then(|| {
        // Its content would be moved to the front of the buffer, where it is already; an empty `Bytes` would have let go of the buffer.
        bytes.truncate(1);
        let mut buffer = Vec::from(bytes);
        buffer.clear();
        buffer
    })
}

/// The file, and what is still to be read of it.
struct Source {
    file: File,
    segments: VecDeque<Segment>,
}

impl Source {
    /// The next `step` bytes of the body, across pieces; fewer only at its end. Uses the empty `buffer` if it has just the right size.
    fn read(&mut self, step: usize, buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        let left: u64 = self.segments.iter().map(Segment::length).sum();
        let room = usize::try_from(left).map_or(step, |left| left.min(step));
        let mut out = if buffer.capacity() == room {
            buffer
        } else {
            Vec::with_capacity(room)
        };
        while out.len() < room {
            let Some(segment) = self.segments.front_mut() else {
                break;
            };
            let want = room - out.len();
            match segment {
                Segment::Text(text) => out.extend_from_slice(&text.split_to(want.min(text.len()))),
                Segment::File(range) => {
                    let take =
                        usize::try_from(range.end - range.start).map_or(want, |n| n.min(want));
                    append(&self.file, range.start, take, &mut out)?;
                    range.start += take as u64;
                }
            }
            if segment.length() == 0 {
                self.segments.pop_front();
            }
        }
        Ok(out)
    }
}

/// Appends exactly `take` bytes of `file`, from `at` on.
fn append(file: &File, at: u64, take: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let end = out.len() + take;
    // The spare capacity must be no larger than what is wanted, so a part has its own buffer if others follow it.
    if out.capacity() > end {
        let mut part = vec![0; take];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut part, at)?;
        out.extend_from_slice(&part);
        return Ok(());
    }
    let start = out.len();
    while out.len() < end {
        let at = at + (out.len() - start) as u64;
        match rustix::io::pread(file, spare_capacity(out), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sends the first bytes of a document, which never vary, one by one while the document is being made; then its rest.
///
/// If the document cannot be made, or does not begin like that, the body fails, and with it the connection: no client may take what it has
/// for the whole. Dropping it drops its interest only.
pub struct Drip {
    document: BoxFuture<'static, Result<Bytes, Error>>,
    prefix: &'static [u8],
    sent: usize,
    every: Duration,
    timer: Pin<Box<Sleep>>,
    ended: bool,
}

impl Drip {
    /// Sends a byte of `prefix` at once and after each interval, later after three, until `document` is there.
    ///
    /// At once, because where a body ends with its connection (HTTP/1.0, as some gateways speak it) only its bytes tell that it is not
    /// whole: one byte of a document is not valid JSON, and none might pass for an empty answer.
    pub fn new(
        document: BoxFuture<'static, Result<Bytes, Error>>,
        prefix: &'static [u8],
        every: Duration,
    ) -> Self {
        Self {
            document,
            prefix,
            sent: 0,
            every,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            ended: false,
        }
    }

    fn rest(&self, document: Result<Bytes, Error>) -> io::Result<Bytes> {
        let document = document.map_err(|error| {
            tracing::warn!(%error, "the image could not be filled; the client that waits for it is cut off");
            io::Error::other(error)
        })?;
        if document.starts_with(&self.prefix[..self.sent]) {
            Ok(document.slice(self.sent..))
        } else {
            tracing::error!(
                "an image index does not begin as all should; the client that waits for it is cut off"
            );
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

impl Body for Drip {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(document) = self.document.as_mut().poll(cx) {
            self.ended = true;
            return Poll::Ready(Some(self.rest(document).map(Frame::data)));
        }
        if self.sent == self.prefix.len() {
            return Poll::Pending;
        }
        ready!(self.timer.as_mut().poll(cx));
        // The bytes are few: after the first ones they are spent slowly, still within the minute that idle timers give.
        let pause = if self.sent < QUICK {
            self.every
        } else {
            self.every * 3
        };
        self.timer.as_mut().reset(Instant::now() + pause);
        let byte = Bytes::from_static(&self.prefix[self.sent..=self.sent]);
        self.sent += 1;
        Poll::Ready(Some(Ok(Frame::data(byte))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::ops::Range;

    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::super::multipart;
    use super::*;
    use crate::error::Kind;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn body(bytes: &[u8], layout: Layout) -> FileBody {
        FileBody::new(file(bytes), None, layout, Digest::of(b""))
    }

    fn pattern(size: usize) -> Vec<u8> {
        (0..size as u32)
            .flat_map(|i| i.to_le_bytes())
            .take(size)
            .collect()
    }

    /// The sizes of the frames, and the bytes.
    async fn drained(mut body: FileBody) -> io::Result<(Vec<usize>, Vec<u8>)> {
        let (mut sizes, mut bytes) = (Vec::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            let data = frame?.into_data().unwrap();
            sizes.push(data.len());
            bytes.extend_from_slice(&data);
            assert_eq!(body.is_end_stream(), body.size_hint().exact() == Some(0));
        }
        Ok((sizes, bytes))
    }

    #[tokio::test]
    async fn reads_begin_small_and_grow() {
        let bytes = pattern(2_000_000);
        let (sizes, got) = drained(body(&bytes, Layout::file(0..2_000_000)))
            .await
            .unwrap();
        assert!(got == bytes);
        assert_eq!(
            sizes,
            [
                64 << 10,
                128 << 10,
                256 << 10,
                512 << 10,
                512 << 10,
                2_000_000 - (1472 << 10)
            ]
        );
    }

    #[tokio::test]
    async fn a_stretch_is_sent_and_no_more() {
        let bytes = pattern(1000);
        let body = body(&bytes, Layout::file(10..20));
        assert_eq!(body.size_hint().exact(), Some(10));
        let (sizes, got) = drained(body).await.unwrap();
        assert_eq!((sizes, got.as_slice()), (vec![10], &bytes[10..20]));
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_breaks_the_body() {
        let error = drained(body(&pattern(100_000), Layout::file(0..100_001)))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn nothing_is_read_ahead_of_the_first_frame_or_after_a_drop() {
        let mut body = body(&pattern(1 << 20), Layout::file(0..1 << 20));
        assert!(matches!(body.state, State::Idle(_)));
        body.frame().await.unwrap().unwrap();
        assert!(matches!(body.state, State::Idle(_)));
        body.frame().await.unwrap().unwrap();
        assert!(matches!(body.state, State::Reading(_)));
    }

    #[tokio::test]
    async fn a_buffer_that_was_sent_is_read_into_again() {
        let mut body = body(&pattern(4 << 20), Layout::file(0..4 << 20));
        let mut buffers = std::collections::HashSet::new();
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            if data.len() == MOST {
                buffers.insert(data.as_ptr());
            }
        }
        assert_eq!(buffers.len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn parts_are_sent_as_their_slices(cuts in prop::collection::vec((0..400_000_u64, 1..90_000_u64), 1..12)) {
            let bytes = pattern(400_000);
            let parts: Vec<Range<u64>> = cuts.into_iter().map(|(at, len)| at..(at + len).min(400_000)).collect();
            let layout = Layout::multipart("bound", &parts, 400_000);
            let length = layout.length();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (_, got) = runtime.block_on(drained(body(&bytes, layout))).unwrap();
            prop_assert_eq!(got.len() as u64, length);
            let parsed = multipart::tests::parse(&got, "bound");
            prop_assert_eq!(parsed.len(), parts.len());
            for (part, (first, _, content)) in parts.iter().zip(parsed) {
                prop_assert_eq!(part.start, first);
                prop_assert!(content == bytes[part.start as usize..part.end as usize]);
            }
        }
    }

    const PREFIX: &[u8] = b"{\"schemaVersion\":2";
    const EVERY: Duration = Duration::from_secs(15);

    fn drip(after: Duration, end: Result<&'static str, Error>) -> Drip {
        let document = Box::pin(async move {
            tokio::time::sleep(after).await;
            end.map(Bytes::from)
        });
        Drip::new(document, PREFIX, EVERY)
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_drips_and_then_comes() {
        let text = "{\"schemaVersion\":2,\"more\":1}";
        let mut body = drip(EVERY * 3 + EVERY / 2, Ok(text));
        let (start, mut frames) = (Instant::now(), Vec::new());
        while let Some(frame) = body.frame().await {
            frames.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(start.elapsed(), EVERY * 3 + EVERY / 2);
        assert_eq!(frames, ["{", "\"", "s", "c", &text[4..]]);
        assert!(body.is_end_stream());
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_is_whole_even_if_all_its_constant_bytes_dripped_away() {
        let text = "{\"schemaVersion\":2}";
        let body = drip(EVERY * 100, Ok(text))
            .collect()
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(body, text);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_breaks_the_body() {
        let mut body = drip(EVERY / 2, Err(Error::new(Kind::BadGateway, "gone")));
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "{"
        );
        assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "gone");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_that_begins_otherwise_breaks_the_body() {
        assert!(
            drip(EVERY * 5, Ok("{\"manifests\":[]}"))
                .collect()
                .await
                .is_err()
        );
    }
}
