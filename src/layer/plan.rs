//! A layer laid out completely from its files' paths and sizes, before a byte of them is there.

use std::ops::Range;

use super::member::{FOOTER, member_len, unframe};
use super::tarfile::{self, Kind};
use super::{CHUNK, toc};
use crate::oci::Digest;
use crate::repo::{Entry, FilePath};

/// Where everything of a layer stands. Offsets are in bytes from the start of the blob.
#[derive(Debug, Clone)]
pub struct Plan {
    files: Vec<Entry>,
    /// For each file, where the member of its first chunk starts; 0 for an empty file, which has none.
    payloads: Vec<u64>,
    toc_offset: u64,
    toc_len: u64,
    archive_len: u64,
}

/// One chunk of one file: the unit that a fill writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// Index of the file in [`Plan::files`].
    pub file: usize,
    /// Offset of the chunk in the file, a multiple of [`CHUNK`].
    pub start: u64,
    /// Bytes of the chunk, 1 to [`CHUNK`].
    pub len: u64,
}

impl Plan {
    /// Lays out `files`, which are ascending by the bytes of their paths, each once, none a folder of another (as in a `Snapshot`).
    pub fn new(files: Vec<Entry>) -> Self {
        let mut payloads = Vec::with_capacity(files.len());
        let mut at = 0;
        let mut archive_len = 0;
        let mut metadata = 0;
        let mut before = None;
        for file in &files {
            metadata += headers_len(before, file);
            before = Some(&file.path);
            if file.size == 0 {
                payloads.push(0);
                continue;
            }
            at += member_len(metadata);
            payloads.push(at);
            at += payload_len(file.size);
            archive_len += metadata + file.size;
            metadata = tarfile::padding(file.size);
        }
        metadata += tarfile::END as u64;
        archive_len += metadata;
        let toc_offset = at + member_len(metadata);
        let mut plan = Self {
            files,
            payloads,
            toc_offset,
            toc_len: 0,
            archive_len,
        };
        plan.toc_len = toc::length(&plan);
        plan
    }

    /// The files, in the order of the archive.
    pub fn files(&self) -> &[Entry] {
        &self.files
    }

    /// Length of the finished blob in bytes.
    pub fn blob_len(&self) -> u64 {
        self.toc_offset + member_len(self.toc_archive_len()) + FOOTER
    }

    /// Length of the uncompressed stream, the TOC's archive included: what `diff_id` sees.
    pub fn uncompressed_len(&self) -> u64 {
        self.archive_len + self.toc_archive_len()
    }

    /// Bytes of the files themselves.
    pub fn payload(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }

    /// Length of the TOC's JSON in bytes.
    pub const fn toc_len(&self) -> u64 {
        self.toc_len
    }

    /// Where the TOC's member starts.
    pub const fn toc_offset(&self) -> u64 {
        self.toc_offset
    }

