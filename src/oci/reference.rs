//! Tags and references of the distribution specification.

use std::fmt;
use std::str::FromStr;

use super::Digest;

/// A tag: `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

/// What stands behind `/manifests/` in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A tag.
    Tag(Tag),
    /// A digest.
    Digest(Digest),
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It has a `:`, so it means to be a digest, and is none.
    #[error(transparent)]
    Digest(#[from] super::DigestError),
    /// No tag by the specification.
    #[error(
        "'{0}' is not a tag: a letter, digit or '_' and up to 127 letters, digits, '_', '.' or '-'"
    )]
    Tag(String),
}

impl Tag {
    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let bytes = text.as_bytes();
        let fits = (1..=128).contains(&bytes.len())
            && word(bytes[0])
            && bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(ReferenceError::Tag(text.chars().take(160).collect()))
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') {
            Ok(Self::Digest(text.parse()?))
        } else {
            Ok(Self::Tag(text.parse()?))
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The tag under which a branch or tag of a repository is pulled: `/` is written `--`. `None` where no tag can spell it.
pub fn spell_tag(revision: &str) -> Option<Tag> {
    revision.replace('/', "--").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_digests_are_told_apart() {
        assert!(matches!("main".parse(), Ok(Reference::Tag(_))));
        assert!(matches!(
            Digest::of(b"x").to_string().parse(),
            Ok(Reference::Digest(_))
        ));
        assert!(matches!(
            "sha256:xyz".parse::<Reference>(),
            Err(ReferenceError::Digest(_))
        ));
    }

    #[test]
    fn a_tag_has_at_most_128_characters_of_its_alphabet() {
        assert!("a".repeat(128).parse::<Tag>().is_ok());
        for bad in ["", ".a", "-a", "a/b", "a+b", "é", &"a".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_slashed_branch_is_spelled_with_two_dashes() {
        assert_eq!(
            spell_tag("refs/pr/1").map(|t| t.to_string()).as_deref(),
            Some("refs--pr--1")
        );
        assert_eq!(spell_tag("a+b"), None);
    }
}
