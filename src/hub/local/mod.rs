//! Repositories on this machine as an upstream: a folder of them ([`folder`]), or the cache that the Hub's clients keep ([`cache`]).
//!
//! Neither says which commit of git its files are: the folder has none, and of a commit the cache may have a part. So the commit that
//! stands for them is made of the files that are there ([`listing`]); what is filled under it can never be taken for the Hub's whole
//! commit. No link is followed ([`beneath`]). Files are read on threads for what blocks, and listed once for all who ask at once.

mod beneath;
mod cache;
mod content_ids;
mod folder;
mod kind;
mod listing;
mod shelf;

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::Hash;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, ready};
use futures_util::{FutureExt, StreamExt, stream};
use moka::future::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::content_ids::Root;
use self::listing::Listing;
use super::{
    Access, ByteStream, Credentials, Refs, RemoteFile, Resolved, Token, Upstream, UpstreamError,
};
use crate::repo::{Commit, FilePath, RepoId, Snapshot};

pub use content_ids::ContentIds;
pub use kind::LocalKind;

/// Bytes of one read.
const STEP: u64 = 512 << 10;

/// Repositories that are listed at once, and questions that may wait for that.
const AT_ONCE: usize = 16;
const WAITING: usize = 1024;

/// How long those have to wait for whom there is no place.
const BUSY: Duration = Duration::from_secs(5);

/// Files of the listings that are remembered, and listings.
const REMEMBERED: u64 = 500_000;

/// The branch that a folder has.
const BRANCH: &str = "main";

/// Repositories that are refused by their names.
pub type Denied = dyn Fn(&RepoId) -> bool + Send + Sync;

/// Repositories on this machine. Cheap to clone.
#[derive(Clone)]
pub struct Local {
    shelf: Arc<Shelf>,
    /// Whether it is asked by somebody else than the server's owner: no token of theirs opens what is private.
    guest: bool,
    /// What still reads files when the last clone is gone ends.
    _stop: Arc<DropGuard>,
}

struct Shelf {
    path: PathBuf,
    kind: LocalKind,
    private: bool,
    root: Root,
    ids: Arc<ContentIds>,
    denied: Arc<Denied>,
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// The listings that are being made.
    flights: Cache<Question, Answer>,
    /// The branches that are being looked up, and the commits by what they begin with.
    branches: Cache<RepoId, Result<Vec<(String, Commit)>, UpstreamError>>,
    commits: Cache<(RepoId, String), Result<BTreeSet<Commit>, UpstreamError>>,
    /// Those that were made, for the fills that go on with them.
    made: Cache<(RepoId, Commit), Arc<Listing>>,
    stop: CancellationToken,
}

/// A repository, its letters folded, and the revision asked for.
type Question = (RepoId, Option<String>);

type Answer = Result<(RepoId, Arc<Listing>), UpstreamError>;

impl Local {
    /// What is in `path`, which is `kind`. Everybody may read it, unless it is `private`: then it is not there for those who ask with a
    /// token of their own or without one. `ids` remembers what its files hash to. `denied` says which names are refused: in a folder that
    /// counts for what could be taken for another name too. Blocks.
    pub fn new(
        path: PathBuf,
        kind: LocalKind,
        private: bool,
        ids: Arc<ContentIds>,
        denied: Arc<Denied>,
    ) -> Self {
        let stop = CancellationToken::new();
        let shelf = Shelf {
            root: Root::of(&path),
            path,
            kind,
            private,
            ids,
            denied,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(WAITING)),
            flights: Cache::builder().build(),
            branches: Cache::builder().build(),
            commits: Cache::builder().build(),
            made: Cache::builder()
                .max_capacity(REMEMBERED)
                .weigher(|_, listing: &Arc<Listing>| listing.weight())
                .build(),
            stop: stop.clone(),
        };
        Self {
            shelf: Arc::new(shelf),
            guest: false,
            _stop: Arc::new(stop.drop_guard()),
        }
    }

    /// What a revision is now. Those who ask the same at once are told the same; what was begun goes on when they leave, so that they
    /// find it done when they come back.
    async fn look(&self, repo: &RepoId, revision: Option<&str>) -> Answer {
        self.open_to_asker(repo)?;
        let shelf = Arc::clone(&self.shelf);
        let question = (repo.folded(), revision.map(str::to_owned));
        let asked = repo.clone();
        let place = shelf.place()?;
        let task = tokio::spawn(async move {
            let _place = place;
            let (repo, revision) = question.clone();
            let list = Arc::clone(&shelf).list(asked, revision);
            let answer = shared(&shelf.flights, question, list).await;
            if let Ok((_, listing)) = &answer {
                let key = (repo, listing.commit);
                shelf.made.insert(key, Arc::clone(listing)).await;
            }
            answer
        });
        task.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Whether the asker may know of what is here.
    fn open_to_asker(&self, repo: &RepoId) -> Result<(), UpstreamError> {
        match self.guest && self.shelf.private {
            true => Err(UpstreamError::RepositoryUnknown(repo.clone())),
            false => Ok(()),
        }
    }

    /// The listing of a commit that was told before.
    async fn listing(&self, repo: &RepoId, commit: Commit) -> Result<Arc<Listing>, UpstreamError> {
        self.open_to_asker(repo)?;
        if let Some(made) = self.shelf.made.get(&(repo.folded(), commit)).await {
            return Ok(made);
        }
        let (_, listing) = self.look(repo, Some(&commit.to_string())).await?;
        match listing.commit == commit {
            true => Ok(listing),
            false => Err(no_revision(repo, &commit.to_string())),
        }
    }

    /// Runs what looks at the disk where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shelf) -> Result<T, UpstreamError> + Send + 'static,
    ) -> Result<T, UpstreamError> {
        let shelf = Arc::clone(&self.shelf);
        let done = tokio::task::spawn_blocking(move || work(&shelf)).await;
        done.unwrap_or_else(|_| Err(lost()))
    }

    async fn open(&self, file: &RemoteFile) -> Result<File, UpstreamError> {
        let listing = self.listing(&file.repo, file.commit).await?;
        let place = listing.place(&file.path).ok_or_else(|| gone(file))?;
        let (file, place) = (file.clone(), place.to_owned());
        self.blocking(move |shelf| {
            let failed =
                |error: io::Error| listing::unreadable(&file.repo, file.path.as_str(), &error);
            let top = shelf.top(&file.repo)?;
            let open = beneath::file_at(&top, &place)
                .map_err(failed)?
                .ok_or_else(|| gone(&file))?;
            match open.metadata().map_err(failed)?.len() == file.size {
                true => Ok(open),
                false => Err(changed(&file.repo, &file.path)),
            }
        })
        .await
    }
}

