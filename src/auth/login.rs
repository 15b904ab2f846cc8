//! Logins with Hub tokens: who presents one, whether the Hub knows it, and what is given out for it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant, SystemTime};

use moka::Expiry;
use moka::future::Cache;

use super::bearer::{Bearers, Login};
use super::htpasswd::LOGINS;
use super::key::Key;
use super::presented::{Presented, Secret};
use super::turns::Waiting;
use super::{Caller, Issued};
use crate::error::{Error, Kind};
use crate::fill::Credential;
use crate::hub::{Credentials, Token, Upstream, UpstreamError};

/// How long a token that the Hub does not know is refused without asking again.
const UNKNOWN: Duration = Duration::from_secs(60);
/// How long a token of which nothing was heard, or that was doubted, is not asked about again.
const DOUBT: Duration = Duration::from_secs(5);
/// How long the Hub may take to say whether it knows a token.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tokens that may be asked about at once: the Hub bears few such calls, and guesses must not crowd out what is served.
const AT_ONCE: usize = 32;

struct Ttl(Duration);

/// What was heard of a token.
#[derive(Debug, Clone)]
enum Heard {
    /// The Hub knows it.
    Known,
    /// It does not.
    Unknown,
    /// It did not say.
    Nothing(Error),
}

impl Expiry<Credential, Heard> for Ttl {
    fn expire_after_create(&self, _: &Credential, heard: &Heard, _: Instant) -> Option<Duration> {
        Some(match heard {
            Heard::Known => self.0,
            Heard::Unknown => UNKNOWN.min(self.0),
            Heard::Nothing(_) => DOUBT.min(self.0),
        })
    }
}

/// Logins with Hub tokens.
pub(super) struct Logins {
    key: Key,
    credentials: Arc<dyn Credentials>,
    bearers: Bearers,
    known: Cache<Credential, Heard>,
    /// The same, asked again because of a doubt.
    doubted: Cache<Credential, Heard>,
    asking: AtomicUsize,
    upstreams: Cache<Credential, Arc<dyn Upstream>>,
}

impl Logins {
    /// What the Hub says of a token is believed for `ttl`.
    pub(super) fn new(key: Key, credentials: Arc<dyn Credentials>, ttl: Duration) -> Self {
        Self {
            bearers: Bearers::new(key.clone(), ttl),
            key,
            credentials,
            known: Cache::builder()
                .max_capacity(10_000)
                .expire_after(Ttl(ttl))
                .build(),
            doubted: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(DOUBT.min(ttl))
                .build(),
            asking: AtomicUsize::new(0),
            upstreams: Cache::builder()
                .max_capacity(1_000)
                .time_to_live(ttl.max(Duration::from_secs(1)))
                .build(),
        }
    }

    /// The upstream as a login asks it. Kept for a while, for the sake of what it learns of addresses and limits.
    pub(super) async fn upstream(&self, login: &Login) -> Arc<dyn Upstream> {
        let made = async { self.credentials.with_token(Some(&login.token)) };
        self.upstreams.get_with(login.credential, made).await
    }

    /// Who asks: an anonymous client, or one with a Hub token. `though_unheard`: also while the Hub does not answer, because each
    /// repository is asked for with the token all the same.
    pub(super) async fn caller(
        &self,
        presented: Presented,
        though_unheard: bool,
    ) -> Result<Caller, Error> {
        match presented {
            Presented::Nothing => Ok(Caller::Anonymous { token: false }),
            Presented::Bearer(token) => match self.bearers.read(&token, SystemTime::now()).await {
                Some(None) => Ok(Caller::Anonymous { token: true }),
                Some(Some(login)) => Ok(Caller::Login(login)),
                None => Err(unauthorized(
                    "the token is not one of this server, or too old; ask for another one",
                )),
            },
            Presented::Basic(_, password) => {
                Ok(Caller::Login(self.login(&password, though_unheard).await?))
            }
            Presented::Garbage => Err(unauthorized("the credentials cannot be understood")),
        }
    }

    /// A token for who asks; `though_unheard` as above.
    pub(super) async fn issue(
        &self,
        presented: Presented,
        though_unheard: bool,
    ) -> Result<Issued, Error> {
        let login = match presented {
            Presented::Nothing => None,
            Presented::Basic(_, password) => Some(self.login(&password, though_unheard).await?),
            Presented::Bearer(_) | Presented::Garbage => {
                return Err(unauthorized("a name and a Hub token are wanted here"));
            }
        };
        let now = SystemTime::now();
        Ok(Issued {
            token: self.bearers.issue(login, now).await,
            lifetime: self.bearers.lifetime(),
            at: now,
        })
    }

    /// Whether the Hub says that it does not know the token of a login any more, now that an answer has put it in doubt. Then the login is
    /// forgotten.
    pub(super) async fn is_gone(&self, login: &Login) -> bool {
        let credential = login.credential;
        let asked = self
            .doubted
            .try_get_with(credential, self.ask(&login.token));
        let gone = matches!(asked.await, Ok(Heard::Unknown));
        if gone {
            self.bearers.forget(&credential).await;
            self.upstreams.invalidate(&credential).await;
            self.known.insert(credential, Heard::Unknown).await;
        }
        gone
    }

    /// The login of a Hub token, if the Hub knows it.
    async fn login(&self, password: &Secret, though_unheard: bool) -> Result<Login, Error> {
        let credential = self.key.hash("token", &[password.reveal().as_bytes()]);
        let refused =
            || unauthorized("the Hub does not know this token; the password is a Hub token (hf_…)");
        let token = Token::new(password.reveal()).map_err(|_| refused())?;
        let asked = self.known.try_get_with(credential, self.ask(&token));
        // That too many are asked about is an error whatever is asked for: else the bound would be none.
        let heard = asked.await.map_err(|error| (*error).clone())?;
        let checked = matches!(heard, Heard::Known);
        match heard {
            Heard::Unknown => Err(refused()),
            Heard::Nothing(error) if !though_unheard => Err(error),
            Heard::Known | Heard::Nothing(_) => Ok(Login {
                credential,
                token,
                checked,
            }),
        }
    }

    /// What the Hub says of a token now. An error if too many are asked about.
    async fn ask(&self, token: &Token) -> Result<Heard, Error> {
        const UNHEARD: &str = "whether the Hub knows the token cannot be found out now; ask again";
        let _place = Waiting::new(&self.asking, AT_ONCE, LOGINS)?;
        let answer = tokio::time::timeout(PATIENCE, self.credentials.knows(token)).await;
        let error = match answer {
            Ok(Ok(true)) => return Ok(Heard::Known),
            Ok(Ok(false)) => return Ok(Heard::Unknown),
            Ok(Err(error)) => error,
            Err(_) => UpstreamError::Timeout("it did not answer in time".to_owned()),
        };
        tracing::warn!(%error, "a login could not be checked at the Hub");
        let kind = match Error::from(error).kind {
            kind @ Kind::TooManyRequests(_) => kind,
            _ => Kind::Unavailable,
        };
        Ok(Heard::Nothing(Error::new(kind, UNHEARD)))
    }
}

/// A refusal that a login may change.
pub(super) fn unauthorized(message: &str) -> Error {
    Error::new(Kind::Unauthorized, message)
}
