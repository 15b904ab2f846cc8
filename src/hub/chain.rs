//! Several upstreams in order: the first that is meant for a repository, and has it, answers for it.
//!
//! Only "there is no such repository" goes on to the next one. One that fails to answer ends the search: the name may be its own, and is
//! told to nobody else, nor does it mean another repository for as long as that lasts.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use moka::future::Cache;

use super::{
    Access, ByteStream, Credentials, Refs, RemoteFile, Resolved, Token, Upstream, UpstreamError,
};
use crate::repo::{Commit, RepoId, Snapshot};

/// Answers that are remembered: which upstream a commit came from.
const CAPACITY: u64 = 100_000;

/// For how long. A fill that takes longer looks for it again.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// Which repositories an upstream is asked for.
pub type Serves = dyn Fn(&RepoId) -> bool + Send + Sync;

/// One upstream of several.
#[derive(Clone)]
pub struct Link {
    /// It, asked with its own credentials.
    pub own: Arc<dyn Upstream>,
    /// It, asked with those of others.
    pub credentials: Arc<dyn Credentials>,
    /// Which repositories it is asked for.
    pub serves: Arc<Serves>,
    /// Whether it is the Hub or a mirror, which says "there is no such repository" of a private one too.
    pub is_hub: bool,
}

/// Several upstreams in order.
#[derive(Clone)]
pub struct Chain {
    links: Arc<[Link]>,
    /// Whether a Hub that does not know a repository ends the search.
    strict: bool,
    /// Each link as it is asked here, in the same order.
    asked: Arc<[Arc<dyn Upstream>]>,
    /// Which link a commit of a repository, its letters folded, came from.
    homes: Cache<(RepoId, Commit), usize>,
}

impl Chain {
    /// Asks `links` in this order.
    ///
    /// `strict`: whether not all who ask may read the same. Then the first Hub that is meant for a repository is the last that is asked,
    /// for what it does not show to one it may show to another: a name has to mean the same repository to both.
    pub fn new(links: Vec<Link>, strict: bool) -> Self {
        let asked = links.iter().map(|link| Arc::clone(&link.own)).collect();
        Self::asking(links.into(), strict, asked)
    }

    fn asking(links: Arc<[Link]>, strict: bool, asked: Arc<[Arc<dyn Upstream>]>) -> Self {
        Self {
            links,
            strict,
            asked,
            homes: Cache::builder()
                .max_capacity(CAPACITY)
                .time_to_live(REMEMBERED)
                .build(),
        }
    }

    /// What the first upstream that has the repository says of a revision, and which one it is.
    async fn find(
        &self,
        repo: &RepoId,
        revision: Option<&str>,
    ) -> Result<(usize, Resolved), UpstreamError> {
        let mut unknown = UpstreamError::RepositoryUnknown(repo.clone());
        for (at, link) in self.links.iter().enumerate() {
            if !(link.serves)(repo) {
                continue;
            }
            match self.asked[at].resolve(repo, revision).await {
                // It may be called otherwise by now, and not be meant to come from there.
                Ok(resolved) if (link.serves)(&resolved.repo) => {
                    for name in [repo, &resolved.repo] {
                        let home = (name.folded(), resolved.commit);
                        self.homes.insert(home, at).await;
                    }
                    return Ok((at, resolved));
                }
                Ok(_) | Err(UpstreamError::RepositoryUnknown(_)) => {}
                // It is left out by the owner's wish, which is no reason to leave out the next.
                Err(UpstreamError::Offline) => unknown = UpstreamError::Offline,
                Err(error) => return Err(error),
            }
            if link.is_hub && self.strict {
                break;
            }
        }
        Err(unknown)
    }

    /// The upstream that has a repository.
    async fn home(&self, repo: &RepoId) -> Result<&dyn Upstream, UpstreamError> {
        let (at, _) = self.find(repo, None).await?;
        Ok(&*self.asked[at])
    }

    /// The upstream that a commit came from, or, where that is forgotten, the one that has the repository.
    async fn home_of(&self, repo: &RepoId, commit: Commit) -> Result<&dyn Upstream, UpstreamError> {
        match self.homes.get(&(repo.folded(), commit)).await {
            Some(at) => Ok(&*self.asked[at]),
            None => self.home(repo).await,
        }
    }
}

impl Upstream for Chain {
    fn resolve<'a>(
        &'a self,
        repo: &'a RepoId,
        revision: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Resolved, UpstreamError>> {
        async move { Ok(self.find(repo, revision).await?.1) }.boxed()
    }

    fn access<'a>(&'a self, repo: &'a RepoId) -> BoxFuture<'a, Result<Access, UpstreamError>> {
        async move { self.home(repo).await?.access(repo).await }.boxed()
    }

    fn refs<'a>(&'a self, repo: &'a RepoId) -> BoxFuture<'a, Result<Refs, UpstreamError>> {
        async move { self.home(repo).await?.refs(repo).await }.boxed()
    }

    fn commits<'a>(
        &'a self,
        repo: &'a RepoId,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Commit>, UpstreamError>> {
        async move { self.home(repo).await?.commits(repo, prefix).await }.boxed()
    }

    fn snapshot<'a>(
        &'a self,
        repo: &'a RepoId,
        commit: Commit,
    ) -> BoxFuture<'a, Result<Snapshot, UpstreamError>> {
        async move {
            self.home_of(repo, commit)
                .await?
                .snapshot(repo, commit)
                .await
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<ByteStream, UpstreamError>> {
        async move {
            let home = self.home_of(&file.repo, file.commit).await?;
            home.read(file, range).await
        }
        .boxed()
    }

    fn prove<'a>(&'a self, file: &'a RemoteFile) -> BoxFuture<'a, Result<(), UpstreamError>> {
        async move {
            let home = self.home_of(&file.repo, file.commit).await?;
            home.prove(file).await
        }
        .boxed()
    }

    fn doubt<'a>(&'a self, file: &'a RemoteFile) -> BoxFuture<'a, ()> {
        async move {
            match self.home_of(&file.repo, file.commit).await {
                Ok(home) => home.doubt(file).await,
                Err(error) => {
                    tracing::debug!(%error, "no upstream has what was wrong any more");
                }
            }
        }
        .boxed()
    }
}

impl Credentials for Chain {
    /// The token of somebody who asks goes to the first Hub of the list and to no other; the others are asked without one. It is always
    /// strict: what the Hub does not show to that token may be private.
    fn with_token(&self, token: Option<&Token>) -> Arc<dyn Upstream> {
        let first = self.links.iter().position(|link| link.is_hub);
        let asked = self.links.iter().enumerate().map(|(at, link)| {
            let token = token.filter(|_| Some(at) == first);
            link.credentials.with_token(token)
        });
        let asked = asked.collect();
        Arc::new(Self::asking(Arc::clone(&self.links), true, asked))
    }

    fn knows<'a>(&'a self, token: &'a Token) -> BoxFuture<'a, Result<bool, UpstreamError>> {
        match self.links.iter().find(|link| link.is_hub) {
            Some(hub) => hub.credentials.knows(token),
            None => ready(Ok(false)).boxed(),
        }
    }
}
