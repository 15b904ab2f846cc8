//! The memory of all fills together: a budget of bytes, and buffers that are used again.
//!
//! No fill has more than half of the budget for its reading ahead, and a quarter is kept back for layers that have nothing under way: one
//! piece for each. So a repository whose bytes come slowly, or two of them, do not keep the others from going on.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::layer::CHUNK;

/// Above this length a buffer is a whole chunk's and is used again.
const SMALL: u64 = 256 << 10;

/// The least that a buffer is counted as.
const LEAST: u64 = 4 << 10;

/// The most whole buffers that are kept for later.
const KEPT: usize = 4;

/// The budget and the kept buffers.
#[derive(Clone)]
pub(super) struct Memory {
    /// What all read ahead with.
    common: Arc<Semaphore>,
    /// What is kept back for layers that have nothing.
    reserve: Arc<Semaphore>,
    /// The most of [`Self::common`] that one fill may have.
    most: usize,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// What one fill may have of the budget. Clones are the same fill's.
#[derive(Clone)]
pub(super) struct Allowance(Arc<Semaphore>);

/// The pieces that a layer has of the budget.
pub(super) struct Claim {
    fill: Allowance,
    /// Each piece that is held has a permit of [`PIECES`].
    pieces: Arc<Semaphore>,
}

/// More than the pieces that a layer ever holds.
const PIECES: u32 = 1 << 16;

impl Allowance {
    /// The claim of a layer that has nothing yet.
    pub(super) fn claim(&self) -> Claim {
        Claim {
            fill: self.clone(),
            pieces: Arc::new(Semaphore::new(PIECES as usize)),
        }
    }
}

/// A part of the budget.
pub(super) struct Share {
    bytes: OwnedSemaphorePermit,
    /// Of the fill's allowance; none if the bytes come from the reserve.
    allowed: Option<OwnedSemaphorePermit>,
    piece: Arc<OwnedSemaphorePermit>,
}

/// A buffer of the budget. It begins empty and takes at most the length it was asked for.
pub(super) struct Buffer {
    data: Vec<u8>,
    len: u64,
    memory: Memory,
    _share: Option<Held>,
}

/// What a buffer holds while it lives.
struct Held {
    _bytes: OwnedSemaphorePermit,
    _allowed: Option<OwnedSemaphorePermit>,
    _piece: Arc<OwnedSemaphorePermit>,
}

impl Memory {
    pub(super) fn new(bytes: u64) -> Self {
        let permits = usize::try_from(bytes).unwrap_or(usize::MAX);
        let permits = permits.min(Semaphore::MAX_PERMITS);
        let reserve = permits / 4;
        Self {
            common: Arc::new(Semaphore::new(permits - reserve)),
            reserve: Arc::new(Semaphore::new(reserve)),
            most: (permits / 2).min(permits - reserve),
            kept: Arc::default(),
        }
    }

    /// The allowance of one more fill.
    pub(super) fn allowance(&self) -> Allowance {
        Allowance(Arc::new(Semaphore::new(self.most)))
    }

    /// Waits for room for buffers of these lengths, a piece of at most a quarter of the budget: first come first served within the fill
    /// and then among all, or, as soon as the layer holds nothing else, out of the reserve.
    ///
    /// Whoever asks for the next piece of a layer does it in the order of the layer, so the piece that is wanted first always has its
    /// room, and fills that share the budget never wait for each other without end.
    pub(super) async fn take(&self, claim: &Claim, lens: &[u64]) -> Option<Share> {
        let bytes: u64 = lens.iter().map(|len| cost(*len)).sum();
        let permits = u32::try_from(bytes).ok()?;
        let ahead = async {
            let allowed = Arc::clone(&claim.fill.0).acquire_many_owned(permits).await;
            let bytes = Arc::clone(&self.common).acquire_many_owned(permits).await;
            Some((bytes.ok()?, Some(allowed.ok()?)))
        };
        let alone = async {
            let _nothing_else = claim.pieces.acquire_many(PIECES).await.ok()?;
            let bytes = Arc::clone(&self.reserve).acquire_many_owned(permits).await;
            Some((bytes.ok()?, None))
        };
        let (bytes, allowed) = tokio::select! {
            biased;
            taken = ahead => taken?,
            taken = alone => taken?,
        };
        let piece = Arc::clone(&claim.pieces).acquire_owned().await.ok()?;
        Some(Share {
            bytes,
            allowed,
            piece: Arc::new(piece),
        })
    }

