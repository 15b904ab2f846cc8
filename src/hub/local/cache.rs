//! The cache that the Hub's own clients keep: `models--ORG--NAME/{refs,snapshots,blobs}`, read only.
//!
//! `refs/NAME` holds a commit. `snapshots/COMMIT/PATH` is a link into `blobs`, whose names are the Hub's content ids, so nothing has to be
//! hashed to list it. Where a client could make no links there are files instead, which are hashed.

use std::io::Read;
use std::os::fd::OwnedFd;

use super::beneath::{self, Item};
use super::listing::{Found, Listing, Reading, Unhashed, identify, refused, unreadable, walk};
use crate::hub::UpstreamError;
use crate::oci::{Digest, unhex};
use crate::repo::{Commit, ContentId, Entry, FilePath, RepoId, RepoKind};

/// The longest file below `refs`: a commit, and perhaps the end of its line.
const MAX_REF: u64 = 64;

/// A repository of the cache.
pub(super) struct Place {
    pub repo: RepoId,
    /// Its folder from the top.
    path: String,
    folder: OwnedFd,
}

const fn kind(kind: RepoKind) -> &'static str {
    match kind {
        RepoKind::Model => "models--",
        RepoKind::Dataset => "datasets--",
        RepoKind::Space => "spaces--",
    }
}

/// Whether a name is that of a repository's folder.
pub(super) fn is_repository(name: &str) -> bool {
    let kinds = [RepoKind::Model, RepoKind::Dataset, RepoKind::Space];
    kinds.iter().any(|of| name.starts_with(kind(*of)))
}

/// The folders that `repo` may mean, whose letters may be of any case, ascending by the bytes of their names.
pub(super) fn find(top: &OwnedFd, repo: &RepoId) -> Result<Vec<Place>, UpstreamError> {
    let failed = |error| unreadable(repo, "", &error);
    let wanted = format!("{}{}", kind(repo.kind()), repo.id().replace('/', "--"));
    let mut places = Vec::new();
    for name in beneath::names(top).map_err(failed)?.text {
        if !name.eq_ignore_ascii_case(&wanted) {
            continue;
        }
        let id = name[kind(repo.kind()).len()..].replace("--", "/");
        let Ok(found) = RepoId::new(repo.kind(), &id) else {
            continue;
        };
        match beneath::folder(top, &name).map_err(failed)? {
            Some(folder) => places.push(Place {
                repo: found,
                path: name,
                folder,
            }),
            None => {
                tracing::warn!(%repo, "a link stands where the repository's folder would; links are not followed");
            }
        }
    }
    Ok(places)
}

impl Place {
    fn failed(&self, error: &std::io::Error) -> UpstreamError {
        unreadable(&self.repo, "", error)
    }

    /// The names in `refs`, each with the commit that it says.
    pub(super) fn refs(&self) -> Result<Vec<(String, Commit)>, UpstreamError> {
        let Some(refs) = beneath::folder(&self.folder, "refs").map_err(|e| self.failed(&e))? else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for found in walk(&self.repo, &refs, &|_| false)? {
            if let Some(commit) = self.read_ref(&refs, found.path.as_str())? {
                all.push((found.path.to_string(), commit));
            }
        }
        Ok(all)
    }

