//! The download window: a layer's bytes come in parallel pieces and leave in order, within the memory that all fills share.

use std::ops::Range;
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::Shared;
use super::memory::{Allowance, Buffer, Claim, Share};
use super::streams::Streams;
use crate::error::{Error, Kind};
use crate::hub::{RemoteFile, UpstreamError};
use crate::layer::{CHUNK, ChunkRef, Plan};
use crate::repo::{Commit, Entry, RepoId};

/// Bytes of one read: pieces of 8 MB and more are what the Hub's edges are fast with.
const PIECE: u64 = 2 * CHUNK;

/// What the files of a layer are read from.
#[derive(Clone)]
pub(super) struct Source {
    pub shared: Arc<Shared>,
    pub repo: RepoId,
    pub commit: Commit,
    /// What the fill may have of the memory of all.
    pub allowance: Allowance,
    /// The parallel reads of one fill.
    pub streams: Streams,
    /// All that works for one fill: when it has ended, nothing holds a file or a connection for it.
    pub tasks: TaskTracker,
}

impl Source {
    /// A file, as the upstream is asked for it.
    pub(super) fn file(&self, file: &Entry) -> RemoteFile {
        RemoteFile {
            repo: self.repo.clone(),
            commit: self.commit,
            path: file.path.clone(),
            size: file.size,
            content: file.content,
        }
    }
}

/// The chunks of a layer from `from` on, in the order of its plan, read ahead in parallel. Dropping the stream ends the reads.
///
/// Memory and then a connection are taken piece by piece in the layer's order, before a piece's read begins: the piece that is wanted
/// first always has both, also where an upstream gives the bytes of a file in their order only.
pub(super) fn chunks(
    source: Source,
    plan: Arc<Plan>,
    from: ChunkRef,
) -> impl Stream<Item = Result<Buffer, Error>> {
    let ahead = source.shared.settings.connections.max(1);
    let claim = Arc::new(source.allowance.claim());
    stream::iter(pieces(plan, from))
        .then(move |(file, range)| {
            let (source, claim) = (source.clone(), Arc::clone(&claim));
            async move {
                let lens: Vec<u64> = lens(&range).collect();
                let room = Room::take(&source, &claim, &lens).await;
                (source, file, range, room)
            }
        })
        .map(|(source, file, range, room)| {
            let tasks = source.tasks.clone();
            let task = AbortOnDropHandle::new(tasks.spawn(read(source, file, range, room)));
            async move {
                let lost = |_| Err(Error::new(Kind::Internal, "a read was lost"));
                task.await.unwrap_or_else(lost)
            }
        })
        .buffered(ahead)
        .flat_map(|read| {
            let (buffers, error) = match read {
                Ok(buffers) => (buffers, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            stream::iter(buffers.into_iter().map(Ok).chain(error))
        })
}

/// The pieces of a layer from a chunk on: of each file that is not empty, its ranges of [`PIECE`] bytes.
fn pieces(plan: Arc<Plan>, from: ChunkRef) -> impl Iterator<Item = (Entry, Range<u64>)> {
    (from.file..plan.files().len()).flat_map(move |file| {
        let entry = plan.files()[file].clone();
        let first = if file == from.file { from.start } else { 0 };
        (first / PIECE..entry.size.div_ceil(PIECE)).map(move |at| {
            let range = (at * PIECE).max(first)..((at + 1) * PIECE).min(entry.size);
            (entry.clone(), range)
        })
    })
}

/// The lengths of a piece's chunks.
fn lens(range: &Range<u64>) -> impl Iterator<Item = u64> {
    let len = range.end - range.start;
    (0..len.div_ceil(CHUNK)).map(move |at| (len - at * CHUNK).min(CHUNK))
}

/// What a read needs before it begins.
struct Room {
    share: Share,
    _connection: OwnedSemaphorePermit,
}

impl Room {
    async fn take(source: &Source, claim: &Claim, lens: &[u64]) -> Option<Self> {
        let share = source.shared.memory.take(claim, lens).await?;
        let _connection = source.streams.enter().await?;
        Some(Self { share, _connection })
    }
}

/// Reads one piece into its buffers.
async fn read(
    source: Source,
    file: Entry,
    range: Range<u64>,
    room: Option<Room>,
) -> Result<Vec<Buffer>, Error> {
    let closed = || Error::new(Kind::Unavailable, "the server is stopping; ask again");
    let mut room = room.ok_or_else(closed)?;
    let mut buffers: Vec<Buffer> = lens(&range)
        .map(|len| source.shared.memory.buffer(&mut room.share, len))
        .collect();
    let file = source.file(&file);
    let mut body = source.shared.upstream.read(&file, range.clone()).await?;
    let mut at = 0;
    while let Some(bytes) = body.next().await {
        let mut rest = &bytes?[..];
        while !rest.is_empty() && at < buffers.len() {
            rest = &rest[buffers[at].extend(rest)..];
            at += usize::from(buffers[at].is_full());
        }
        if !rest.is_empty() {
            return Err(wrong_length(&file, &range, "more"));
        }
    }
    if at < buffers.len() {
        return Err(wrong_length(&file, &range, "less"));
    }
    source.streams.done(range.end - range.start);
    Ok(buffers)
}

fn wrong_length(file: &RemoteFile, range: &Range<u64>, how: &str) -> Error {
    let RemoteFile { repo, path, .. } = file;
    UpstreamError::Broken(format!(
        "it sent {how} than the bytes {} to {} of {path:?} of {repo}",
        range.start, range.end
    ))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::{ContentId, FilePath};

    #[test]
    fn pieces_from_any_chunk_on_cover_every_byte_once_and_hold_whole_chunks() {
        let file = |path: &str, size| Entry {
            path: FilePath::new(path).expect("a path"),
            size,
            content: ContentId::Git([0; 20]),
        };
        let plan = Arc::new(Plan::new(vec![
            file("a", 0),
            file("b", 2 * PIECE),
            file("c", PIECE + 1),
            file("d", 5),
        ]));
        let all: Vec<ChunkRef> = plan.chunks().collect();
        for (at, from) in all.iter().enumerate() {
            let lens: Vec<u64> = pieces(Arc::clone(&plan), *from)
                .flat_map(|(_, range)| lens(&range).collect::<Vec<_>>())
                .collect();
            let wanted: Vec<u64> = all[at..].iter().map(|c| c.len).collect();
            assert_eq!(lens, wanted, "{from:?}");
        }
    }
}
