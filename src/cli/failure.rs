//! How a command ends badly: a sentence with its causes, what to do next, and an exit code.

use std::error::Error;
use std::fmt;

use crate::config::{ConfigError, Place};
use crate::store::StoreError;

/// Why a command failed. `Display` gives the sentence, its causes and the next step.
#[derive(Debug)]
pub struct Failure {
    what: String,
    cause: Option<Box<dyn Error + Send + Sync>>,
    next: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure without a known cause.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            cause: None,
            next: None,
            code: 1,
        }
    }

    /// Adds what it came from.
    pub fn from(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds what the reader can do.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Adds what the reader can do, after what is said already.
    pub fn then(mut self, next: impl Into<String>) -> Self {
        let next = next.into();
        self.next = Some(match self.next {
            Some(first) => format!("{first}\n  {next}"),
            None => next,
        });
        self
    }

    /// Sets the exit code, for failures that scripts tell apart.
    pub const fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Whether it came from a data folder that another process has.
    pub(super) fn is_locked(&self) -> bool {
        let cause = self.cause.as_deref();
        let cause = cause.and_then(|cause| cause.downcast_ref::<StoreError>());
        matches!(cause, Some(StoreError::Locked(_)))
    }

    /// 2 if the command line is wrong; what a command's help says; else 1.
    pub const fn exit_code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut cause = self.cause.as_deref().map(|cause| cause as &dyn Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        match &self.next {
            Some(next) => write!(f, "\n  {next}"),
            None => Ok(()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let usage = matches!(error.place, Place::Flag(_));
        Self {
            code: if usage { 2 } else { 1 },
            ..Self::new(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_its_causes_and_the_next_step() {
        let failure = Failure::new("cannot listen")
            .from(std::io::Error::other("taken"))
            .next("choose another port");
        assert_eq!(
            failure.to_string(),
            "cannot listen: taken\n  choose another port"
        );
    }
}
