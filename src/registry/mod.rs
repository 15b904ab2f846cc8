//! The pull side of the distribution specification over HTTP.
//!
//! A request becomes a `Route`, a handler makes the answer, and one line of the log tells what became of it. GET and HEAD
//! are answered alike: a handler makes the answer to GET, and the body of a HEAD is dropped here, unread.

mod access;
mod blobs;
mod body;
mod buffer;
mod content;
mod drip;
mod error;
mod manifests;
mod multipart;
mod range;
mod record;
mod reply;
mod route;
mod tags;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub use manifests::INDEX_PREFIX;
pub use range::MAX_RANGES;

use self::access::{Failed, Form};
use self::buffer::Buffers;
use self::content::{Cache, Content};
use self::record::{Record, Recorded};
use self::route::{Refusal, Route};
use crate::auth::Gate;
use crate::error::{Error, Kind};
use crate::fill::Images;
use crate::oci::Reference;
use crate::server::{Body, Handler};
use crate::store::Store;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The memory of bodies, as long as there are not too many of them for it: see [`buffer`].
const BUFFERS: usize = 96 << 20;

/// What `/` says.
const GREETING: &[u8] =
    b"hf-oci: Hugging Face repositories as OCI images. Pull HOST/ORG/NAME; the registry is under /v2/.\n";

/// How requests for images that are not there yet are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrySettings {
    /// How long such a request is held before it is answered early.
    pub wait: Duration,
    /// The time between two bytes of an early answer.
    pub drip: Duration,
    /// How many of them may wait; more are sent away at once, while the fill goes on.
    pub max_waiting: usize,
}

impl Default for RegistrySettings {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(20),
            drip: Duration::from_secs(15),
            max_waiting: 1000,
        }
    }
}

/// The registry: answers everything under `/v2/`, and `/` and `/healthz` besides.
pub struct Registry {
    content: Arc<dyn Content>,
    gate: Arc<Gate>,
    settings: RegistrySettings,
    requests: AtomicU64,
    buffers: Buffers,
    /// Places for those who wait for an image.
    waiting: Arc<Semaphore>,
}

impl Registry {
    /// Serves `images` and what is in `store`, to everybody.
    pub fn new(images: Arc<Images>, store: Arc<Store>, settings: RegistrySettings) -> Self {
        Self::over(Arc::new(Cache { images, store }), settings)
    }

    fn over(content: Arc<dyn Content>, settings: RegistrySettings) -> Self {
        Self {
            content,
            gate: Arc::new(Gate::open()),
            requests: AtomicU64::new(0),
            buffers: Buffers::new(BUFFERS),
            waiting: Arc::new(Semaphore::new(
                settings.max_waiting.min(Semaphore::MAX_PERMITS),
            )),
            settings,
        }
    }

    /// The same, behind `gate`.
    pub fn behind(self, gate: Gate) -> Self {
        Self {
            gate: Arc::new(gate),
            ..self
        }
    }

    /// Answers one request, of which the body does not matter. Never fails: a failure is an answer.
    ///
    /// May be cancelled at any time; what it waited for goes on.
    pub async fn answer(&self, request: &Parts) -> Response<Body> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let record = Record::begin(number, &request.method, request.uri.path());
        let mut response = match self.route(request).await {
            Ok(response) => response,
            Err(failed) => {
                if failed.error.kind == Kind::Internal {
                    tracing::error!(request = number, error = %failed.error, "a request failed");
                }
                self.refuse(&failed, request, number)
            }
        };
        let headers = response.headers_mut();
        headers.insert(API_VERSION, reply::constant("registry/2.0"));
        if !self.gate.is_open() {
            reply::private(headers);
        }
        if request.method == Method::HEAD {
            *response.body_mut() = reply::nothing();
        }
        Recorded::wrap(response, record)
    }

    async fn route(&self, request: &Parts) -> Result<Response<Body>, Failed> {
        match route::route(&request.method, request.uri.path()) {
            Ok(route) => self.serve(route, request).await,
            Err(Refusal::Invalid(error)) => Err(error.into()),
            Err(Refusal::Method) => Err(Error::new(
                Kind::Unsupported,
                "this registry serves what is on the Hub: there is only pulling, no pushing or deleting",
            )
            .into()),
            Err(Refusal::Path) => Ok(access::no_such_path()),
        }
    }

    async fn serve(&self, route: Route, request: &Parts) -> Result<Response<Body>, Failed> {
        let headers = &request.headers;
        let query = request.uri.query().unwrap_or_default();
        let content = self.content.as_ref();
        match route {
            Route::Home => Ok(text(GREETING)),
            Route::Health => Ok(text(b"ok\n")),
            Route::Token => Ok(self.token(request).await?),
            Route::Base => Ok(Self::base(&self.caller(request, None).await?)?),
            Route::Catalog => {
                self.caller(request, None).await?;
                Ok(tags::catalog(query, &self.catalog().await?))
            }
            Route::Tags(name) => {
                let caller = self.caller(request, Some(&name)).await?;
                let all = self.list(&caller, &name).await;
                let all = all.map_err(Failed::about(&name))?;
                Ok(tags::list(&name, query, &all))
            }
            Route::Referrers(name, _) => {
                self.caller(request, Some(&name)).await?;
                // The same for every name, whether or not there is such a repository.
                self.gate.served(&name)?;
                Ok(tags::referrers(query))
            }
            Route::Manifest(name, Reference::Tag(tag)) => {
                let asked = Instant::now();
                let caller = self.caller(request, Some(&name)).await?;
                let found = self.find(&caller, &name, &tag).await;
                let found = found.map_err(Failed::about(&name))?;
                Ok(manifests::by_tag(self, request, asked, found).await?)
            }
            Route::Manifest(name, Reference::Digest(digest)) => {
                self.reader(request, &name).await?;
                Ok(manifests::by_digest(content, headers, &name, digest).await?)
            }
            Route::Blob(name, digest) => {
                self.reader(request, &name).await?;
                let buffers = self.buffers.of(request.extensions.get());
                Ok(blobs::get(content, &buffers, request, &name, digest).await?)
            }
        }
    }

    /// The cached images that everybody may know of who may ask.
    async fn catalog(&self) -> Result<Vec<String>, Error> {
        let names = self.content.catalog().await?;
        Ok(self.gate.listed(names).await)
    }
}

fn text(text: &'static [u8]) -> Response<Body> {
    let mut response = reply::full(StatusCode::OK, Bytes::from_static(text));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, reply::constant("text/plain; charset=utf-8"));
    response
}

impl Handler for Registry {
    fn handle(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            // The body, if any, is dropped unread: nothing else here takes one.
            let (mut head, body) = request.into_parts();
            if head.method == Method::POST && head.uri.path() == "/token" {
                head.extensions.insert(Form::read(body).await);
            }
            self.answer(&head).await
        })
    }
}

/// Reads a `Range` header and holds what it means against a blob's size. For fuzzing.
///
/// # Panics
/// If a range that would be served does not lie inside the blob.
#[cfg(fuzzing)]
pub fn fuzz(header: &str, size: u64) {
    if let Ok(Some(set)) = range::RangeSet::parse(header)
        && let range::Resolved::Parts(parts) = set.resolve(size)
    {
        assert!(!parts.is_empty());
        assert!(parts.iter().all(|p| p.start < p.end && p.end <= size));
        let boundary = multipart::boundary(&crate::oci::Digest::of(b""));
        let _ = multipart::Layout::multipart(&boundary, &parts, size).length();
    }
}

#[cfg(test)]
mod tests;
