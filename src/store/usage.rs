//! When each index and layer was last used: in memory at once, in the sled index by batches, never by a request.
//!
//! It only decides what is evicted first. After a lost index the times of `index.json` stand in.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::leases::{SHARDS, shard};
use super::{Store, StoreError};
use crate::oci::Digest;

/// Milliseconds since 1970.
pub(super) type Moment = u64;

/// A time as a [`Moment`]; 0 for what was before 1970.
pub(super) fn moment(time: SystemTime) -> Moment {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug, Clone, Copy)]
struct Use {
    at: Moment,
    /// The sled index does not know it yet.
    news: bool,
}

/// The last use of each digest. Holds no more digests than were ever members of images and were not forgotten.
#[derive(Debug, Default)]
pub(super) struct Usage([Mutex<HashMap<Digest, Use>>; SHARDS]);

impl Usage {
    /// Learns what the sled index knows.
    pub(super) fn load(&self, uses: impl IntoIterator<Item = (Digest, Moment)>) {
        for (digest, at) in uses {
            self.lock(&digest).insert(digest, Use { at, news: false });
        }
    }

    /// Notes a use. A clock that goes back changes nothing.
    pub(super) fn touch(&self, digest: &Digest, now: SystemTime) {
        let at = moment(now);
        let mut shard = self.lock(digest);
        let known = shard.entry(*digest).or_insert(Use { at: 0, news: true });
        if known.at < at {
            *known = Use { at, news: true };
        }
    }

    /// The last use, if one is known.
    pub(super) fn last(&self, digest: &Digest) -> Option<Moment> {
        self.lock(digest).get(digest).map(|u| u.at)
    }

    /// Forgets a blob that is gone.
    pub(super) fn forget(&self, digest: &Digest) {
        self.lock(digest).remove(digest);
    }

    /// What the sled index does not know yet. From here on it counts as known.
    pub(super) fn take_news(&self) -> Vec<(Digest, Moment)> {
        let mut news = Vec::new();
        for shard in &self.0 {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (digest, one) in shard.iter_mut().filter(|(_, one)| one.news) {
                one.news = false;
                news.push((*digest, one.at));
            }
        }
        news
    }

    /// Counts everything as news: the sled index has forgotten it.
    pub(super) fn renew(&self) {
        for shard in &self.0 {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.values_mut().for_each(|one| one.news = true);
        }
    }

    fn lock(&self, digest: &Digest) -> MutexGuard<'_, HashMap<Digest, Use>> {
        let shard = &self.0[shard(digest)];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Notes that an index or layer is used now: what was not used for long is evicted first.
    pub fn touch(&self, digest: &Digest, now: SystemTime) {
        self.usage.touch(digest, now);
    }

    /// Writes down what was used since the last time.
    pub fn save_uses(&self) -> Result<(), StoreError> {
        let news = self.usage.take_news();
        if news.is_empty() {
            return Ok(());
        }
        self.indexed(|index| index.put_uses(&news))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_latest_use_counts_and_is_news_once() {
        let usage = Usage::default();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        usage.load([(a, 5)]);
        assert_eq!(usage.take_news(), []);
        usage.touch(&a, at(9));
        usage.touch(&a, at(7));
        usage.touch(&b, at(3));
        assert_eq!((usage.last(&a), usage.last(&b)), (Some(9), Some(3)));
        let mut news = usage.take_news();
        news.sort_unstable_by_key(|n| n.1);
        assert_eq!(news, [(b, 3), (a, 9)]);
        assert_eq!(usage.take_news(), []);
        usage.forget(&a);
        assert_eq!(usage.last(&a), None);
    }
}
