//! The Hub's client: what each call of [`Upstream`] asks, in which order, and what stands in where a mirror knows less than the Hub.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use moka::future::Cache;
use reqwest::Url;

use crate::repo::{Commit, RepoId, Snapshot};

use super::body::{Locations, Place, Reader};
use super::endpoint::{Endpoint, encode_revision};
use super::http::{Answer, Http};
use super::pace::Pace;
use super::refusal::About;
use super::retry::{Policy, Purpose};
use super::sequence::Sequences;
use super::token::Token;
use super::{
    Access, ByteStream, Credentials, Refs, RemoteFile, Resolved, Upstream, UpstreamError, first,
    tls, wire,
};

/// The longest page of a listing.
const MAX_PAGE: usize = 16 << 20;
/// The longest other answer.
const MAX_ANSWER: usize = 4 << 20;
/// Pages of one listing, 1,000 files each at the Hub.
const MAX_PAGES: usize = 1000;
/// Files of one listing.
const MAX_FILES: usize = 1_000_000;
/// Pages of a history that are searched for a commit, 50 or more each.
const MAX_HISTORY: usize = 20;

/// How to reach the Hub.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// The Hub or a mirror of it.
    pub endpoint: Endpoint,
    /// The server's own credential. It is sent to the endpoint's origin and to nobody else.
    pub token: Option<Token>,
    /// File bodies read at once. Metadata has a few requests of its own beside them.
    pub connections: usize,
    /// How long a connection may be silent before it counts as stalled.
    pub stall: Duration,
    /// How long a connection may take to be made.
    pub connect: Duration,
    /// Attempts after the first; for content counted from the last byte that came.
    pub retries: u32,
    /// The pause before the second attempt, about; it doubles with each further one.
    pub backoff: Duration,
    /// The longest that a fill waits at the wish of the upstream's rate limit. If that wants more, the fill ends and its clients are
    /// told how long. Questions before a fill wait for 20 s at most.
    pub patience: Duration,
    /// The `User-Agent` header.
    pub user_agent: String,
}

impl Default for HubSettings {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::default(),
            token: None,
            connections: 16,
            stall: Duration::from_secs(30),
            connect: Duration::from_secs(10),
            retries: 5,
            backoff: Duration::from_millis(300),
            patience: Duration::from_secs(300),
            user_agent: concat!("hf-oci/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// The client could not be made from its settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the Hub's client cannot be set up: {0}")]
pub struct SetupError(pub(super) String);

/// The Hub, or a mirror of it. Cheap to clone; clones share connections, limits and caches.
#[derive(Clone)]
pub struct HubClient {
    http: Arc<Http>,
    /// Folded ids to the canonical ones.
    canonical: Cache<RepoId, RepoId>,
    locations: Locations,
    sequences: Sequences,
    /// Of the questions whether tokens are known, whosever they are.
    guests: Arc<Pace>,
}

/// What an upstream says about a repository's named revisions.
enum Named {
    /// The document.
    Listed(Bytes),
    /// Nothing; but this is its default branch's commit.
    Unlisted(Commit),
}

impl HubClient {
    /// Makes the client. No request is sent. The proxy variables (`HTTPS_PROXY`, `NO_PROXY`, …) are honoured.
    pub fn new(settings: HubSettings) -> Result<Self, SetupError> {
        let policy = Policy {
            base: settings.backoff,
            patience: settings.patience,
            ..Policy::new(settings.retries)
        };
        Self::with_policy(settings, policy)
    }

    pub(super) fn with_policy(settings: HubSettings, policy: Policy) -> Result<Self, SetupError> {
        let client = tls::client(&settings)?;
        let http = Http::new(
            client,
            settings.endpoint,
            settings.token,
            policy,
            settings.connections,
            settings.stall,
        );
        Ok(Self {
            guests: http.with_token(None).pace(),
            http: Arc::new(http),
            canonical: Cache::builder()
                .max_capacity(100_000)
                .time_to_live(Duration::from_secs(3600))
                .build(),
            locations: locations(),
            sequences: Sequences::new(),
        })
    }

