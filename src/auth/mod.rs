//! Who asks, and what they may read.
//!
//! A request goes through three steps: [`Gate::authenticate`] says who asks, [`Gate::permit`] whether they may read a repository and with
//! whose credentials the upstream is asked for it, and, if either refuses, [`Gate::challenge`] how to log in. Nothing here knows of answers
//! or bodies. Passwords and Hub tokens are in memory only, in types that do not print; whatever is remembered of them is a keyed hash.
//!
//! Those who may not read a private repository cannot tell it from one that does not exist: the upstream is asked with their own
//! credential (or none), whether or not something is cached, and the answer is the same.

mod bearer;
mod decide;
mod htpasswd;
mod key;
mod login;
mod presented;
mod refusal;
mod rules;
mod site;
mod turns;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::HeaderMap;
use hyper::http::request::Parts;
use tokio::time::{Instant, timeout_at};

pub use bearer::Login;
pub use rules::Rules;
pub use site::{Flaw, Site};

pub use crate::repo::{Glob, GlobError};

use self::decide::{Decision, Decisions};
use self::htpasswd::Htpasswd;
use self::key::Key;
use self::login::{Logins, unauthorized};
use self::presented::Presented;
use crate::error::Error;
use crate::fill::Asker;
use crate::hub::{Credentials, Upstream};
use crate::image::ImageName;
use crate::repo::{RepoId, Visibility};
use crate::store::Store;

/// Repositories that the upstream is asked about for one list of them, and how long that may take.
const LISTED_ANEW: u32 = 16;
const LISTING: Duration = Duration::from_secs(10);

/// Who is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Everybody, to everything that the server's own credentials open.
    Open,
    /// Everybody, to public repositories.
    Public,
    /// The users of this file, to everything that the server's own credentials open.
    Htpasswd(PathBuf),
    /// Everybody to public repositories, and those who log in with a Hub token to what it opens.
    HuggingFace,
}

/// How the gate is set up.
#[derive(Debug, Clone)]
pub struct GateSettings {
    /// Who is let in.
    pub mode: Mode,
    /// How long what the Hub said of an access is believed.
    pub ttl: Duration,
    /// Which repositories are served.
    pub rules: Rules,
    /// How clients reach this server.
    pub site: Site,
}

/// The gate could not be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GateError(String);

/// Who asks.
#[derive(Debug, Clone)]
pub enum Caller {
    /// Somebody who may have all that the server serves.
    Anyone,
    /// Somebody without a Hub token.
    Anonymous {
        /// Whether they presented an anonymous token of this server.
        token: bool,
    },
    /// Somebody with a Hub token.
    Login(Login),
}

/// A token for a client.
pub struct Issued {
    /// What the client is to present.
    pub token: String,
    /// For how long.
    pub lifetime: Duration,
    /// When it was made.
    pub at: SystemTime,
}

/// What the gate works with.
struct Place {
    own: Arc<dyn Upstream>,
    store: Arc<Store>,
}

enum Door {
    Open,
    Public {
        decisions: Decisions,
    },
    Htpasswd(Box<Htpasswd>),
    HuggingFace {
        decisions: Decisions,
        logins: Box<Logins>,
    },
}

/// By which right a repository may be read.
enum Permit<'a> {
    /// That of everybody whom the door lets in.
    All,
    /// It is public.
    Public,
    /// That of this login.
    Personal(&'a Login),
}

/// Lets requests in, or not.
pub struct Gate {
    door: Door,
    rules: Arc<Rules>,
    site: Site,
    place: Option<Place>,
}

impl Gate {
    /// Lets everybody have everything.
    pub fn open() -> Self {
        Self {
            door: Door::Open,
            rules: Arc::default(),
            site: Site::default(),
            place: None,
        }
    }

