//! How clients reach this server, for the address in a challenge, and the challenges themselves.

use hyper::header::HOST;
use hyper::http::request::Parts;

/// What this server is called in challenges where a name of its own is due.
const REALM: &str = "hf-oci";

/// How clients reach this server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// Its address for clients, without a slash at its end, if it is not what they ask by.
    pub public_url: Option<String>,
    /// Whether it speaks TLS itself.
    pub tls: bool,
}

/// Why a challenge is given although a token was presented (RFC 6750, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// The token is not ours, or too old.
    InvalidToken,
    /// The token is good, but does not open this.
    InsufficientScope,
}

impl Flaw {
    const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidToken => "invalid_token",
            Self::InsufficientScope => "insufficient_scope",
        }
    }
}

/// The challenge for a name and a password.
pub(super) fn basic() -> String {
    format!("Basic realm=\"{REALM}\"")
}

impl Site {
    /// The challenge that sends a client to `/token`.
    pub(super) fn bearer(&self, request: &Parts, name: Option<&str>, flaw: Option<Flaw>) -> String {
        let address = self.address(request);
        let service = address.split_once("://").map_or(REALM, |(_, rest)| rest);
        let service = service.split('/').next().unwrap_or(REALM);
        let mut challenge = format!("Bearer realm=\"{address}/token\",service=\"{service}\"");
        if let Some(name) = name {
            challenge.push_str(&format!(",scope=\"repository:{name}:pull\""));
        }
        if let Some(flaw) = flaw {
            challenge.push_str(&format!(",error=\"{}\"", flaw.as_str()));
        }
        challenge
    }

    /// The address by which the client that sent `request` reaches this server.
    fn address(&self, request: &Parts) -> String {
        if let Some(url) = &self.public_url {
            return url.clone();
        }
        let authority = request.uri.authority().map(|a| a.as_str());
        let host = request
            .headers
            .get(HOST)
            .and_then(|host| host.to_str().ok());
        let host = authority.or(host).filter(|host| is_host(host));
        let scheme = if self.tls || forwarded_https(request) {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", host.unwrap_or("localhost"))
    }
}

/// Whether a proxy in front says that the client speaks TLS with it. Whoever lies here gets a wrong address, and nobody else.
fn forwarded_https(request: &Parts) -> bool {
    let value = request.headers.get("x-forwarded-proto");
    value.is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// A host and perhaps a port: nothing that could end a quoted text.
fn is_host(text: &str) -> bool {
    let known =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = hyper::Request::get(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_address_is_the_one_that_the_client_asks_by() {
        let plain = Site::default();
        let tls = Site {
            tls: true,
            ..Site::default()
        };
        let named = Site {
            public_url: Some("https://hub.example/hf".into()),
            tls: false,
        };
        let one = request("/v2/", &[("host", "proxy:5000")]);
        let two = request("http://proxy:5000/v2/", &[]);
        let forwarded = [("host", "hub.example"), ("x-forwarded-proto", "https")];
        let forwarded = request("/v2/", &forwarded);
        let hostile = request("/v2/", &[("host", "a\",realm=\"evil")]);
        for (site, request, address) in [
            (&plain, &one, "http://proxy:5000"),
            (&plain, &two, "http://proxy:5000"),
            (&tls, &one, "https://proxy:5000"),
            (&plain, &forwarded, "https://hub.example"),
            (&named, &one, "https://hub.example/hf"),
            (&plain, &hostile, "http://localhost"),
        ] {
            assert_eq!(site.address(request), address);
        }
    }

    #[test]
    fn a_challenge_names_where_what_and_why() {
        let request = request("/v2/org/m/manifests/main", &[("host", "[::1]:5000")]);
        let flaw = Some(Flaw::InsufficientScope);
        assert_eq!(
            Site::default().bearer(&request, Some("org/m"), flaw),
            r#"Bearer realm="http://[::1]:5000/token",service="[::1]:5000",scope="repository:org/m:pull",error="insufficient_scope""#
        );
        let site = Site {
            public_url: Some("https://h/x".into()),
            tls: false,
        };
        assert_eq!(
            site.bearer(&request, None, None),
            r#"Bearer realm="https://h/x/token",service="h""#
        );
        assert_eq!(basic(), r#"Basic realm="hf-oci""#);
    }
}
