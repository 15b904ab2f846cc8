//! The bytes of a range of a file, whatever happens to the connections that bring them.
//!
//! Invariant: what has been yielded are exactly the first bytes of the wanted range, in order, and nothing is yielded twice. A connection that
//! breaks, stalls or loses its right is replaced by one that goes on at the next byte; attempts are counted from the last progress.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::try_unfold;
use moka::future::Cache;
use reqwest::Url;
use reqwest::header::{CONTENT_ENCODING, CONTENT_RANGE};

use crate::repo::{Commit, ContentId, FilePath, RepoId};

use super::endpoint::{encode_path, shown};
use super::http::{Http, Lane, Reply};
use super::refusal::About;
use super::retry::Trouble;
use super::{ByteStream, RemoteFile, UpstreamError, wire};

/// Where each file's bytes were found last: the end of its redirects, a signed address perhaps.
pub(super) type Locations = Cache<(RepoId, Commit, FilePath), Url>;

/// A range being read.
pub(super) struct Reader {
    http: Arc<Http>,
    locations: Locations,
    file: RemoteFile,
    /// What is still to be yielded.
    want: Range<u64>,
    open: Option<Open>,
    /// Failed attempts since the last byte.
    failures: u32,
}

/// A body that is being read.
struct Open {
    reply: Reply,
    /// Bytes to throw away first: the server ignored the range.
    skip: u64,
}

impl Reader {
    /// A reader of `want`, which lies inside the file and is not empty.
    pub(super) fn new(
        http: Arc<Http>,
        locations: Locations,
        file: RemoteFile,
        want: Range<u64>,
    ) -> Self {
        Self {
            http,
            locations,
            file,
            want,
            open: None,
            failures: 0,
        }
    }

    /// Opens the first connection, so that a refusal comes now, and gives the stream.
    pub(super) async fn start(mut self) -> Result<ByteStream, UpstreamError> {
        let open = self.connect().await?;
        self.open = Some(open);
        Ok(try_unfold(self, Self::step).boxed())
    }

