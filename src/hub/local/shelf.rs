//! What a local upstream looks at on disk to answer a question. All of it blocks.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use super::listing::{Listing, Reading};
use super::{BRANCH, Shelf, beneath, cache, folder, no_revision};
use crate::hub::UpstreamError;
use crate::repo::{Commit, RepoId};

impl Shelf {
    pub(super) fn top(&self, repo: &RepoId) -> Result<OwnedFd, UpstreamError> {
        beneath::top(&self.path).map_err(|error| {
            tracing::warn!(path = %self.path.display(), %error, "the upstream's folder cannot be opened");
            let what = format!("the folder in which {repo} would be cannot be opened ({})", error.kind());
            UpstreamError::Unavailable(what)
        })
    }

    fn reading<'a>(&'a self, top: &'a OwnedFd) -> Reading<'a> {
        Reading {
            top,
            ids: &self.ids,
            stop: &self.stop,
        }
    }

    pub(super) fn in_folder(
        &self,
        repo: &RepoId,
        revision: Option<&str>,
    ) -> Result<(RepoId, Listing), UpstreamError> {
        let top = self.top(repo)?;
        for place in folder::find(&top, repo)? {
            let Some(listing) = folder::list(self.reading(&top), &place)? else {
                continue;
            };
            let is_it = match revision {
                None | Some(BRANCH) => true,
                Some(text) => text.parse() == Ok(listing.commit),
            };
            return match is_it {
                true => Ok((place.repo, listing)),
                false => Err(no_revision(repo, revision.unwrap_or_default())),
            };
        }
        Err(UpstreamError::RepositoryUnknown(repo.clone()))
    }

    pub(super) fn in_cache(
        &self,
        repo: &RepoId,
        revision: Option<&str>,
    ) -> Result<(RepoId, Listing), UpstreamError> {
        let top = self.top(repo)?;
        let mut unknown = UpstreamError::RepositoryUnknown(repo.clone());
        for place in cache::find(&top, repo)? {
            let list = |commit| place.list(self.reading(&top), commit);
            let by_name = match revision.and_then(|text| text.parse().ok()) {
                Some(commit) => Some(commit),
                None => place.commit(revision)?,
            };
            let found = match by_name {
                Some(commit) => list(commit)?.map(|listing| (commit, listing)),
                None => None,
            };
            if let Some((commit, listing)) = found {
                tracing::debug!(%repo, %commit, stands_for_it = %listing.commit, "what the cache has of a commit");
                return Ok((place.repo, listing));
            }
            // It may be what stands for one.
            if let Some(commit) = by_name {
                for other in place.commits()? {
                    if let Some(listing) = list(other)?.filter(|made| made.commit == commit) {
                        return Ok((place.repo, listing));
                    }
                }
            }
            unknown = no_revision(repo, revision.unwrap_or("main"));
        }
        Err(unknown)
    }

    /// The names of a cache's revisions, with the commits of the Hub that they mean.
    pub(super) fn cached_refs(
        &self,
        repo: &RepoId,
    ) -> Result<Vec<(String, Commit)>, UpstreamError> {
        let places = cache::find(&self.top(repo)?, repo)?;
        if places.is_empty() {
            return Err(UpstreamError::RepositoryUnknown(repo.clone()));
        }
        let mut all = Vec::new();
        for place in places {
            let here: BTreeSet<Commit> = place.commits()?.into_iter().collect();
            let refs = place.refs()?.into_iter();
            all.extend(refs.filter(|(_, commit)| here.contains(commit)));
        }
        Ok(all)
    }

    /// The commits of the Hub of which a cache has something, and those that stand for what it has.
    pub(super) fn cached_commits(&self, repo: &RepoId) -> Result<BTreeSet<Commit>, UpstreamError> {
        let top = self.top(repo)?;
        let mut all = BTreeSet::new();
        for place in cache::find(&top, repo)? {
            for commit in place.commits()? {
                if let Some(listing) = place.list(self.reading(&top), commit)? {
                    all.extend([commit, listing.commit]);
                }
            }
        }
        Ok(all)
    }
}
