//! Who may read a repository, as the Hub says it.

use std::fmt;
use std::str::FromStr;

/// Who may read a repository. The order is from open to closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Visibility {
    /// Everybody.
    Public,
    /// Everybody may know of it, but its content is for those whom the owner let in.
    Gated,
    /// Only its owner, and those the owner names, may know of it at all.
    Private,
}

impl Visibility {
    /// Whether no credentials are needed.
    pub const fn is_public(self) -> bool {
        matches!(self, Self::Public)
    }
}

/// `public`, `gated` or `private`.
impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Gated => "gated",
            Self::Private => "private",
        })
    }
}

/// A word that is not one of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither public, gated nor private")]
pub struct VisibilityError;

/// The inverse of `Display`.
impl FromStr for Visibility {
    type Err = VisibilityError;

    fn from_str(text: &str) -> Result<Self, VisibilityError> {
        match text {
            "public" => Ok(Self::Public),
            "gated" => Ok(Self::Gated),
            "private" => Ok(Self::Private),
            _ => Err(VisibilityError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_visibility_is_read_as_it_is_written() {
        for visibility in [Visibility::Public, Visibility::Gated, Visibility::Private] {
            assert_eq!(visibility.to_string().parse(), Ok(visibility));
        }
        assert_eq!("Public".parse::<Visibility>(), Err(VisibilityError));
        assert!(Visibility::Public < Visibility::Gated && Visibility::Gated < Visibility::Private);
    }
}
