//! Patterns over `[datasets/|spaces/]org/name`, in lower case, and the matcher of all patterns with `*`.

use std::fmt;
use std::str::FromStr;

/// A pattern: `*` stands for any characters of one component, `**`, as a whole component, for any number of components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no pattern of repositories, such as org/*, datasets/** or org/model-*: letters, digits, '.', '_', '-', '*' (within a component) and '**' (as a whole component)"
)]
pub struct GlobError(String);

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let lower = text.trim().to_ascii_lowercase();
        let sound = |part: &str| {
            let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'*');
            !part.is_empty() && part.bytes().all(known) && (part == "**" || !part.contains("**"))
        };
        if lower.len() <= 256 && lower.split('/').all(sound) {
            Ok(Self(lower))
        } else {
            Err(GlobError(text.chars().take(100).collect()))
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Glob {
    /// Whether the pattern stands for the whole of `text`, which is in lower case.
    pub fn matches(&self, text: &str) -> bool {
        wildcard(&self.0, text)
    }

    /// Whether the pattern stands for one text only.
    pub fn is_plain(&self) -> bool {
        !self.0.contains('*')
    }
}

/// Whether a pattern of components stands for the whole of `text`: `*` is any characters of one component, `**`, as a whole component, any
/// number of components. In time of the product of the lengths.
pub fn wildcard(pattern: &str, text: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let parts: Vec<&str> = text.split('/').collect();
    let component =
        |p: &&str, t: &&str| wild(p.as_bytes(), t.as_bytes(), |b| *b == b'*', |a, b| a == b);
    wild(&pattern, &parts, |p| *p == "**", component)
}

/// Matches a sequence against a pattern in which some elements stand for any number of others. In time of the product of the lengths:
/// only the last of those elements ever has to be tried again.
fn wild<P, T>(
    pattern: &[P],
    text: &[T],
    any: impl Fn(&P) -> bool,
    same: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut last = None;
    while t < text.len() {
        if p < pattern.len() && any(&pattern[p]) {
            last = Some((p, t));
            p += 1;
        } else if p < pattern.len() && same(&pattern[p], &text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((star, from)) = last {
            last = Some((star, from + 1));
            (p, t) = (star + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(any)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fits(glob: &str, text: &str) -> bool {
        glob.parse::<Glob>().expect(glob).matches(text)
    }

    #[test]
    fn a_star_stays_in_its_component_and_two_cross_them() {
        for (glob, yes, no) in [
            ("org/*", "org/a org/a.b-c", "org orga/b datasets/org/a"),
            ("ORG/Model", "org/model", "org/model2"),
            ("org/m*-*b", "org/m-b org/model-7b", "org/model-7bx org/m"),
            (
                "datasets/**",
                "datasets/a datasets/a/b",
                "a/datasets datasetsx/a",
            ),
            (
                "**/secret*",
                "secret org/secrets spaces/org/secret",
                "secret/x",
            ),
            ("**", "gpt2 a/b spaces/a/b", ""),
            ("*", "gpt2", "a/b"),
            ("**/b/**", "b a/b b/c a/b/c", "a/c"),
        ] {
            let mut yes = yes.split_whitespace();
            assert!(yes.all(|text| fits(glob, text)), "{glob}");
            let mut no = no.split_whitespace();
            assert!(!no.any(|text| fits(glob, text)), "{glob}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in [
            "",
            "/",
            "org/",
            "/org",
            "a//b",
            "org/***",
            "a**",
            "a b",
            "~nobody/x",
            "é",
            "[a]",
        ] {
            assert!(text.parse::<Glob>().is_err(), "{text}");
        }
    }

    proptest! {
        /// Against the plainest matcher that there is.
        #[test]
        fn stars_match_as_a_slow_matcher_says(glob in "[ab*]{1,6}", text in "[ab]{0,8}") {
            fn slow(p: &[u8], t: &[u8]) -> bool {
                match (p.first(), t.first()) {
                    (None, None) => true,
                    (Some(b'*'), _) => slow(&p[1..], t) || (!t.is_empty() && slow(p, &t[1..])),
                    (Some(a), Some(b)) => a == b && slow(&p[1..], &t[1..]),
                    _ => false,
                }
            }
            prop_assume!(!glob.contains("**"));
            prop_assert_eq!(fits(&glob, &text), slow(glob.as_bytes(), text.as_bytes()));
        }
    }
}
