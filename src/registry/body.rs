//! Blobs, read while they are sent.
//!
//! Nothing is read before the first poll, and nothing while what was read last is still to be sent: a client that does not read holds one
//! buffer ([`super::buffer`]), and a dropped body reads nothing more and closes its file. What is in the system's cache is read at once;
//! what is not, on a thread that may block, while the system is asked to read ahead. Where the connection can send files itself
//! ([`Wire`]), what is in the system's cache is not read at all.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::buffer::{Buffer, Buffers, Slot};
use super::content::Blob;
use super::multipart::{Layout, Segment};
use crate::oci::Digest;
use crate::server::{Piece, Wire, resident};
use crate::store::Lease;

/// How far the system is asked to read ahead on a disk that is waited for.
const AHEAD: u64 = 1 << 20;

/// The longest stretch of a file that is left to the connection at once: what sends it must not hold others up for long.
const STRETCH: u64 = 1 << 20;

/// Sends the pieces of a layout, in order. Whoever takes a frame must drop it to get the next one.
pub struct FileBody {
    digest: Digest,
    /// Bytes not yet handed out.
    left: u64,
    slot: Slot,
    wire: Option<Wire>,
    state: State,
    /// Keeps the blob from being deleted.
    _lease: Option<Lease>,
}

enum State {
    Idle(Source),
    Reading(JoinHandle<(Source, Buffer, io::Result<usize>)>),
    /// Everything was handed out, or a read failed.
    Ended,
}

impl FileBody {
    /// Sends `layout` of `blob`, over `wire` if its connection has one. Must be polled on a runtime.
    pub fn new(
        blob: Blob,
        layout: Layout,
        digest: Digest,
        wire: Option<Wire>,
        buffers: &Buffers,
    ) -> Self {
        let left = layout.length();
        let source = Source {
            file: blob.file,
            segments: layout.into_segments(),
            cached: true,
            waited: false,
        };
        Self {
            digest,
            left,
            slot: buffers.slot(left),
            wire,
            state: State::Idle(source),
            _lease: blob.lease,
        }
    }

    /// Bytes that are still to come.
    pub const fn length(&self) -> u64 {
        self.left
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Piece>> {
        if let State::Idle(source) = &mut self.state {
            if let Some(wire) = &self.wire
                && let Some((at, len)) = source.stretch()
            {
                let piece = wire.piece(&source.file, at, len);
                self.count(len);
                return Poll::Ready(Ok(piece));
            }
            let mut buffer = ready!(self.slot.poll_take(cx));
            let read = source.read(buffer.bytes(), Read::Cached);
            if !matches!(read, Ok(0)) {
                return Poll::Ready(read.map(|length| self.hand_out(buffer, length)));
            }
            if let State::Idle(source) = std::mem::replace(&mut self.state, State::Ended) {
                self.state = State::Reading(wait(source, buffer));
            }
        }
        let State::Reading(reading) = &mut self.state else {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        };
        let (source, buffer, read) =
            ready!(Pin::new(reading).poll(cx)).map_err(io::Error::other)?;
        self.state = State::Idle(source);
        Poll::Ready(read.map(|length| self.hand_out(buffer, length)))
    }

    fn hand_out(&mut self, buffer: Buffer, length: usize) -> Piece {
        self.count(length as u64);
        self.slot.lend(buffer, length).into()
    }

    fn count(&mut self, length: u64) {
        self.left = self.left.saturating_sub(length);
        if self.left == 0 {
            self.state = State::Ended;
        }
    }
}

/// Reads on a thread that may block.
fn wait(mut source: Source, mut buffer: Buffer) -> JoinHandle<(Source, Buffer, io::Result<usize>)> {
    tokio::task::spawn_blocking(move || {
        let read = source.read(buffer.bytes(), Read::Any);
        (source, buffer, read)
    })
}

impl Body for FileBody {
    type Data = Piece;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Piece>>>> {
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

/// Which reads are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// Only what the system has in memory.
    Cached,
    /// All, however long they take.
    Any,
}

/// The file, and what is still to be read of it.
struct Source {
    file: Arc<File>,
    segments: VecDeque<Segment>,
    /// Whether this file system can tell what it has in memory.
    cached: bool,
    /// Whether a read had to wait for the disk before.
    waited: bool,
}

impl Source {
    /// Takes the next stretch of the file off the body, if all of it is in the system's cache.
    fn stretch(&mut self) -> Option<(u64, u64)> {
        let segment = self.segments.front_mut()?;
        let Segment::File(range) = segment else {
            return None;
        };
        let at = range.start;
        let most = STRETCH.min(range.end - at);
        let known = resident::reach(&self.file, at, most, &mut self.cached);
        range.start += known;
        if segment.length() == 0 {
            self.segments.pop_front();
        }
        (known > 0).then_some((at, known))
    }

