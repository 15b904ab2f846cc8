//! What a local upstream looks at on disk to answer a question. All of it blocks.

use std::collections::BTreeSet;
use std::io::ErrorKind::NotFound;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::content_ids::NoId;
use super::listing::{Listing, Reading, unreadable};
use super::{BRANCH, LocalKind, Shelf, beneath, cache, changed, folder, gone, lost, no_revision};
use crate::hub::{RemoteFile, UpstreamError};
use crate::repo::{Commit, ContentId, RepoId};

/// Whether a cache has no folder `hub` yet. A link that leads nowhere is one that cannot be opened.
fn is_none_yet(path: &Path) -> bool {
    let none = std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == NotFound);
    let home = path.parent().filter(|_| path.ends_with("hub"));
    none && home.is_some_and(Path::is_dir)
}

impl Shelf {
    pub(super) fn top(&self, repo: &RepoId) -> Result<OwnedFd, UpstreamError> {
        beneath::top(&self.path).map_err(|error| {
            if self.kind == LocalKind::Cache && is_none_yet(&self.path) {
                return UpstreamError::RepositoryUnknown(repo.clone());
            }
            tracing::warn!(path = %self.path.display(), %error, "the upstream's folder cannot be opened");
            let what = format!("the folder in which {repo} would be cannot be opened ({})", error.kind());
            UpstreamError::Unavailable(what)
        })
    }

    fn reading<'a>(&'a self, top: &'a OwnedFd) -> Reading<'a> {
        Reading {
            top,
            root: self.root,
            ids: &self.ids,
            stop: &self.stop,
        }
    }

    /// A folder that had nothing in it may have become a cache, whose content not everybody may have.
    fn still_a_folder(&self, repo: &RepoId) -> Result<(), UpstreamError> {
        match LocalKind::of(&self.path) {
            Ok((LocalKind::Folder, _)) => Ok(()),
            Ok((LocalKind::Cache, _)) => {
                tracing::warn!(path = %self.path.display(), "what was taken for a folder of repositories is a Hugging Face cache by now; restart the server");
                Err(UpstreamError::Unavailable(format!(
                    "the folder in which {repo} would be has become a Hugging Face cache; restart the server"
                )))
            }
            Err(error) => Err(unreadable(repo, "", &error)),
        }
    }

    pub(super) fn in_folder(
        &self,
        repo: &RepoId,
        revision: Option<&str>,
    ) -> Result<(RepoId, Listing), UpstreamError> {
        let top = self.top(repo)?;
        self.still_a_folder(repo)?;
        for place in folder::find(&top, repo, &*self.denied)? {
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
            // One that was only ever asked for hides nothing.
            if !place.is_empty(self.reading(&top))? {
                unknown = no_revision(repo, revision.unwrap_or("main"));
            }
        }
        Err(unknown)
    }

    /// What a cache has of a repository, in each of its folders. None at all is an unknown repository.
    fn cached(&self, top: &OwnedFd, repo: &RepoId) -> Result<Vec<cache::Place>, UpstreamError> {
        let mut places = Vec::new();
        for place in cache::find(top, repo)? {
            if !place.is_empty(self.reading(top))? {
                places.push(place);
            }
        }
        match places.is_empty() {
            true => Err(UpstreamError::RepositoryUnknown(repo.clone())),
            false => Ok(places),
        }
    }

    /// The names of a cache's revisions, with the commits of the Hub that they mean.
    pub(super) fn cached_refs(
        &self,
        repo: &RepoId,
    ) -> Result<Vec<(String, Commit)>, UpstreamError> {
        let top = self.top(repo)?;
        let mut all = Vec::new();
        for place in self.cached(&top, repo)? {
            let here: BTreeSet<Commit> = place.commits()?.into_iter().collect();
            for (name, commit) in place.refs()? {
                if here.contains(&commit) && place.list(self.reading(&top), commit)?.is_some() {
                    all.push((name, commit));
                }
            }
        }
        Ok(all)
    }

    /// The commits of the Hub that begin with `prefix` and of which a cache has something. What stands for a part of one is made of all
    /// its files, so it is found by all its digits only.
    pub(super) fn cached_commits(
        &self,
        repo: &RepoId,
        prefix: &str,
    ) -> Result<BTreeSet<Commit>, UpstreamError> {
        let top = self.top(repo)?;
        let mut all = BTreeSet::new();
        for place in cache::find(&top, repo)? {
            for commit in place.commits()? {
                if commit.to_string().starts_with(prefix)
                    && place.list(self.reading(&top), commit)?.is_some()
                {
                    all.insert(commit);
                }
            }
        }
        Ok(all)
    }

    /// Checks that a file's bytes are what its name in a cache says. Reads all of them, but only once.
    pub(super) fn check(&self, file: &RemoteFile, place: &str) -> Result<(), UpstreamError> {
        let failed = |error| unreadable(&file.repo, file.path.as_str(), &error);
        let top = self.top(&file.repo)?;
        let open = beneath::file_at(&top, place).map_err(failed)?;
        let mut open = open.ok_or_else(|| gone(file))?;
        let facts = beneath::facts(&open).map_err(failed)?;
        let id = match self.ids.known(self.root, &facts) {
            Some(id) => id,
            None => match self.ids.learn(self.root, &mut open, &self.stop) {
                Ok(id) => id,
                Err(NoId::Changing) => return Err(changed(&file.repo, &file.path)),
                Err(NoId::Stopped) => return Err(lost()),
                Err(NoId::Io(error)) => return Err(failed(error)),
            },
        };
        match file.content {
            ContentId::Sha256(wanted) if wanted != id => Err(UpstreamError::Broken(format!(
                "{:?} of {} is not what the cache calls it",
                file.path, file.repo
            ))),
            ContentId::Sha256(_) | ContentId::Git(_) => Ok(()),
        }
    }

    /// Forgets what the file at `place` hashed to.
    pub(super) fn forget(&self, file: &RemoteFile, place: &str) -> Result<(), UpstreamError> {
        let failed = |error| unreadable(&file.repo, file.path.as_str(), &error);
        let open = beneath::file_at(self.top(&file.repo)?, place).map_err(failed)?;
        if let Some(open) = open {
            let facts = beneath::facts(&open).map_err(failed)?;
            self.ids.forget(self.root, &facts);
        }
        Ok(())
    }
}
