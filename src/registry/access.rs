//! What the gate's answers become in HTTP: callers, challenges, tokens.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Collected, Limited};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use tokio::time::timeout;

use super::content::Image;
use super::{Registry, error, reply, tags};
use crate::auth::{Caller, Flaw};
use crate::error::{Error, Kind};
use crate::fill::{Asker, Outcome};
use crate::image::ImageName;
use crate::oci::Tag;
use crate::server::Body;

/// How long the upstream may take to say what is there, and to whom: clients give up after 30 s without a header.
const FIND: Duration = Duration::from_secs(25);

/// The longest form that asks for a token.
const MAX_FORM: usize = 8 << 10;

/// How long it may take to come.
const FORM: Duration = Duration::from_secs(10);

/// The body of a request for a token.
#[derive(Clone)]
pub struct Form(Bytes);

impl Form {
    /// Reads a body that should be one. What is too long, or comes too slowly, is an empty one, which asks for nothing.
    pub async fn read(body: Incoming) -> Self {
        let read = timeout(FORM, Limited::new(body, MAX_FORM).collect()).await;
        let read = read.ok().and_then(Result::ok);
        Self(read.map_or_else(Bytes::new, Collected::to_bytes))
    }

    fn has_scope(&self) -> bool {
        std::str::from_utf8(&self.0)
            .ok()
            .and_then(|form| tags::value(form, "scope"))
            .is_some_and(|scope| !scope.is_empty())
    }
}

/// A failure, and what a challenge beside it says.
pub struct Failed {
    /// The failure.
    pub error: Error,
    /// The repository that was asked for, if one was.
    name: Option<ImageName>,
    flaw: Flaw,
}

impl Failed {
    /// The failure of a request about the repository of `name`.
    pub fn about(name: &ImageName) -> impl FnOnce(Error) -> Self {
        let name = Some(name.clone());
        |error| Self {
            name,
            ..Self::from(error)
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            name: None,
            flaw: Flaw::InsufficientScope,
        }
    }
}

impl Registry {
    /// Who asks, and about which repository.
    pub(super) async fn caller(
        &self,
        request: &Parts,
        name: Option<&ImageName>,
    ) -> Result<Caller, Failed> {
        let caller = self
            .gate
            .authenticate(&request.headers, name.is_some())
            .await;
        caller.map_err(|error| Failed {
            error,
            name: name.cloned(),
            flaw: Flaw::InvalidToken,
        })
    }

    /// Who asks, if they may read the repository.
    pub(super) async fn reader(&self, request: &Parts, name: &ImageName) -> Result<(), Failed> {
        let caller = self.caller(request, Some(name)).await?;
        let admitted = self.gate.admit(&caller, name).await;
        admitted.map_err(Failed::about(name))
    }

    /// The answer to a failure, with a challenge if a login may help.
    pub(super) fn refuse(&self, failed: &Failed, request: &Parts, number: u64) -> Response<Body> {
        let mut response = error::answer(&failed.error, number);
        if failed.error.kind == Kind::Unauthorized {
            let name = failed.name.as_ref().map(ImageName::as_str);
            if let Some(challenge) = self.gate.challenge(request, name, failed.flaw) {
                let headers = response.headers_mut();
                headers.insert(WWW_AUTHENTICATE, reply::value(&challenge));
            }
        }
        response
    }

    /// `/v2/`: whether the login is good; without one, how to log in.
    pub(super) fn base(caller: &Caller) -> Result<Response<Body>, Error> {
        match caller {
            Caller::Anonymous { token: false } => Err(Error::new(
                Kind::Unauthorized,
                "log in, or take an anonymous token",
            )),
            _ => Ok(reply::typed("application/json", Bytes::from_static(b"{}"))),
        }
    }

    /// `/token`: a token for who asks, or an anonymous one.
    pub(super) async fn token(&self, request: &Parts) -> Result<Response<Body>, Error> {
        let scope = tags::value(request.uri.query().unwrap_or_default(), "scope");
        let for_pull = scope.is_some_and(|scope| !scope.is_empty());
        let form = request.extensions.get::<Form>();
        let scoped = form.is_some_and(|form| form.has_scope());
        let form = form.map(|form| &form.0[..]);
        let token = self.gate.token(&request.headers, form, for_pull || scoped);
        let Some(issued) = token.await else {
            return Ok(no_such_path());
        };
        let issued = issued?;
        let at = humantime::format_rfc3339_seconds(issued.at).to_string();
        let body = serde_json::json!({
            "token": issued.token,
            "access_token": issued.token,
            "expires_in": issued.lifetime.as_secs(),
            "issued_at": at,
        });
        let mut response = reply::typed("application/json", Bytes::from(body.to_string()));
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, reply::constant("no-store"));
        Ok(response)
    }

    /// The image that a tag means, if the caller may read it.
    pub(super) async fn find(
        &self,
        caller: &Caller,
        name: &ImageName,
        tag: &Tag,
    ) -> Result<(Image, Outcome), Error> {
        let found = async {
            let asker = self.gate.permit(caller, name).await?;
            match self.content.find(asker.as_ref(), name, tag).await {
                Err(error) => {
                    let again = self.again(caller, name, asker, error).await?;
                    self.content.find(again.as_ref(), name, tag).await
                }
                found => found,
            }
        };
        in_time(name, found).await
    }

    /// The tags of a repository, if the caller may read it.
    pub(super) async fn list(
        &self,
        caller: &Caller,
        name: &ImageName,
    ) -> Result<Vec<String>, Error> {
        let listed = async {
            let asker = self.gate.permit(caller, name).await?;
            match self.content.tags(asker.as_ref(), name).await {
                Err(error) => {
                    let again = self.again(caller, name, asker, error).await?;
                    self.content.tags(again.as_ref(), name).await
                }
                listed => listed,
            }
        };
        in_time(name, listed).await
    }

    /// After a failure: if the upstream says other than what was decided, decides again; gives on whose behalf to try once more, or why
    /// not.
    async fn again(
        &self,
        caller: &Caller,
        name: &ImageName,
        before: Option<Asker>,
        error: Error,
    ) -> Result<Option<Asker>, Error> {
        let closed = matches!(
            error.kind,
            Kind::NameUnknown | Kind::Denied | Kind::TokenRefused
        );
        if !closed || !self.gate.reconsider(caller, name).await {
            return Err(error);
        }
        let after = self.gate.permit(caller, name).await?;
        let personal = |asker: &Option<Asker>| asker.as_ref().is_some_and(Asker::has_credential);
        match personal(&before) == personal(&after) {
            true => Err(error),
            false => Ok(after),
        }
    }
}

/// What is found, unless the upstream is too slow to say it.
async fn in_time<T>(
    name: &ImageName,
    found: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(FIND, found).await.unwrap_or_else(|_| {
        let (seconds, repo) = (FIND.as_secs(), name.repo());
        Err(Error::new(
            Kind::GatewayTimeout,
            format!("the upstream did not say within {seconds} s what {repo} is; ask again"),
        ))
    })
}

/// The answer for a path that there is not.
pub fn no_such_path() -> Response<Body> {
    error::custom(
        StatusCode::NOT_FOUND,
        "UNSUPPORTED",
        "there is no such path; the registry is under /v2/",
    )
}