    /// All chunks in the order of the blob.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkRef> + '_ {
        self.files
            .iter()
            .enumerate()
            .flat_map(|(file, entry)| chunks_of(file, entry.size))
    }

    /// Where the member of a chunk starts. The offset of a chunk is never 0: a header comes first.
    pub fn member_offset(&self, chunk: ChunkRef) -> u64 {
        self.payloads[chunk.file] + chunk.start / CHUNK * member_len(CHUNK)
    }

    /// Where the member of a chunk stands.
    pub fn member_range(&self, chunk: ChunkRef) -> Range<u64> {
        let start = self.member_offset(chunk);
        start..start + member_len(chunk.len)
    }

    /// Takes a chunk's data out of the bytes of its member, as they stand in a blob or in one that is being filled; `false` if they are
    /// not what the sealer writes for any data of that length: never written, cut off or damaged.
    pub fn read_back(&self, chunk: ChunkRef, member: &[u8], data: &mut Vec<u8>) -> bool {
        unframe(member, chunk.len as usize, data)
    }

    /// Where the bytes of a file stand in the blob: each range is the data of one stored block. For reading a file back from its layer.
    pub fn pieces(&self, file: usize) -> impl Iterator<Item = Range<u64>> + '_ {
        chunks_of(file, self.files[file].size).flat_map(move |chunk| {
            let start = self.member_offset(chunk) + 10;
            (0..chunk.len.div_ceil(65_535)).map(move |block| {
                let at = start + block * 65_540 + 5;
                at..at + (chunk.len - block * 65_535).min(65_535)
            })
        })
    }

    /// The metadata member's content in front of the payload of `file`: what lies between it and the payload of `after`, the last file
    /// before it that is not empty. `file` = `files().len()` gives what follows the last payload, up to the end of the archive.
    pub(super) fn metadata(&self, after: Option<usize>, file: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let first = match after {
            Some(after) => {
                out.resize(tarfile::padding(self.files[after].size) as usize, 0);
                after + 1
            }
            None => 0,
        };
        for at in first..self.files.len().min(file + 1) {
            let before = at.checked_sub(1).map(|b| &self.files[b].path);
            let entry = &self.files[at];
            for folder in new_folders(before, &entry.path) {
                tarfile::push_entry(&mut out, folder, Kind::Folder);
            }
            tarfile::push_entry(
                &mut out,
                entry.path.as_str(),
                Kind::File { size: entry.size },
            );
        }
        if file == self.files.len() {
            out.resize(out.len() + tarfile::END, 0);
        }
        out
    }

    /// The TOC's archive: header, JSON, padding and end.
    pub(super) fn toc_archive(&self, json: &[u8]) -> Vec<u8> {
        assert_eq!(json.len() as u64, self.toc_len, "a TOC of another length");
        let mut out = Vec::with_capacity(self.toc_archive_len() as usize);
        let size = json.len() as u64;
        tarfile::push_entry(&mut out, toc::NAME, Kind::File { size });
        out.extend_from_slice(json);
        out.resize(
            out.len() + tarfile::padding(size) as usize + tarfile::END,
            0,
        );
        out
    }

    fn toc_archive_len(&self) -> u64 {
        let len = self.toc_len;
        tarfile::BLOCK + len + tarfile::padding(len) + tarfile::END as u64
    }

    /// Renders the TOC with `digests`: of each file and, in [`Plan::chunks`]' order, of each chunk.
    pub(super) fn toc(&self, files: &[Digest], chunks: &[Digest]) -> Vec<u8> {
        toc::render(self, files, chunks)
    }
}

fn chunks_of(file: usize, size: u64) -> impl Iterator<Item = ChunkRef> {
    (0..size.div_ceil(CHUNK)).map(move |at| ChunkRef {
        file,
        start: at * CHUNK,
        len: (size - at * CHUNK).min(CHUNK),
    })
}

fn payload_len(size: u64) -> u64 {
    let rest = size % CHUNK;
    size / CHUNK * member_len(CHUNK) + if rest > 0 { member_len(rest) } else { 0 }
}

fn headers_len(before: Option<&FilePath>, file: &Entry) -> u64 {
    let folders: u64 = new_folders(before, &file.path)
        .map(|folder| tarfile::entry_len(folder, Kind::Folder))
        .sum();
    folders + tarfile::entry_len(file.path.as_str(), Kind::File { size: file.size })
}

/// The folders of `path` that a layer has not had after `before`, outermost first, each with its `/`.
///
/// Paths are in order, so all that lie in a folder are neighbours: what the file just before did not open is new.
pub(super) fn new_folders<'a>(
    before: Option<&'a FilePath>,
    path: &'a FilePath,
) -> impl Iterator<Item = &'a str> {
    let path = path.as_str();
    path.match_indices('/')
        .map(move |(slash, _)| &path[..=slash])
        .filter(move |folder| !before.is_some_and(|b| b.as_str().starts_with(folder)))
}
