//! The files of a revision on this machine, and the commit that stands for them.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::beneath::{self, Facts, Item};
use super::content_ids::{ContentIds, NoId, Root};
use crate::hub::UpstreamError;
use crate::oci::Digest;
use crate::repo::{Commit, ContentError, ContentId, Entry, FilePath, RepoId, Snapshot};

/// Files that are hashed at once.
const AT_ONCE: usize = 4;

/// Bytes to hash from which on the log tells of it: it takes a while.
const LONG: u64 = 1 << 30;

/// The deepest folder that is looked into; deeper files no image can hold.
const MAX_DEPTH: usize = 64;

/// The most files of a repository.
const MAX_FILES: usize = 1_000_000;

/// A revision.
#[derive(Debug)]
pub(super) struct Listing {
    /// What stands for the files: a hash of their paths, sizes and content ids.
    pub commit: Commit,
    pub snapshot: Snapshot,
    /// Where the bytes of each file are, from the top folder.
    places: HashMap<FilePath, String>,
}

impl Listing {
    /// Orders and checks the files, each given with where it is.
    pub(super) fn new(repo: &RepoId, files: Vec<(Entry, String)>) -> Result<Self, UpstreamError> {
        let places = files
            .iter()
            .map(|(file, place)| (file.path.clone(), place.clone()));
        let places = places.collect();
        let files = files.into_iter().map(|(file, _)| file).collect();
        let snapshot = Snapshot::new(files).map_err(|error| content(repo, error))?;
        Ok(Self {
            commit: commit(&snapshot),
            snapshot,
            places,
        })
    }

    /// Where the bytes of a file are, from the top folder.
    pub(super) fn place(&self, path: &FilePath) -> Option<&str> {
        self.places.get(path).map(String::as_str)
    }

    /// About how many bytes of memory it takes, in units of a file.
    pub(super) fn weight(&self) -> u32 {
        u32::try_from(1 + self.places.len()).unwrap_or(u32::MAX)
    }
}

/// 40 hex digits made of the files alone: the same files give the same ones on any machine. They are not git's.
fn commit(snapshot: &Snapshot) -> Commit {
    let mut text = String::from("hf-oci listing 1\n");
    for Entry {
        path,
        size,
        content,
    } in snapshot.files()
    {
        // A path has no control characters, so nothing else reads the same.
        text.push_str(&format!("{path}\0{size}\0{content}\n"));
    }
    let hex = &Digest::of(text.as_bytes()).hex()[..40];
    #[expect(clippy::expect_used, reason = "40 hex digits are what a commit is")]
    hex.parse().expect("a commit")
}

/// What a walk found.
pub(super) struct Found {
    /// Its path beneath the folder that was walked.
    pub path: FilePath,
    pub item: Item,
}

/// Everything beneath a folder but folders, in no order that counts. What `skip` says yes to is not looked at.
pub(super) fn walk(
    repo: &RepoId,
    folder: &OwnedFd,
    skip: &dyn Fn(&str) -> bool,
) -> Result<Vec<Found>, UpstreamError> {
    let mut found = Vec::new();
    descend(repo, folder, "", 1, skip, &mut found)?;
    Ok(found)
}

fn descend(
    repo: &RepoId,
    folder: &OwnedFd,
    prefix: &str,
    depth: usize,
    skip: &dyn Fn(&str) -> bool,
    found: &mut Vec<Found>,
) -> Result<(), UpstreamError> {
    let names = beneath::names(folder).map_err(|error| unreadable(repo, prefix, &error))?;
    if let Some(name) = names.other {
        let path = format!("{prefix}{name}");
        return Err(refused(repo, path, "the name is not UTF-8"));
    }
    for name in names.text {
        let path = format!("{prefix}{name}");
        if skip(&path) {
            continue;
        }
        let failed = |error: io::Error| unreadable(repo, &path, &error);
        match beneath::item(folder, &name).map_err(failed)? {
            // It went away meanwhile.
            None => {}
            Some(Item::Folder(_)) if depth >= MAX_DEPTH => {
                return Err(refused(repo, path, "it is a folder too deep"));
            }
            Some(Item::Folder(_)) => {
                let Some(inner) = beneath::folder(folder, &name).map_err(failed)? else {
                    continue;
                };
                descend(repo, &inner, &format!("{path}/"), depth + 1, skip, found)?;
            }
            Some(item) => {
                let path = FilePath::new(&path).map_err(|error| content(repo, error))?;
                found.push(Found { path, item });
                if found.len() > MAX_FILES {
                    return Err(refused(repo, name, "there are more than a million files"));
                }
            }
        }
    }
    Ok(())
}

