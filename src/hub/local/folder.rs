//! A folder of repositories: `ORG/NAME` (or `NAME`) for models, the same below `datasets` and `spaces`. Each has one revision, its default
//! branch, which is what its files are now.

use std::os::fd::OwnedFd;

use tokio_util::sync::CancellationToken;

use super::beneath::{self, Item};
use super::content_ids::ContentIds;
use super::listing::{Listing, Unhashed, identify, refused, unreadable, walk};
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
    let failed = |error| unreadable(repo, "", &error);
    let base = match repo.kind() {
        RepoKind::Model => "",
        RepoKind::Dataset => "datasets/",
        RepoKind::Space => "spaces/",
    };
    let mut at = vec![base.to_owned()];
    for (part, name) in repo.id().split('/').enumerate() {
        let reserved = |name: &str| {
            part == 0 && repo.kind() == RepoKind::Model && matches!(name, "datasets" | "spaces")
        };
        let mut next = Vec::new();
        for prefix in at {
            let Some(folder) = open(top, &prefix).map_err(failed)? else {
                continue;
            };
            let names = beneath::names(&folder).map_err(failed)?.text;
            let same = |found: &String| found.eq_ignore_ascii_case(name) && !reserved(found);
            for found in names.into_iter().filter(same) {
                match beneath::item(&folder, &found).map_err(failed)? {
                    Some(Item::Folder(_)) => next.push(format!("{prefix}{found}/")),
                    Some(Item::Link(_)) => {
                        tracing::warn!(%repo, "a link stands where the repository's folder would; links are not followed");
                    }
                    _ => {}
                }
            }
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

/// Opens a prefix that is empty or ends with a slash.
fn open(top: &OwnedFd, prefix: &str) -> std::io::Result<Option<OwnedFd>> {
    match prefix.trim_end_matches('/') {
        "" => top.try_clone().map(Some),
        path => beneath::folder_at(top, path),
    }
}

/// The files of a repository; `None` if there are none, or if it is only a folder of others.
pub(super) fn list(
    top: &OwnedFd,
    place: &Place,
    ids: &ContentIds,
    stop: &CancellationToken,
) -> Result<Option<Listing>, UpstreamError> {
    let Place { repo, folder } = place;
    let opened = beneath::folder_at(top, folder).map_err(|error| unreadable(repo, "", &error))?;
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
    let files = identify(repo, top, files, ids, stop)?;
    Listing::new(repo, files).map(Some)
}
