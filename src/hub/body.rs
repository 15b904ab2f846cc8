//! The bytes of a range of a file, whatever happens to the connections that bring them.
//!
//! Invariant: what has been yielded are exactly the first bytes of the wanted range, in order, and nothing is yielded twice. A connection that
//! breaks, stalls or loses its right is replaced by one that goes on at the next byte; attempts are counted from the last progress worth
//! the name ([`PROGRESS`]).

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::try_unfold;
use moka::future::Cache;
use reqwest::Url;
use reqwest::header::{CONTENT_ENCODING, CONTENT_RANGE};
use tokio::time::sleep;

use crate::repo::ContentId;

use super::endpoint::{encode_path, shown};
use super::http::{Http, Lane, Reply};
use super::refusal::About;
use super::retry::{Purpose, Trouble, dice};
use super::sequence::{Key, Sequences, Turn};
use super::{ByteStream, RemoteFile, UpstreamError, wire};

/// Where each file's bytes were found last: the end of its redirects, a signed address perhaps.
pub(super) type Locations = Cache<Key, Url>;

/// Refusals of a crowded host, one after the other, that are not counted as failures: enough to come down from 256 reads to one, while
/// others keep it busy.
const CROWDED: u32 = 16;

/// Bytes after which earlier failures are forgotten, or an eighth of what is wanted if that is less: a host that sends one byte for each
/// connection does not get connections without end.
const PROGRESS: u64 = 64 << 10;

/// What readers of one client share.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) http: Arc<Http>,
    pub(super) locations: Locations,
    pub(super) sequences: Sequences,
}

/// A range being read.
pub(super) struct Reader {
    place: Place,
    key: Key,
    file: RemoteFile,
    /// What is still to be yielded.
    want: Range<u64>,
    /// Whether that was the whole file at the beginning: then it does not matter if the server ignores ranges.
    whole: bool,
    open: Option<Open>,
    /// The turn, where the file is read in one stream. It outlives the connections.
    turn: Option<Turn>,
    /// Failed attempts since the last progress.
    failures: u32,
    /// Refusals of a crowded host since then.
    crowded: u32,
    /// Bytes that came since the last failure.
    gained: u64,
    /// How many of them are progress.
    progress: u64,
}

/// A body that is being read.
pub(super) struct Open {
    reply: Reply,
    /// Bytes to throw away first: nobody wants them.
    pub(super) skip: u64,
    /// What came and is not yet given.
    ahead: Bytes,
}

/// How an attempt to open a body ended well.
enum Attempt {
    Opened(Open),
    /// A range was asked for, and the whole file comes.
    Ignored(Open),
    /// Meanwhile the file is known to come as a whole only.
    Known,
}