    /// Reads the next bytes of the body, across pieces, until `out` or the body is full. [`Read::Cached`] ends early where it would have
    /// to wait; 0 if that is at once.
    fn read(&mut self, out: &mut [u8], which: Read) -> io::Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            let Some(segment) = self.segments.front_mut() else {
                break;
            };
            let room = &mut out[filled..];
            let read = match segment {
                Segment::Text(text) => {
                    let part = text.split_to(room.len().min(text.len()));
                    room[..part.len()].copy_from_slice(&part);
                    part.len()
                }
                Segment::File(range) => {
                    let left = range.end - range.start;
                    let take = usize::try_from(left).map_or(room.len(), |n| n.min(room.len()));
                    let room = &mut room[..take];
                    let read = match which {
                        Read::Any => self.file.read_at(room, range.start),
                        Read::Cached if self.cached => {
                            resident::read(&self.file, room, range.start, &mut self.cached)
                        }
                        Read::Cached => return Ok(filled),
                    };
                    let read = match read {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(read) => read,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            return Ok(filled);
                        }
                        Err(error) => return Err(error),
                    };
                    range.start += read as u64;
                    read
                }
            };
            filled += read;
            if segment.length() == 0 {
                self.segments.pop_front();
            }
        }
        if which == Read::Any && std::mem::replace(&mut self.waited, true) {
            self.read_ahead();
        }
        Ok(filled)
    }

    /// Asks the system to have the next bytes in memory soon.
    fn read_ahead(&self) {
        #[cfg(target_os = "linux")]
        if let Some(Segment::File(range)) = self.segments.front() {
            let length = (range.end - range.start).min(AHEAD);
            let advice = rustix::fs::Advice::WillNeed;
            // Only advice: where it is not taken, reads wait for themselves.
            let _ = rustix::fs::fadvise(
                &self.file,
                range.start,
                std::num::NonZero::new(length),
                advice,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::ops::Range;

    use bytes::Buf as _;
    use futures_util::FutureExt;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::super::buffer::FULL;
    use super::super::multipart;
    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn blob(bytes: &[u8]) -> Blob {
        Blob {
            file: file(bytes).into(),
            size: bytes.len() as u64,
            lease: None,
        }
    }

    fn body(bytes: &[u8], layout: Layout) -> FileBody {
        FileBody::new(
            blob(bytes),
            layout,
            Digest::of(b""),
            None,
            &Buffers::new(1 << 20),
        )
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
            sizes.push(data.remaining());
            bytes.extend_from_slice(data.chunk());
            assert_eq!(body.is_end_stream(), body.size_hint().exact() == Some(0));
        }
        Ok((sizes, bytes))
    }

    #[tokio::test]
    async fn a_body_comes_in_buffers() {
        let bytes = pattern(300_000);
        let (sizes, got) = drained(body(&bytes, Layout::file(0..300_000)))
            .await
            .unwrap();
        assert!(got == bytes);
        assert_eq!(sizes, [FULL, FULL, 300_000 - 2 * FULL]);
    }

    #[tokio::test]
    async fn a_file_system_that_cannot_say_what_it_has_in_memory_is_waited_for() {
        let bytes = pattern(300_000);
        let mut body = body(&bytes, Layout::file(0..300_000));
        if let State::Idle(source) = &mut body.state {
            source.cached = false;
        }
        assert!(drained(body).await.unwrap().1 == bytes);
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
    async fn nothing_is_read_while_what_was_read_is_still_to_be_sent() {
        let mut body = body(&pattern(1 << 20), Layout::file(0..1 << 20));
        let first = body.frame().await.unwrap().unwrap();
        let left = body.left;
        assert!(body.frame().now_or_never().is_none());
        assert!(matches!(body.state, State::Idle(_)) && body.left == left);
        drop(first);
        assert!(body.frame().await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_dropped_body_has_closed_its_file_even_if_its_last_frame_lives() {
        let file = file(&pattern(1 << 20));
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let target = std::fs::read_link(&path).ok();
        let blob = Blob {
            file: file.into(),
            size: 1 << 20,
            lease: None,
        };
        let mut body = FileBody::new(
            blob,
            Layout::file(0..1 << 20),
            Digest::of(b""),
            None,
            &Buffers::new(1 << 20),
        );
        let frame = body.frame().await.unwrap().unwrap();
        drop(body);
        // Another thread may have been given the number meanwhile.
        assert!(target.is_none() || std::fs::read_link(&path).ok() != target);
        drop(frame);
    }

    /// What is free of a [`FULL`] buffer once everybody else has let go of it.
    async fn given_back(buffers: &Buffers) -> usize {
        while buffers.free() < FULL {
            tokio::task::yield_now().await;
        }
        buffers.free()
    }

    #[tokio::test]
    async fn a_body_that_is_dropped_while_it_waits_for_the_disk_gives_its_memory_back() {
        let buffers = Buffers::new(FULL);
        let bytes = pattern(300_000);
        let layout = Layout::file(0..300_000);
        let mut body = FileBody::new(blob(&bytes), layout, Digest::of(b""), None, &buffers);
        if let State::Idle(source) = &mut body.state {
            source.cached = false;
        }
        assert!(body.frame().now_or_never().is_none());
        assert!(matches!(body.state, State::Reading(_)));
        drop(body);
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), given_back(&buffers));
        assert_eq!(waited.await, Ok(FULL));
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
}
