//! Leases: who works with a blob now. A leased blob is never deleted.
//!
//! Whoever wants a blob to stay takes its lease first and looks for the blob then: from there on it is there, or it never was. Whoever
//! deletes one takes it out of its place under the same lock, and only if nobody has a lease.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::oci::Digest;

/// Locks that share the digests among them, so that those who read do not wait for one that deletes.
pub(super) const SHARDS: usize = 16;

/// Which of [`SHARDS`] parts a digest is in.
pub(super) fn shard(digest: &Digest) -> usize {
    usize::from(digest.as_bytes()[0]) % SHARDS
}

type Shard = Mutex<HashMap<Digest, usize>>;

/// How many leases each digest has.
#[derive(Debug, Clone, Default)]
pub(super) struct Leases(Arc<[Shard; SHARDS]>);

/// Keeps one blob from being deleted until it is dropped. Dropping it takes a short lock and no file.
#[derive(Debug)]
pub struct Lease {
    leases: Leases,
    digest: Digest,
}

impl Leases {
    /// Takes a lease, whether or not there is such a blob.
    pub(super) fn take(&self, digest: Digest) -> Lease {
        *self.lock(&digest).entry(digest).or_default() += 1;
        Lease {
            leases: self.clone(),
            digest,
        }
    }

    /// Whether anybody has a lease just now.
    pub(super) fn is_leased(&self, digest: &Digest) -> bool {
        self.lock(digest).contains_key(digest)
    }

    /// Does what must not meet a lease; `None`, and nothing is done, if there is one. It has to be quick: others wait.
    pub(super) fn unless_leased<T>(&self, digest: &Digest, act: impl FnOnce() -> T) -> Option<T> {
        let shard = self.lock(digest);
        (!shard.contains_key(digest)).then(act)
    }

    /// A poisoned lock is taken all the same: a count is never half changed.
    fn lock(&self, digest: &Digest) -> MutexGuard<'_, HashMap<Digest, usize>> {
        let shard = &self.0[shard(digest)];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut shard = self.leases.lock(&self.digest);
        if let Some(count) = shard.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_free_when_its_last_lease_is_dropped() {
        let leases = Leases::default();
        let digest = Digest::of(b"x");
        let (one, two) = (leases.take(digest), leases.take(digest));
        drop(one);
        assert_eq!(leases.unless_leased(&digest, || ()), None);
        assert!(leases.is_leased(&digest));
        drop(two);
        assert_eq!(leases.unless_leased(&digest, || 7), Some(7));
        assert_eq!(leases.unless_leased(&Digest::of(b"y"), || 8), Some(8));
    }
}
