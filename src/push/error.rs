//! Why a push failed, told so that nothing a registry says can do harm to a terminal.

use std::time::Duration;

/// The longest text of a registry that is passed on, in characters.
const MAX_TOLD: usize = 300;

/// The kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The registry is not to be reached, overloaded or broken: another attempt may do.
    Trouble,
    /// The registry says no.
    Refused,
    /// Something here, or an answer that no registry gives.
    Other,
}

/// Why something was not pushed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
pub struct PushError {
    /// Its kind.
    pub why: Why,
    what: String,
    /// How long the registry wants to be left alone.
    pub(super) after: Option<Duration>,
    /// What the reader can do about it.
    pub next: Option<&'static str>,
}

impl PushError {
    pub(super) fn new(why: Why, what: impl Into<String>) -> Self {
        Self {
            why,
            what: what.into(),
            after: None,
            next: None,
        }
    }

    pub(super) fn trouble(what: impl Into<String>) -> Self {
        Self::new(Why::Trouble, what)
    }

    pub(super) fn refused(what: impl Into<String>) -> Self {
        Self::new(Why::Refused, what)
    }

    pub(super) fn other(what: impl Into<String>) -> Self {
        Self::new(Why::Other, what)
    }

    pub(super) const fn next(mut self, next: &'static str) -> Self {
        self.next = Some(next);
        self
    }
}

/// A text of others without control characters, and not too long.
pub(super) fn told(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(MAX_TOLD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_says_is_printable_and_short() {
        assert_eq!(told("a\x1b[2Jb\nc"), "a[2Jbc");
        assert_eq!(told(&"x".repeat(1000)).len(), MAX_TOLD);
    }
}
