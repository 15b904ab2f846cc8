//! Who may read what, as the Hub says it for each credential, and how long that is believed.
//!
//! Each question is asked with the credential of whoever asks, so a decision is that of the Hub. Public is only what the Hub shows to an
//! anonymous client; that is asked for once for all. While the Hub does not answer, a decision stands for its time; after that only what
//! was known to be public is served.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;

use super::bearer::Login;
use super::login::Logins;
use super::turns::Turns;
use crate::error::{Error, Kind};
use crate::fill::Credential;
use crate::hub::{Access, Credentials, RemoteFile, Resolved, Upstream, UpstreamError};
use crate::repo::{RepoId, Visibility};
use crate::store::Store;

/// The most decisions that are remembered.
const CAPACITY: u64 = 100_000;
/// How long a refusal is believed.
const NEGATIVE: Duration = Duration::from_secs(5);
/// How long what was public is served before the Hub is tried again.
const STALE: Duration = Duration::from_secs(30);
/// How long the Hub may take to answer, the wait for a turn included.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is not asked the same again after it did not answer.
const OUTAGE: Duration = Duration::from_secs(5);
/// Questions at once about repositories that are not cached, or not public, of those who did not log in, and as many of those who did: names
/// may be made up, and what is being served needs the Hub too.
const AT_ONCE: usize = 3;
/// For how many times the time that decisions are believed a name may stand in lists.
const LATELY: u32 = 12;
/// Those who may wait for it.
const QUEUE: usize = 256;

/// What there may be too many of.
const NEW: &str = "repositories are being asked about";

/// What a credential may do with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Everybody may read it.
    Public,
    /// Everybody might read it when it was last known; the Hub does not answer now.
    WasPublic,
    /// Not everybody may read it, but this credential may.
    Admitted,
    /// It is gated, and this credential was not let in (yet).
    Gated,
    /// It does not exist, or this credential may not know of it.
    Unknown,
    /// The Hub has closed it.
    Disabled,
    /// The Hub refused the credential itself: it may not know it any more.
    BadToken,
}

type Question = (Option<Credential>, RepoId);

/// A decision, or why there is none now.
type Answer = Result<Decision, Error>;

/// Who asks with a Hub token, and the logins that know how the Hub is asked with it.
type Asks<'a> = (&'a Login, &'a Logins);

struct Ttl(Duration);

impl Expiry<Question, Answer> for Ttl {
    fn expire_after_create(&self, _: &Question, made: &Answer, _: Instant) -> Option<Duration> {
        Some(match made {
            Ok(Decision::Public | Decision::Admitted) => self.0,
            Ok(Decision::WasPublic) => STALE.min(self.0),
            Ok(Decision::Gated | Decision::Unknown | Decision::Disabled | Decision::BadToken) => {
                NEGATIVE.min(self.0)
            }
            Err(_) => OUTAGE.min(self.0),
        })
    }
}

/// The decisions, remembered.
pub(super) struct Decisions {
    /// Asked without a credential. It is the same one always, as it knows how long the Hub wants to be left alone.
    anonymous: Arc<dyn Upstream>,
    store: Arc<Store>,
    made: Cache<Question, Answer>,
    /// What the Hub has shown to everybody lately.
    shown: Cache<RepoId, ()>,
    strangers: Turns,
    members: Turns,
}

impl Decisions {
    /// Decisions are believed for `ttl`.
    pub(super) fn new(credentials: &dyn Credentials, store: Arc<Store>, ttl: Duration) -> Self {
        Self {
            anonymous: credentials.with_token(None),
            store,
            made: Cache::builder()
                .max_capacity(CAPACITY)
                .expire_after(Ttl(ttl))
                .build(),
            shown: Cache::builder()
                .max_capacity(CAPACITY)
                .time_to_live(ttl.saturating_mul(LATELY))
                .build(),
            strangers: Turns::new(AT_ONCE, QUEUE),
            members: Turns::new(AT_ONCE, QUEUE),
        }
    }

    /// What a login, or an anonymous client, may do with `repo`, whose letters are folded. Those who ask the same at once are one question
    /// to the Hub.
    pub(super) async fn of(&self, asks: Option<Asks<'_>>, repo: &RepoId) -> Answer {
        let everybody = (None, repo.clone());
        if let Some(known @ Ok(Decision::Public)) = self.made.get(&everybody).await {
            return known;
        }
        let credential = asks.map(|(login, _)| login.credential);
        let asked = self.ask(asks, repo);
        let made = self.made.try_get_with((credential, repo.clone()), asked);
        let made = made.await.map_err(|error| (*error).clone())??;
        if made == Decision::Public && credential.is_some() {
            self.made.insert(everybody, Ok(made)).await;
        }
        Ok(made)
    }

    /// Whether the Hub has shown `repo` to everybody lately, if it was asked.
    pub(super) async fn shown(&self, repo: &RepoId) -> Option<bool> {
        match self.made.get(&(None, repo.clone())).await {
            Some(made) => Some(matches!(made, Ok(Decision::Public | Decision::WasPublic))),
            None => self.shown.get(repo).await.map(|()| true),
        }
    }

    /// Forgets what was decided: something since then says otherwise.
    pub(super) async fn forget(&self, credential: Option<Credential>, repo: &RepoId) {
        self.made.invalidate(&(None, repo.clone())).await;
        self.made.invalidate(&(credential, repo.clone())).await;
    }

