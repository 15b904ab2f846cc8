//! One request at a time: permit, token, redirects by hand, no answer taken for granted.
//!
//! Redirects are off in the HTTP library because it would decide who gets the token; here each hop is sent it only if the endpoint owns the
//! address ([`super::endpoint::Endpoint::owns`]). HTTP/1.1 only: over HTTP/2 parallel ranges would share one connection. Nothing is ever
//! decompressed: the bytes of a file are the bytes that were hashed.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, RANGE,
    RETRY_AFTER,
};
use reqwest::{Client, Response, Url};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use super::endpoint::{Endpoint, shown};
use super::pace::{Pace, Route, Slot};
use super::refusal::{About, Refusal};
use super::retry::{Policy, Purpose, Trouble, dice, is_transient, wait_asked};
use super::token::Token;
use super::{UpstreamError, wire};

/// Redirects that one request follows. The Hub needs two: a renamed repository, then a file.
const HOPS: usize = 6;

/// The most that is read of an answer that says no.
const MAX_REFUSAL: usize = 64 << 10;

/// Requests for metadata at once. They have their own permits, so that no download makes a tag wait.
const CALLS: usize = 8;

/// Which permits a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Metadata: short.
    Calls,
    /// File content: as long as the body lives.
    Content,
}

/// The connection pool and its limits.
pub(super) struct Http {
    client: Client,
    pub(super) endpoint: Endpoint,
    pub(super) policy: Policy,
    token: Option<Token>,
    calls: Arc<Semaphore>,
    content: Arc<Semaphore>,
    pace: Arc<Pace>,
    stall: Duration,
}

/// An answer whose body has not been read. Its admission is given back when it is dropped.
pub(super) struct Reply {
    pub(super) url: Url,
    response: Response,
    stall: Duration,
    route: Arc<Route>,
    /// The longest pause that a 429 of this request may impose on its route.
    patience: Duration,
    admission: Option<Admission>,
}

/// The right to have a request under way.
struct Admission {
    /// Of the host that is asked, if the request is for content.
    slot: Option<Slot>,
    _permit: OwnedSemaphorePermit,
}

/// An answer with its body.
pub(super) struct Answer {
    pub(super) url: Url,
    body: Bytes,
    status: u16,
    headers: HeaderMap,
    token: bool,
}

