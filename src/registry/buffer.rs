//! The memory of bodies: one buffer each, and a bound on all of them.
//!
//! A body reads into its buffer, lends it to the connection, and reads on when the connection has sent and dropped it. So a client that
//! does not read holds one buffer, however large the blob. While the bodies together have less than [`Buffers::new`] was told, a buffer
//! has [`FULL`] bytes; beyond that new ones have [`SMALL`] bytes, so that nobody waits for those who do not read. The same holds for the
//! bodies of one connection that has many.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use crate::server::Allowance;

/// The size of a buffer.
pub const FULL: usize = 128 << 10;
/// The size of a buffer when memory is short.
pub const SMALL: usize = 16 << 10;

/// The memory of all bodies, or of those of one connection. Clones are the same memory.
#[derive(Debug, Clone)]
pub struct Buffers {
    all: Allowance,
    connection: Option<Allowance>,
}

impl Buffers {
    /// Buffers of [`FULL`] size as long as they together have no more than `most` bytes.
    pub fn new(most: usize) -> Self {
        Self {
            all: Allowance::new(most),
            connection: None,
        }
    }

    /// The same, as far as `connection` allows it too.
    pub fn of(&self, connection: Option<&Allowance>) -> Self {
        Self {
            all: self.all.clone(),
            connection: connection.cloned(),
        }
    }

    fn take(&self, bytes: usize) -> bool {
        if !self.all.take(bytes) {
            return false;
        }
        let taken = self.connection.as_ref().is_none_or(|c| c.take(bytes));
        if !taken {
            self.all.give(bytes);
        }
        taken
    }

    fn give(&self, bytes: usize) {
        self.all.give(bytes);
        if let Some(connection) = &self.connection {
            connection.give(bytes);
        }
    }

    /// Bytes that nobody has.
    #[cfg(test)]
    pub fn free(&self) -> usize {
        self.all.free()
    }

    /// A buffer for a body of `length` bytes. It takes memory when it is first used.
    pub fn slot(&self, length: u64) -> Slot {
        let most = usize::try_from(length).map_or(FULL, |length| length.min(FULL));
        Slot(Arc::new(Inner {
            most,
            home: Mutex::new(Some(Buffer {
                bytes: Vec::new(),
                counted: 0,
                memory: self.clone(),
            })),
            back: AtomicWaker::new(),
        }))
    }
}

/// The place of one body's buffer.
#[derive(Debug)]
pub struct Slot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    /// `None` while it is lent or read into.
    home: Mutex<Option<Buffer>>,
    back: AtomicWaker,
}

/// Bytes, and how many of them count against the memory of all: wherever it is dropped, it gives those back.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    counted: usize,
    memory: Buffers,
}

impl Buffer {
    /// All of it, to be read into.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.memory.give(self.counted);
    }
}

impl Slot {
    /// Takes the buffer, once the connection has given it back.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Buffer> {
        if let Some(buffer) = self.0.take() {
            return Poll::Ready(buffer);
        }
        self.0.back.register(cx.waker());
        // It may have come back meanwhile, and told nobody.
        self.0.take().map_or(Poll::Pending, Poll::Ready)
    }

    /// Lends the first `length` bytes of the buffer; it comes back when they are dropped.
    pub fn lend(&self, buffer: Buffer, length: usize) -> Bytes {
        Bytes::from_owner(Lent {
            buffer: Some(buffer),
            length,
            slot: self.0.clone(),
        })
    }
}

impl Inner {
    fn take(&self) -> Option<Buffer> {
        let home = self.home.lock();
        let mut buffer = home.unwrap_or_else(PoisonError::into_inner).take()?;
        if buffer.counted == 0 && buffer.memory.take(self.most) {
            buffer.counted = self.most;
        }
        let wanted = match buffer.counted {
            0 => self.most.min(SMALL),
            counted => counted,
        };
        // Only ever the first time, and when there is room again.
        if buffer.bytes.len() < wanted {
            buffer.bytes = vec![0; wanted];
        }
        Some(buffer)
    }

    fn put(&self, buffer: Buffer) {
        let mut home = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        *home = Some(buffer);
        drop(home);
        self.back.wake();
    }
}

/// A buffer in the hands of a connection.
struct Lent {
    /// `None` once it has gone back.
    buffer: Option<Buffer>,
    length: usize,
    slot: Arc<Inner>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        let buffer = self.buffer.as_ref();
        buffer.map_or(&[], |buffer| &buffer.bytes[..self.length])
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.slot.put(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn taken(slot: &Slot) -> Option<Buffer> {
        match slot.poll_take(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(buffer) => Some(buffer),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_body_has_one_buffer_and_gets_it_back_when_it_is_sent() {
        let buffers = Buffers::new(FULL);
        let slot = buffers.slot(u64::MAX);
        let mut buffer = taken(&slot).unwrap();
        assert_eq!(buffer.bytes().len(), FULL);
        buffer.bytes()[..3].copy_from_slice(b"abc");
        let lent = slot.lend(buffer, 3);
        let part = lent.slice(1..);
        drop(lent);
        assert_eq!(part, "bc");
        assert!(taken(&slot).is_none());
        drop(part);
        assert!(taken(&slot).is_some());
    }

    #[test]
    fn a_connection_that_has_many_bodies_leaves_the_memory_to_others() {
        let buffers = Buffers::new(FULL * 10);
        let connection = Allowance::new(FULL * 2);
        let of_one = buffers.of(Some(&connection));
        let slots: Vec<Slot> = (0..5).map(|_| of_one.slot(1 << 30)).collect();
        let mut taken: Vec<Buffer> = slots.iter().filter_map(taken).collect();
        let sizes: Vec<usize> = taken.iter_mut().map(|b| b.bytes().len()).collect();
        assert_eq!(sizes, [FULL, FULL, SMALL, SMALL, SMALL]);
        assert_eq!(buffers.free(), FULL * 8);
        drop(taken);
        assert_eq!((buffers.free(), connection.free()), (FULL * 10, FULL * 2));
    }

    #[test]
    fn buffers_are_small_while_memory_is_short() {
        let buffers = Buffers::new(FULL + 10);
        let (first, second, tiny) = (
            buffers.slot(1 << 30),
            buffers.slot(1 << 30),
            buffers.slot(7),
        );
        let lent = first.lend(taken(&first).unwrap(), 1);
        let mut buffer = taken(&second).unwrap();
        assert_eq!(buffer.bytes().len(), SMALL);
        assert_eq!(taken(&tiny).unwrap().bytes().len(), 7);
        drop(second.lend(buffer, SMALL));
        // The first body goes, and what it lent is the last to go.
        drop(first);
        assert_eq!(taken(&second).map(|mut b| b.bytes().len()), Some(SMALL));
        drop(lent);
        let third = buffers.slot(1 << 30);
        assert_eq!(taken(&third).map(|mut b| b.bytes().len()), Some(FULL));
    }
}
