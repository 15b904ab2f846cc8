//! What a registry wants to see before it answers: `WWW-Authenticate`. Pure.

/// A way to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token that is to be had at `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

impl Challenge {
    /// The best of the ways that some headers offer, if one is known here.
    pub(super) fn best<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut known: Vec<Self> = headers.filter_map(Self::parse).collect();
        let token = known.iter().position(|c| matches!(c, Self::Bearer { .. }));
        match known.is_empty() {
            true => None,
            false => Some(known.swap_remove(token.unwrap_or(0))),
        }
    }

    fn parse(header: &str) -> Option<Self> {
        let (scheme, parameters) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        let mut rest = parameters;
        while let Some((key, value, after)) = parameter(rest) {
            match key.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                _ => {}
            }
            rest = after;
        }
        realm.map(|realm| Self::Bearer { realm, service })
    }
}

/// The first `key=value` or `key="value"`, and what follows it.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', ',', '\t']);
    let (key, rest) = text.split_once('=')?;
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find(',').unwrap_or(rest.len());
        return Some((key.trim(), rest[..end].trim().to_owned(), &rest[end..]));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((key.trim(), value, &quoted[at + 1..])),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        }
    }

    #[test]
    fn a_challenge_is_read_with_its_parameters() {
        let of = |text: &str| Challenge::best([text].into_iter());
        assert_eq!(of("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(of("basic"), Some(Challenge::Basic));
        let text =
            r#"Bearer realm="https://a.io/token",service="a, b",scope="repository:x:pull,push""#;
        assert_eq!(of(text), Some(bearer("https://a.io/token", Some("a, b"))));
        let text = r#"bearer scope=x , realm="https://a.io/\"t""#;
        assert_eq!(of(text), Some(bearer("https://a.io/\"t", None)));
        for none in ["", "Bearer", "Bearer realm=\"open", "Negotiate abc"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn a_token_is_better_than_a_password() {
        let offered = ["Basic realm=x", "Bearer realm=\"https://a.io/\""];
        let best = Challenge::best(offered.into_iter());
        assert_eq!(best, Some(bearer("https://a.io/", None)));
    }
}
