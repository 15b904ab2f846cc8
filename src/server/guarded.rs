//! A client that takes nothing of what is sent to it, or next to nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What a client must take of its answer, or all that there is, in the time in which it may take nothing.
const PROGRESS: usize = 64 << 10;

/// A stream whose first bytes were read already, and which fails when too little can be written for too long.
pub(super) struct Guarded<I> {
    io: I,
    head: Bytes,
    stall: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
    /// Bytes that were written while it waits.
    taken: usize,
}

impl<I> Guarded<I> {
    pub(super) fn new(io: I, head: Bytes, stall: Duration) -> Self {
        Self {
            io,
            head,
            stall,
            timer: Box::pin(tokio::time::sleep(stall)),
            waiting: false,
            taken: 0,
        }
    }

    /// Passes a write's `polled` on. What ends the waiting is [`PROGRESS`], or that all is written.
    fn wrote(
        &mut self,
        polled: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(written)) = &polled {
            self.taken = self.taken.saturating_add(*written);
            if self.taken < PROGRESS {
                return polled;
            }
        }
        self.watch(polled, cx)
    }

    /// Passes `polled` on, unless there was too little progress for too long.
    fn watch<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = false;
            return polled;
        }
        if !self.waiting {
            (self.waiting, self.taken) = (true, 0);
            let end = Instant::now() + self.stall;
            self.timer.as_mut().reset(end);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guarded<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.head.has_remaining() {
            let take = self.head.len().min(buf.remaining());
            buf.put_slice(&self.head.split_to(take));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Guarded<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.watch(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watch(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (near, _far) = tokio::io::duplex(16);
        let mut io = Guarded::new(near, Bytes::new(), Duration::from_secs(600));
        let start = Instant::now();
        let error = io.write_all(&[0; 17]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), Duration::from_secs(600));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_byte_now_and_then_is_given_up_too() {
        let stall = Duration::from_secs(600);
        let (near, mut far) = tokio::io::duplex(16);
        let mut io = Guarded::new(near, Bytes::new(), stall);
        let trickle = async {
            loop {
                tokio::time::sleep(stall / 4).await;
                far.read_exact(&mut [0]).await.unwrap();
            }
        };
        let start = Instant::now();
        let written = tokio::select! {
            written = io.write_all(&[0; 1000]) => written,
            () = trickle => unreachable!("it has no end"),
        };
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), stall);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_that_makes_progress_gets_all() {
        let stall = Duration::from_secs(600);
        let (near, mut far) = tokio::io::duplex(PROGRESS);
        let mut io = Guarded::new(near, Bytes::new(), stall);
        let slow = async {
            let mut all = vec![0; 4 * PROGRESS];
            for part in all.chunks_mut(PROGRESS) {
                tokio::time::sleep(stall - Duration::from_secs(1)).await;
                far.read_exact(part).await.unwrap();
            }
        };
        let sent = vec![1; 4 * PROGRESS];
        let (written, ()) = tokio::join!(io.write_all(&sent), slow);
        written.unwrap();
    }
}
