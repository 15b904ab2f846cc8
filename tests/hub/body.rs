//! Bodies: a text, or a file's bytes produced by a task that plays the faults.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::content::{Content, Reader};
use super::faults::Script;
use super::record::Ticket;

/// Bytes that one step produces.
const CHUNK: u64 = 256 << 10;

/// Steps that may be ready before they are sent.
const AHEAD: usize = 4;

/// How long sent bytes get to leave before a connection is cut.
const FLUSH: Duration = Duration::from_millis(20);

/// The body of a response. Holds the request's ticket until it is dropped.
pub struct HubBody {
    inner: Inner,
    length: Option<u64>,
    ticket: Ticket,
}

enum Inner {
    Text(Option<Bytes>),
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl HubBody {
    /// A text, not counted as content.
    pub fn text(text: impl Into<Bytes>, ticket: Ticket) -> Self {
        let text = text.into();
        Self {
            length: Some(text.len() as u64),
            inner: Inner::Text(Some(text)),
            ticket,
        }
    }

    /// What a producer sends, `length` bytes in all if that is told.
    pub fn stream(
        receiver: mpsc::Receiver<io::Result<Bytes>>,
        length: Option<u64>,
        ticket: Ticket,
    ) -> Self {
        Self {
            inner: Inner::Stream(receiver),
            length,
            ticket,
        }
    }
}

impl Body for HubBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let receiver = match &mut self.inner {
            Inner::Text(text) => return Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Inner::Stream(receiver) => receiver,
        };
        let next = std::task::ready!(receiver.poll_recv(context));
        if let Some(Ok(chunk)) = &next {
            self.ticket.sent(chunk.len() as u64);
        }
        Poll::Ready(next.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.inner, Inner::Text(None))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// Sends a range of a file, with what the script does to it. Bytes that the file does not have cut the connection.
pub struct Producer {
    /// The file.
    pub content: Content,
    /// The bytes that were told.
    pub range: Range<u64>,
    /// The faults.
    pub script: Script,
    /// Bodies wait while this is true.
    pub paused: Option<watch::Receiver<bool>>,
}

impl Producer {
    /// Starts it.
    pub fn spawn(self) -> mpsc::Receiver<io::Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            if let Err(error) = self.run(&sender).await {
                sleep(FLUSH).await;
                // The receiver is gone if the client left first.
                let _ = sender.send(Err(error)).await;
            }
        });
        receiver
    }

    async fn run(mut self, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
        let mut reader = Some(self.content.reader()?);
        let begun = Instant::now();
        let length = self.range.end - self.range.start;
        let mut sent = 0;
        while sent < length {
            if let Some(paused) = &mut self.paused {
                let _ = paused.wait_for(|paused| !paused).await;
            }
            if self.script.drop_after.is_some_and(|at| at <= sent) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if let Some((at, time)) = self.script.stall_after
                && at <= sent
            {
                sleep(FLUSH).await;
                sleep(time).await;
                self.script.stall_after = None;
            }
            let chunk = self.next(&mut reader, sent, length).await?;
            sent += chunk.len() as u64;
            if sender.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
            if let Some(rate) = self.script.slow {
                let due = Duration::from_secs_f64(sent as f64 / rate as f64);
                sleep_until(begun + due).await;
            }
        }
        match self.script.drop_after {
            Some(at) if at <= sent => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }

    /// The next bytes, up to where the next fault is due.
    async fn next(&self, reader: &mut Option<Reader>, sent: u64, length: u64) -> io::Result<Bytes> {
        let at = self.range.start + sent;
        let mut most = CHUNK.min(length - sent);
        let marks = [
            self.script.drop_after,
            self.script.stall_after.map(|(mark, _)| mark),
        ];
        for mark in marks.into_iter().flatten().filter(|mark| *mark > sent) {
            most = most.min(mark - sent);
        }
        if let Some(rate) = self.script.slow {
            most = most.min((rate / 20).max(1));
        }
        let real = self.content.size().saturating_sub(at);
        if real == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let chunk = read(reader, at, most.min(real)).await?;
        Ok(self.corrupted(chunk, at))
    }

    fn corrupted(&self, chunk: Bytes, at: u64) -> Bytes {
        let end = at + chunk.len() as u64;
        let hit = |offset: &&u64| (at..end).contains(*offset);
        if !self.script.corrupt.iter().any(|offset| hit(&offset)) {
            return chunk;
        }
        let mut bytes = BytesMut::from(&chunk[..]);
        for offset in self.script.corrupt.iter().filter(hit) {
            bytes[(offset - at) as usize] ^= 0xff;
        }
        bytes.freeze()
    }
}

/// Reads without holding up the runtime.
async fn read(reader: &mut Option<Reader>, at: u64, most: u64) -> io::Result<Bytes> {
    let mut open = reader.take().expect("it is put back after each read");
    if !open.blocks() {
        let chunk = open.chunk(at, most);
        *reader = Some(open);
        return chunk;
    }
    let (open, chunk) = tokio::task::spawn_blocking(move || {
        let chunk = open.chunk(at, most);
        (open, chunk)
    })
    .await
    .map_err(io::Error::other)?;
    *reader = Some(open);
    chunk
}
