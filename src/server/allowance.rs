//! A bounded number of bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that may be taken, and are given back. Clones are the same bytes.
///
/// Requests of an HTTP/2 connection carry the connection's as an extension: its bodies should not hold more together.
#[derive(Debug, Clone)]
pub struct Allowance(Arc<AtomicUsize>);

impl Allowance {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Takes `bytes` of it, if there are so many.
    pub fn take(&self, bytes: usize) -> bool {
        let less = |free: usize| free.checked_sub(bytes);
        self.0.fetch_update(Relaxed, Relaxed, less).is_ok()
    }

    /// Gives back what was taken.
    pub fn give(&self, bytes: usize) {
        self.0.fetch_add(bytes, Relaxed);
    }

    /// Bytes that nobody has.
    pub fn free(&self) -> usize {
        self.0.load(Relaxed)
    }
}