/// What all who ask the same at once are told; the next one who asks is told what there is then.
async fn shared<K, V>(flights: &Cache<K, V>, question: K, answer: impl Future<Output = V>) -> V
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let told = flights.get_with(question.clone(), answer).await;
    flights.invalidate(&question).await;
    told
}

impl Shelf {
    /// A place among those who wait for a turn, if one is left.
    fn place(&self) -> Result<OwnedSemaphorePermit, UpstreamError> {
        let place = Arc::clone(&self.waiting).try_acquire_owned();
        place.map_err(|_| UpstreamError::RateLimited {
            retry_after: Some(BUSY),
        })
    }

    /// Runs what walks through folders, where it may block. The turn lasts as long as it works, also if nobody waits for it any more.
    async fn in_turn<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, UpstreamError> + Send + 'static,
    ) -> Result<T, UpstreamError> {
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else {
            return Err(lost());
        };
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&self)
        });
        done.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn list(self: Arc<Self>, repo: RepoId, revision: Option<String>) -> Answer {
        self.in_turn(move |shelf| {
            let (found, listing) = match shelf.kind {
                LocalKind::Folder => shelf.in_folder(&repo, revision.as_deref()),
                LocalKind::Cache => shelf.in_cache(&repo, revision.as_deref()),
            }?;
            Ok((found, Arc::new(listing)))
        })
        .await
    }
}

impl Upstream for Local {
    fn resolve<'a>(
        &'a self,
        repo: &'a RepoId,
        revision: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Resolved, UpstreamError>> {
        async move {
            let (repo, listing) = self.look(repo, revision).await?;
            Ok(Resolved {
                repo,
                commit: listing.commit,
                private: self.shelf.private,
                gated: false,
            })
        }
        .boxed()
    }

    fn access<'a>(&'a self, _: &'a RepoId) -> BoxFuture<'a, Result<Access, UpstreamError>> {
        ready(Ok(Access::Granted)).boxed()
    }

    fn refs<'a>(&'a self, repo: &'a RepoId) -> BoxFuture<'a, Result<Refs, UpstreamError>> {
        async move {
            let branches = match self.shelf.kind {
                LocalKind::Folder => {
                    let (_, listing) = self.look(repo, None).await?;
                    vec![(BRANCH.to_owned(), listing.commit)]
                }
                LocalKind::Cache => {
                    self.open_to_asker(repo)?;
                    let _place = self.shelf.place()?;
                    let asked = repo.clone();
                    let refs = Arc::clone(&self.shelf);
                    let refs = refs.in_turn(move |shelf| shelf.cached_refs(&asked));
                    shared(&self.shelf.branches, repo.folded(), refs).await?
                }
            };
            Ok(Refs {
                branches,
                tags: Vec::new(),
            })
        }
        .boxed()
    }

