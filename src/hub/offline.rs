//! The upstream of a server that is offline: it has nothing and asks nobody.

use std::ops::Range;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::{
    Access, ByteStream, Credentials, Refs, RemoteFile, Resolved, Token, Upstream, UpstreamError,
};
use crate::repo::{Commit, RepoId, Snapshot};

/// No upstream. Every call ends at once in [`UpstreamError::Offline`]; no packet is sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offline;

fn no<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, UpstreamError>> {
    ready(Err(UpstreamError::Offline)).boxed()
}

impl Credentials for Offline {
    fn with_token(&self, _: Option<&Token>) -> Arc<dyn Upstream> {
        Arc::new(Self)
    }

    fn knows<'a>(&'a self, _: &'a Token) -> BoxFuture<'a, Result<bool, UpstreamError>> {
        no()
    }
}

impl Upstream for Offline {
    fn resolve<'a>(
        &'a self,
        _: &'a RepoId,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Resolved, UpstreamError>> {
        no()
    }

    fn access<'a>(&'a self, _: &'a RepoId) -> BoxFuture<'a, Result<Access, UpstreamError>> {
        no()
    }

    fn refs<'a>(&'a self, _: &'a RepoId) -> BoxFuture<'a, Result<Refs, UpstreamError>> {
        no()
    }

    fn commits<'a>(
        &'a self,
        _: &'a RepoId,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Commit>, UpstreamError>> {
        no()
    }

    fn snapshot<'a>(
        &'a self,
        _: &'a RepoId,
        _: Commit,
    ) -> BoxFuture<'a, Result<Snapshot, UpstreamError>> {
        no()
    }

    fn read<'a>(
        &'a self,
        _: &'a RemoteFile,
        _: Range<u64>,
    ) -> BoxFuture<'a, Result<ByteStream, UpstreamError>> {
        no()
    }
}
