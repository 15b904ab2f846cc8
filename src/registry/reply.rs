//! Small pieces of answers that several handlers share: bodies in memory, validators, conditions.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_NONE_MATCH,
    IF_RANGE,
};
use hyper::{HeaderMap, Response, StatusCode};

use crate::oci::Digest;
use crate::server::{Body, Piece};

/// Digest of what is served; clients compare it with the bytes.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A header value that is known to be one.
pub const fn constant(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

/// An answer whose bytes are at hand.
pub fn full(status: StatusCode, bytes: Bytes) -> Response<Body> {
    let length = bytes.len();
    let mut response = Response::new(
        Full::new(Piece::from(bytes))
            .map_err(io::Error::other)
            .boxed_unsync(),
    );
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}

/// An answer of the media type `media`.
pub fn typed(media: &str, bytes: Bytes) -> Response<Body> {
    let mut response = full(StatusCode::OK, bytes);
    response.headers_mut().insert(CONTENT_TYPE, value(media));
    response
}

/// A body of nothing. Sets no length.
pub fn nothing() -> Body {
    Empty::new().map_err(io::Error::other).boxed_unsync()
}

/// What cannot stand in a header is left out of it.
pub fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(constant(""))
}

/// Digest, validator and lifetime of content that is named by its digest and so never changes.
pub fn immutable(headers: &mut HeaderMap, digest: &Digest) {
    identified(headers, digest);
    headers.insert(CACHE_CONTROL, constant("max-age=31536000, immutable"));
}

/// For the client alone, not for caches that others share.
pub fn private(headers: &mut HeaderMap) {
    let lifetime = headers.get(CACHE_CONTROL).and_then(|v| v.to_str().ok());
    let lifetime = match lifetime {
        None => "private".to_owned(),
        Some("no-store") => return,
        Some(lifetime) => format!("private, {lifetime}"),
    };
    headers.insert(CACHE_CONTROL, value(&lifetime));
}

/// Digest and validator of content.
pub fn identified(headers: &mut HeaderMap, digest: &Digest) {
    headers.insert(CONTENT_DIGEST, value(&digest.to_string()));
    headers.insert(ETAG, value(&etag(digest)));
}

/// The entity tag of content: its digest in quotes.
pub fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client says that it has `digest` already (`If-None-Match`, RFC 9110, section 13.1.2).
pub fn has_already(headers: &HeaderMap, digest: &Digest) -> bool {
    let own = etag(digest);
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own)
}

/// Whether ranges may be served (`If-Range`, RFC 9110, section 13.1.5): there is no such condition, or it names exactly `digest`.
/// A date never holds, because no date is ever given out.
pub fn same_as_before(headers: &HeaderMap, digest: &Digest) -> bool {
    headers
        .get(IF_RANGE)
        .is_none_or(|tag| tag.as_bytes() == etag(digest).as_bytes())
}

/// 304, with the validators of `digest`.
pub fn not_modified(digest: &Digest) -> Response<Body> {
    let mut response = Response::new(nothing());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    identified(response.headers_mut(), digest);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for text in values {
            headers.append(name.clone(), text.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_client_that_has_the_content_is_recognised() {
        let (own, other) = (Digest::of(b"own"), Digest::of(b"other"));
        let (tag, strange) = (etag(&own), etag(&other));
        let weak = format!("W/{tag}");
        let list = format!("{strange}, {tag}");
        for yes in [
            vec![&*tag],
            vec![&*weak],
            vec![&*list],
            vec![&*strange, &*tag],
            vec!["*"],
        ] {
            assert!(has_already(&with(IF_NONE_MATCH, &yes), &own), "{yes:?}");
        }
        for no in [vec![], vec![&*strange], vec![own.hex().leak() as &str]] {
            assert!(!has_already(&with(IF_NONE_MATCH, &no), &own), "{no:?}");
        }
    }

    #[test]
    fn ranges_are_served_of_the_same_content_only() {
        let own = Digest::of(b"own");
        let (tag, strange) = (etag(&own), etag(&Digest::of(b"other")));
        assert!(same_as_before(&HeaderMap::new(), &own));
        assert!(same_as_before(&with(IF_RANGE, &[&tag]), &own));
        for no in [
            &*strange,
            &format!("W/{tag}"),
            "Wed, 21 Oct 2015 07:28:00 GMT",
        ] {
            assert!(!same_as_before(&with(IF_RANGE, &[no]), &own), "{no}");
        }
    }
}