    /// A gate before what `own` gives and `store` holds; `credentials` is the same upstream, for asking on behalf of others. Blocks on the
    /// file of users, if there is one.
    pub fn new(
        settings: GateSettings,
        own: Arc<dyn Upstream>,
        credentials: Arc<dyn Credentials>,
        store: Arc<Store>,
    ) -> Result<Self, GateError> {
        let key = Key::random().map_err(|error| GateError(error.to_string()))?;
        let decisions = || Decisions::new(&*credentials, Arc::clone(&store), settings.ttl);
        let door = match &settings.mode {
            Mode::Open => Door::Open,
            Mode::Public => Door::Public {
                decisions: decisions(),
            },
            Mode::Htpasswd(file) => {
                let users = Htpasswd::open(file, key).map_err(GateError)?;
                Door::Htpasswd(Box::new(users))
            }
            Mode::HuggingFace => Door::HuggingFace {
                decisions: decisions(),
                logins: Box::new(Logins::new(key, Arc::clone(&credentials), settings.ttl)),
            },
        };
        Ok(Self {
            door,
            rules: Arc::new(settings.rules),
            site: settings.site,
            place: Some(Place { own, store }),
        })
    }

    /// Whether everybody has everything, now and later.
    pub const fn is_open(&self) -> bool {
        matches!(self.door, Door::Open)
    }

    /// Who asks. `for_pull`: for a repository, so that what they may do is seen later. An error of
    /// [`Kind::Unauthorized`](crate::Kind::Unauthorized) wants a [challenge](Self::challenge) beside it.
    pub async fn authenticate(&self, headers: &HeaderMap, for_pull: bool) -> Result<Caller, Error> {
        match &self.door {
            Door::Open | Door::Public { .. } => Ok(Caller::Anyone),
            Door::Htpasswd(users) => match Presented::of(headers) {
                Presented::Basic(user, password) if users.check(&user, &password).await? => {
                    Ok(Caller::Anyone)
                }
                Presented::Nothing => Err(unauthorized("this registry wants a login")),
                _ => Err(unauthorized("the name or the password is wrong")),
            },
            Door::HuggingFace { logins, .. } => {
                logins.caller(Presented::of(headers), for_pull).await
            }
        }
    }

    /// A token for who asks at `/token`, by its headers or, if it has one, by its `form`; `for_pull` as above. `None` if this server gives
    /// out none.
    pub async fn token(
        &self,
        headers: &HeaderMap,
        form: Option<&[u8]>,
        for_pull: bool,
    ) -> Option<Result<Issued, Error>> {
        let Door::HuggingFace { logins, .. } = &self.door else {
            return None;
        };
        let presented = match form {
            Some(form) => Presented::of_form(form),
            None => Presented::of(headers),
        };
        Some(logins.issue(presented, for_pull).await)
    }

    /// The `WWW-Authenticate` header for a request that needs a login: about the repository `name`, if it is about one. `flaw` counts only
    /// if the request presented a token.
    pub fn challenge(&self, request: &Parts, name: Option<&str>, flaw: Flaw) -> Option<String> {
        match &self.door {
            Door::Open | Door::Public { .. } => None,
            Door::Htpasswd(_) => Some(site::basic()),
            Door::HuggingFace { .. } => {
                let token = matches!(Presented::of(&request.headers), Presented::Bearer(_));
                Some(self.site.bearer(request, name, token.then_some(flaw)))
            }
        }
    }

    /// Those of `names` that everybody whom the gate lets in may know of, as far as that was heard lately. Of others the upstream is asked
    /// about a few, for the sake of the next list too.
    pub async fn listed(&self, names: Vec<String>) -> Vec<String> {
        let until = Instant::now() + LISTING;
        let (mut listed, mut questions) = (Vec::new(), LISTED_ANEW);
        for text in names {
            let name = ImageName::parse(&text).ok();
            if let Some(name) = name.filter(|name| self.served(name).is_ok())
                && self.lists(&name, &mut questions, until).await
            {
                listed.push(text);
            }
        }
        listed
    }

    async fn lists(&self, name: &ImageName, questions: &mut u32, until: Instant) -> bool {
        let (Door::Public { decisions } | Door::HuggingFace { decisions, .. }) = &self.door else {
            return true;
        };
        let store = self.place.as_ref().map(|place| &place.store);
        let known = store.and_then(|store| store.visibility(name.repo()));
        if known != Some(Visibility::Public) {
            return false;
        }
        if let Some(shown) = decisions.shown(name.repo()).await {
            return shown;
        }
        if *questions == 0 {
            return false;
        }
        *questions -= 1;
        let asked = timeout_at(until, decisions.of(None, name.repo())).await;
        matches!(asked, Ok(Ok(Decision::Public | Decision::WasPublic)))
    }

