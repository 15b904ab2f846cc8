//! Requests to a registry: its origin, tokens, redirects by hand, and no wait without an end.
//!
//! A password goes to the registry's own origin and to the place for tokens that it names, a token to its own origin only: not where it
//! redirects to, and not where it lets things be uploaded to if that is elsewhere.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::Destination;
use super::body::Watch;
use super::challenge::Challenge;
use super::error::{PushError, told};
use super::login::Login;
use super::retry::{Retries, retry};
use crate::hub;

/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(15);

/// How long nothing at all may happen.
const STALL: Duration = Duration::from_secs(60);

/// How long a registry may take to say that it has a blob of which it got the last byte: it may hash or move it first.
const ANSWER: Duration = Duration::from_secs(15 * 60);

/// Redirects that one question follows.
const HOPS: usize = 5;

/// The most that is read of an answer.
const MAX_ANSWER: usize = 1 << 20;

/// What a token has to be good for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) repository: &'a str,
    /// The repository from which blobs are mounted.
    pub(super) from: Option<&'a str>,
}

impl Scope<'_> {
    fn parts(&self) -> Vec<String> {
        let target = format!("repository:{}:pull,push", self.repository);
        let from = self.from.map(|from| format!("repository:{from}:pull"));
        std::iter::once(target).chain(from).collect()
    }
}

/// A registry.
pub(super) struct Registry {
    client: Client,
    base: Url,
    login: Option<Login>,
    pub(super) retries: Retries,
    /// What goes with requests, by what it is good for.
    granted: Mutex<HashMap<Vec<String>, HeaderValue>>,
}

#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
}

impl Registry {
    pub(super) fn new(
        destination: &Destination,
        login: Option<Login>,
        plain: bool,
        retries: Retries,
    ) -> Result<Self, PushError> {
        let scheme = if plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{}/", destination.host()));
        let client = hub::plain_client(CONNECT);
        Ok(Self {
            client: client
                .map_err(|error| PushError::other(format!("cannot reach the registry: {error}")))?,
            base: base.map_err(|error| PushError::other(format!("the registry: {error}")))?,
            login,
            retries,
            granted: Mutex::default(),
        })
    }

    /// The address of something of a repository.
    pub(super) fn url(&self, repository: &str, rest: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{repository}/{rest}"));
        url
    }

    /// Sends a request, and logs in if that is wanted. `fill` puts into it what else it has, each time that it is sent.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        scope: Scope<'_>,
        watch: Option<&Watch>,
        fill: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, PushError> {
        let parts = scope.parts();
        for attempt in 0.. {
            let mut request = fill(self.client.request(method.clone(), url.clone()));
            let own = url.origin() == self.base.origin();
            if let Some(header) = self.granted(&parts).filter(|_| own) {
                request = request.header(AUTHORIZATION, header);
            }
            let answer = self.answer(request, watch).await?;
            let wanted = own && answer.status() == StatusCode::UNAUTHORIZED;
            if !wanted || attempt > 0 {
                return check(answer).await;
            }
            if let Some(watch) = watch {
                watch.undo();
            }
            let header = self.log_in(answer, &parts).await?;
            self.lock().insert(parts.clone(), header);
        }
        Err(PushError::other(
            "the registry asks for a login again and again",
        ))
    }

    /// Asks whether something is there; follows redirects, without a login elsewhere.
    pub(super) async fn head(
        &self,
        url: Url,
        scope: Scope<'_>,
        accept: Option<&'static str>,
    ) -> Result<Option<HeaderMap>, PushError> {
        let mut url = url;
        for _ in 0..=HOPS {
            let answer = self
                .send(Method::HEAD, &url, scope, None, |request| match accept {
                    Some(accept) => request.header(reqwest::header::ACCEPT, accept),
                    None => request,
                })
                .await?;
            match answer.status() {
                StatusCode::OK => return Ok(Some(answer.headers().clone())),
                StatusCode::NOT_FOUND => return Ok(None),
                status if status.is_redirection() => url = self.location(&url, &answer)?,
                _ => return Err(refusal(answer, self.login.is_some()).await),
            }
        }
        Err(PushError::other("the registry redirects without end"))
    }