    async fn step(mut self) -> Result<Option<(Bytes, Self)>, UpstreamError> {
        while !self.want.is_empty() {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.connect().await?,
            };
            match open.next().await {
                Ok(Some(bytes)) => {
                    let bytes = self.take(bytes);
                    self.open = Some(open);
                    return Ok(Some((bytes, self)));
                }
                Ok(None) => {
                    let place = shown(&open.reply.url);
                    drop(open);
                    self.failed(Trouble::Unreachable(format!(
                        "{place}: the body ended early"
                    )))
                    .await?;
                }
                Err(trouble) => {
                    // Its permit and connection are free while we wait.
                    drop(open);
                    self.failed(trouble).await?;
                }
            }
        }
        Ok(None)
    }

    /// As many of `bytes` as are wanted.
    fn take(&mut self, mut bytes: Bytes) -> Bytes {
        let left = usize::try_from(self.want.end - self.want.start).unwrap_or(usize::MAX);
        bytes.truncate(left);
        self.want.start += bytes.len() as u64;
        self.failures = 0;
        bytes
    }

    async fn failed(&mut self, trouble: Trouble) -> Result<(), UpstreamError> {
        self.failures += 1;
        self.http.wait(self.failures, trouble).await
    }

    /// A body that goes on where we are, after as many attempts as the policy allows.
    async fn connect(&mut self) -> Result<Open, UpstreamError> {
        loop {
            match self.attempt().await {
                Ok(open) => return Ok(open),
                Err(trouble) => self.failed(trouble).await?,
            }
        }
    }

    async fn attempt(&self) -> Result<Open, Trouble> {
        let key = (
            self.file.repo.clone(),
            self.file.commit,
            self.file.path.clone(),
        );
        // Of many that want this file at once one asks the Hub where it is, and its answer is already the body it wants.
        let mut asked = None;
        let location = self
            .locations
            .try_get_with(key.clone(), async {
                let reply = self.locate().await?;
                let url = reply.url.clone();
                asked = Some(reply);
                Ok::<_, Trouble>(url)
            })
            .await
            .map_err(|trouble| Trouble::clone(&trouble))?;
        let reply = match asked {
            Some(reply) => reply,
            None => match self.ask(location.clone()).await {
                Err(trouble @ Trouble::Expired(_)) => {
                    // Others may have renewed it meanwhile; theirs stays.
                    if self.locations.get(&key).await.as_ref() == Some(&location) {
                        self.locations.invalidate(&key).await;
                    }
                    return Err(trouble);
                }
                other => other?,
            },
        };
        self.check(reply)
    }

    /// Asks the Hub for the file and follows to where it is.
    async fn locate(&self) -> Result<Reply, Trouble> {
        let file = &self.file;
        let path = format!(
            "/{}/resolve/{}/{}",
            file.repo,
            file.commit,
            encode_path(file.path.as_str())
        );
        let url = self.http.endpoint.url(&path, None);
        let mut reply = self.request(url).await?;
        if reply.is_success() {
            return Ok(reply);
        }
        if reply.status() == 416 {
            return Err(self.broken(&reply, "it is shorter than listed"));
        }
        if !self.http.endpoint.owns(&reply.url) {
            return Err(expired(&reply));
        }
        let error = self.http.refused(&mut reply, About::File(file)).await;
        Err(Trouble::Final(error))
    }

    /// Asks for the bytes at an address that was good before.
    async fn ask(&self, location: Url) -> Result<Reply, Trouble> {
        let reply = self.request(location).await?;
        match reply.status() {
            _ if reply.is_success() => Ok(reply),
            416 => Err(self.broken(&reply, "it is shorter than listed")),
            _ => Err(expired(&reply)),
        }
    }

    async fn request(&self, url: Url) -> Result<Reply, Trouble> {
        let range = self.range_header();
        let reply = self.http.get(Lane::Content, url, range.as_deref()).await?;
        reply.check_transient()?;
        Ok(reply)
    }

    /// A small file is asked for as a whole; a range of it is answered worse by some servers, and never better.
    fn range_header(&self) -> Option<String> {
        let whole = self.want == (0..self.file.size);
        let small = matches!(self.file.content, ContentId::Git(_));
        (!(whole && small)).then(|| format!("bytes={}-{}", self.want.start, self.want.end - 1))
    }

    /// Whether the answer is about the bytes we want, and where in its body they begin.
    fn check(&self, reply: Reply) -> Result<Open, Trouble> {
        if let Some(coding) = reply.header(CONTENT_ENCODING)
            && !coding.trim().eq_ignore_ascii_case("identity")
        {
            return Err(self.broken(&reply, "it comes compressed, though that was not asked for"));
        }
        let size = self.file.size;
        match reply.status() {
            206 => {
                let range = reply.header(CONTENT_RANGE).and_then(wire::content_range);
                match range {
                    Some((first, _, total)) if first == self.want.start && total == size => {
                        Ok(Open { reply, skip: 0 })
                    }
                    _ => {
                        let got = reply.header(CONTENT_RANGE).unwrap_or("nothing");
                        let (start, end) = (self.want.start, self.want.end - 1);
                        let got = wire::clip(got);
                        let why = format!(
                            "asked for bytes {start}-{end} of {size}, the answer is {got:?}"
                        );
                        Err(self.broken(&reply, &why))
                    }
                }
            }
            200 if reply.length().is_some_and(|l| l != size) => {
                let length = reply.length().unwrap_or_default();
                let why = format!("it is {length} bytes long, and was listed with {size}");
                Err(self.broken(&reply, &why))
            }
            200 => Ok(Open {
                skip: self.want.start,
                reply,
            }),
            status => Err(self.broken(&reply, &format!("the answer is a {status}"))),
        }
    }

    fn broken(&self, reply: &Reply, why: &str) -> Trouble {
        let RemoteFile {
            repo, path, commit, ..
        } = &self.file;
        let place = shown(&reply.url);
        let what = format!("{path:?} of {repo} at {commit}, from {place}: {why}");
        Trouble::Final(UpstreamError::Broken(what))
    }
}

impl Open {
    /// The next bytes that are wanted; None at the end of the body.
    async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        while let Some(mut chunk) = self.reply.chunk().await? {
            let skipped = self.skip.min(chunk.len() as u64);
            self.skip -= skipped;
            chunk.advance(usize::try_from(skipped).unwrap_or(chunk.len()));
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }
}

fn expired(reply: &Reply) -> Trouble {
    Trouble::Expired(format!("{} answered {}", shown(&reply.url), reply.status()))
}
