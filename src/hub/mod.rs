//! Where files come from: the [`Upstream`] seam, and what is behind it: the Hub's client, local folders, several of them in order, nobody.

mod body;
mod chain;
mod client;
mod endpoint;
mod error;
mod http;
mod local;
mod offline;
mod pace;
mod refusal;
mod retry;
mod sequence;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod wire;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};

use crate::repo::{Commit, ContentId, FilePath, RepoId, Snapshot, Visibility};

pub use chain::{Chain, Link, Serves};
pub use client::{HubClient, HubSettings, SetupError};
pub use endpoint::{Endpoint, EndpointError};
pub use error::UpstreamError;
pub use local::{ContentIds, Denied, Local, LocalKind};
pub use offline::Offline;
pub use tls::plain as plain_client;
pub use token::{Token, TokenError};

/// The bytes of a range, in order. It yields exactly as many bytes as were asked for, or ends with one error.
/// Dropping it closes the connection.
pub type ByteStream = BoxStream<'static, Result<Bytes, UpstreamError>>;

/// What a revision turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The repository in its canonical spelling.
    pub repo: RepoId,
    /// The commit that the revision names now.
    pub commit: Commit,
    /// Whether it can only be seen with credentials.
    pub private: bool,
    /// Whether its content is only for those whom the owner let in.
    pub gated: bool,
}

impl Resolved {
    /// Who may read the repository.
    pub const fn visibility(&self) -> Visibility {
        match (self.private, self.gated) {
            (true, _) => Visibility::Private,
            (false, true) => Visibility::Gated,
            (false, false) => Visibility::Public,
        }
    }
}

/// What an upstream says of the access to a gated repository, if it does not refuse it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The credentials at hand open it.
    Granted,
    /// It has no such call. Only the content itself can tell: see [`Upstream::prove`].
    Untold,
}

/// The named revisions of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refs {
    /// Branches, each with the commit it points at.
    pub branches: Vec<(String, Commit)>,
    /// Tags, likewise.
    pub tags: Vec<(String, Commit)>,
}

/// A file of a commit, as [`Upstream::read`] wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// The repository in its canonical spelling.
    pub repo: RepoId,
    /// The commit.
    pub commit: Commit,
    /// The path inside it.
    pub path: FilePath,
    /// The size that the listing gave.
    pub size: u64,
    /// What the listing said the bytes are. Not verified by `read`: whoever writes the bytes down checks them.
    pub content: ContentId,
}

/// A place that repositories come from: the Hub, a mirror of it, a local folder.
///
/// Every call may be cancelled by dropping its future. Calls retry what is worth retrying by themselves; an error is final for the caller.
pub trait Upstream: Send + Sync + 'static {
    /// The commit that `revision` names now; the default branch without one. `repo` may be spelled in any letter case.
    fn resolve<'a>(
        &'a self,
        repo: &'a RepoId,
        revision: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Resolved, UpstreamError>>;

    /// Whether the content of a gated repository may be read with the credentials at hand.
    fn access<'a>(&'a self, repo: &'a RepoId) -> BoxFuture<'a, Result<Access, UpstreamError>>;

    /// The branches and tags.
    fn refs<'a>(&'a self, repo: &'a RepoId) -> BoxFuture<'a, Result<Refs, UpstreamError>>;

    /// The known commits whose hex digits begin with `prefix` (8 to 39 lower-case hex digits), each once, in no order. None is no error.
    fn commits<'a>(
        &'a self,
        repo: &'a RepoId,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Commit>, UpstreamError>>;

    /// The files of a commit.
    fn snapshot<'a>(
        &'a self,
        repo: &'a RepoId,
        commit: Commit,
    ) -> BoxFuture<'a, Result<Snapshot, UpstreamError>>;

    /// The bytes `range` of a file; `range.end` is at most the file's size. An empty range asks nobody.
    fn read<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<ByteStream, UpstreamError>>;

    /// Reads the first byte of a file, so that the upstream says now, not as it is remembered, that the credentials at hand open it. Of an
    /// empty file nothing is read and nothing proven.
    fn prove<'a>(&'a self, file: &'a RemoteFile) -> BoxFuture<'a, Result<(), UpstreamError>> {
        async move { first(self.read(file, 0..file.size.min(1)).await?).await }.boxed()
    }

    /// Is told that the bytes of a file were not what the listing said: what is remembered of it must not be believed any more. Only an
    /// upstream that remembers something has anything to do.
    fn doubt<'a>(&'a self, file: &'a RemoteFile) -> BoxFuture<'a, ()> {
        let _ = file;
        ready(()).boxed()
    }
}

/// Waits for the first byte of a body.
async fn first(mut body: ByteStream) -> Result<(), UpstreamError> {
    body.next().await.transpose().map(drop)
}

/// An upstream that can be asked with the credentials of whoever asks this server.
///
/// What one credential was told never answers a question asked with another: no caches of content or access are shared.
pub trait Credentials: Send + Sync + 'static {
    /// The same upstream, asked with `token`, or anonymously. Cheap: connections and limits are shared.
    fn with_token(&self, token: Option<&Token>) -> Arc<dyn Upstream>;

    /// Whether the upstream knows `token` at all; one that cannot tell is taken to know it, as it is asked for each repository all the
    /// same. Strictly limited at the Hub: the caller remembers the answer.
    fn knows<'a>(&'a self, token: &'a Token) -> BoxFuture<'a, Result<bool, UpstreamError>>;
}

/// Reads bytes as every answer of the Hub that there is. For fuzzing.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let repo: RepoId = "org/model".parse().expect("an id");
    let commit: Commit = "0".repeat(40).parse().expect("a commit");
    let _ = wire::resolved(bytes, &repo);
    let _ = wire::refs(bytes, &repo);
    let _ = wire::targets(bytes, &repo);
    let _ = wire::history(bytes, &repo);
    let _ = wire::spelled(bytes, &repo);
    let _ = wire::error_message(bytes);
    if let Ok(files) = wire::files(bytes, &repo, commit) {
        let _ = Snapshot::new(files);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = wire::next_link(text);
        let _ = wire::content_range(text);
        let _ = retry::wait_asked(Some(text), Some(text));
    }
}