impl Http {
    /// `content` is the number of file bodies at once, at least one.
    pub(super) fn new(
        client: Client,
        endpoint: Endpoint,
        token: Option<Token>,
        policy: Policy,
        content: usize,
        stall: Duration,
    ) -> Self {
        let content = content.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            client,
            endpoint,
            policy,
            token,
            calls: Arc::new(Semaphore::new(CALLS)),
            content: Arc::new(Semaphore::new(content)),
            pace: Arc::new(Pace::new(content)),
            stall,
        }
    }

    /// The same pool with the same bounds, and another credential. Pauses are its own: the upstream limits each credential by itself.
    pub(super) fn with_token(&self, token: Option<Token>) -> Self {
        Self {
            client: self.client.clone(),
            endpoint: self.endpoint.clone(),
            policy: self.policy,
            token,
            calls: Arc::clone(&self.calls),
            content: Arc::clone(&self.content),
            pace: Arc::new(self.pace.anew()),
            stall: self.stall,
        }
    }

    /// Its pauses, to be shared with another one.
    pub(super) fn pace(&self) -> Arc<Pace> {
        Arc::clone(&self.pace)
    }

    /// The same, sharing the pauses of others.
    pub(super) fn with_pace(self, pace: Arc<Pace>) -> Self {
        Self { pace, ..self }
    }

    /// Sends one GET and follows its redirects. Whatever the last hop answers is a reply, also a refusal.
    pub(super) async fn get(
        &self,
        lane: Lane,
        purpose: Purpose,
        url: Url,
        range: Option<&str>,
    ) -> Result<Reply, Trouble> {
        let mut url = url;
        let mut route = self.ready(purpose, &url).await?;
        let mut admission = self.admit(lane, &route).await?;
        for _ in 0..=HOPS {
            let response = self.hop(&url, range).await?;
            let Some(location) = redirect(&response) else {
                return Ok(Reply {
                    url,
                    response,
                    stall: self.stall,
                    route,
                    patience: self.policy.patience,
                    admission: Some(admission),
                });
            };
            let next = self.endpoint.follow(&url, &location);
            url = next.map_err(|why| broken(&url, why))?;
            let next = self.ready(purpose, &url).await?;
            if lane == Lane::Content && !Arc::ptr_eq(&next, &route) {
                // Nothing is held while waiting: those who have the next host's slots may be waiting for this permit.
                drop(admission);
                admission = self.admit(lane, &next).await?;
            }
            route = next;
        }
        Err(broken(&url, "it redirects without end"))
    }

    /// Waits until the route of an address may be asked.
    async fn ready(&self, purpose: Purpose, url: &Url) -> Result<Arc<Route>, Trouble> {
        let route = self.pace.route(&self.endpoint, url);
        let patience = self.policy.patience(purpose);
        match route.ready(patience).await {
            Ok(()) => Ok(route),
            Err(left) => Err(Trouble::Limited(Some(left))),
        }
    }

    /// The host's slot comes first: those who wait for it keep nobody from asking other hosts.
    async fn admit(&self, lane: Lane, route: &Arc<Route>) -> Result<Admission, Trouble> {
        let slot = match lane {
            Lane::Calls => None,
            Lane::Content => Some(route.enter().await),
        };
        Ok(Admission {
            slot,
            _permit: self.permit(lane).await?,
        })
    }

    /// Lets a body go on that was [released](Reply::release).
    pub(super) async fn readmit(&self, reply: &mut Reply) -> Result<(), Trouble> {
        if reply.admission.is_none() {
            reply.admission = Some(self.admit(Lane::Content, &reply.route).await?);
        }
        Ok(())
    }

    async fn permit(&self, lane: Lane) -> Result<OwnedSemaphorePermit, Trouble> {
        let permits = match lane {
            Lane::Calls => &self.calls,
            Lane::Content => &self.content,
        };
        let permit = Arc::clone(permits).acquire_owned().await;
        // Nobody closes them; an error rather than a panic all the same.
        permit.map_err(|_| Trouble::Unreachable("the client is closed".into()))
    }

    async fn hop(&self, url: &Url, range: Option<&str>) -> Result<Response, Trouble> {
        let mut request = self
            .client
            .get(url.clone())
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(token) = self.token_for(url) {
            request = request.header(AUTHORIZATION, token.header().clone());
        }
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        match timeout(self.stall, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(transport(url, error)),
            Err(_) => Err(self.stalled(url)),
        }
    }

    fn token_for(&self, url: &Url) -> Option<&Token> {
        self.token.as_ref().filter(|_| self.endpoint.owns(url))
    }

    fn stalled(&self, url: &Url) -> Trouble {
        stalled(url, self.stall)
    }

    /// Asks for metadata until there is an answer or the policy ends. The body has at most `limit` bytes. A host that wants to be waited
    /// for again and again is, until all of it together takes longer than the policy's patience.
    pub(super) async fn call(
        &self,
        purpose: Purpose,
        url: Url,
        limit: usize,
    ) -> Result<Answer, UpstreamError> {
        let (mut failures, begun) = (0, Instant::now());
        loop {
            let trouble = match self.once(purpose, url.clone(), limit).await {
                Ok(answer) => return Ok(answer),
                Err(trouble) => trouble,
            };
            failures += 1;
            tracing::debug!(path = url.path(), ?trouble, "a call failed");
            if let Trouble::Limited(Some(wait)) = trouble
                && begun.elapsed() + wait > self.policy.patience(purpose)
            {
                return Err(trouble.into_error());
            }
            self.wait(purpose, failures, trouble).await?;
        }
    }

    /// Asks for metadata one time.
    pub(super) async fn once(
        &self,
        purpose: Purpose,
        url: Url,
        limit: usize,
    ) -> Result<Answer, Trouble> {
        let mut reply = self.get(Lane::Calls, purpose, url, None).await?;
        reply.check_transient()?;
        let (status, token) = (reply.status(), self.token_for(&reply.url).is_some());
        let limit = if reply.is_success() {
            limit
        } else {
            MAX_REFUSAL
        };
        // A body that drips is not stalled, but it must end some time.
        let whole = timeout(self.stall.saturating_mul(10), reply.collect(limit)).await;
        let body = match whole.unwrap_or_else(|_| Err(self.stalled(&reply.url))) {
            Ok(body) => body,
            Err(_) if !reply.is_success() => Bytes::new(),
            Err(trouble) => return Err(trouble),
        };
        Ok(Answer {
            status,
            token,
            body,
            headers: reply.response.headers().clone(),
            url: reply.url,
        })
    }

    /// Sleeps before the next attempt, or gives the error when there is to be none.
    pub(super) async fn wait(
        &self,
        purpose: Purpose,
        failures: u32,
        trouble: Trouble,
    ) -> Result<(), UpstreamError> {
        let Some(pause) = self.policy.pause(purpose, failures, &trouble, dice()) else {
            return Err(trouble.into_error());
        };
        tracing::debug!(failures, ?pause, ?trouble, "asking the upstream again");
        sleep(pause).await;
        Ok(())
    }

    /// What a reply that says no means for a request about `about`.
    pub(super) async fn refused(&self, reply: &mut Reply, about: About<'_>) -> UpstreamError {
        let body = reply.collect(MAX_REFUSAL).await.unwrap_or_default();
        let (status, token) = (reply.status(), self.token_for(&reply.url).is_some());
        refusal(
            status,
            reply.response.headers(),
            &body,
            token,
            about,
            &reply.url,
        )
    }
}