impl Reader {
    /// A reader of `want`, which lies inside the file and is not empty.
    pub(super) fn new(place: Place, file: RemoteFile, want: Range<u64>) -> Self {
        Self {
            place,
            key: (file.repo.clone(), file.commit, file.path.clone()),
            whole: want == (0..file.size),
            progress: PROGRESS.min((want.end - want.start).div_ceil(8)),
            file,
            want,
            open: None,
            turn: None,
            failures: 0,
            crowded: 0,
            gained: 0,
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
                Ok(Some(bytes)) => return Ok(Some((self.take(bytes, open), self))),
                Ok(None) => {
                    let place = shown(&open.reply.url);
                    drop(open);
                    let trouble = Trouble::Unreachable(format!("{place}: the body ended early"));
                    self.failed(trouble).await?;
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

    /// As many of `bytes` as are wanted. The body goes on, or to the next reader of its file if this one has all it wants.
    fn take(&mut self, mut bytes: Bytes, mut open: Open) -> Bytes {
        let left = usize::try_from(self.want.end - self.want.start).unwrap_or(usize::MAX);
        open.ahead = bytes.split_off(left.min(bytes.len()));
        self.want.start += bytes.len() as u64;
        self.gained += bytes.len() as u64;
        if self.gained >= self.progress {
            (self.failures, self.crowded) = (0, 0);
        }
        if !self.want.is_empty() {
            self.open = Some(open);
        } else if let Some(turn) = self.turn.take()
            && self.want.end < self.file.size
        {
            open.reply.release();
            turn.park(open);
        }
        bytes
    }

    async fn failed(&mut self, trouble: Trouble) -> Result<(), UpstreamError> {
        self.gained = 0;
        let http = &self.place.http;
        if matches!(trouble, Trouble::Crowded(_)) && self.crowded < CROWDED {
            self.crowded += 1;
            sleep(http.policy.backoff(self.crowded, dice())).await;
            return Ok(());
        }
        self.failures += 1;
        http.wait(Purpose::Fill, self.failures, trouble).await
    }

    /// A body that goes on where we are, after as many attempts as the policy allows.
    async fn connect(&mut self) -> Result<Open, UpstreamError> {
        loop {
            if let Some(open) = self.take_turn().await {
                return Ok(open);
            }
            match self.attempt().await {
                Ok(Attempt::Opened(open)) => return Ok(open),
                Ok(Attempt::Ignored(open)) => self.offer(open).await,
                Ok(Attempt::Known) => {}
                Err(trouble) => self.failed(trouble).await?,
            }
        }
    }

    /// Waits for its turn if the file is read in one stream. Gives the body that it takes over, if there is one.
    async fn take_turn(&mut self) -> Option<Open> {
        if self.whole || self.turn.is_some() {
            return None;
        }
        let sequence = self.place.sequences.get(&self.key).await?;
        let (turn, open) = sequence.turn(&self.want).await;
        self.turn = Some(turn);
        let mut open = open?;
        self.place.http.readmit(&mut open.reply).await.ok()?;
        Some(open)
    }

    /// Leaves a body of the whole file to the reader that is first.
    async fn offer(&self, mut open: Open) {
        let sequence = self.place.sequences.mark(&self.key).await;
        open.skip = 0;
        open.reply.release();
        sequence.offer(open);
    }

    async fn attempt(&self) -> Result<Attempt, Trouble> {
        // Of many that want this file at once one asks the Hub where it is, and its answer is already the body it wants.
        let mut asked = None;
        let locations = &self.place.locations;
        let location = locations
            .try_get_with_by_ref(&self.key, async {
                let reply = self.locate().await?;
                if self.is_ignored(&reply) {
                    // Before the others go on and ask for their ranges.
                    self.place.sequences.mark(&self.key).await;
                }
                let url = reply.url.clone();
                asked = Some(reply);
                Ok::<_, Trouble>(url)
            })
            .await
            .map_err(|trouble| Trouble::clone(&trouble))?;
        let reply = match asked {
            Some(reply) => reply,
            None if self.is_overtaken().await => return Ok(Attempt::Known),
            None => match self.ask(location.clone()).await {
                Err(trouble @ (Trouble::Expired(_) | Trouble::Crowded(_))) => {
                    // Others may have renewed it meanwhile; theirs stays.
                    if locations.get(&self.key).await.as_ref() == Some(&location) {
                        locations.invalidate(&self.key).await;
                    }
                    return Err(trouble);
                }
                other => other?,
            },
        };
        let ignored = self.is_ignored(&reply);
        let open = self.check(reply)?;
        Ok(match ignored {
            true => Attempt::Ignored(open),
            false => Attempt::Opened(open),
        })
    }

    /// Whether the file is known to come as a whole only, since this reader asked itself last.
    async fn is_overtaken(&self) -> bool {
        let alone = self.whole || self.turn.is_some();
        !alone && self.place.sequences.get(&self.key).await.is_some()
    }

    /// Whether a reader that wants a part and has no turn is given the whole file.
    fn is_ignored(&self, reply: &Reply) -> bool {
        reply.status() == 200 && !self.whole && self.turn.is_none()
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
        let url = self.place.http.endpoint.url(&path, None);
        let range = self.range_header();
        let http = &self.place.http;
        let mut reply = http
            .get(Lane::Content, Purpose::Fill, url, range.as_deref())
            .await?;
        reply.check_transient()?;
        if reply.is_success() {
            return Ok(reply);
        }
        if reply.status() == 416 {
            return Err(self.broken(&reply, "it is shorter than listed"));
        }
        if !self.place.http.endpoint.owns(&reply.url) {
            return Err(self.refused(&reply));
        }
        let error = self.place.http.refused(&mut reply, About::File(file)).await;
        Err(Trouble::Final(error))
    }

    /// Asks for the bytes at an address that was good before.
    async fn ask(&self, location: Url) -> Result<Reply, Trouble> {
        let http = &self.place.http;
        let range = self.range_header();
        let reply = http
            .get(Lane::Content, Purpose::Fill, location, range.as_deref())
            .await?;
        match reply.check_transient() {
            Ok(()) => {}
            Err(Trouble::Limited(None)) if reply.is_crowded() => return Err(crowded(&reply)),
            Err(_) if reply.status() == 503 && reply.is_crowded() => return Err(crowded(&reply)),
            Err(trouble) => return Err(trouble),
        }
        match reply.status() {
            _ if reply.is_success() => Ok(reply),
            416 => Err(self.broken(&reply, "it is shorter than listed")),
            _ => Err(self.refused(&reply)),
        }
    }

    /// A host's no to an address that was good. The first time it may have expired; after that it may be one read too many.
    fn refused(&self, reply: &Reply) -> Trouble {
        let what = format!("{} answered {}", shown(&reply.url), reply.status());
        match reply.status() {
            403 if self.failures + self.crowded > 0 && reply.is_crowded() => Trouble::Crowded(what),
            _ => Trouble::Expired(what),
        }
    }

    /// A small file is asked for as a whole; a range of it is answered worse by some servers, and never better.
    fn range_header(&self) -> Option<String> {
        let whole = self.want == (0..self.file.size);
        let small = matches!(self.file.content, ContentId::Git(_));
        // A body that others take over has to lead to the end.
        let end = match self.turn {
            Some(_) => self.file.size,
            None => self.want.end,
        };
        (!(whole && small)).then(|| format!("bytes={}-{}", self.want.start, end - 1))
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
                        Ok(Open::new(reply, 0))
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
            200 => Ok(Open::new(reply, self.want.start)),
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
    fn new(reply: Reply, skip: u64) -> Self {
        Self {
            reply,
            skip,
            ahead: Bytes::new(),
        }
    }

    /// The next bytes that are wanted; None at the end of the body.
    async fn next(&mut self) -> Result<Option<Bytes>, Trouble> {
        loop {
            let mut chunk = std::mem::take(&mut self.ahead);
            if chunk.is_empty() {
                match self.reply.chunk().await? {
                    Some(next) => chunk = next,
                    None => return Ok(None),
                }
            }
            let skipped = self.skip.min(chunk.len() as u64);
            self.skip -= skipped;
            chunk.advance(usize::try_from(skipped).unwrap_or(chunk.len()));
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }
}

fn crowded(reply: &Reply) -> Trouble {
    Trouble::Crowded(format!("{} answered {}", shown(&reply.url), reply.status()))
}
