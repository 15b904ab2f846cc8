//! Lists: the tags of a repository, the catalog, referrers.

use bytes::Bytes;
use hyper::header::{HeaderName, LINK};
use hyper::{Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::json;

use super::{error, reply};
use crate::image::ImageName;
use crate::oci::MEDIA_INDEX;
use crate::server::Body;

/// Says which filters an answer went through.
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// An index of nothing.
const NO_MANIFESTS: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// What a query value leaves as it is.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'/');

/// The first value of `key` in a query, decoded.
pub fn value<'a>(query: &'a str, key: &str) -> Option<std::borrow::Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == key).then(|| percent_decode_str(value).decode_utf8_lossy())
    })
}

/// One page of a list.
#[derive(Debug, PartialEq, Eq)]
struct Page<'a> {
    entries: &'a [String],
    /// There is more behind the last entry.
    more: bool,
}

/// The entries after `last` (exclusive, whether or not it is one of them), at most `n`. `all` is sorted by bytes.
fn page<'a>(all: &'a [String], n: Option<usize>, last: Option<&str>) -> Page<'a> {
    let start = last.map_or(0, |last| {
        all.partition_point(|entry| entry.as_str() <= last)
    });
    let rest = &all[start..];
    let length = n.unwrap_or(rest.len()).min(rest.len());
    Page {
        entries: &rest[..length],
        more: length > 0 && length < rest.len(),
    }
}

/// A page of `all` as the answer to `query`; `shape` makes the document of its entries. `path` is where the list lives.
fn paged(
    path: &str,
    query: &str,
    all: &[String],
    shape: impl FnOnce(&[String]) -> serde_json::Value,
) -> Response<Body> {
    let n = value(query, "n").filter(|n| !n.is_empty());
    let limit = match n.as_deref().map(str::parse::<usize>).transpose() {
        Ok(limit) => limit,
        Err(_) => {
            let message = "the query parameter n must be a number, 0 or more";
            return error::custom(
                StatusCode::BAD_REQUEST,
                "PAGINATION_NUMBER_INVALID",
                message,
            );
        }
    };
    let last = value(query, "last").filter(|last| !last.is_empty());
    let page = page(all, limit, last.as_deref());
    let body = Bytes::from(shape(page.entries).to_string());
    let mut response = reply::typed("application/json", body);
    if let (true, Some(last)) = (page.more, page.entries.last()) {
        let last = utf8_percent_encode(last, QUERY);
        let next = format!(
            "<{path}?n={}&last={last}>; rel=\"next\"",
            page.entries.len()
        );
        response.headers_mut().insert(LINK, reply::value(&next));
    }
    response
}

/// `GET /v2/NAME/tags/list`
pub fn list(name: &ImageName, query: &str, tags: &[String]) -> Response<Body> {
    let path = format!("/v2/{name}/tags/list");
    paged(
        &path,
        query,
        tags,
        |tags| json!({ "name": name.as_str(), "tags": tags }),
    )
}

/// `GET /v2/_catalog`
pub fn catalog(query: &str, names: &[String]) -> Response<Body> {
    paged(
        "/v2/_catalog",
        query,
        names,
        |names| json!({ "repositories": names }),
    )
}

/// `GET /v2/NAME/referrers/DIGEST`: nothing refers to anything here.
pub fn referrers(query: &str) -> Response<Body> {
    let mut response = reply::typed(MEDIA_INDEX, Bytes::from_static(NO_MANIFESTS));
    if value(query, "artifactType").is_some_and(|kind| !kind.is_empty()) {
        response
            .headers_mut()
            .insert(FILTERS_APPLIED, reply::constant("artifactType"));
    }
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn tags(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Status, body and Link of an answer.
    async fn told(response: Response<Body>) -> (u16, Value, Option<String>) {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let link = head
            .headers
            .get(LINK)
            .map(|l| l.to_str().unwrap().to_owned());
        (
            head.status.as_u16(),
            serde_json::from_slice(&body).unwrap(),
            link,
        )
    }

    async fn asked(query: &str) -> (Value, Option<String>) {
        let name = ImageName::parse("org/model").unwrap();
        let (status, body, link) = told(list(&name, query, &tags("a b c d"))).await;
        assert_eq!((status, &body["name"]), (200, &json!("org/model")));
        (body["tags"].clone(), link)
    }

    #[tokio::test]
    async fn a_list_is_paged_by_n_and_last() {
        let next = |n: u8, last: &str| {
            Some(format!(
                "</v2/org/model/tags/list?n={n}&last={last}>; rel=\"next\""
            ))
        };
        for (query, wanted, link) in [
            ("", "a b c d", None),
            ("ns=docker.io", "a b c d", None),
            ("n=2", "a b", next(2, "b")),
            ("n=2&last=b", "c d", None),
            ("n=3&last=b", "c d", None),
            ("n=1&last=b", "c", next(1, "c")),
            ("last=bb&n=1", "c", next(1, "c")),
            ("last=d", "", None),
            ("n=0", "", None),
            ("n=4", "a b c d", None),
            ("n=&last=", "a b c d", None),
            ("n=18446744073709551615", "a b c d", None),
        ] {
            assert_eq!(asked(query).await, (json!(tags(wanted)), link), "{query}");
        }
    }

    #[tokio::test]
    async fn a_page_length_that_is_no_number_is_refused() {
        for query in ["n=x", "n=-1", "n=1.5", "n=99999999999999999999999999"] {
            let (status, body, _) = told(catalog(query, &[])).await;
            assert_eq!(status, 400, "{query}");
            assert_eq!(body["errors"][0]["code"], "PAGINATION_NUMBER_INVALID");
        }
    }

    #[tokio::test]
    async fn the_catalog_pages_names_with_slashes() {
        let (_, body, link) = told(catalog("n=1&last=a%2Fb", &tags("a/b a/c a/d"))).await;
        assert_eq!(body, json!({"repositories": ["a/c"]}));
        assert_eq!(
            link.as_deref(),
            Some("</v2/_catalog?n=1&last=a/c>; rel=\"next\"")
        );
    }

    #[tokio::test]
    async fn referrers_are_an_empty_index() {
        let response = referrers("artifactType=application%2Fspdx");
        assert_eq!(response.headers()["content-type"], MEDIA_INDEX);
        assert_eq!(response.headers()["oci-filters-applied"], "artifactType");
        let (status, body, _) = told(response).await;
        assert_eq!(status, 200);
        assert_eq!(
            body,
            json!({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": []})
        );
        assert!(
            !referrers("ns=x")
                .headers()
                .contains_key("oci-filters-applied")
        );
    }

    proptest! {
        /// Following the pages gives every entry once, in order.
        #[test]
        fn pages_join_to_the_whole(all in prop::collection::btree_set("[a-c]{1,3}", 0..20), n in 1..6_usize) {
            let all: Vec<String> = all.into_iter().collect();
            let (mut joined, mut last) = (Vec::new(), None::<String>);
            loop {
                let page = page(&all, Some(n), last.as_deref());
                joined.extend_from_slice(page.entries);
                last = page.entries.last().cloned();
                if !page.more { break }
            }
            prop_assert_eq!(joined, all);
        }
    }
}
