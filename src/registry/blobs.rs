//! Blobs: the whole, a range, or several ranges, straight from the file.
//!
//! A blob is never encoded on its way, whatever `Accept-Encoding` says: its digest is over the bytes as they are. HEAD has no ranges
//! (RFC 9110, section 14.2).

use http_body_util::BodyExt;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use super::body::FileBody;
use super::buffer::Buffers;
use super::content::{Blob, Content};
use super::multipart::{Layout, OCTETS, boundary, content_range};
use super::range::{RangeSet, Resolved};
use super::{error, reply};
use crate::error::{Error, Kind};
use crate::image::ImageName;
use crate::oci::Digest;
use crate::server::{Body, Wire};

/// The blob `digest`, as far as an image of this repository has it.
pub async fn get(
    content: &dyn Content,
    buffers: &Buffers,
    request: &Parts,
    name: &ImageName,
    digest: Digest,
) -> Result<Response<Body>, Error> {
    let Parts {
        method, headers, ..
    } = request;
    let ranges = match RangeSet::from_headers(headers) {
        Ok(ranges) => ranges.filter(|_| *method == Method::GET),
        Err(many) => return Ok(refused(StatusCode::BAD_REQUEST, &many.to_string())),
    };
    let blob = content.blob(name.repo().clone(), digest).await?;
    let blob = blob.ok_or_else(|| unknown(name, &digest))?;
    if reply::has_already(headers, &digest) {
        return Ok(reply::not_modified(&digest));
    }
    let ranges = ranges.filter(|_| reply::same_as_before(headers, &digest));
    let wanted = ranges.map_or(Resolved::Whole, |ranges| ranges.resolve(blob.size));
    let wire = request.extensions.get().cloned();
    Ok(answer(blob, digest, wanted, wire, buffers))
}

/// The answer that gives what is wanted of a blob.
fn answer(
    blob: Blob,
    digest: Digest,
    wanted: Resolved,
    wire: Option<Wire>,
    buffers: &Buffers,
) -> Response<Body> {
    let size = blob.size;
    let stream = |status, layout| {
        let body = FileBody::new(blob, layout, digest, wire, buffers);
        stream(body, digest, status)
    };
    let partial = StatusCode::PARTIAL_CONTENT;
    match wanted {
        Resolved::Whole => stream(StatusCode::OK, Layout::file(0..size)),
        Resolved::Unsatisfiable => past_the_end(size),
        Resolved::Parts(parts) => match parts.as_slice() {
            [range] => {
                let place = content_range(range, size);
                let mut response = stream(partial, Layout::file(range.clone()));
                response
                    .headers_mut()
                    .insert(CONTENT_RANGE, reply::value(&place));
                response
            }
            parts => {
                let boundary = boundary(&digest);
                let layout = Layout::multipart(&boundary, parts, size);
                let kind = format!("multipart/byteranges; boundary={boundary}");
                let mut response = stream(partial, layout);
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, reply::value(&kind));
                response
            }
        },
    }
}

fn stream(body: FileBody, digest: Digest, status: StatusCode) -> Response<Body> {
    let length = body.length();
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CONTENT_TYPE, reply::constant(OCTETS));
    headers.insert(ACCEPT_RANGES, reply::constant("bytes"));
    reply::immutable(headers, &digest);
    response
}

fn past_the_end(size: u64) -> Response<Body> {
    let message = format!("none of the ranges is inside the blob's {size} bytes");
    let mut response = refused(StatusCode::RANGE_NOT_SATISFIABLE, &message);
    let headers = response.headers_mut();
    headers.insert(CONTENT_RANGE, reply::value(&format!("bytes */{size}")));
    headers.insert(ACCEPT_RANGES, reply::constant("bytes"));
    response
}

fn refused(status: StatusCode, message: &str) -> Response<Body> {
    error::custom(status, "RANGE_INVALID", message)
}

fn unknown(name: &ImageName, digest: &Digest) -> Error {
    Error::new(
        Kind::BlobUnknown,
        format!(
            "no image of {} that this registry holds has the blob {digest}; pull a tag or commit first",
            name.repo()
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::registry::multipart;

    const SIZE: u64 = 2000;

    fn bytes() -> Vec<u8> {
        (0..SIZE).map(|i| (i % 251) as u8).collect()
    }

    /// Status, content type, content range and body of the answer to a Range header.
    async fn asked(range: &str) -> (u16, String, String, Vec<u8>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes()).unwrap();
        let wanted = RangeSet::parse(range)
            .unwrap()
            .map_or(Resolved::Whole, |set| set.resolve(SIZE));
        let blob = Blob {
            file: file.into(),
            size: SIZE,
            lease: None,
        };
        let (head, body) = answer(
            blob,
            Digest::of(&bytes()),
            wanted,
            None,
            &Buffers::new(1 << 20),
        )
        .into_parts();
        let text = |name| {
            let value = head.headers.get(name).map(|v| v.to_str().unwrap());
            value.unwrap_or_default().to_owned()
        };
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        assert_eq!(text(CONTENT_LENGTH), body.len().to_string());
        assert_eq!(text(ACCEPT_RANGES), "bytes");
        (
            head.status.as_u16(),
            text(CONTENT_TYPE),
            text(CONTENT_RANGE),
            body,
        )
    }

    #[tokio::test]
    async fn the_whole_and_single_ranges() {
        let all = bytes();
        for (range, status, place, wanted) in [
            ("", 200, "", &all[..]),
            ("bytes=nonsense", 200, "", &all[..]),
            ("bytes=0-1", 206, "bytes 0-1/2000", &all[..2]),
            (
                "bytes=500-1499",
                206,
                "bytes 500-1499/2000",
                &all[500..1500],
            ),
            ("bytes=500-", 206, "bytes 500-1999/2000", &all[500..]),
            ("bytes=-500", 206, "bytes 1500-1999/2000", &all[1500..]),
            ("bytes=1000-5000", 206, "bytes 1000-1999/2000", &all[1000..]),
            ("bytes=0-", 206, "bytes 0-1999/2000", &all[..]),
            ("bytes=0-9,10-19", 206, "bytes 0-19/2000", &all[..20]),
        ] {
            let got = asked(range).await;
            assert_eq!(
                (got.0, &*got.1, &*got.2),
                (status, OCTETS, place),
                "{range}"
            );
            assert_eq!(got.3, wanted, "{range}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_416_with_the_size() {
        for range in [
            "bytes=500-0",
            "bytes=2000-",
            "bytes=-0",
            "bytes=3000-4000,9-8",
        ] {
            let (status, kind, place, body) = asked(range).await;
            assert_eq!(
                (status, &*kind, &*place),
                (416, "application/json", "bytes */2000")
            );
            assert!(String::from_utf8(body).unwrap().contains("RANGE_INVALID"));
        }
    }

    #[tokio::test]
    async fn several_ranges_are_a_multipart() {
        let all = bytes();
        let (status, kind, place, body) = asked("bytes=100-199,0-1,-50").await;
        assert_eq!((status, &*place), (206, ""));
        let boundary = kind
            .strip_prefix("multipart/byteranges; boundary=")
            .unwrap();
        assert_eq!(
            multipart::tests::parse(&body, boundary),
            [
                (100, SIZE, all[100..200].to_vec()),
                (0, SIZE, all[..2].to_vec()),
                (1950, SIZE, all[1950..].to_vec()),
            ]
        );
    }
}
