//! The memory of all fills together: a budget of bytes, and buffers that are used again.

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
    budget: Arc<Semaphore>,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A part of the budget.
pub(super) struct Share(OwnedSemaphorePermit);

/// A buffer of the budget. It begins empty and takes at most the length it was asked for.
pub(super) struct Buffer {
    data: Vec<u8>,
    len: u64,
    memory: Memory,
    _share: Option<OwnedSemaphorePermit>,
}

impl Memory {
    pub(super) fn new(bytes: u64) -> Self {
        let permits = usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            budget: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            kept: Arc::default(),
        }
    }

    /// Waits for room for buffers of these lengths, first come first served.
    ///
    /// Whoever asks for the next piece of a layer does it in the order of the layer, so the piece that is wanted first always has its
    /// room, and fills that share the budget never wait for each other without end.
    pub(super) async fn take(&self, lens: &[u64]) -> Option<Share> {
        let bytes: u64 = lens.iter().map(|len| cost(*len)).sum();
        let permits = u32::try_from(bytes).ok()?;
        let budget = Arc::clone(&self.budget);
        budget.acquire_many_owned(permits).await.ok().map(Share)
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
            _share: share.0.split(cost(len) as usize),
        }
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
    use super::*;

    #[tokio::test]
    async fn a_share_comes_back_when_its_buffers_are_dropped() {
        let memory = Memory::new(2 * CHUNK);
        let mut share = memory.take(&[CHUNK, CHUNK]).await.expect("room");
        let first = memory.buffer(&mut share, CHUNK);
        let second = memory.buffer(&mut share, CHUNK);
        drop(share);
        assert_eq!(memory.budget.available_permits(), 0);
        drop((first, second));
        assert_eq!(memory.budget.available_permits() as u64, 2 * CHUNK);
    }

    #[tokio::test]
    async fn a_buffer_takes_no_more_than_it_was_asked_for() {
        let memory = Memory::new(CHUNK);
        let mut share = memory.take(&[5]).await.expect("room");
        let mut buffer = memory.buffer(&mut share, 5);
        assert_eq!(buffer.extend(b"abc"), 3);
        assert_eq!(buffer.extend(b"defg"), 2);
        assert!(buffer.is_full());
        assert_eq!(buffer.bytes(), b"abcde");
    }
}