    fn commits<'a>(
        &'a self,
        repo: &'a RepoId,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Commit>, UpstreamError>> {
        async move {
            let known = match self.shelf.kind {
                LocalKind::Folder => {
                    let (_, listing) = self.look(repo, None).await?;
                    BTreeSet::from([listing.commit])
                }
                LocalKind::Cache => {
                    self.open_to_asker(repo)?;
                    let _place = self.shelf.place()?;
                    let question = (repo.folded(), prefix.to_owned());
                    let (asked, begin) = question.clone();
                    let commits = Arc::clone(&self.shelf);
                    let commits =
                        commits.in_turn(move |shelf| shelf.cached_commits(&asked, &begin));
                    shared(&self.shelf.commits, question, commits).await?
                }
            };
            let begins = |commit: &Commit| commit.to_string().starts_with(prefix);
            Ok(known.into_iter().filter(begins).collect())
        }
        .boxed()
    }

    fn snapshot<'a>(
        &'a self,
        repo: &'a RepoId,
        commit: Commit,
    ) -> BoxFuture<'a, Result<Snapshot, UpstreamError>> {
        async move { Ok(self.listing(repo, commit).await?.snapshot.clone()) }.boxed()
    }

    fn read<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<ByteStream, UpstreamError>> {
        async move {
            if range.is_empty() {
                return Ok(stream::empty().boxed());
            }
            let open = Arc::new(self.open(file).await?);
            Ok(body(open, file.clone(), range))
        }
        .boxed()
    }

    /// A byte proves nothing here: what a cache calls its blobs, anybody can write down who knows the name. So all of the file is hashed.
    fn prove<'a>(&'a self, file: &'a RemoteFile) -> BoxFuture<'a, Result<(), UpstreamError>> {
        async move {
            let listing = self.listing(&file.repo, file.commit).await?;
            let place = listing.place(&file.path).ok_or_else(|| gone(file))?;
            let (file, place) = (file.clone(), place.to_owned());
            let shelf = Arc::clone(&self.shelf);
            shelf.in_turn(move |shelf| shelf.check(&file, &place)).await
        }
        .boxed()
    }

    fn doubt<'a>(&'a self, file: &'a RemoteFile) -> BoxFuture<'a, ()> {
        async move {
            let told = async {
                let listing = self.listing(&file.repo, file.commit).await?;
                let made = (file.repo.folded(), file.commit);
                self.shelf.made.invalidate(&made).await;
                let place = listing.place(&file.path).ok_or_else(|| gone(file))?;
                let (file, place) = (file.clone(), place.to_owned());
                self.blocking(move |shelf| shelf.forget(&file, &place))
                    .await
            };
            if let Err(error) = told.await {
                tracing::debug!(%error, "what is not there any more is not remembered either");
            }
        }
        .boxed()
    }
}

/// The bytes of a range, a step at a time.
fn body(open: Arc<File>, file: RemoteFile, range: Range<u64>) -> ByteStream {
    let RemoteFile { repo, path, .. } = file;
    let steps = stream::try_unfold(range.start, move |at| {
        let (open, repo, path) = (Arc::clone(&open), repo.clone(), path.clone());
        let len = STEP.min(range.end - at);
        async move {
            if len == 0 {
                return Ok(None);
            }
            let read = tokio::task::spawn_blocking(move || {
                read_at(&open, at, len).map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => changed(&repo, &path),
                    _ => listing::unreadable(&repo, path.as_str(), &error),
                })
            });
            let bytes = read.await.unwrap_or_else(|_| Err(lost()))?;
            Ok(Some((bytes, at + len)))
        }
    });
    steps.boxed()
}

fn read_at(file: &File, at: u64, len: u64) -> io::Result<Bytes> {
    let mut bytes = BytesMut::zeroed(len as usize);
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes.freeze())
}

impl Credentials for Local {
    fn with_token(&self, _: Option<&Token>) -> Arc<dyn Upstream> {
        Arc::new(Self {
            guest: true,
            ..self.clone()
        })
    }

    fn knows<'a>(&'a self, _: &'a Token) -> BoxFuture<'a, Result<bool, UpstreamError>> {
        ready(Ok(false)).boxed()
    }
}

fn no_revision(repo: &RepoId, revision: &str) -> UpstreamError {
    UpstreamError::RevisionUnknown {
        repo: repo.clone(),
        revision: super::wire::clip(revision),
    }
}

fn gone(file: &RemoteFile) -> UpstreamError {
    UpstreamError::FileUnknown {
        repo: file.repo.clone(),
        commit: file.commit,
        path: file.path.to_string(),
    }
}

fn changed(repo: &RepoId, path: &FilePath) -> UpstreamError {
    UpstreamError::Broken(format!(
        "{path:?} of {repo} has changed since it was listed; ask again"
    ))
}

fn lost() -> UpstreamError {
    UpstreamError::Unavailable("looking at a local folder was given up".to_owned())
}

#[cfg(test)]
mod tests;