    /// `/api/{t}/{id}{rest}`
    fn api(&self, repo: &RepoId, rest: &str, query: Option<&str>) -> Url {
        let path = format!("/api/{}/{}{rest}", repo.kind().api(), repo.id());
        self.http.endpoint.url(&path, query)
    }

    /// The canonical spelling, as far as it is known.
    async fn spelling(&self, repo: &RepoId) -> RepoId {
        let known = self.canonical.get(&repo.folded()).await;
        known.unwrap_or_else(|| repo.clone())
    }

    async fn resolve_any(
        &self,
        repo: &RepoId,
        revision: Option<&str>,
    ) -> Result<Resolved, UpstreamError> {
        let asked = self.spelling(repo).await;
        let found = match self.resolve_spelled(&asked, revision).await {
            Err(UpstreamError::RepositoryUnknown(_)) => {
                self.canonical.invalidate(&repo.folded()).await;
                match self.search(repo, &asked).await? {
                    Some(other) => self.resolve_spelled(&other, revision).await,
                    None => Err(UpstreamError::RepositoryUnknown(repo.clone())),
                }
            }
            other => other,
        }?;
        let canonical = found.repo.clone();
        self.canonical.insert(repo.folded(), canonical).await;
        Ok(found)
    }

    /// Another spelling to try after `asked` was unknown. The Hub folds letters by itself; a mirror may know them only as they are.
    async fn search(&self, repo: &RepoId, asked: &RepoId) -> Result<Option<RepoId>, UpstreamError> {
        if self.http.endpoint.is_hub() || !repo.id().bytes().any(|b| b.is_ascii_alphabetic()) {
            return Ok(None);
        }
        let query = match repo.id().split_once('/') {
            Some((org, name)) => format!("search={name}&author={org}"),
            None => format!("search={}", repo.id()),
        };
        let path = format!("/api/{}", repo.kind().api());
        let url = self.http.endpoint.url(&path, Some(&query));
        // Asked once: this is a guess, and a mirror without a search has its own way to say so.
        let Ok(answer) = self.http.once(Purpose::Answer, url, MAX_ANSWER).await else {
            return Ok(None);
        };
        let found = match answer.ok(About::Repo(repo)) {
            Ok(body) => wire::spelled(&body, repo)?,
            Err(_) => None,
        };
        Ok(found.filter(|other| other != asked))
    }

    /// Resolves a repository whose letters are right, or at the Hub any.
    async fn resolve_spelled(
        &self,
        repo: &RepoId,
        revision: Option<&str>,
    ) -> Result<Resolved, UpstreamError> {
        let first = self.describe(repo, revision).await;
        let unsure = matches!(first, Err(UpstreamError::RepositoryUnknown(_)));
        if !unsure || self.http.endpoint.is_hub() {
            return first;
        }
        // Some mirrors want a revision always, and do not say whether the repository or the revision is missing.
        match revision {
            None => self.describe(repo, Some("main")).await,
            Some("main") => first,
            Some(name) => match self.describe(repo, Some("main")).await {
                Ok(_) => Err(no_revision(repo, name)),
                Err(_) => first,
            },
        }
    }

    async fn describe(
        &self,
        repo: &RepoId,
        revision: Option<&str>,
    ) -> Result<Resolved, UpstreamError> {
        let (rest, about) = match revision {
            None => (String::new(), About::Repo(repo)),
            Some(name) => {
                let encoded = encode_revision(name).ok_or_else(|| no_revision(repo, name))?;
                (format!("/revision/{encoded}"), About::Revision(repo, name))
            }
        };
        let url = self.api(repo, &rest, None);
        let answer = self.http.call(Purpose::Answer, url, MAX_ANSWER).await?;
        wire::resolved(&answer.ok(about)?, repo)
    }

    async fn access_to(&self, repo: &RepoId) -> Result<Access, UpstreamError> {
        let repo = self.spelling(repo).await;
        let url = self.api(&repo, "/auth-check", None);
        let answer = self.http.call(Purpose::Answer, url, MAX_ANSWER).await?;
        if answer.is_absent() && !self.http.endpoint.is_hub() {
            return Ok(Access::Untold);
        }
        answer.ok(About::Repo(&repo)).map(|_| Access::Granted)
    }