    /// Asks the Hub, in turn. An error, other than one inside the answer, if too many ask.
    async fn ask(&self, asks: Option<Asks<'_>>, repo: &RepoId) -> Result<Answer, Error> {
        // Only what everybody may know of goes without: else who is put off would tell what is cached and private from what is not there.
        let place = match (self.store.visibility(repo), asks) {
            (Some(Visibility::Public), _) => None,
            (_, None) => Some(self.strangers.place(NEW)?),
            (_, Some(_)) => Some(self.members.place(NEW)?),
        };
        let answered = async {
            let _turn = match &place {
                Some(place) => place.turn().await,
                None => None,
            };
            self.visibility_to(asks, repo).await
        };
        let answer = tokio::time::timeout(PATIENCE, answered).await;
        let answer = answer.unwrap_or_else(|_| {
            let what = format!("no answer within {} s", PATIENCE.as_secs());
            Err(UpstreamError::Timeout(what))
        });
        let (decision, visibility) = match answer {
            Ok(Visibility::Public) => (Decision::Public, Visibility::Public),
            Ok(closed) => (Decision::Admitted, closed),
            Err(UpstreamError::Gated(_)) => (Decision::Gated, Visibility::Gated),
            Err(UpstreamError::RepositoryUnknown(_)) => (Decision::Unknown, Visibility::Private),
            Err(UpstreamError::Disabled(_)) => (Decision::Disabled, Visibility::Private),
            Err(UpstreamError::BadToken(_)) if asks.is_some() => return Ok(Ok(Decision::BadToken)),
            // That says something of the token, not of the repository.
            Err(UpstreamError::Forbidden(_)) if asks.is_some() => return Ok(Ok(Decision::Unknown)),
            Err(outage) => return Ok(self.without_answer(repo, outage)),
        };
        match visibility.is_public() {
            true => self.shown.insert(repo.clone(), ()).await,
            false => self.shown.invalidate(repo).await,
        }
        self.note(repo, visibility).await;
        Ok(Ok(decision))
    }

    /// Who may read a repository that the login, or an anonymous client, may read.
    async fn visibility_to(
        &self,
        asks: Option<Asks<'_>>,
        repo: &RepoId,
    ) -> Result<Visibility, UpstreamError> {
        let upstream = match asks {
            Some((login, logins)) => logins.upstream(login).await,
            None => Arc::clone(&self.anonymous),
        };
        let resolved = upstream.resolve(repo, None).await?;
        let visibility = resolved.visibility();
        if asks.is_none() {
            return match resolved.gated {
                true => Err(UpstreamError::Gated(resolved.repo)),
                false => Ok(Visibility::Public),
            };
        }
        if resolved.gated {
            // Whoever sees it may not yet read it.
            may_read(&*upstream, &resolved).await?;
        }
        if !visibility.is_public() {
            return Ok(visibility);
        }
        // A mirror may not say that something is private.
        match self.anonymous.resolve(repo, None).await {
            Ok(everybody) => Ok(everybody.visibility()),
            Err(UpstreamError::RepositoryUnknown(_) | UpstreamError::Gated(_)) => {
                Ok(Visibility::Private)
            }
            Err(outage) => Err(outage),
        }
    }

    /// What is decided when the Hub does not answer. A refusal is the same whether or not there is such a repository.
    fn without_answer(&self, repo: &RepoId, outage: UpstreamError) -> Answer {
        if self.store.visibility(repo) == Some(Visibility::Public) {
            tracing::warn!(%repo, error = %outage, outcome = "stale", "serving what was public");
            return Ok(Decision::WasPublic);
        }
        tracing::warn!(%repo, error = %outage, "who may read a repository cannot be found out");
        let (kind, why) = match Error::from(outage).kind {
            kind @ Kind::TooManyRequests(_) => (kind, "the Hub's rate limit is reached"),
            kind @ Kind::Offline => (kind, "the server is offline"),
            _ => (Kind::Unavailable, "the Hub does not answer"),
        };
        // What the outage says beside that may be known by another one's credentials.
        let message = format!("whether {repo} may be read cannot be found out now: {why}");
        Err(Error::new(kind, message))
    }

    /// Keeps for later what was learned of a repository that is cached.
    async fn note(&self, repo: &RepoId, visibility: Visibility) {
        let cached = self.store.canonical(repo).is_some();
        if !cached || self.store.visibility(repo) == Some(visibility) {
            return;
        }
        let (store, asked) = (Arc::clone(&self.store), repo.clone());
        let noted = tokio::task::spawn_blocking(move || store.note_visibility(&asked, visibility));
        if let Ok(Err(error)) = noted.await {
            tracing::warn!(%repo, %error, "who may read a repository could not be noted");
        }
    }
}

/// Refuses a gated repository whose content is not given to the credentials of `upstream`.
///
/// What is cached is served on this word alone, so a mirror that does not say it has to give the beginning of the longest file.
async fn may_read(upstream: &dyn Upstream, resolved: &Resolved) -> Result<(), UpstreamError> {
    let Resolved { repo, commit, .. } = resolved;
    match upstream.access(repo).await {
        Ok(Access::Granted) => return Ok(()),
        Ok(Access::Untold) => {}
        Err(UpstreamError::Forbidden(_)) => return Err(UpstreamError::Gated(repo.clone())),
        Err(error) => return Err(error),
    }
    let snapshot = upstream.snapshot(repo, *commit).await?;
    let longest = snapshot.files().iter().max_by_key(|file| file.size);
    let Some(file) = longest.filter(|file| file.size > 0) else {
        return Err(UpstreamError::Gated(repo.clone()));
    };
    let file = RemoteFile {
        repo: repo.clone(),
        commit: *commit,
        path: file.path.clone(),
        size: file.size,
        content: file.content,
    };
    match upstream.prove(&file).await {
        Err(
            UpstreamError::RepositoryUnknown(_)
            | UpstreamError::BadToken(_)
            | UpstreamError::Forbidden(_),
        ) => Err(UpstreamError::Gated(repo.clone())),
        read => read,
    }
}