    fn read_ref(&self, refs: &OwnedFd, name: &str) -> Result<Option<Commit>, UpstreamError> {
        let Some(file) = beneath::file_at(refs, name).map_err(|e| self.failed(&e))? else {
            return Ok(None);
        };
        let mut text = String::new();
        match file.take(MAX_REF).read_to_string(&mut text) {
            Ok(_) => Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// The commits that have a snapshot, the one that was begun last at the end.
    pub(super) fn commits(&self) -> Result<Vec<Commit>, UpstreamError> {
        let snapshots = beneath::folder(&self.folder, "snapshots");
        let Some(snapshots) = snapshots.map_err(|e| self.failed(&e))? else {
            return Ok(Vec::new());
        };
        let names = beneath::names(&snapshots).map_err(|e| self.failed(&e))?;
        let mut commits = Vec::new();
        for name in names.text {
            let Ok(commit) = name.parse::<Commit>() else {
                continue;
            };
            let item = beneath::item(&snapshots, &name).map_err(|e| self.failed(&e))?;
            if let Some(Item::Folder(facts)) = item {
                commits.push((facts.mtime, commit));
            }
        }
        commits.sort_unstable();
        Ok(commits.into_iter().map(|(_, commit)| commit).collect())
    }

    /// The commit that a branch or tag means; that of the default branch, if `name` is `None`: `main`, or, where that was never asked
    /// for, the revision that was begun last.
    pub(super) fn commit(&self, name: Option<&str>) -> Result<Option<Commit>, UpstreamError> {
        // No other file is reached: a name with `..` or an empty component is none of git's.
        let Ok(path) = FilePath::new(name.unwrap_or("main")) else {
            return Ok(None);
        };
        let refs = beneath::folder(&self.folder, "refs").map_err(|e| self.failed(&e))?;
        if let Some(refs) = refs
            && let Some(commit) = self.read_ref(&refs, path.as_str())?
        {
            return Ok(Some(commit));
        }
        match name {
            None => Ok(self.commits()?.pop()),
            Some(_) => Ok(None),
        }
    }

    /// Whether nothing is here but what a client noted when it asked for the repository.
    pub(super) fn is_empty(&self, reading: Reading<'_>) -> Result<bool, UpstreamError> {
        for commit in self.commits()? {
            // What cannot be listed is something.
            if !matches!(self.list(reading, commit), Ok(None)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The files of a commit, as far as they are here; `None` if none are.
    pub(super) fn list(
        &self,
        reading: Reading<'_>,
        commit: Commit,
    ) -> Result<Option<Listing>, UpstreamError> {
        let below = format!("snapshots/{commit}");
        let folder = beneath::folder_at(&self.folder, &below).map_err(|e| self.failed(&e))?;
        let Some(folder) = folder else {
            return Ok(None);
        };
        let blobs = beneath::folder(&self.folder, "blobs").map_err(|e| self.failed(&e))?;
        let (mut listed, mut unhashed) = (Vec::new(), Vec::new());
        for Found { path, item } in walk(&self.repo, &folder, &|_| false)? {
            match item {
                Item::File(facts) => unhashed.push(Unhashed {
                    place: format!("{}/{below}/{path}", self.path),
                    path,
                    facts,
                }),
                Item::Link(to) => match self.blob(blobs.as_ref(), &path, &to)? {
                    Some(Linked::Known(file, place)) => listed.push((file, place)),
                    Some(Linked::Unhashed(file)) => unhashed.push(file),
                    None => {
                        tracing::warn!(repo = %self.repo, %commit, %path, "the cache has a link to a file, but not the file");
                    }
                },
                Item::Folder(_) | Item::Other => {
                    let why = "it is neither a file nor a link to one";
                    return Err(refused(&self.repo, path.to_string(), why));
                }
            }
        }
        listed.extend(identify(&self.repo, reading, unhashed)?);
        if listed.is_empty() {
            return Ok(None);
        }
        Listing::new(&self.repo, listed).map(Some)
    }

    /// The blob that a link of a snapshot leads to; `None` if it is not there. The link itself is never followed.
    fn blob(
        &self,
        blobs: Option<&OwnedFd>,
        path: &FilePath,
        to: &str,
    ) -> Result<Option<Linked>, UpstreamError> {
        let depth = path.as_str().split('/').count();
        let name = to.strip_prefix(&format!("{}blobs/", "../".repeat(depth + 1)));
        let name = name.filter(|name| !name.contains('/') && !matches!(*name, "" | "." | ".."));
        let Some(name) = name else {
            let why = "it is a link that does not lead to a blob of the cache";
            return Err(refused(&self.repo, path.to_string(), why));
        };
        let found = match blobs {
            Some(blobs) => beneath::item(blobs, name).map_err(|e| self.failed(&e))?,
            None => None,
        };
        let Some(Item::File(facts)) = found else {
            return Ok(None);
        };
        let (path, place) = (path.clone(), format!("{}/blobs/{name}", self.path));
        let content = match unhex(name).map(ContentId::Git) {
            Some(git) => Some(git),
            None => Digest::from_hex(name).ok().map(ContentId::Sha256),
        };
        Ok(Some(match content {
            Some(content) => {
                let size = facts.size;
                let file = Entry {
                    path,
                    size,
                    content,
                };
                Linked::Known(file, place)
            }
            None => Linked::Unhashed(Unhashed { path, facts, place }),
        }))
    }
}

/// What a link leads to.
enum Linked {
    /// Its name says what it is. That is checked when it is read.
    Known(Entry, String),
    /// Its name says nothing.
    Unhashed(Unhashed),
}
