//! Repository names as Docker-side clients can write them, and what they mean.
//!
//! ```text
//! [datasets/|spaces/]ORG/NAME[/PATH…]        NAME for one-part ids
//! ```
//!
//! A name is made of components `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`. What that cannot spell is escaped as `--` and two hex digits of the
//! byte; a component that would begin with an escape has a `0` in front. Letters of ids are folded, as the Hub folds them.
//! Each repository id has exactly one name: a needless escape in it is refused, so that nothing can be reached, or kept from being
//! reached, under two names. In a PATH, escapes may also spell upper-case letters, which tells files apart that differ in case only.

use std::fmt;

use crate::repo::{RepoId, RepoIdError, RepoKind};

/// The longest name, as Docker counts it.
const MAX_NAME: usize = 255;

/// A name of the grammar: a repository, and perhaps a path in it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ImageName {
    text: String,
    repo: RepoId,
    path: Vec<String>,
}

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than any client would send.
    #[error("the name is longer than {MAX_NAME} characters")]
    TooLong,
    /// A component that no client could write.
    #[error(
        "'{0}' is not a component of a name: lower-case letters and digits, with single '.', '_', '__' or '-' between them"
    )]
    Component(String),
    /// `--` without two hex digits.
    #[error("'{0}' has a '--' that is no escape: two hex digits of a byte must follow it")]
    Escape(String),
    /// The escaped bytes are no text.
    #[error("the escapes of '{0}' are not UTF-8")]
    Utf8(String),
    /// A component spelled with escapes that it does not need.
    #[error("'{given}' is spelled with needless escapes; write '{wanted}'")]
    Spelling {
        /// As given.
        given: String,
        /// The one right way.
        wanted: String,
    },
    /// Not an id of the Hub.
    #[error(transparent)]
    Id(#[from] RepoIdError),
}

