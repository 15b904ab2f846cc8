//! Commits of which a fill found out that the upstream does not have them as it said.

use std::time::Instant;

use moka::sync::Cache;

use super::{CAPACITY, COMMIT};
use crate::repo::{Commit, RepoId};

/// The commits, of repositories by their folded names, each with when that was found out.
pub(in crate::fill) struct Doubts(Cache<(RepoId, Commit), Instant>);

impl Default for Doubts {
    /// None yet. They are kept for as long as an answer is believed at most.
    fn default() -> Self {
        let cache = Cache::builder().max_capacity(CAPACITY).time_to_live(COMMIT);
        Self(cache.build())
    }
}

impl Doubts {
    /// Notes that a fill of a commit failed by what the upstream has now.
    pub(in crate::fill) fn add(&self, repo: &RepoId, commit: Commit) {
        self.0.insert((repo.folded(), commit), Instant::now());
    }

    /// Whether that was found out after `told`, when the upstream was asked last.
    pub(super) fn has(&self, repo: &RepoId, commit: Commit, told: Instant) -> bool {
        let found = self.0.get(&(repo.folded(), commit));
        found.is_some_and(|at| at >= told)
    }
}
