//! Where the Hub is, and which addresses belong to it.
//!
//! Every address that a request goes to is made or checked here, so this is where the token's limits are drawn: [`Endpoint::owns`] says who
//! gets it, [`Endpoint::follow`] where a redirect may lead, [`Endpoint::rehome`] keeps pagination on the own endpoint.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Url;
use serde::{Deserialize, Serialize};

/// The Hub's own address.
const HUB: &str = "https://huggingface.co";

/// What stays as it is in a revision: `A-Za-z0-9-._~`.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// In a path `/` stays too.
const PATH: &AsciiSet = &SEGMENT.remove(b'/');

/// The address of the Hub or of a mirror: `http` or `https`, a host, perhaps a port and a path prefix; no credentials, query or fragment.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// Scheme, host and port, with the path `/`.
    origin: Url,
    /// Empty, or `/` and a path without a slash at its end.
    prefix: String,
}

/// Why a text cannot be an endpoint. It never repeats the text, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the upstream's address {0}; an address like https://huggingface.co is wanted")]
pub struct EndpointError(&'static str);

impl Endpoint {
    /// Whether this is huggingface.co itself, whose habits are known, rather than a mirror.
    pub fn is_hub(&self) -> bool {
        self.prefix.is_empty() && self.origin.as_str() == format!("{HUB}/")
    }

    /// Whether what is sent to it can be read on the way: it is without TLS, and not on this machine.
    pub fn is_exposed(&self) -> bool {
        let host = self.origin.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let here = match address.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host == "localhost",
        };
        self.origin.scheme() == "http" && !here
    }

    /// The address of `path` (encoded, with a leading `/`) at this endpoint.
    pub(super) fn url(&self, path: &str, query: Option<&str>) -> Url {
        let mut url = self.origin.clone();
        url.set_path(&format!("{}{path}", self.prefix));
        url.set_query(query);
        url
    }

    /// Whether `url` is of this endpoint's origin (scheme, host and port). Only such addresses are sent the token.
    pub(super) fn owns(&self, url: &Url) -> bool {
        self.origin.origin() == url.origin()
    }

    /// Whether `url` is a call of this endpoint's API. Content that it serves from beneath `/api/` is none.
    pub(super) fn is_api(&self, url: &Url) -> bool {
        let path = self.strip(url.path());
        self.owns(url) && path.starts_with("/api/") && !path.starts_with("/api/resolve-cache/")
    }

    /// The address of the next page: the path and query of `link` at this endpoint, whatever host it names.
    pub(super) fn rehome(&self, current: &Url, link: &str) -> Option<Url> {
        let link = current.join(link).ok()?;
        Some(self.url(self.strip(link.path()), link.query()))
    }

    /// Where a redirect from `from` leads. Refused: other schemes than HTTP's, and leaving TLS unless the endpoint itself is without.
    pub(super) fn follow(&self, from: &Url, location: &str) -> Result<Url, &'static str> {
        let path_only = location.starts_with('/') && !location.starts_with("//");
        let mut to = from
            .join(location)
            .map_err(|_| "its redirect names no address")?;
        if path_only && self.owns(from) {
            to.set_path(&format!("{}{}", self.prefix, self.strip(to.path())));
        }
        if !matches!(to.scheme(), "http" | "https") {
            return Err("its redirect leaves HTTP");
        }
        if from.scheme() == "https" && to.scheme() == "http" && self.origin.scheme() == "https" {
            return Err("its redirect leaves TLS");
        }
        // Credentials in a redirect would be sent as ours.
        let _ = to.set_username("");
        let _ = to.set_password(None);
        to.set_fragment(None);
        Ok(to)
    }

    /// `path` without this endpoint's prefix, which a mirror may or may not have put into an address.
    fn strip<'a>(&self, path: &'a str) -> &'a str {
        match path.strip_prefix(self.prefix.as_str()) {
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let mut origin =
            Url::parse(text.trim()).map_err(|_| EndpointError("cannot be understood"))?;
        if !matches!(origin.scheme(), "http" | "https") {
            return Err(EndpointError("is neither http nor https"));
        }
        if !origin.username().is_empty() || origin.password().is_some() {
            return Err(EndpointError(
                "holds credentials (the token has its own setting)",
            ));
        }
        if origin.query().is_some() || origin.fragment().is_some() {
            return Err(EndpointError("has a query or a fragment"));
        }
        let prefix = origin.path().trim_end_matches('/').to_owned();
        origin.set_path("/");
        Ok(Self { origin, prefix })
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

/// Without a slash at the end.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.origin.as_str().trim_end_matches('/');
        write!(f, "{origin}{}", self.prefix)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The Hub.
impl Default for Endpoint {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "a constant, and a test parses it")]
        HUB.parse().expect("the Hub's address is an endpoint")
    }
}

/// A revision, encoded to be one segment of a path. None for texts that no encoding keeps from changing the path (`.`, `..`, nothing).
pub(super) fn encode_revision(revision: &str) -> Option<String> {
    let usable = !matches!(revision, "" | "." | "..") && revision.len() <= 1024;
    usable.then(|| utf8_percent_encode(revision, SEGMENT).to_string())
}

/// A file's path, encoded.
pub(super) fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

