//! A folder of repositories: `ORG/NAME` (or `NAME`) for models, the same below `datasets` and `spaces`. Each has one revision, its default
//! branch, which is what its files are now.
//!
//! A folder at the top is either a repository or an organisation, never both: a repository would else be served under two names, and
//! whoever may not have one of them could take the other. [`Inside`] tells which.

use std::io;
use std::os::fd::OwnedFd;

use super::Denied;
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

/// What lies beside repositories without being one: what desktops leave, and what tells people of an organisation.
fn is_aside(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let hidden = name.starts_with('.') && name != ".gitattributes";
    hidden || name.starts_with("readme") || name.starts_with("license")
}

/// What is directly in a folder at the top.
#[derive(Debug, Default)]
struct Inside {
    /// A file that makes it a repository, if there is one.
    file: Option<String>,
    /// Whether there is anything at all that is no folder.
    loose: bool,
    folders: Vec<String>,
}

impl Inside {
    /// Looks at a prefix that ends with a slash.
    fn of(top: &OwnedFd, prefix: &str) -> io::Result<Self> {
        let mut inside = Self::default();
        let Some(folder) = open(top, prefix)? else {
            return Ok(inside);
        };
        let names = beneath::names(&folder)?;
        inside.loose = names.other.is_some();
        for name in names.text {
            match beneath::item(&folder, &name)? {
                Some(Item::Folder(_)) if is_bookkeeping(&name) || name == ".cache" => {}
                Some(Item::Folder(_)) => inside.folders.push(name),
                Some(Item::File(_)) if !is_aside(&name) => {
                    inside.loose = true;
                    inside.file.get_or_insert(name);
                }
                Some(_) => inside.loose = true,
                None => {}
            }
        }
        Ok(inside)
    }

    /// Whether the folder is a repository. If not, those in it are.
    fn is_repository(&self) -> bool {
        self.file.is_some() || (self.loose && self.folders.is_empty())
    }
}

/// Whether a folder at the top, `prefix`, is what the name asked for wants it to be: the repository itself, or an organisation.
///
/// A folder that could be taken for both may have been refused by its other name: that counts too.
fn is_meant(top: &OwnedFd, prefix: &str, repo: &RepoId, denied: &Denied) -> io::Result<bool> {
    let inside = Inside::of(top, prefix)?;
    let name = prefix.trim_end_matches('/').rsplit('/').next();
    let name = name.unwrap_or_default();
    let refused = |id: &str| RepoId::new(repo.kind(), id).is_ok_and(|other| denied(&other));
    if repo.id().contains('/') {
        if let (true, Some(file)) = (inside.is_repository(), &inside.file) {
            tracing::warn!(%repo, file, "{name:?} is one repository, for there are files directly in it; none of its folders is one");
        }
        return Ok(!(inside.is_repository() || (inside.loose && refused(name))));
    }
    let mut folders = inside.folders.iter();
    match folders.find(|folder| refused(&format!("{name}/{folder}"))) {
        Some(folder) if inside.is_repository() => {
            tracing::warn!(%repo, "it is not served, for {name}/{folder} is denied and lies in it");
            Ok(false)
        }
        _ => Ok(inside.is_repository()),
    }
}

/// The folders that `repo` may mean, whose letters may be of any case, ascending by the bytes of their names.
pub(super) fn find(
    top: &OwnedFd,
    repo: &RepoId,
    denied: &Denied,
) -> Result<Vec<Place>, UpstreamError> {
    let base = match repo.kind() {
        RepoKind::Model => "",
        RepoKind::Dataset => "datasets/",
        RepoKind::Space => "spaces/",
    };
    let mut at = vec![base.to_owned()];
    let failed = |error| unreadable(repo, "", &error);
    for (depth, name) in repo.id().split('/').enumerate() {
        let mut next = Vec::new();
        for prefix in at {
            for found in inner(top, &prefix, name, repo).map_err(failed)? {
                if depth > 0 || is_meant(top, &found, repo, denied).map_err(failed)? {
                    next.push(found);
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

/// The files of a repository; `None` if there are none.
pub(super) fn list(reading: Reading<'_>, place: &Place) -> Result<Option<Listing>, UpstreamError> {
    let Place { repo, folder } = place;
    let opened =
        beneath::folder_at(reading.top, folder).map_err(|error| unreadable(repo, "", &error))?;
    let Some(opened) = opened else {
        return Ok(None);
    };
    let found = walk(repo, &opened, &is_bookkeeping)?;
    if found.is_empty() {
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
