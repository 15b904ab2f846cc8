//! Files to sockets without a copy.
//!
//! A body may hand out a [`Piece`] that stands for a stretch of a file instead of bytes. Such a piece shows the HTTP layer one byte that
//! is never sent: the [`Socket`] knows it by its address and sends the stretch by `sendfile`, and the layer counts the bytes as written.
//! It works where a body's pieces reach the socket one by one and unchanged, as in HTTP/1.1 without TLS: only such a connection's requests
//! carry a [`Wire`], and without one there are no such pieces.

use std::fs::File;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

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
}

impl Stretch {
    fn left(&self) -> u64 {
        self.end - self.at.load(Relaxed)
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
    /// The bytes of `file` from `at` on. Only this connection may be given it, as part of a body.
    pub fn piece(&self, file: &Arc<File>, at: u64, len: u64) -> Piece {
        let stretch = Arc::new(Stretch {
            stand_in: 0,
            file: Arc::clone(file),
            at: AtomicU64::new(at),
            end: at + len,
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
}

impl Socket {
    /// Takes over a connection.
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            wire: Wire::default(),
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

    fn poll_stretch(&self, cx: &mut Context<'_>, stretch: &Stretch) -> Poll<io::Result<usize>> {
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

    /// Sends bytes that a stretch follows, so that both leave together.
    fn poll_before(&self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, || {
            let mut control = rustix::net::SendAncillaryBuffer::default();
            rustix::net::sendmsg(
                &self.stream,
                bytes,
                &mut control,
                SendFlags::MORE | SendFlags::NOSIGNAL,
            )
        })
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
            Some((at, _)) => self.poll_before(cx, &slices[..at]),
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
