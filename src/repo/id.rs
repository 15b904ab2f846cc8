//! Repositories, commits and content ids of the Hub, as types that cannot be wrong.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// The three kinds of repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RepoKind {
    /// `ORG/NAME`
    Model,
    /// `datasets/ORG/NAME`
    Dataset,
    /// `spaces/ORG/NAME`
    Space,
}

impl RepoKind {
    /// The path segment of the Hub's API: `models`, `datasets` or `spaces`.
    pub const fn api(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
            Self::Space => "spaces",
        }
    }

    /// What stands before the id in the Hub's pages and in names: nothing, `datasets/` or `spaces/`.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
            Self::Space => "spaces/",
        }
    }
}

/// A repository of the Hub: its kind and its id, `ORG/NAME` or `NAME`.
///
/// Every part matches the Hub's rules: `[A-Za-z0-9_.-]`, 1 to 96 bytes, no `--` or `..`, no `-` or `.` at either end, no `.git` at the end.
/// Letter case is kept; two spellings of one repository are equal only when folded (see [`RepoId::folded`]).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoId {
    kind: RepoKind,
    id: String,
}

/// Why a text is no repository id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{id}' cannot be the id of a repository: {why}")]
pub struct RepoIdError {
    /// What was given, clipped.
    pub id: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

impl RepoId {
    /// Checks `id` by the Hub's rules.
    pub fn new(kind: RepoKind, id: &str) -> Result<Self, RepoIdError> {
        let fail = |why| RepoIdError {
            id: id.chars().take(200).collect(),
            why,
        };
        let parts = id.split('/').count();
        if parts > 2 {
            return Err(fail("it has more than two parts"));
        }
        id.split('/').try_for_each(check_part).map_err(fail)?;
        Ok(Self {
            kind,
            id: id.to_owned(),
        })
    }

    /// The kind of repository.
    pub const fn kind(&self) -> RepoKind {
        self.kind
    }

    /// `ORG/NAME` or `NAME`, in the case given.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The same repository with its letters folded: the key under which everything about it is kept.
    pub fn folded(&self) -> Self {
        Self {
            kind: self.kind,
            id: self.id.to_ascii_lowercase(),
        }
    }
}

fn check_part(part: &str) -> Result<(), &'static str> {
    let edge = |c: char| c == '-' || c == '.';
    if part.is_empty() || part.len() > 96 {
        Err("each part has 1 to 96 characters")
    } else if !part
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    {
        Err("only letters, digits, '_', '.' and '-' are allowed")
    } else if part.contains("--") || part.contains("..") {
        Err("'--' and '..' are not allowed")
    } else if part.starts_with(edge) || part.ends_with(edge) {
        Err("a part neither begins nor ends with '-' or '.'")
    } else if part.ends_with(".git") {
        Err("a part does not end with '.git'")
    } else {
        Ok(())
    }
}

/// `datasets/ORG/NAME`, as the Hub's pages are addressed.
impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.kind.prefix(), self.id)
    }
}

impl fmt::Debug for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The inverse of `Display`.
impl FromStr for RepoId {
    type Err = RepoIdError;

    fn from_str(text: &str) -> Result<Self, RepoIdError> {
        for kind in [RepoKind::Dataset, RepoKind::Space] {
            if let Some(id) = text.strip_prefix(kind.prefix()) {
                return Self::new(kind, id);
            }
        }
        Self::new(RepoKind::Model, text)
    }
}

/// A commit of a repository: 40 hex digits. Its content never changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Commit([u8; 20]);

/// Why a text is no commit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a commit: 40 hex digits are wanted")]
pub struct CommitError(String);

impl FromStr for Commit {
    type Err = CommitError;

    /// Reads 40 hex digits of either case.
    fn from_str(text: &str) -> Result<Self, CommitError> {
        crate::oci::unhex(&text.to_ascii_lowercase())
            .map(Self)
            .ok_or_else(|| CommitError(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::oci::hex(&self.0))
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What identifies the bytes of a file at the Hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentId {
    /// The SHA-256 of the bytes: an LFS file's `oid`.
    Sha256(Digest),
    /// The SHA-1 of `"blob LEN\0"` and the bytes: a git file's `oid`.
    Git([u8; 20]),
}

impl ContentId {
    /// Whether this is the id of `bytes`.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        use sha1::{Digest as _, Sha1};
        match self {
            Self::Sha256(digest) => *digest == Digest::of(bytes),
            Self::Git(id) => {
                let hash = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
                <[u8; 20]>::from(hash.chain_update(bytes).finalize()) == *id
            }
        }
    }
}

/// `sha256:HEX` or `git:HEX`.
impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "{digest}"),
            Self::Git(id) => write!(f, "git:{}", crate::oci::hex(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_hubs_rules() {
        for good in ["gpt2", "Qwen/Qwen2.5-0.5B", "a_b/c.d-e", "_x/y_"] {
            assert!(RepoId::new(RepoKind::Model, good).is_ok(), "{good}");
        }
        let long = "x".repeat(97);
        for bad in [
            "", "/", "a/", "/a", "a/b/c", "a--b", "a..b", "-a", "a-", ".a", "a.", "x/a.git", "a b",
            "é", &long,
        ] {
            assert!(RepoId::new(RepoKind::Model, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_repository_reads_back_what_it_prints() {
        for text in ["gpt2", "org/Model", "datasets/squad", "spaces/org/app"] {
            assert_eq!(
                text.parse::<RepoId>().map(|r| r.to_string()).as_deref(),
                Ok(text)
            );
        }
    }
}
