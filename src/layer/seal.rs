//! Feeding a planned layer its chunks, in order, and sealing it with its digests.

use std::sync::Arc;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::member::{Member, footer};
use super::plan::{ChunkRef, Plan};
use crate::oci::Digest;
use crate::repo::{ContentId, Entry, FilePath};

/// Takes the blob's bytes. Calls come in ascending order of `offset`, without gaps.
pub trait Sink {
    /// Why a write failed.
    type Error;

    /// Writes the concatenation of `parts` at `offset` of the blob.
    fn write(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), Self::Error>;
}

/// Why a layer was not sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError<E> {
    /// The bytes of a file are not the ones that the listing promised.
    #[error("{path:?} should be {wanted} but its bytes are {got}")]
    Content {
        /// The file.
        path: FilePath,
        /// What the listing said.
        wanted: ContentId,
        /// What the bytes are.
        got: ContentId,
    },
    /// The sink failed.
    #[error("writing the layer failed")]
    Sink(E),
}

/// A sealed layer: what its descriptor and the config need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// SHA-256 of the blob.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// SHA-256 of the whole uncompressed stream.
    pub diff_id: Digest,
    /// SHA-256 of the TOC's JSON.
    pub toc: Digest,
    /// Length of the whole uncompressed stream in bytes.
    pub uncompressed: u64,
}

/// A layer being filled. Every byte is hashed once for each digest that sees it, and framed without being copied.
pub struct Sealer {
    plan: Arc<Plan>,
    blob: Sha256,
    diff: Sha256,
    written: u64,
    last_payload: Option<usize>,
    file: FileHash,
    files: Vec<Digest>,
    chunks: Vec<Digest>,
}

impl Sealer {
    /// Begins a layer.
    pub fn new(plan: Arc<Plan>) -> Self {
        Self {
            plan,
            blob: Sha256::new(),
            diff: Sha256::new(),
            written: 0,
            last_payload: None,
            file: FileHash::default(),
            files: Vec::new(),
            chunks: Vec::new(),
        }
    }

    /// Takes the next chunk of the plan. When it is the last of its file, the file's bytes are held against what the listing promised.
    ///
    /// # Panics
    /// If `data` is not exactly the chunk's length: a defect of the caller.
    pub fn chunk<S: Sink>(
        &mut self,
        chunk: ChunkRef,
        data: &[u8],
        sink: &mut S,
    ) -> Result<(), SealError<S::Error>> {
        assert_eq!(data.len() as u64, chunk.len, "a chunk of another length");
        let plan = Arc::clone(&self.plan);
        let entry = &plan.files()[chunk.file];
        if chunk.start == 0 {
            self.open(chunk.file, sink)?;
            self.file = FileHash::begin(entry);
        }
        let digest = Digest::of(data);
        self.chunks.push(digest);
        self.file.update(entry, data);
        self.member(data, sink)?;
        if chunk.start + chunk.len == entry.size {
            let whole = (chunk.start == 0).then_some(digest);
            let digest = std::mem::take(&mut self.file).finish(entry, whole)?;
            self.files.push(digest);
        }
        Ok(())
    }

    /// Ends the layer: what follows the last payload, the TOC and the footer.
    pub fn finish<S: Sink>(mut self, sink: &mut S) -> Result<Sealed, SealError<S::Error>> {
        let plan = Arc::clone(&self.plan);
        self.open(plan.files().len(), sink)?;
        let json = plan.toc(&self.files, &self.chunks);
        self.member(&plan.toc_archive(&json), sink)?;
        let footer = footer(plan.toc_offset());
        self.put(&[&footer], sink)?;
        // A layer of another length than planned is a defect that must not be published.
        assert_eq!(self.written, plan.blob_len(), "a layer of another length");
        Ok(Sealed {
            digest: Digest::from_bytes(self.blob.finalize().into()),
            size: self.written,
            diff_id: Digest::from_bytes(self.diff.finalize().into()),
            toc: Digest::of(&json),
            uncompressed: plan.uncompressed_len(),
        })
    }

    /// Writes the metadata member in front of the payload of `file`, and checks the empty files in it.
    fn open<S: Sink>(&mut self, file: usize, sink: &mut S) -> Result<(), SealError<S::Error>> {
        let plan = Arc::clone(&self.plan);
        let first = self.last_payload.map_or(0, |last| last + 1);
        for entry in &plan.files()[first..file] {
            let digest = FileHash::begin(entry).finish(entry, None)?;
            self.files.push(digest);
        }
        self.member(&plan.metadata(self.last_payload, file), sink)?;
        self.last_payload = Some(file);
        Ok(())
    }

    fn member<S: Sink>(&mut self, data: &[u8], sink: &mut S) -> Result<(), SealError<S::Error>> {
        self.diff.update(data);
        let member = Member::new(data);
        let parts: Vec<&[u8]> = member.slices().collect();
        self.put(&parts, sink)
    }

    fn put<S: Sink>(&mut self, parts: &[&[u8]], sink: &mut S) -> Result<(), SealError<S::Error>> {
        for part in parts {
            self.blob.update(part);
        }
        sink.write(self.written, parts).map_err(SealError::Sink)?;
        self.written += parts.iter().map(|p| p.len() as u64).sum::<u64>();
        Ok(())
    }
}

/// The digests of one file. A file of one chunk has its SHA-256 from the chunk.
#[derive(Default)]
struct FileHash {
    sha256: Sha256,
    git: Option<Sha1>,
}

impl FileHash {
    fn begin(entry: &Entry) -> Self {
        let git = matches!(entry.content, ContentId::Git(_))
            .then(|| Sha1::new_with_prefix(format!("blob {}\0", entry.size)));
        Self {
            sha256: Sha256::new(),
            git,
        }
    }

    fn update(&mut self, entry: &Entry, data: &[u8]) {
        if (data.len() as u64) < entry.size {
            self.sha256.update(data);
        }
        if let Some(git) = &mut self.git {
            git.update(data);
        }
    }

    /// The file's SHA-256, once its bytes are the promised ones. `whole` is that digest if a chunk was the whole file.
    fn finish<E>(self, entry: &Entry, whole: Option<Digest>) -> Result<Digest, SealError<E>> {
        let digest = whole.unwrap_or_else(|| Digest::from_bytes(self.sha256.finalize().into()));
        let got = match self.git {
            Some(git) => ContentId::Git(git.finalize().into()),
            None => ContentId::Sha256(digest),
        };
        if got == entry.content {
            Ok(digest)
        } else {
            Err(SealError::Content {
                path: entry.path.clone(),
                wanted: entry.content,
                got,
            })
        }
    }
}

#[cfg(test)]
mod tests;
