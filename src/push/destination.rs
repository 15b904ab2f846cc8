//! Where images are pushed to: `HOST[:PORT][/PREFIX]`.

use std::fmt;
use std::str::FromStr;

use super::PushError;

/// The longest name of a repository, with its host, that registries take.
const MAX_NAME: usize = 255;

/// A registry, and what stands before the names there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    host: String,
    prefix: String,
}

/// Why a text is no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// It has a scheme.
    #[error("a registry is wanted without {0}; --plain-http is for those without TLS")]
    Scheme(String),
    /// It has no host.
    #[error("{0:?} is no host of a registry, such as registry.example.com or 127.0.0.1:5000")]
    Host(String),
    /// Its prefix cannot be part of a name.
    #[error(
        "{0:?} cannot be part of a repository's name: lower case letters, digits, and . _ - between them"
    )]
    Prefix(String),
}

impl Destination {
    /// The host, with its port if one was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it is this machine.
    pub fn is_loopback(&self) -> bool {
        let host = self
            .host
            .rsplit_once(':')
            .map_or(self.host.as_str(), |(host, _)| host);
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let address = address.parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// The repository of an image of this name.
    pub(super) fn repository(&self, name: &str) -> Result<String, PushError> {
        let repository = match self.prefix.is_empty() {
            true => name.to_owned(),
            false => format!("{}/{name}", self.prefix),
        };
        match self.host.len() + 1 + repository.len() <= MAX_NAME {
            true => Ok(repository),
            false => Err(PushError::other(format!(
                "the name {repository} is too long for a registry"
            ))),
        }
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(DestinationError::Scheme(format!("{scheme}://")));
        }
        let text = text.strip_suffix('/').unwrap_or(text);
        let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
        // As docker tells a host from the first part of a name.
        let marked = host == "localhost" || host.contains(['.', ':']);
        let url = reqwest::Url::parse(&format!("https://{host}/"));
        let plain = url.is_ok_and(|url| {
            url.host_str().is_some()
                && url.username().is_empty()
                && url.password().is_none()
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
        });
        if !marked || !plain || host.contains('@') {
            return Err(DestinationError::Host(host.to_owned()));
        }
        if !prefix.is_empty() && !prefix.split('/').all(is_component) {
            return Err(DestinationError::Prefix(prefix.to_owned()));
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            prefix: prefix.to_owned(),
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        match self.prefix.is_empty() {
            true => Ok(()),
            false => write!(f, "/{}", self.prefix),
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = |text: &str| text.starts_with(word) && text.ends_with(word);
    let mut between = text.split(word).filter(|part| !part.is_empty());
    ends(text)
        && between.all(|part| matches!(part, "." | "_" | "__") || part.chars().all(|c| c == '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_host_and_what_stands_before_the_names() {
        for (text, host, name) in [
            ("127.0.0.1:5000", "127.0.0.1:5000", "org/m"),
            ("Registry.Example.com/", "registry.example.com", "org/m"),
            ("localhost/a--b/c__d", "localhost", "a--b/c__d/org/m"),
            ("[::1]:5000/x", "[::1]:5000", "x/org/m"),
        ] {
            let destination: Destination = text.parse().expect(text);
            assert_eq!(destination.host(), host);
            assert_eq!(destination.repository("org/m").expect("a name"), name);
        }
    }

    #[test]
    fn what_is_no_destination_is_refused() {
        for text in [
            "",
            "/",
            "org/other",
            "https://r.io",
            "r.io/Upper",
            "r.io/a:tag",
            "r.io//a",
            "r.io/-a",
            "r.io/a___b",
            "user@r.io",
            "user:pass@r.io",
            "r.io?x",
            "r.io#x",
            "r.io:port",
            "r.io/..",
            "r.io/a_-b",
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }

    #[test]
    fn this_machine_is_known_by_its_names() {
        let is = |text: &str| text.parse::<Destination>().expect(text).is_loopback();
        assert!(is("localhost:5000") && is("127.0.0.1:5000") && is("[::1]:5000"));
        assert!(!is("registry.example.com") && !is("10.0.0.1:5000"));
    }
}