    /// A buffer for `len` bytes out of a share that was taken for it.
    pub(super) fn buffer(&self, share: &mut Share, len: u64) -> Buffer {
        let data = if len > SMALL {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.pop()
                .unwrap_or_else(|| Vec::with_capacity(CHUNK as usize))
        } else {
            Vec::with_capacity(len as usize)
        };
        Buffer {
            data,
            len,
            memory: self.clone(),
            _share: share.split(cost(len) as usize),
        }
    }
}

impl Share {
    fn split(&mut self, cost: usize) -> Option<Held> {
        Some(Held {
            _bytes: self.bytes.split(cost)?,
            _allowed: match &mut self.allowed {
                Some(allowed) => Some(allowed.split(cost)?),
                None => None,
            },
            _piece: Arc::clone(&self.piece),
        })
    }
}

const fn cost(len: u64) -> u64 {
    if len > SMALL {
        CHUNK
    } else if len < LEAST {
        LEAST
    } else {
        len
    }
}

impl Buffer {
    /// Takes as much of `bytes` as there is room for; tells how much.
    pub(super) fn extend(&mut self, bytes: &[u8]) -> usize {
        let room = (self.len as usize).saturating_sub(self.data.len());
        let taken = room.min(bytes.len());
        self.data.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Whether all that was asked for is there.
    pub(super) fn is_full(&self) -> bool {
        self.data.len() as u64 == self.len
    }

    /// What is there.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len <= SMALL {
            return;
        }
        let mut data = std::mem::take(&mut self.data);
        data.clear();
        let mut kept = self
            .memory
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(data);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const PIECE: [u64; 2] = [CHUNK, CHUNK];

    /// A piece for `claim`, if there is room now.
    fn piece(memory: &Memory, claim: &Claim) -> Option<Share> {
        memory.take(claim, &PIECE).now_or_never().flatten()
    }

    #[tokio::test]
    async fn a_share_comes_back_when_its_buffers_are_dropped() {
        let memory = Memory::new(16 * CHUNK);
        let claim = memory.allowance().claim();
        let mut share = memory.take(&claim, &PIECE).await.expect("room");
        let first = memory.buffer(&mut share, CHUNK);
        let second = memory.buffer(&mut share, CHUNK);
        drop(share);
        assert_eq!(memory.common.available_permits() as u64, 10 * CHUNK);
        drop((first, second));
        assert_eq!(memory.common.available_permits() as u64, 12 * CHUNK);
        assert_eq!(claim.fill.0.available_permits() as u64, 8 * CHUNK);
    }

    #[tokio::test]
    async fn a_fill_that_holds_all_it_can_leaves_half_to_others() {
        let memory = Memory::new(32 * CHUNK);
        let slow = memory.allowance();
        let layers = [slow.claim(), slow.claim()];
        let held: Vec<_> = (0..32)
            .filter_map(|at| piece(&memory, &layers[at % 2]))
            .collect();
        assert_eq!(held.len(), 8);
        let other = memory.allowance().claim();
        assert!(piece(&memory, &other).is_some());
    }

    #[tokio::test]
    async fn a_layer_that_has_nothing_gets_a_piece_when_others_have_all_and_its_next_when_that_is_gone()
     {
        let memory = Memory::new(32 * CHUNK);
        let slow = [memory.allowance().claim(), memory.allowance().claim()];
        let held: Vec<_> = (0..32)
            .filter_map(|at| piece(&memory, &slow[at % 2]))
            .collect();
        assert_eq!(held.len(), 12);
        let other = memory.allowance().claim();
        let first = piece(&memory, &other).expect("its piece");
        let next = memory.take(&other, &PIECE);
        let mut next = std::pin::pin!(next);
        assert!(next.as_mut().now_or_never().is_none());
        drop(first);
        assert!(next.await.is_some());
    }

    #[tokio::test]
    async fn a_buffer_takes_no_more_than_it_was_asked_for() {
        let memory = Memory::new(4 * CHUNK);
        let claim = memory.allowance().claim();
        let mut share = memory.take(&claim, &[5]).await.expect("room");
        let mut buffer = memory.buffer(&mut share, 5);
        assert_eq!(buffer.extend(b"abc"), 3);
        assert_eq!(buffer.extend(b"defg"), 2);
        assert!(buffer.is_full());
        assert_eq!(buffer.bytes(), b"abcde");
    }
}
