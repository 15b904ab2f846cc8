//! Files to sockets without a copy.
//!
//! A body may hand out a [`Piece`] that stands for a stretch of a file instead of bytes. Such a piece shows the HTTP layer one byte that
//! is never sent: the [`Socket`] knows it by its address and sends the stretch by `sendfile`, and the layer counts the bytes as written.
//! Whoever makes a piece sees to it that the system has its bytes in memory, for a disk would hold up the thread that sends. A client may let
//! them wait until they have left it: so they are looked for again when some time has passed, and fetched on a thread that may block.
//!
//! It works where a body's pieces reach the socket one by one and unchanged, as in HTTP/1.1 without TLS: only such a connection's requests
//! carry a [`Wire`], and without one there are no such pieces.

use std::fs::File;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::resident;

/// How long bytes are believed to be in memory that were there.
const BELIEVED: Duration = Duration::from_secs(1);

/// What a body hands out.
#[derive(Debug)]
pub enum Piece {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A stretch of a file.
    File(FilePiece),
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.remaining(),
            Self::File(piece) => piece.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.chunk(),
            Self::File(piece) => piece.chunk(),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count),
            Self::File(piece) => piece.advance(count),
        }
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.copy_to_bytes(len),
            Self::File(_) => panic!("a stretch of a file is sent, not copied"),
        }
    }
}

/// A stretch of a file, for the connection that made it.
#[derive(Debug)]
pub struct FilePiece {
    stretch: Arc<Stretch>,
    wire: Wire,
}

/// What is still to be sent.
#[derive(Debug)]
struct Stretch {
    /// Its address is what the socket knows the stretch by.
    stand_in: u8,
    file: Arc<File>,
    at: AtomicU64,
    end: u64,
    /// When it was last known to be in memory.
    seen: Mutex<Instant>,
}

impl Stretch {
    fn left(&self) -> u64 {
        self.end - self.at.load(Relaxed)
    }

    fn seen(&self) -> MutexGuard<'_, Instant> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is left of it is in memory, as far as can be told.
    fn is_there(&self) -> bool {
        let (at, left) = (self.at.load(Relaxed), self.left());
        resident::reach(&self.file, at, left, &mut true) == left
    }

    /// Has what is left of it in memory. Blocks on the disk.
    fn fetch(&self) -> io::Result<()> {
        resident::fetch(&self.file, self.at.load(Relaxed), self.left())
    }

    fn stand_in(&self) -> &[u8] {
        std::slice::from_ref(&self.stand_in)
    }
}

impl FilePiece {
    fn remaining(&self) -> usize {
        usize::try_from(self.stretch.left()).unwrap_or(usize::MAX)
    }

    fn chunk(&self) -> &[u8] {
        if self.stretch.left() == 0 {
            &[]
        } else {
            self.stretch.stand_in()
        }
    }

    fn advance(&self, count: usize) {
        assert!(count <= self.remaining(), "past the end of a stretch");
        self.stretch.at.fetch_add(count as u64, Relaxed);
    }
}

impl Drop for FilePiece {
    fn drop(&mut self) {
        self.wire
            .stretches()
            .retain(|other| !Arc::ptr_eq(other, &self.stretch));
    }
}

/// A connection that can send stretches of files. Requests of such a connection carry it as an extension.
#[derive(Debug, Clone, Default)]
pub struct Wire(Arc<Mutex<Vec<Arc<Stretch>>>>);

impl Wire {
    /// The bytes of `file` from `at` on, which the system has in memory. Only this connection may be given it, as part of a body.
    pub fn piece(&self, file: &Arc<File>, at: u64, len: u64) -> Piece {
        let stretch = Arc::new(Stretch {
            stand_in: 0,
            file: Arc::clone(file),
            at: AtomicU64::new(at),
            end: at + len,
            seen: Mutex::new(Instant::now()),
        });
        self.stretches().push(Arc::clone(&stretch));
        Piece::File(FilePiece {
            stretch,
            wire: self.clone(),
        })
    }

    fn stretches(&self) -> MutexGuard<'_, Vec<Arc<Stretch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the first stretch stands among `slices`, and which.
    fn find(&self, slices: &[IoSlice<'_>]) -> Option<(usize, Arc<Stretch>)> {
        let stretches = self.stretches();
        if stretches.is_empty() {
            return None;
        }
        slices.iter().enumerate().find_map(|(at, slice)| {
            let this =
                |stretch: &&Arc<Stretch>| std::ptr::eq(slice.as_ptr(), stretch.stand_in().as_ptr());
            stretches
                .iter()
                .find(this)
                .map(|found| (at, Arc::clone(found)))
        })
    }
}

/// A TCP connection that sends the stretches of its [`Wire`].
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    wire: Wire,
    /// What was to be sent and had left memory, on its way back.
    fetching: Option<JoinHandle<io::Result<()>>>,
}