/// A file whose content id has to be made.
pub(super) struct Unhashed {
    pub path: FilePath,
    pub facts: Facts,
    /// Where it is, from the top folder.
    pub place: String,
}

/// What is needed to know files by their content.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub top: &'a OwnedFd,
    pub root: Root,
    pub ids: &'a ContentIds,
    pub stop: &'a CancellationToken,
}

/// Gives each file its content id: the one that is remembered, or one made by reading it. Blocks for as long as that takes.
///
/// The id is the SHA-256, as the Hub has it for LFS files, also where the Hub would have git's. That only decides which recipes are equal:
/// the bytes of a layer depend on paths, sizes and contents alone.
pub(super) fn identify(
    repo: &RepoId,
    reading: Reading<'_>,
    files: Vec<Unhashed>,
) -> Result<Vec<(Entry, String)>, UpstreamError> {
    let mut done = Vec::with_capacity(files.len());
    let mut new = Vec::new();
    for file in files {
        match reading.ids.known(reading.root, &file.facts) {
            Some(id) => done.push(file.with(id)),
            None => new.push(file),
        }
    }
    let bytes: u64 = new.iter().map(|file| file.facts.size).sum();
    if bytes >= LONG {
        tracing::info!(%repo, files = new.len(), bytes, "reading what is new on disk, to know it by its content");
    }
    done.extend(learn_all(repo, reading, new)?);
    Ok(done)
}

impl Unhashed {
    fn with(self, id: Digest) -> (Entry, String) {
        let entry = Entry {
            path: self.path,
            size: self.facts.size,
            content: ContentId::Sha256(id),
        };
        (entry, self.place)
    }
}

/// Hashes files, a few at once.
fn learn_all(
    repo: &RepoId,
    reading: Reading<'_>,
    files: Vec<Unhashed>,
) -> Result<Vec<(Entry, String)>, UpstreamError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = AT_ONCE.min(cores).min(files.len());
    let left = Mutex::new(files.into_iter());
    let failed = AtomicBool::new(false);
    let work = || {
        let mut made = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(file) = next else { break };
            let id = learn(repo, reading, &file);
            let id = id.inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            made.push(file.with(id));
        }
        Ok(made)
    };
    let defect = |_| {
        let what = "reading files failed by a defect";
        Err(UpstreamError::Broken(what.to_owned()))
    };
    let made: Vec<Result<Vec<_>, UpstreamError>> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let others = others
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(defect));
        std::iter::once(own).chain(others).collect()
    });
    let mut all = Vec::new();
    for made in made {
        all.extend(made?);
    }
    Ok(all)
}

fn learn(repo: &RepoId, reading: Reading<'_>, file: &Unhashed) -> Result<Digest, UpstreamError> {
    let path = file.path.as_str();
    let changing = || {
        let what = format!("{path:?} of {repo} is being written; ask again later");
        UpstreamError::Unavailable(what)
    };
    let open = beneath::file_at(reading.top, &file.place);
    let open = open.map_err(|error| unreadable(repo, path, &error))?;
    let mut open = open.ok_or_else(changing)?;
    match reading.ids.learn(reading.root, &mut open, reading.stop) {
        Ok(id) if beneath::facts(&open).is_ok_and(|facts| facts == file.facts) => Ok(id),
        Ok(_) | Err(NoId::Changing) => Err(changing()),
        Err(NoId::Stopped) => {
            let what = "the server is stopping";
            Err(UpstreamError::Unavailable(what.to_owned()))
        }
        Err(NoId::Io(error)) => Err(unreadable(repo, path, &error)),
    }
}

/// What cannot be read. The log says where it is; the error, which clients may see, does not.
pub(super) fn unreadable(repo: &RepoId, path: &str, error: &io::Error) -> UpstreamError {
    tracing::warn!(%repo, path, %error, "a local folder cannot be read");
    UpstreamError::Unavailable(format!(
        "{path:?} of {repo} cannot be read ({}); the server's user needs the right to",
        error.kind()
    ))
}

/// Something that no image is made of.
pub(super) fn refused(repo: &RepoId, path: String, why: &'static str) -> UpstreamError {
    content(repo, ContentError::Path { path, why })
}

fn content(repo: &RepoId, error: ContentError) -> UpstreamError {
    UpstreamError::Content {
        repo: repo.clone(),
        error,
    }
}
