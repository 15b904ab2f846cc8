//! How the Hub behaves, apart from what it holds and from injected faults.

use std::time::Duration;

/// What is shown as `xetHash` and `X-Xet-Hash` of files in LFS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xet {
    /// Nothing, as older mirrors do.
    Off,
    /// 64 hex digits.
    Hash,
    /// 64 asterisks.
    Asterisks,
}

/// A limit on requests, as the Hub states and enforces it.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// How many requests in a window.
    pub requests: u64,
    /// The window in seconds.
    pub window: u64,
}

/// The settings, all public: `World::options(|o| o.page_size = 2)`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Entries on a page of a listing.
    pub page_size: usize,
    /// What stands before the path in `Link` headers; the Hub's own address without it.
    pub link_origin: Option<String>,
    /// Whether wrong-cased and renamed ids are redirected; if not, they are not found, as at mirrors.
    pub redirect_ids: bool,
    /// Whether text comes gzipped and chunked to clients that accept it.
    pub gzip_text: bool,
    /// What is told about Xet.
    pub xet: Xet,
    /// How long a signed URL is good.
    pub signature_lifetime: Duration,
    /// Whether a 401 for a missing repository carries `X-Error-Code: RepoNotFound`.
    pub code_on_401: bool,
    /// Whether it has `auth-check` and `whoami-v2`, which some mirrors have not.
    pub says_access: bool,
    /// Whether it says which repositories are private; some mirrors do not.
    pub says_private: bool,
    /// Enforced limit on API calls per token (or for all without one).
    pub api_quota: Option<Quota>,
    /// Enforced limit on resolve calls, likewise.
    pub resolve_quota: Option<Quota>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            page_size: 1000,
            link_origin: None,
            redirect_ids: true,
            gzip_text: false,
            xet: Xet::Hash,
            signature_lifetime: Duration::from_secs(3600),
            code_on_401: false,
            says_access: true,
            says_private: true,
            api_quota: None,
            resolve_quota: None,
        }
    }
}
