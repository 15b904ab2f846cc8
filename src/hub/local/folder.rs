//! A folder of repositories: `ORG/NAME` (or `NAME`) for models, the same below `datasets` and `spaces`. Each has one revision, its default
//! branch, which is what its files are now.

use std::io;
use std::os::fd::OwnedFd;

use super::beneath::{self, Item};
use super::listing::{Listing, Reading, Unhashed, identify, refused, unreadable, walk};
use crate::hub::UpstreamError;
use crate::repo::{RepoId, RepoKind};

/// What a client of the Hub or of git keeps beside the files of a repository.
fn is_bookkeeping(path: &str) -> bool {
    matches!(path, ".git" | ".cache/huggingface")
}

/// A repository, and its folder from the top.
pub(super) struct Place {
    pub repo: RepoId,
    folder: String,
}

/// The folders that `repo` may mean, whose letters may be of any case, ascending by the bytes of their names.
pub(super) fn find(top: &OwnedFd, repo: &RepoId) -> Result<Vec<Place>, UpstreamError> {
    let base = match repo.kind() {
        RepoKind::Model => "",
        RepoKind::Dataset => "datasets/",
        RepoKind::Space => "spaces/",
    };
    let mut at = vec![base.to_owned()];
    for name in repo.id().split('/') {
        let mut next = Vec::new();
        for prefix in at {
            let inner = inner(top, &prefix, name, repo);
            next.extend(inner.map_err(|error| unreadable(repo, "", &error))?);
        }
        at = next;
    }
    let places = at.into_iter().filter_map(|folder| {
        let folder = folder.trim_end_matches('/').to_owned();
        let id = folder.strip_prefix(base)?;
        let repo = RepoId::new(repo.kind(), id).ok()?;
        Some(Place { repo, folder })
    });
    let places: Vec<Place> = places.collect();
    if places.len() > 1 {
        tracing::warn!(%repo, "several folders differ in their letters' case only; the first of them counts");
    }
    Ok(places)
}

/// The folders called `name`, in any case of its letters, at a prefix that is empty or ends with a slash; they end with one too.
fn inner(top: &OwnedFd, prefix: &str, name: &str, repo: &RepoId) -> io::Result<Vec<String>> {
    let Some(folder) = open(top, prefix)? else {
        return Ok(Vec::new());
    };
    // Those of the other kinds are no organisations.
    let reserved = |found: &str| prefix.is_empty() && matches!(found, "datasets" | "spaces");
    let mut same = Vec::new();
    // Names that are no text are not what is looked for.
    for found in beneath::names(&folder)?.text {
        if !found.eq_ignore_ascii_case(name) || reserved(&found) {
            continue;
        }
        match beneath::item(&folder, &found)? {
            Some(Item::Folder(_)) => same.push(format!("{prefix}{found}/")),
            Some(Item::Link(_)) => {
                tracing::warn!(%repo, "a link stands where the repository's folder would; links are not followed");
            }
            _ => {}
        }
    }
    Ok(same)
}

/// Opens a prefix that is empty or ends with a slash.
fn open(top: &OwnedFd, prefix: &str) -> io::Result<Option<OwnedFd>> {
    match prefix.trim_end_matches('/') {
        "" => top.try_clone().map(Some),
        path => beneath::folder_at(top, path),
    }
}

/// The files of a repository; `None` if there are none, or if it is only a folder of others.
pub(super) fn list(reading: Reading<'_>, place: &Place) -> Result<Option<Listing>, UpstreamError> {
    let Place { repo, folder } = place;
    let opened =
        beneath::folder_at(reading.top, folder).map_err(|error| unreadable(repo, "", &error))?;
    let Some(opened) = opened else {
        return Ok(None);
    };
    let found = walk(repo, &opened, &is_bookkeeping)?;
    // An organisation's folder holds folders only.
    let is_repository =
        repo.id().contains('/') || found.iter().any(|file| !file.path.as_str().contains('/'));
    if found.is_empty() || !is_repository {
        return Ok(None);
    }
    let files = found.into_iter().map(|found| match found.item {
        Item::File(facts) => Ok(Unhashed {
            place: format!("{folder}/{}", found.path),
            path: found.path,
            facts,
        }),
        Item::Link(_) => {
            let why =
                "it is a symbolic link, and those are not followed; put the file itself there";
            Err(refused(repo, found.path.to_string(), why))
        }
        Item::Folder(_) | Item::Other => {
            let why = "it is neither a file nor a folder";
            Err(refused(repo, found.path.to_string(), why))
        }
    });
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let files = identify(repo, reading, files)?;
    Listing::new(repo, files).map(Some)
}