    async fn refs_of(&self, repo: &RepoId) -> Result<Refs, UpstreamError> {
        match self.ask_refs(repo, None).await? {
            (repo, Named::Listed(body)) => wire::refs(&body, &repo),
            (_, Named::Unlisted(commit)) => Ok(Refs {
                branches: vec![("main".to_owned(), commit)],
                tags: Vec::new(),
            }),
        }
    }

    /// The document of named revisions, and the spelling under which the upstream has it.
    async fn ask_refs(
        &self,
        repo: &RepoId,
        query: Option<&str>,
    ) -> Result<(RepoId, Named), UpstreamError> {
        let asked = self.spelling(repo).await;
        let url = self.api(&asked, "/refs", query);
        let answer = self.http.call(Purpose::Answer, url, MAX_ANSWER).await?;
        let error = match answer.ok(About::Repo(&asked)) {
            Ok(body) => return Ok((asked, Named::Listed(body))),
            Err(error) => error,
        };
        let unknown = matches!(error, UpstreamError::RepositoryUnknown(_));
        if self.http.endpoint.is_hub() || !(unknown || answer.is_absent()) {
            return Err(error);
        }
        // A mirror that has no such call, or does not know the repository by this spelling.
        let found = self.resolve_any(repo, None).await?;
        if found.repo != asked {
            let url = self.api(&found.repo, "/refs", query);
            let answer = self.http.call(Purpose::Answer, url, MAX_ANSWER).await?;
            if let Ok(body) = answer.ok(About::Repo(&found.repo)) {
                return Ok((found.repo, Named::Listed(body)));
            }
        }
        Ok((found.repo, Named::Unlisted(found.commit)))
    }

    async fn commits_of(&self, repo: &RepoId, prefix: &str) -> Result<Vec<Commit>, UpstreamError> {
        let (repo, named) = self.ask_refs(repo, Some("include_prs=1")).await?;
        let (mut known, default) = match named {
            Named::Listed(body) => wire::targets(&body, &repo)?,
            Named::Unlisted(commit) => (vec![commit], None),
        };
        known.extend(self.history(&repo, default.as_deref()).await?);
        known.retain(|commit| commit.to_string().starts_with(prefix));
        let unique: BTreeSet<_> = known.into_iter().collect();
        Ok(unique.into_iter().collect())
    }

    /// The latest commits of a branch; none where the upstream does not tell.
    async fn history(
        &self,
        repo: &RepoId,
        branch: Option<&str>,
    ) -> Result<Vec<Commit>, UpstreamError> {
        let Some(branch) = encode_revision(branch.unwrap_or("main")) else {
            return Ok(Vec::new());
        };
        let mut commits = Vec::new();
        let mut next = Some(self.api(repo, &format!("/commits/{branch}"), None));
        for _ in 0..MAX_HISTORY {
            let Some(url) = next else { break };
            let answer = self.http.call(Purpose::Answer, url, MAX_ANSWER).await?;
            if answer.is_absent() {
                break;
            }
            let page = wire::history(&answer.ok(About::Repo(repo))?, repo)?;
            commits.extend(page);
            next = self.next_page(&answer, repo)?;
        }
        Ok(commits)
    }

    async fn snapshot_of(&self, repo: &RepoId, commit: Commit) -> Result<Snapshot, UpstreamError> {
        let repo = self.spelling(repo).await;
        let revision = commit.to_string();
        let about = About::Revision(&repo, &revision);
        let mut files = Vec::new();
        let rest = format!("/tree/{revision}");
        let mut next = Some(self.api(&repo, &rest, Some("recursive=true")));
        for _ in 0..MAX_PAGES {
            let Some(url) = next else { break };
            let answer = self.http.call(Purpose::Fill, url, MAX_PAGE).await?;
            files.append(&mut wire::files(&answer.ok(about)?, &repo, commit)?);
            next = self.next_page(&answer, &repo)?;
            if files.len() > MAX_FILES {
                break;
            }
        }
        if next.is_some() || files.len() > MAX_FILES {
            let what = format!("the listing of {repo} at {commit} does not end");
            return Err(UpstreamError::Broken(what));
        }
        Snapshot::new(files).map_err(|error| UpstreamError::Content { repo, error })
    }

