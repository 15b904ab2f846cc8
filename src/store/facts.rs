//! What is known of each repository, as names spell it: who may read it, and how the upstream spells it.
//!
//! Kept in memory, and in the annotations of `index.json` for the repositories that have images. What was never learned is unknown, and
//! whoever asks treats it as private.

use std::collections::HashMap;

use crate::repo::{RepoId, Visibility};

/// The most repositories without an image of which something is remembered: those whose first fill is under way.
const PENDING: usize = 10_000;

/// What is known of one repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Fact {
    visibility: Option<Visibility>,
    /// Only of those with an image.
    canonical: Option<RepoId>,
}

/// By the folded id that names have.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    known: HashMap<RepoId, Fact>,
    pending: usize,
}

impl Facts {
    /// Who may read `repo`, if that is known.
    pub(super) fn visibility(&self, repo: &RepoId) -> Option<Visibility> {
        self.known.get(repo)?.visibility
    }

    /// The repositories with an image that everybody may read.
    pub(super) fn public(&self) -> Vec<RepoId> {
        let public =
            |fact: &Fact| fact.canonical.is_some() && fact.visibility == Some(Visibility::Public);
        let known = self.known.iter().filter(|(_, fact)| public(fact));
        known.map(|(repo, _)| repo.clone()).collect()
    }

    /// How the upstream spells `repo`, if it has an image.
    pub(super) fn canonical(&self, repo: &RepoId) -> Option<&RepoId> {
        self.known.get(repo)?.canonical.as_ref()
    }

    /// Learns from a reference that was read from `index.json`. Where references differ, the most closed one counts.
    pub(super) fn read(
        &mut self,
        repo: &RepoId,
        canonical: &RepoId,
        visibility: Option<Visibility>,
    ) {
        let first = !self.known.contains_key(repo);
        let fact = self.known.entry(repo.clone()).or_default();
        fact.canonical = Some(canonical.clone());
        fact.visibility = match (first, fact.visibility) {
            (true, _) => visibility,
            (false, known) => known.zip(visibility).map(|(a, b)| a.max(b)),
        };
    }

    /// Notes that `repo` has an image now.
    pub(super) fn published(&mut self, repo: &RepoId, canonical: &RepoId) {
        let pending = self.known.contains_key(repo);
        let fact = self.known.entry(repo.clone()).or_default();
        if fact.canonical.replace(canonical.clone()).is_none() && pending {
            self.pending = self.pending.saturating_sub(1);
        }
    }

    /// Forgets `repo`, which has no image any more.
    pub(super) fn removed(&mut self, repo: &RepoId) {
        let fact = self.known.remove(repo);
        if fact.is_some_and(|fact| fact.canonical.is_none()) {
            self.pending = self.pending.saturating_sub(1);
        }
    }

    /// Notes who may read `repo`. Whether that is news for `index.json`.
    pub(super) fn note(&mut self, repo: &RepoId, visibility: Visibility) -> bool {
        if !self.known.contains_key(repo) {
            if self.pending >= PENDING {
                self.known.retain(|_, fact| fact.canonical.is_some());
                self.pending = 0;
            }
            self.pending += 1;
        }
        let fact = self.known.entry(repo.clone()).or_default();
        fact.visibility.replace(visibility) != Some(visibility) && fact.canonical.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(id: &str) -> RepoId {
        id.parse().expect("an id")
    }

    #[test]
    fn the_most_closed_reading_counts_and_unknown_is_none() {
        let (asked, canonical) = (repo("org/m"), repo("Org/M"));
        let mut facts = Facts::default();
        facts.read(&asked, &canonical, Some(Visibility::Public));
        assert_eq!(facts.visibility(&asked), Some(Visibility::Public));
        facts.read(&asked, &canonical, Some(Visibility::Gated));
        facts.read(&asked, &canonical, Some(Visibility::Public));
        assert_eq!(facts.visibility(&asked), Some(Visibility::Gated));
        facts.read(&asked, &canonical, None);
        facts.read(&asked, &canonical, Some(Visibility::Public));
        assert_eq!(facts.visibility(&asked), None);
        assert_eq!(facts.canonical(&asked), Some(&canonical));
    }

    #[test]
    fn only_what_changes_an_image_is_news() {
        let asked = repo("org/m");
        let mut facts = Facts::default();
        assert!(!facts.note(&asked, Visibility::Public));
        facts.published(&asked, &asked);
        assert!(!facts.note(&asked, Visibility::Public));
        assert!(facts.note(&asked, Visibility::Private));
        assert!(!facts.note(&asked, Visibility::Private));
    }

    #[test]
    fn what_has_no_image_any_more_is_forgotten() {
        let mut facts = Facts::default();
        for i in 0..10 {
            let repo = repo(&format!("org/m{i}"));
            facts.note(&repo, Visibility::Public);
            facts.published(&repo, &repo);
            facts.removed(&repo);
            assert_eq!(
                (facts.visibility(&repo), facts.canonical(&repo)),
                (None, None)
            );
        }
        assert_eq!((facts.known.len(), facts.pending), (0, 0));
    }

    #[test]
    fn what_never_got_an_image_is_forgotten_some_time() {
        let mut facts = Facts::default();
        facts.published(&repo("org/kept"), &repo("org/kept"));
        facts.note(&repo("org/kept"), Visibility::Gated);
        for i in 0..3 * PENDING {
            facts.note(&repo(&format!("org/m{i}")), Visibility::Public);
        }
        assert!(facts.known.len() <= PENDING + 1);
        assert_eq!(facts.visibility(&repo("org/kept")), Some(Visibility::Gated));
    }
}