impl Socket {
    /// Takes over a connection.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            wire: Wire::default(),
            fetching: None,
        }
    }

    /// What this connection's requests are given.
    pub const fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Runs `send` whenever the socket takes bytes, until it sends some.
    fn poll_send<T>(
        &self,
        cx: &mut Context<'_>,
        mut send: impl FnMut() -> rustix::io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_io(Interest::WRITABLE, || Ok(send()?)) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// Waits until a stretch is in memory. One that was there a moment ago costs a look at the clock.
    fn poll_there(&mut self, cx: &mut Context<'_>, stretch: &Arc<Stretch>) -> Poll<io::Result<()>> {
        if self.fetching.is_none() {
            if stretch.seen().elapsed() < BELIEVED {
                return Poll::Ready(Ok(()));
            }
            // Nothing is fetched for a client that takes nothing.
            ready!(self.stream.poll_write_ready(cx))?;
            if !stretch.is_there() {
                let stretch = Arc::clone(stretch);
                self.fetching = Some(tokio::task::spawn_blocking(move || stretch.fetch()));
            }
        }
        if let Some(fetching) = &mut self.fetching {
            let fetched = ready!(Pin::new(fetching).poll(cx));
            self.fetching = None;
            fetched.map_err(io::Error::other)??;
        }
        *stretch.seen() = Instant::now();
        Poll::Ready(Ok(()))
    }

    fn poll_stretch(
        &mut self,
        cx: &mut Context<'_>,
        stretch: &Arc<Stretch>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_there(cx, stretch))?;
        let left = usize::try_from(stretch.left()).unwrap_or(usize::MAX);
        let sent = ready!(self.poll_send(cx, || {
            let mut at = stretch.at.load(Relaxed);
            rustix::fs::sendfile(&self.stream, &*stretch.file, Some(&mut at), left)
        }))?;
        if sent == 0 {
            // The file is shorter than what was promised; nothing can be sent in its place.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(sent))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Takes effect while it is still queued.
        if let Some(fetching) = &self.fetching {
            fetching.abort();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.wire.find(slices) {
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, slices),
            Some((0, stretch)) => self.poll_stretch(cx, &stretch),
            // What is before it leaves at once. Kept back until the stretch joins it (MSG_MORE), both together begin a burst of segments,
            // which BBR without the fq queue spaces by a timer: half the small ranges a second, for one packet less.
            Some((at, _)) => Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..at]),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const SIZE: usize = 1 << 20;

    /// A file that is on the disk and, where that can be had, not in memory; and whether it is.
    fn cold() -> (Arc<File>, bool) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; SIZE]).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let in_memory = resident::reach(&file, 0, SIZE as u64, &mut true) > 0;
        (Arc::new(file), in_memory)
    }

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (Socket::new(accepted.unwrap().0), client.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_have_left_memory_are_fetched_before_they_are_sent() {
        let (file, in_memory) = cold();
        if in_memory {
            eprintln!("NOT TESTED: this file system is memory");
            return;
        }
        let (mut socket, mut client) = pair().await;
        let piece = socket.wire().piece(&file, 0, SIZE as u64);
        tokio::time::advance(BELIEVED).await;
        assert!(socket.write(piece.chunk()).now_or_never().is_none());
        assert!(socket.fetching.is_some());
        let sent = socket.write(piece.chunk()).await.unwrap();
        let whole = SIZE as u64;
        assert_eq!(resident::reach(&file, 0, whole, &mut true), whole);
        let mut got = vec![0; sent];
        client.read_exact(&mut got).await.unwrap();
        assert!(sent > 0 && got.iter().all(|byte| *byte == 7));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_are_in_memory_are_sent_at_once_however_long_they_waited() {
        let (file, _) = cold();
        resident::fetch(&file, 0, SIZE as u64).unwrap();
        let (mut socket, _client) = pair().await;
        let piece = socket.wire().piece(&file, 0, SIZE as u64);
        tokio::time::advance(BELIEVED * 600).await;
        let sent = socket.write(piece.chunk()).now_or_never();
        assert!(sent.is_some_and(|sent| sent.is_ok_and(|sent| sent > 0)));
    }
}
