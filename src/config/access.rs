//! The types of the settings that say who may pull what.

use std::str::FromStr;

use reqwest::Url;

use super::value::ValueError;
use crate::auth::Glob;

/// Who may pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Whoever reaches the server.
    None,
    /// The users of a file.
    Htpasswd,
    /// Those who have a Hub token, each what it opens.
    HuggingFace,
}

impl FromStr for Mode {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "none" => Ok(Self::None),
            "htpasswd" => Ok(Self::Htpasswd),
            "huggingface" => Ok(Self::HuggingFace),
            _ => Err(ValueError::new(
                text,
                "a mode of auth: 'none', 'htpasswd' or 'huggingface'",
            )),
        }
    }
}

/// Patterns of repositories, with commas between; none of them is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Globs(pub Vec<Glob>);

impl FromStr for Globs {
    type Err = <Glob as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// An address under which clients find the server; without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicUrl(pub String);

impl FromStr for PublicUrl {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let sound = |url: &Url| {
            let bare = url.username().is_empty() && url.password().is_none();
            let plain = url.query().is_none() && url.fragment().is_none();
            matches!(url.scheme(), "http" | "https") && url.has_host() && bare && plain
        };
        let url = Url::parse(text).ok().filter(sound);
        let url = url.map(|url| Self(url.as_str().trim_end_matches('/').to_owned()));
        // What is wrong may be a password, so it is not repeated.
        url.ok_or_else(|| ValueError::new("it", "an address such as https://hub.example:5000"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_of_http_and_hold_no_secrets() {
        for (text, url) in [
            ("https://Hub.example/", "https://hub.example"),
            ("http://10.0.0.1:5000/a\"b", "http://10.0.0.1:5000/a%22b"),
        ] {
            assert_eq!(text.parse(), Ok(PublicUrl(url.to_owned())), "{text}");
        }
        for text in [
            "hub.example",
            "ftp://h",
            "https://u:canary@h",
            "http://h/?q",
        ] {
            let told = text.parse::<PublicUrl>().expect_err(text).to_string();
            assert!(!told.contains("canary"), "{told}");
        }
    }
}