    /// The next page at our own endpoint, whatever host the upstream names.
    fn next_page(&self, answer: &Answer, repo: &RepoId) -> Result<Option<Url>, UpstreamError> {
        let Some(link) = answer.next() else {
            return Ok(None);
        };
        match self.http.endpoint.rehome(&answer.url, link) {
            Some(next) if next != answer.url => Ok(Some(next)),
            _ => Err(UpstreamError::Broken(format!(
                "a listing of {repo} has a next page that leads nowhere"
            ))),
        }
    }

    async fn read_range(
        &self,
        file: &RemoteFile,
        range: Range<u64>,
    ) -> Result<ByteStream, UpstreamError> {
        if range.end > file.size {
            let (path, size) = (&file.path, file.size);
            let what = format!("bytes up to {} of {path:?}, which has {size}", range.end);
            return Err(UpstreamError::Broken(what));
        }
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let place = Place {
            http: Arc::clone(&self.http),
            locations: self.locations.clone(),
            sequences: self.sequences.clone(),
        };
        Reader::new(place, file.clone(), range).start().await
    }

    /// The same client without what it knows of where content is: it has to ask for it anew.
    fn forgetful(&self) -> Self {
        Self {
            locations: locations(),
            sequences: Sequences::new(),
            ..self.clone()
        }
    }
}

/// Signatures hold for an hour at the Hub.
fn locations() -> Locations {
    Cache::builder()
        .max_capacity(10_000)
        .time_to_live(Duration::from_secs(600))
        .build()
}

fn no_revision(repo: &RepoId, revision: &str) -> UpstreamError {
    UpstreamError::RevisionUnknown {
        repo: repo.clone(),
        revision: wire::clip(revision),
    }
}

impl Credentials for HubClient {
    fn with_token(&self, token: Option<&Token>) -> Arc<dyn Upstream> {
        Arc::new(Self {
            http: Arc::new(self.http.with_token(token.cloned())),
            // How ids are spelled only makes addresses; whether they may be asked for, the upstream says to each credential.
            canonical: self.canonical.clone(),
            // A signed address is as good as the content itself.
            locations: locations(),
            sequences: Sequences::new(),
            guests: Arc::clone(&self.guests),
        })
    }

    fn knows<'a>(&'a self, token: &'a Token) -> BoxFuture<'a, Result<bool, UpstreamError>> {
        let http = self.http.with_token(Some(token.clone()));
        let http = http.with_pace(Arc::clone(&self.guests));
        async move {
            let url = http.endpoint.url("/api/whoami-v2", None);
            let answer = http.call(Purpose::Answer, url, MAX_ANSWER).await?;
            // A mirror without this call leaves it to the other calls.
            Ok(!answer.is_unauthorized())
        }
        .boxed()
    }
}

impl Upstream for HubClient {
    fn resolve<'a>(
        &'a self,
        repo: &'a RepoId,
        revision: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Resolved, UpstreamError>> {
        self.resolve_any(repo, revision).boxed()
    }

    fn access<'a>(&'a self, repo: &'a RepoId) -> BoxFuture<'a, Result<Access, UpstreamError>> {
        self.access_to(repo).boxed()
    }

    fn refs<'a>(&'a self, repo: &'a RepoId) -> BoxFuture<'a, Result<Refs, UpstreamError>> {
        self.refs_of(repo).boxed()
    }

    fn commits<'a>(
        &'a self,
        repo: &'a RepoId,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Commit>, UpstreamError>> {
        self.commits_of(repo, prefix).boxed()
    }

    fn snapshot<'a>(
        &'a self,
        repo: &'a RepoId,
        commit: Commit,
    ) -> BoxFuture<'a, Result<Snapshot, UpstreamError>> {
        self.snapshot_of(repo, commit).boxed()
    }

    fn read<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<ByteStream, UpstreamError>> {
        self.read_range(file, range).boxed()
    }

    fn prove<'a>(&'a self, file: &'a RemoteFile) -> BoxFuture<'a, Result<(), UpstreamError>> {
        let range = 0..file.size.min(1);
        async move { first(self.forgetful().read_range(file, range).await?).await }.boxed()
    }
}
