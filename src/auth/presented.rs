//! What a request's `Authorization` header presents. Nothing of it can be printed.

use std::fmt;

use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine, alphabet};
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use percent_encoding::percent_decode;

/// The longest header that is looked at.
const MAX_HEADER: usize = 8 << 10;

/// Some clients leave the padding out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A password or token. It can be looked at, but not printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl Secret {
    #[cfg(test)]
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hidden")
    }
}

/// What a request presents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Presented {
    /// Nothing.
    Nothing,
    /// A name and a password (RFC 7617).
    Basic(String, Secret),
    /// A token (RFC 6750).
    Bearer(Secret),
    /// Something that cannot be understood.
    Garbage,
}

impl Presented {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Nothing,
            (Some(value), None) if value.len() <= MAX_HEADER => value
                .to_str()
                .ok()
                .and_then(Self::parse)
                .unwrap_or(Self::Garbage),
            _ => Self::Garbage,
        }
    }

    /// What a form presents that asks for a token (RFC 6749, sections 4.3 and 6): a password, or a token that stands for one.
    pub(super) fn of_form(form: &[u8]) -> Self {
        if form.len() > MAX_HEADER {
            return Self::Garbage;
        }
        let field = |wanted: &str| {
            let pair = form
                .split(|b| *b == b'&')
                .find_map(|pair| pair.strip_prefix(wanted.as_bytes())?.strip_prefix(b"="))?;
            let spaced: Vec<u8> = pair
                .iter()
                .map(|b| if *b == b'+' { b' ' } else { *b })
                .collect();
            let text = percent_decode(&spaced).decode_utf8().ok()?;
            Some(text.into_owned()).filter(|text| !text.is_empty())
        };
        let user = field("username").unwrap_or_default();
        match field("grant_type").as_deref() {
            Some("password") => field("password"),
            Some("refresh_token") => field("refresh_token"),
            _ => return Self::Garbage,
        }
        .map_or(Self::Garbage, |secret| Self::Basic(user, Secret(secret)))
    }

    fn parse(value: &str) -> Option<Self> {
        let (scheme, rest) = value.trim().split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(Secret(rest.to_owned())));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(LENIENT.decode(rest).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Self::Basic(user.to_owned(), Secret(password.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn basic(user: &str, password: &str) -> String {
        format!("Basic {}", LENIENT.encode(format!("{user}:{password}")))
    }

    fn of(values: &[&str]) -> Presented {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        Presented::of(&headers)
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    #[test]
    fn names_passwords_and_tokens_are_read() {
        assert_eq!(of(&[]), Presented::Nothing);
        let wanted = Presented::Basic("any".into(), secret("hf_x:y"));
        assert_eq!(of(&[&basic("any", "hf_x:y")]), wanted);
        assert_eq!(of(&["basic   YW55OmhmX3g6eQ"]), wanted);
        assert_eq!(of(&["BEARER abc"]), Presented::Bearer(secret("abc")));
    }

    #[test]
    fn what_cannot_be_understood_is_not_nothing() {
        let long = format!("Bearer {}", "x".repeat(MAX_HEADER));
        for value in ["Basic", "Basic !!!", "Basic YW55", "Digest x", "", &long] {
            assert_eq!(of(&[value]), Presented::Garbage, "{value}");
        }
        assert_eq!(of(&["Bearer a", "Bearer b"]), Presented::Garbage);
    }

    #[test]
    fn forms_are_read_with_their_escapes() {
        let of = |form: &str| Presented::of_form(form.as_bytes());
        let wanted = Presented::Basic("a n".into(), secret("hf_x&y"));
        assert_eq!(
            of("grant_type=password&service=h&username=a+n&password=hf%5Fx%26y"),
            wanted
        );
        let wanted = Presented::Basic(String::new(), secret("hf_x"));
        assert_eq!(of("refresh_token=hf_x&grant_type=refresh_token"), wanted);
        let long = format!("grant_type=password&password={}", "x".repeat(MAX_HEADER));
        for form in [
            "",
            "grant_type=password",
            "grant_type=password&password=",
            "password=hf_x",
            "grant_type=client_credentials&password=x",
            "grant_type=password&password=%ff",
            &long,
        ] {
            assert_eq!(of(form), Presented::Garbage, "{form}");
        }
    }

    #[test]
    fn nothing_of_it_is_printed() {
        let shown = format!(
            "{:?}{:?}",
            of(&["Bearer canary"]),
            of(&[&basic("u", "canary")])
        );
        assert!(!shown.contains("canary"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_password_comes_through(user in "[a-z]{0,8}", password in "\\PC{0,40}") {
            prop_assert_eq!(of(&[&basic(&user, &password)]), Presented::Basic(user, secret(&password)));
        }
    }
}