    /// Refuses a repository that the rules leave out, by the name asked for and by the one that it is known to have.
    pub fn served(&self, name: &ImageName) -> Result<(), Error> {
        if self.rules.is_empty() {
            return Ok(());
        }
        self.rules.check(name.repo())?;
        let place = self.place.as_ref();
        let known = place.and_then(|place| place.store.canonical(name.repo()));
        known.map_or(Ok(()), |known| self.rules.check(&known))
    }

    /// Whether `caller` may read what is cached of the repository of `name`.
    pub async fn admit(&self, caller: &Caller, name: &ImageName) -> Result<(), Error> {
        self.decide(caller, name).await.map(drop)
    }

    /// Whether `caller` may read the repository of `name`, and on whose behalf it is looked for: `None` if the server's own credentials
    /// are asked with and nothing else is to be seen to.
    pub async fn permit(&self, caller: &Caller, name: &ImageName) -> Result<Option<Asker>, Error> {
        let permit = self.decide(caller, name).await?;
        let Some(place) = &self.place else {
            return Ok(None);
        };
        Ok(match (permit, &self.door) {
            (Permit::All, _) if self.rules.is_empty() => None,
            (Permit::Personal(login), Door::HuggingFace { logins, .. }) => {
                Some(self.personal(logins.upstream(login).await, login))
            }
            (Permit::All | Permit::Personal(_), _) => Some(self.shared(place, false)),
            (Permit::Public, _) => Some(self.shared(place, true)),
        })
    }

    async fn decide<'a>(&self, caller: &'a Caller, name: &ImageName) -> Result<Permit<'a>, Error> {
        self.served(name)?;
        let repo = name.repo();
        let (decision, login) = match (&self.door, caller) {
            (Door::Open | Door::Htpasswd(_), _) => return Ok(Permit::All),
            (Door::HuggingFace { decisions, logins }, Caller::Login(login)) => {
                let asks = Some((login, &**logins));
                (decisions.of(asks, repo).await?, Some(login))
            }
            (Door::Public { decisions } | Door::HuggingFace { decisions, .. }, _) => {
                (decisions.of(None, repo).await?, None)
            }
        };
        match (decision, login) {
            (Decision::Public | Decision::WasPublic, _) => Ok(Permit::Public),
            (Decision::Admitted, Some(login)) => Ok(Permit::Personal(login)),
            (refusal, login) => Err(self.refusal(repo, refusal, login).await),
        }
    }

    async fn refusal(&self, repo: &RepoId, refusal: Decision, login: Option<&Login>) -> Error {
        match (&self.door, login) {
            (Door::HuggingFace { logins, .. }, Some(login)) => {
                // One repository's word is not enough to lock a login out of all.
                let doubted = refusal == Decision::BadToken && !logins.is_gone(login).await;
                let refusal = if doubted { Decision::Unknown } else { refusal };
                refusal::to_login(repo, refusal)
            }
            (Door::Public { .. }, _) => refusal::to_all(repo, refusal),
            _ => refusal::to_anonymous(repo, refusal),
        }
    }

    /// Forgets what was decided on `caller` and the repository of `name`, because the upstream has said otherwise since. Whether there was
    /// something to decide.
    pub async fn reconsider(&self, caller: &Caller, name: &ImageName) -> bool {
        let (Door::HuggingFace { decisions, .. } | Door::Public { decisions }) = &self.door else {
            return false;
        };
        let credential = match caller {
            Caller::Login(login) => Some(login.credential),
            Caller::Anyone | Caller::Anonymous { .. } => None,
        };
        decisions.forget(credential, name.repo()).await;
        true
    }

    /// Who asks with the server's own credentials: for what is public only, if `public`.
    fn shared(&self, place: &Place, public: bool) -> Asker {
        let rules = Arc::clone(&self.rules);
        let admits = move |repo: &RepoId, visibility: Visibility| {
            rules.check(repo)?;
            match !public || visibility.is_public() {
                true => Ok(()),
                false => Err(refusal::not_public(repo)),
            }
        };
        let asker = Asker::new(Arc::clone(&place.own), None, Arc::new(admits));
        if public { asker.of_public() } else { asker }
    }

    /// Who asks with a Hub token of their own.
    fn personal(&self, upstream: Arc<dyn Upstream>, login: &Login) -> Asker {
        let rules = Arc::clone(&self.rules);
        let admits = move |repo: &RepoId, _| rules.check(repo);
        Asker::new(upstream, Some(login.credential), Arc::new(admits))
    }
}