/// `url` as errors may show it: scheme, host and port. A path may be one that this server learned with another one's credentials, and
/// signatures live in the query.
pub(super) fn shown(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().expect(text)
    }

    fn url(text: &str) -> Url {
        Url::parse(text).expect(text)
    }

    #[test]
    fn an_endpoint_prints_without_a_slash_at_its_end() {
        for (text, shown) in [
            ("https://huggingface.co", "https://huggingface.co"),
            ("https://huggingface.co/", "https://huggingface.co"),
            (
                " http://[::1]:8090/hf/mirror// ",
                "http://[::1]:8090/hf/mirror",
            ),
            ("HTTPS://Mirror.Example:443", "https://mirror.example"),
        ] {
            assert_eq!(endpoint(text).to_string(), shown);
        }
        assert!(Endpoint::default().is_hub());
        assert!(!endpoint("https://huggingface.co/mirror").is_hub());
    }

    #[test]
    fn what_is_no_endpoint_is_refused_without_repeating_it() {
        for text in [
            "",
            "huggingface.co",
            "ftp://x",
            "file:///x",
            "https://user:s3cret@x",
            "https://s3cret@x",
            "https://x/?s3cret",
            "https://x/#s3cret",
            "https://",
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn revisions_and_paths_are_encoded_as_the_hub_expects() {
        assert_eq!(
            encode_revision("refs/pr/1").as_deref(),
            Some("refs%2Fpr%2F1")
        );
        assert_eq!(
            encode_path("sub dir/été #1%?.txt"),
            "sub%20dir/%C3%A9t%C3%A9%20%231%25%3F.txt"
        );
        assert_eq!(encode_revision("v1.0_a~b-c").as_deref(), Some("v1.0_a~b-c"));
        for bad in ["", ".", "..", &"x".repeat(1025)] {
            assert_eq!(encode_revision(bad), None);
        }
        let e = endpoint("http://m/hf");
        let path = format!(
            "/a/resolve/refs%2Fpr%2F1/{}",
            encode_path("x y/%2e%2e/z'\\")
        );
        assert_eq!(
            e.url(&path, Some("a=b")).as_str(),
            "http://m/hf/a/resolve/refs%2Fpr%2F1/x%20y/%252e%252e/z%27%5C?a=b"
        );
    }

    #[test]
    fn the_next_page_is_asked_of_the_own_endpoint() {
        let link = "https://huggingface.co/api/models/a/b/tree/main?recursive=true&cursor=Zm9v%3D";
        for (own, next) in [
            (
                "http://127.0.0.1:9",
                "http://127.0.0.1:9/api/models/a/b/tree/main?recursive=true&cursor=Zm9v%3D",
            ),
            (
                "https://m/hf",
                "https://m/hf/api/models/a/b/tree/main?recursive=true&cursor=Zm9v%3D",
            ),
        ] {
            let own = endpoint(own);
            let current = own.url("/api/models/a/b/tree/main", None);
            assert_eq!(
                own.rehome(&current, link).map(String::from).as_deref(),
                Some(next)
            );
        }
        let own = endpoint("https://m/hf");
        let current = own.url("/api/x", None);
        for same in ["/hf/api/x?c=1", "https://m/hf/api/x?c=1", "?c=1", "x?c=1"] {
            let next = own.rehome(&current, same).expect(same);
            assert_eq!(next.as_str(), "https://m/hf/api/x?c=1", "{same}");
        }
    }

    #[test]
    fn only_the_own_origin_is_owned() {
        let own = endpoint("https://m/hf");
        assert!(own.owns(&url("https://m:443/other")));
        for other in [
            "http://m/hf",
            "https://m:444/hf",
            "https://m.evil/hf",
            "https://cdn.m/hf",
            "https://evil/@m/hf",
        ] {
            assert!(!own.owns(&url(other)), "{other}");
        }
    }

    #[test]
    fn redirects_lead_where_they_may() {
        let own = endpoint("https://m/hf");
        let from = own.url("/api/models/a", None);
        let to = |location| own.follow(&from, location).map(String::from);
        assert_eq!(
            to("/api/models/A"),
            Ok("https://m/hf/api/models/A".to_owned())
        );
        assert_eq!(
            to("/hf/api/models/A?x=1"),
            Ok("https://m/hf/api/models/A?x=1".to_owned())
        );
        assert_eq!(to("//cdn/x"), Ok("https://cdn/x".to_owned()));
        assert_eq!(
            to("https://u:p@cdn/x?sig=1#f"),
            Ok("https://cdn/x?sig=1".to_owned())
        );
        assert!(to("http://cdn/x").is_err());
        assert!(to("file:///etc/passwd").is_err());
        assert!(to("https://").is_err());
        let plain = endpoint("http://m");
        let from = url("https://cdn/x");
        assert!(plain.follow(&from, "http://cdn/y").is_ok());
    }

    #[test]
    fn what_is_sent_without_tls_to_another_machine_is_exposed() {
        for (text, exposed) in [
            ("https://huggingface.co", false),
            ("https://mirror.example", false),
            ("http://mirror.example", true),
            ("http://10.0.0.1:8000/hf", true),
            ("http://127.0.0.1:8000", false),
            ("http://[::1]:8000", false),
            ("http://localhost:8000", false),
        ] {
            assert_eq!(endpoint(text).is_exposed(), exposed, "{text}");
        }
    }

    #[test]
    fn shown_addresses_have_no_secrets() {
        let secret = url("https://u:p@cdn.hf.co/a/b?X-Amz-Signature=abc#f");
        assert_eq!(shown(&secret), "https://cdn.hf.co");
    }
}
