//! The crate's error: a kind, which decides the answer, and a sentence for a person.

use std::time::Duration;

use crate::hub::UpstreamError;

/// What sort of failure it is. The registry maps each to one status and OCI code, in one exhaustive match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The repository name breaks the grammar.
    NameInvalid,
    /// The tag breaks the grammar.
    TagInvalid,
    /// The digest breaks the grammar.
    DigestInvalid,
    /// Credentials are wanted.
    Unauthorized,
    /// The credentials do not suffice, or the content is gated.
    Denied,
    /// No such repository.
    NameUnknown,
    /// No such revision, selection or manifest.
    ManifestUnknown,
    /// No such blob under this repository.
    BlobUnknown,
    /// Content that no image can hold.
    ManifestInvalid,
    /// The upstream's rate limit; wait this long.
    TooManyRequests(Option<Duration>),
    /// The upstream is broken or gave wrong bytes.
    BadGateway,
    /// The upstream does not take the credential that it was asked with, here or anywhere.
    TokenRefused,
    /// The upstream is too slow.
    GatewayTimeout,
    /// It is not here, and the server is offline.
    Offline,
    /// The disk or the cache's budget is full.
    InsufficientStorage,
    /// The server is stopping.
    Unavailable,
    /// The request's method or path is not one of the pull side.
    Unsupported,
    /// A defect or a failing disk on this side; the log has the details, the answer does not.
    Internal,
}

/// A failure: its kind and a sentence that tells a person what happened, to what, and what to do next.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Decides the answer.
    pub kind: Kind,
    /// For the client. Of [`Kind::Internal`] only the log sees it.
    pub message: String,
}

impl Error {
    /// A failure of `kind`, told by `message`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl From<UpstreamError> for Error {
    fn from(error: UpstreamError) -> Self {
        let kind = match &error {
            UpstreamError::RepositoryUnknown(_) => Kind::NameUnknown,
            UpstreamError::RevisionUnknown { .. } | UpstreamError::FileUnknown { .. } => {
                Kind::ManifestUnknown
            }
            UpstreamError::BadToken(_) | UpstreamError::Forbidden(_) => Kind::TokenRefused,
            UpstreamError::Gated(_) | UpstreamError::Disabled(_) => Kind::Denied,
            UpstreamError::RateLimited { retry_after } => Kind::TooManyRequests(*retry_after),
            UpstreamError::Unavailable(_) | UpstreamError::Broken(_) => Kind::BadGateway,
            UpstreamError::Timeout(_) => Kind::GatewayTimeout,
            UpstreamError::Offline => Kind::Offline,
            UpstreamError::Content { .. } => Kind::ManifestInvalid,
        };
        Self::new(kind, error.to_string())
    }
}