impl ImageName {
    /// Reads the name of a request.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong);
        }
        let parts = text.split('/').collect::<Vec<_>>();
        if let Some(bad) = parts.iter().find(|part| !is_component(part)) {
            return Err(NameError::Component((*bad).to_owned()));
        }
        let (kind, parts) = match parts.as_slice() {
            ["datasets", rest @ ..] if !rest.is_empty() => (RepoKind::Dataset, rest),
            ["spaces", rest @ ..] if !rest.is_empty() => (RepoKind::Space, rest),
            all => (RepoKind::Model, all),
        };
        let (id, path) = parts.split_at(parts.len().min(2));
        let id = id
            .iter()
            .map(|part| decode_exactly(part, |id| id.to_ascii_lowercase()))
            .collect::<Result<Vec<_>, _>>()?;
        let path = path
            .iter()
            .map(|part| decode_exactly(part, |text| text))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            text: text.to_owned(),
            repo: RepoId::new(kind, &id.join("/"))?,
            path,
        })
    }

    /// The name of a repository, or of a path in it, as `parse` reads it. Upper-case letters of `path` are folded.
    pub fn spell(repo: &RepoId, path: &str) -> String {
        let id = repo.folded();
        let path = path.to_ascii_lowercase();
        let components = id.id().split('/').chain(path.split('/'));
        let spelled: Vec<String> = components
            .filter(|c| !c.is_empty())
            .map(encode_component)
            .collect();
        format!("{}{}", repo.kind().prefix(), spelled.join("/"))
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The repository, its letters folded.
    pub const fn repo(&self) -> &RepoId {
        &self.repo
    }

    /// The components of the selected path, escapes undone; empty for the whole repository.
    pub fn path(&self) -> &[String] {
        &self.path
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9')
}

/// Whether `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` matches.
fn is_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    is_plain(*first)
        && is_plain(*last)
        && bytes
            .split(|b| is_plain(*b))
            .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

/// Undoes the escapes of one component.
fn decode(component: &str) -> Result<String, NameError> {
    let escape = || NameError::Escape(component.to_owned());
    let mut rest = component.as_bytes();
    if rest.starts_with(b"0--") && rest.get(3..5).and_then(hex_byte).is_some() {
        rest = &rest[1..];
    }
    let mut out = Vec::with_capacity(rest.len());
    while let [first, tail @ ..] = rest {
        if rest.starts_with(b"--") {
            out.push(rest.get(2..4).and_then(hex_byte).ok_or_else(escape)?);
            rest = &rest[4..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(out).map_err(|_| NameError::Utf8(component.to_owned()))
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    crate::oci::unhex::<1>(text).map(|[byte]| byte)
}

/// Undoes the escapes of a component, which has none that it does not need to spell what `meant` makes of it.
fn decode_exactly(
    component: &str,
    meant: impl FnOnce(String) -> String,
) -> Result<String, NameError> {
    let text = decode(component)?;
    let wanted = encode_component(&meant(text.clone()));
    if wanted == component {
        Ok(text)
    } else {
        Err(NameError::Spelling {
            given: component.to_owned(),
            wanted,
        })
    }
}

/// Spells one component of an id or path: the one spelling in which only what must be escaped is, upper-case letters included.
pub fn encode_component(component: &str) -> String {
    let bytes = component.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let run = bytes[at..].iter().take_while(|b| !is_plain(**b)).count();
        if run == 0 {
            out.push(char::from(bytes[at]));
            at += 1;
            continue;
        }
        let inside = at > 0 && at + run < bytes.len();
        match &bytes[at..at + run] {
            separator @ (b"." | b"_" | b"__" | b"-") if inside => {
                out.extend(separator.iter().map(|b| char::from(*b)));
            }
            others => others.iter().for_each(|b| push_escape(&mut out, *b)),
        }
        at += run;
    }
    if out.starts_with("--") {
        out.insert(0, '0');
    } else if out.starts_with("0--") {
        out.replace_range(0..1, "0--30");
    }
    out
}

fn push_escape(out: &mut String, byte: u8) {
    out.push_str("--");
    out.push_str(&crate::oci::hex(&[byte]));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> (String, Vec<String>) {
        let name = ImageName::parse(text).expect(text);
        (name.repo().to_string(), name.path().to_vec())
    }

    #[test]
    fn names_of_every_kind_are_read() {
        assert_eq!(parsed("gpt2"), ("gpt2".into(), vec![]));
        assert_eq!(parsed("org/model"), ("org/model".into(), vec![]));
        assert_eq!(parsed("datasets/squad"), ("datasets/squad".into(), vec![]));
        assert_eq!(parsed("spaces/org/app"), ("spaces/org/app".into(), vec![]));
        assert_eq!(
            parsed("datasets/org/data/sub/a--20b.txt"),
            (
                "datasets/org/data".into(),
                vec!["sub".into(), "a b.txt".into()]
            )
        );
    }

    #[test]
    fn escapes_of_the_grammar_are_undone() {
        assert_eq!(parsed("0--5ffoo/bar--5f").0, "_foo/bar_");
        assert_eq!(parsed("o/m/0--30--20x").1, ["0 x"]);
        assert_eq!(
            parsed("o/m/--".trim_end_matches("/--")).1,
            Vec::<String>::new()
        );
        assert_eq!(parsed("o/m/c--c3--a9").1, ["cé"]);
    }

    #[test]
    fn a_needless_escape_in_an_id_is_refused_with_the_right_spelling() {
        assert_eq!(
            ImageName::parse("org/m--6fdel"),
            Err(NameError::Spelling {
                given: "m--6fdel".into(),
                wanted: "model".into()
            })
        );
    }

    #[test]
    fn what_no_client_could_write_is_refused() {
        let long = "a/".repeat(128) + "b";
        for text in [
            "",
            "/",
            "Org/model",
            "org//x",
            "org/",
            "-a/b",
            "a-/b",
            "a.-b",
            "a___b",
            "org/a--zz",
            "o/m/a--ff",
            "o/m/..",
            "o/m/é",
            &long,
        ] {
            assert!(ImageName::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_path_component_survives_its_spelling(component in "[^/\0]{1,40}") {
            let spelled = encode_component(&component);
            prop_assert!(is_component(&spelled), "{spelled}");
            prop_assert_eq!(decode(&spelled), Ok(component));
        }

        #[test]
        fn any_id_of_the_hub_has_a_name_that_reads_back(org in "[A-Za-z0-9_.-]{1,20}", name in "[A-Za-z0-9_.-]{1,20}") {
            if let Ok(repo) = RepoId::new(RepoKind::Model, &format!("{org}/{name}")) {
                let spelled = ImageName::spell(&repo, "");
                // An organisation of the Hub cannot be called like a kind of repository.
                prop_assume!(!spelled.starts_with("datasets/") && !spelled.starts_with("spaces/"));
                let parsed = ImageName::parse(&spelled);
                prop_assert_eq!(parsed.map(|n| n.repo().clone()), Ok(repo.folded()));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,80}") {
            let _ = ImageName::parse(&text);
        }
    }
}
