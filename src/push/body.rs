//! The body of an upload: a blob's file, read and hashed on threads of its own, a few MiB ahead of the connection.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::{Blob, PushError};
use crate::store::pump;

/// Pieces of 1 MiB that wait for the connection.
const QUEUE: usize = 2;

/// How far one upload is.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    /// Bytes of this upload that the connection took.
    mine: Arc<AtomicU64>,
    /// Bytes that it has.
    size: u64,
    /// Bytes of all uploads.
    all: Arc<AtomicU64>,
    /// Why the blob could not be read.
    fault: Arc<OnceLock<PushError>>,
}

impl Watch {
    pub(super) fn new(all: &Arc<AtomicU64>, size: u64) -> Self {
        Self {
            mine: Arc::default(),
            size,
            all: Arc::clone(all),
            fault: Arc::default(),
        }
    }

    pub(super) fn sent(&self) -> u64 {
        self.mine.load(Relaxed)
    }

    /// Whether the connection took all of it.
    pub(super) fn is_all(&self) -> bool {
        self.sent() >= self.size
    }

    /// Forgets what was sent: it has to be sent again.
    pub(super) fn undo(&self) {
        self.all.fetch_sub(self.mine.swap(0, Relaxed), Relaxed);
    }

    /// What is wrong with the blob itself, if that was why the upload ended.
    pub(super) fn fault(&self) -> Option<PushError> {
        self.fault.get().cloned()
    }

    fn took(&self, bytes: u64) {
        self.mine.fetch_add(bytes, Relaxed);
        self.all.fetch_add(bytes, Relaxed);
    }
}

/// The bytes of a blob. The last of them come when all were hashed: a registry never gets the whole of a damaged blob.
pub(super) struct Reading {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
    watch: Watch,
}

impl Reading {
    /// Begins to read. The threads end when this is dropped.
    pub(super) fn begin(blob: &Blob, watch: &Watch) -> Self {
        let (give, pieces) = mpsc::channel(QUEUE);
        let (blob, left, seen) = (blob.clone(), blob.size, watch.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read(&blob, &give) {
                // Of two faults of one upload the first one counts.
                let _ = seen.fault.set(error);
                // If nobody waits for it, the upload has ended already.
                let _ = give.blocking_send(Err(io::Error::other("the blob cannot be read")));
            }
        });
        Self {
            pieces,
            left,
            watch: watch.clone(),
        }
    }
}

fn read(blob: &Blob, give: &mpsc::Sender<io::Result<Bytes>>) -> Result<(), PushError> {
    let lost = |error: io::Error| {
        PushError::other(format!("cannot read the blob {}: {error}", blob.digest))
    };
    let left = || io::Error::from(io::ErrorKind::BrokenPipe);
    let mut file = File::open(&blob.path).map_err(lost)?;
    let length = file.metadata().map_err(lost)?.len();
    let mut last: Option<Bytes> = None;
    let mut put = |part: &[u8]| match last.replace(Bytes::copy_from_slice(part)) {
        Some(ready) => give.blocking_send(Ok(ready)).map_err(|_| left()),
        None => Ok(()),
    };
    let hashed = match pump::<io::Error>(&mut file, blob.size, &mut put) {
        // The upload has ended, for whatever reason.
        Err(_) if give.is_closed() => return Ok(()),
        hashed => hashed.map_err(lost)?,
    };
    if hashed != blob.digest || length != blob.size {
        let damaged = PushError::other(format!("the blob {} of the cache is damaged", blob.digest));
        return Err(damaged.next("hf-oci verify --repair has it fetched again"));
    }
    if let Some(last) = last {
        // As above.
        let _ = give.blocking_send(Ok(last));
    }
    Ok(())
}

impl Body for Reading {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = ready!(self.pieces.poll_recv(context));
        Poll::Ready(match piece {
            Some(Ok(bytes)) => {
                let length = bytes.len() as u64;
                self.left = self.left.saturating_sub(length);
                self.watch.took(length);
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(error)) => Some(Err(error)),
            None if self.left > 0 => Some(Err(io::ErrorKind::UnexpectedEof.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
