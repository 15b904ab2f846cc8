//! Manifests and indexes, by tag and by digest, and the waiting for images that are being filled.
//!
//! A tag always gives the image index, whatever `Accept` says: every client that can read these layers reads indexes, and one that says
//! otherwise is better served with a document than with an error. A platform's manifest is asked for by its digest.
//!
//! **Waiting.** Some clients give up if no header came for 30 s, most gateways after 60 s without a byte; no status makes all of them come
//! back later. So a request is held for [`RegistrySettings::wait`]. If the image still is not there, HEAD is answered with its type only
//! (clients then GET), and GET with early headers, no digest, and a body that drips until the image is there. If the fill then fails, the
//! connection breaks, so that nobody takes a part for the whole.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Response};
use tokio::time::{Instant, timeout_at};

use super::content::{Content, Image};
use super::drip::Drip;
use super::{Registry, RegistrySettings, reply};
use crate::error::{Error, Kind};
use crate::fill::{Outcome, Ready};
use crate::image::ImageName;
use crate::oci::{Digest, MEDIA_INDEX, MEDIA_MANIFEST};
use crate::server::Body;

/// The bytes with which every image index of this registry begins: they can be sent before anything else of it is known.
pub const INDEX_PREFIX: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:"#;

/// However long the finding took, a new fill gets this much time to fail with a real status.
const GRACE: Duration = Duration::from_secs(2);

/// The index of the image that was found for a tag, or the beginning of it. The request came at `asked`.
pub async fn by_tag(
    registry: &Registry,
    request: &Parts,
    asked: Instant,
    found: (Image, Outcome),
) -> Result<Response<Body>, Error> {
    let (method, headers) = (&request.method, &request.headers);
    let content = registry.content.as_ref();
    let (image, outcome) = found;
    let mut response = match image {
        Image::Ready(ready) => ready_index(content, headers, ready).await?,
        Image::Filling(filling) => {
            let mut filling = in_turn(registry, filling)?;
            match timeout_at(deadline(asked, registry.settings.wait), &mut filling).await {
                Ok(ready) => ready_index(content, headers, ready?).await?,
                Err(_) => early(registry, method, filling),
            }
        }
    };
    response.extensions_mut().insert::<Outcome>(outcome);
    Ok(response)
}

/// The same fill, holding one of the places of those who wait.
fn in_turn(
    registry: &Registry,
    filling: BoxFuture<'static, Result<Ready, Error>>,
) -> Result<BoxFuture<'static, Result<Ready, Error>>, Error> {
    let Ok(place) = registry.waiting.clone().try_acquire_owned() else {
        return Err(Error::new(
            Kind::Unavailable,
            "too many clients wait for images that are being filled (registry.max_waiting); the fill goes on, ask again",
        ));
    };
    Ok(Box::pin(async move {
        let _place = place;
        filling.await
    }))
}

fn deadline(asked: Instant, wait: Duration) -> Instant {
    (asked + wait).max(Instant::now() + GRACE.min(wait))
}

/// The index of an image that is in the store.
async fn ready_index(
    content: &dyn Content,
    headers: &HeaderMap,
    ready: Ready,
) -> Result<Response<Body>, Error> {
    if reply::has_already(headers, &ready.index) {
        return Ok(reply::not_modified(&ready.index));
    }
    let bytes = content.index(ready.index).await?;
    let mut response = reply::typed(MEDIA_INDEX, bytes);
    reply::identified(response.headers_mut(), &ready.index);
    // What a tag means may change at any time.
    response
        .headers_mut()
        .insert(CACHE_CONTROL, reply::constant("no-cache"));
    Ok(response)
}

/// The answer for an image that is not there yet: no digest and no length, because nobody knows them.
fn early(
    registry: &Registry,
    method: &Method,
    filling: BoxFuture<'static, Result<Ready, Error>>,
) -> Response<Body> {
    let body = if *method == Method::HEAD {
        reply::nothing()
    } else {
        let content = registry.content.clone();
        let document = async move { content.index(filling.await?.index).await };
        drip(Box::pin(document), &registry.settings)
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, reply::constant(MEDIA_INDEX));
    headers.insert(CACHE_CONTROL, reply::constant("no-store"));
    response
}

fn drip(document: BoxFuture<'static, Result<Bytes, Error>>, settings: &RegistrySettings) -> Body {
    Drip::new(document, INDEX_PREFIX, settings.drip).boxed_unsync()
}

/// A manifest or index that is part of an image of this repository.
pub async fn by_digest(
    content: &dyn Content,
    headers: &HeaderMap,
    name: &ImageName,
    digest: Digest,
) -> Result<Response<Body>, Error> {
    let found = content.document(name.repo().clone(), digest).await?;
    let document = found
        .filter(|d| matches!(&*d.member.media_type, MEDIA_INDEX | MEDIA_MANIFEST))
        .ok_or_else(|| unknown(name, &digest))?;
    if reply::has_already(headers, &digest) {
        return Ok(reply::not_modified(&digest));
    }
    let mut response = reply::typed(&document.member.media_type, document.bytes);
    reply::immutable(response.headers_mut(), &digest);
    Ok(response)
}

fn unknown(name: &ImageName, digest: &Digest) -> Error {
    Error::new(
        Kind::ManifestUnknown,
        format!(
            "no image of {} that this registry holds has the manifest {digest}; pull a tag or commit first",
            name.repo()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, Index, Platform};

    #[test]
    fn an_index_begins_with_the_constant_bytes() {
        let platform = Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
            variant: None,
        };
        let index = Index {
            schema_version: 2,
            media_type: MEDIA_INDEX.into(),
            manifests: vec![Descriptor {
                media_type: MEDIA_MANIFEST.into(),
                digest: Digest::of(b""),
                size: 1,
                platform: Some(platform),
                annotations: [("a".to_owned(), "b".to_owned())].into(),
            }],
            annotations: [("a".to_owned(), "b".to_owned())].into(),
        };
        let text = serde_json::to_vec(&index).unwrap();
        assert!(text.starts_with(INDEX_PREFIX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_finding_leaves_time_for_a_real_status() {
        let wait = Duration::from_secs(20);
        let asked = Instant::now();
        assert_eq!(deadline(asked, wait), asked + wait);
        tokio::time::advance(Duration::from_secs(25)).await;
        assert_eq!(deadline(asked, wait), Instant::now() + GRACE);
        assert_eq!(deadline(asked, Duration::ZERO), Instant::now());
    }
}