impl Reply {
    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    pub(super) fn is_success(&self) -> bool {
        self.response.status().is_success()
    }

    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        text(self.response.headers(), name)
    }

    /// The length that the body announces.
    pub(super) fn length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// An error if the status is one to try again after.
    pub(super) fn check_transient(&self) -> Result<(), Trouble> {
        match self.status() {
            429 => {
                let limit = self.header(HeaderName::from_static("ratelimit"));
                let wait = wait_asked(self.header(RETRY_AFTER), limit);
                if let Some(wait) = wait {
                    self.route.pause(wait, self.patience);
                }
                Err(Trouble::Limited(wait))
            }
            status if is_transient(status) => Err(Trouble::Unreachable(format!(
                "{} answered {status}",
                shown(&self.url)
            ))),
            _ => Ok(()),
        }
    }

    /// The host refused this body, though the request was good. Says whether others ran beside it: from now on fewer do.
    pub(super) fn is_crowded(&self) -> bool {
        let slot = self.admission.as_ref().and_then(|a| a.slot.as_ref());
        slot.is_some_and(Slot::refused)
    }

    /// Gives back the permits of a body that nobody reads for now.
    pub(super) fn release(&mut self) {
        self.admission = None;
    }

    /// The next bytes of the body; None at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Trouble> {
        match timeout(self.stall, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(transport(&self.url, error)),
            Err(_) => Err(stalled(&self.url, self.stall)),
        }
    }

    async fn collect(&mut self, limit: usize) -> Result<Bytes, Trouble> {
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if body.len() + chunk.len() > limit {
                return Err(broken(&self.url, "its answer is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

impl Answer {
    /// The body of a success, or what the refusal means for a request about `about`.
    pub(super) fn ok(&self, about: About<'_>) -> Result<Bytes, UpstreamError> {
        if (200..300).contains(&self.status) {
            return Ok(self.body.clone());
        }
        Err(refusal(
            self.status,
            &self.headers,
            &self.body,
            self.token,
            about,
            &self.url,
        ))
    }

    /// Whether the credential that was sent is one that nobody knows.
    pub(super) const fn is_unauthorized(&self) -> bool {
        self.status == 401
    }

    /// Whether this endpoint does not know such calls, or the thing asked for: 404, 405, 501.
    pub(super) const fn is_absent(&self) -> bool {
        matches!(self.status, 404 | 405 | 501)
    }

    /// The next page's address as the upstream gave it.
    pub(super) fn next(&self) -> Option<&str> {
        let links = self.headers.get_all(LINK).into_iter();
        links
            .filter_map(|l| l.to_str().ok())
            .find_map(wire::next_link)
    }
}

fn refusal(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    token: bool,
    about: About<'_>,
    url: &Url,
) -> UpstreamError {
    let in_body = wire::error_message(body);
    let refusal = Refusal {
        status,
        code: text(headers, HeaderName::from_static("x-error-code")),
        message: text(headers, HeaderName::from_static("x-error-message")).or(in_body.as_deref()),
        token,
    };
    refusal.error(about, &shown(url))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Where the response sends us, if it does.
fn redirect(response: &Response) -> Option<String> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?;
    Some(String::from_utf8_lossy(location.as_bytes()).into_owned())
}

/// An error that breaks the protocol, at `url`.
pub(super) fn broken(url: &Url, why: &str) -> Trouble {
    Trouble::Final(UpstreamError::Broken(format!("{}: {why}", shown(url))))
}

fn stalled(url: &Url, stall: Duration) -> Trouble {
    Trouble::Stalled(format!(
        "no byte from {} for {} s",
        shown(url),
        stall.as_secs_f32()
    ))
}

/// A failed connection or body, told with its causes and without the address's secrets.
fn transport(url: &Url, error: reqwest::Error) -> Trouble {
    let timed_out = error.is_timeout();
    let error = error.without_url();
    let mut what = format!("{}: {error}", shown(url));
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        what.push_str(": ");
        what.push_str(&inner.to_string());
        cause = inner.source();
    }
    if timed_out {
        Trouble::Stalled(what)
    } else {
        Trouble::Unreachable(what)
    }
}