    /// What an answer that says no means.
    pub(super) async fn refused(&self, answer: Response) -> PushError {
        refusal(answer, self.login.is_some()).await
    }

    /// Where an answer points to.
    pub(super) fn location(&self, of: &Url, answer: &Response) -> Result<Url, PushError> {
        let location = answer.headers().get(LOCATION);
        let location = location.and_then(|value| value.to_str().ok());
        let next = location.and_then(|text| of.join(text).ok());
        let next = next.filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(mut next) = next else {
            return Err(PushError::other(
                "the registry does not say where to upload to",
            ));
        };
        if of.scheme() == "https" && next.scheme() == "http" {
            // A registry behind a proxy that does not know of the TLS in front of it.
            if next.host_str() != of.host_str() {
                return Err(PushError::other("the registry leads from https to http"));
            }
            next = of
                .join(&match next.query() {
                    Some(query) => format!("{}?{query}", next.path()),
                    None => next.path().to_owned(),
                })
                .map_err(|_| PushError::other("the registry leads from https to http"))?;
        }
        Ok(next)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<String>, HeaderValue>> {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn granted(&self, parts: &[String]) -> Option<HeaderValue> {
        self.lock().get(parts).cloned()
    }

    /// What goes with requests from now on, by what the registry wants.
    async fn log_in(&self, answer: Response, parts: &[String]) -> Result<HeaderValue, PushError> {
        let headers = answer.headers().get_all(WWW_AUTHENTICATE).into_iter();
        match Challenge::best(headers.filter_map(|value| value.to_str().ok())) {
            Some(Challenge::Bearer { realm, service }) => {
                self.token(&realm, service.as_deref(), parts).await
            }
            Some(Challenge::Basic) => match &self.login {
                Some(login) => Ok(login.header().clone()),
                None => Err(refusal(answer, false).await),
            },
            None => Err(PushError::refused(
                "the registry wants a login of a kind that hf-oci does not know",
            )),
        }
    }

    /// Has a token made. Without a login it is one for everybody, with which some registries let everybody push.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        parts: &[String],
    ) -> Result<HeaderValue, PushError> {
        let odd = || PushError::other("the registry names no place for tokens that can be used");
        let mut url = self.base.join(realm).map_err(|_| odd())?;
        // Nobody on the way may read a password that was to go by TLS.
        if url.scheme() != "https" && (url.scheme() != "http" || self.base.scheme() == "https") {
            return Err(odd());
        }
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .extend_pairs(parts.iter().map(|part| ("scope", part.as_str())));
        let answer = retry(&self.retries, || async {
            let mut request = self.client.get(url.clone());
            if let Some(login) = &self.login {
                request = request.header(AUTHORIZATION, login.header().clone());
            }
            check(self.answer(request, None).await?).await
        })
        .await?;
        if !answer.status().is_success() {
            return Err(refusal(answer, self.login.is_some()).await);
        }
        let granted = serde_json::from_slice::<Granted>(&collect(answer).await?).ok();
        let token = granted.and_then(|granted| granted.token.or(granted.access_token));
        let header = token.and_then(|t| HeaderValue::from_str(&format!("Bearer {t}")).ok());
        let mut header =
            header.ok_or_else(|| PushError::other("the registry's tokens make no sense"))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// Waits for an answer as long as something happens.
    async fn answer(
        &self,
        request: RequestBuilder,
        watch: Option<&Watch>,
    ) -> Result<Response, PushError> {
        let mut sending = std::pin::pin!(request.send());
        let (mut seen, mut idle) = (0, Duration::ZERO);
        loop {
            tokio::select! {
                answer = &mut sending => {
                    let failed = |error| watch.and_then(Watch::fault).unwrap_or_else(|| self.transport(error));
                    return answer.map_err(failed);
                }
                () = sleep(STALL) => {}
            }
            let sent = watch.map_or(0, Watch::sent);
            idle = if sent == seen {
                idle + STALL
            } else {
                Duration::ZERO
            };
            seen = sent;
            let patience = if watch.is_some_and(Watch::is_all) {
                ANSWER
            } else {
                STALL
            };
            if idle >= patience {
                let what = format!("no answer from {} for {} s", self.name(), idle.as_secs());
                return Err(PushError::trouble(what));
            }
        }
    }

    fn name(&self) -> &str {
        self.base.host_str().unwrap_or("the registry")
    }

    /// A connection that failed, told by its innermost cause and without an address's secrets.
    fn transport(&self, error: reqwest::Error) -> PushError {
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let failed = PushError::trouble(format!("{} is not reached: {cause}", self.name()));
        let text = cause.to_string();
        match self.base.scheme() == "https"
            && (text.contains("InvalidContentType") || text.contains("corrupt message"))
        {
            true => failed.next("a registry without TLS? --plain-http"),
            false => failed,
        }
    }
}

/// An answer that is one: others are worth another attempt.
async fn check(answer: Response) -> Result<Response, PushError> {
    let status = answer.status();
    if !matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502..=504) {
        return Ok(answer);
    }
    let after = answer.headers().get(RETRY_AFTER);
    let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
    let mut error = PushError::trouble(said(answer).await);
    error.after = after.map(Duration::from_secs);
    Err(error)
}

async fn refusal(answer: Response, login: bool) -> PushError {
    let status = answer.status().as_u16();
    let what = said(answer).await;
    match (status, login) {
        (401, false) => {
            PushError::refused(what).next("docker login, or podman login, for that registry first")
        }
        (401 | 403, _) => PushError::refused(what).next("may this login push there?"),
        (413, _) => PushError::refused(what)
            .next("a proxy in front of the registry may limit how long a request is"),
        (400..=499, _) => PushError::refused(what),
        (500..=599, _) => PushError::trouble(what),
        _ => PushError::other(what),
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a registry says in an answer that is no success.
async fn said(answer: Response) -> String {
    let status = answer.status();
    let body = collect(answer).await.unwrap_or_default();
    let first = serde_json::from_slice::<Errors>(&body).ok();
    match first.and_then(|told| told.errors.into_iter().next()) {
        Some(OneError { code, message }) => {
            format!(
                "the registry says {}: {} ({status})",
                told(&code),
                told(&message)
            )
        }
        None => format!("the registry answers {status}"),
    }
}

async fn collect(mut answer: Response) -> Result<Vec<u8>, PushError> {
    let mut bytes = Vec::new();
    let whole = timeout(STALL, async {
        while let Ok(Some(part)) = answer.chunk().await {
            if bytes.len() + part.len() > MAX_ANSWER {
                return Err(PushError::other("the registry's answer is too long"));
            }
            bytes.extend_from_slice(&part);
        }
        Ok(())
    });
    let ended = whole.await;
    ended.unwrap_or_else(|_| Err(PushError::trouble("the registry's answer does not end")))?;
    Ok(bytes)
}

/// The text of a header.
pub(super) fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        let destination = "r.io:8443".parse().expect("a destination");
        let retries = Retries {
            most: 0,
            tell: Box::new(|_, _| {}),
        };
        Registry::new(&destination, None, false, retries).expect("a client")
    }

    /// Where an upload goes, when the registry says this.
    fn location(text: &str) -> Option<String> {
        let registry = registry();
        let answer = hyper::Response::builder().header("location", text).body("");
        let answer = Response::from(answer.expect("an answer"));
        let url = registry.url("org/m", "blobs/uploads/");
        registry.location(&url, &answer).ok().map(String::from)
    }

    #[test]
    fn an_upload_goes_where_the_registry_says_but_never_from_https_to_http() {
        for (said, goes) in [
            ("/v2/up/1?s=2", Some("https://r.io:8443/v2/up/1?s=2")),
            ("2", Some("https://r.io:8443/v2/org/m/blobs/uploads/2")),
            ("https://store.io/1", Some("https://store.io/1")),
            // A registry that does not know of the TLS in front of it.
            (
                "http://r.io/v2/up/1?s=2",
                Some("https://r.io:8443/v2/up/1?s=2"),
            ),
            ("http://store.io/1", None),
            ("ftp://r.io/1", None),
        ] {
            assert_eq!(location(said).as_deref(), goes, "{said}");
        }
    }
}
