//! Feeding a planned layer its chunks, in order, and sealing it with its digests.

use std::sync::Arc;

use fused_sha256::{Sha256, together};
use sha1::{Digest as _, Sha1};

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
        self.payload(chunk, data, sink)?;
        if let Some(git) = &mut self.file.git {
            git.update(data);
        }
        if chunk.start + chunk.len == entry.size {
            let digest = std::mem::take(&mut self.file).finish(entry)?;
            self.files.push(digest);
        }
        Ok(())
    }

    /// Frames a chunk, and hashes it for all four digests in one pass.
    fn payload<S: Sink>(
        &mut self,
        chunk: ChunkRef,
        data: &[u8],
        sink: &mut S,
    ) -> Result<(), SealError<S::Error>> {
        let member = Member::new(data);
        let parts: Vec<&[u8]> = member.slices().collect();
        let framed = parts.iter().copied();
        let mut own = Sha256::new();
        if chunk.start == 0 {
            // So far the file is the chunk.
            together([&mut own, &mut self.diff], data, &mut self.blob, framed);
            self.file.sha256 = own.clone();
        } else {
            let shared = [&mut own, &mut self.file.sha256, &mut self.diff];
            together(shared, data, &mut self.blob, framed);
        }
        self.chunks.push(Digest::from_bytes(own.finish()));
        self.write(&parts, sink)
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
            digest: Digest::from_bytes(self.blob.finish()),
            size: self.written,
            diff_id: Digest::from_bytes(self.diff.finish()),
            toc: Digest::of(&json),
            uncompressed: plan.uncompressed_len(),
        })
    }

    /// Writes the metadata member in front of the payload of `file`, and checks the empty files in it.
    fn open<S: Sink>(&mut self, file: usize, sink: &mut S) -> Result<(), SealError<S::Error>> {
        let plan = Arc::clone(&self.plan);
        let first = self.last_payload.map_or(0, |last| last + 1);
        for entry in &plan.files()[first..file] {
            let digest = FileHash::begin(entry).finish(entry)?;
            self.files.push(digest);
        }
        self.member(&plan.metadata(self.last_payload, file), sink)?;
        self.last_payload = Some(file);
        Ok(())
    }

    fn member<S: Sink>(&mut self, data: &[u8], sink: &mut S) -> Result<(), SealError<S::Error>> {
        let member = Member::new(data);
        let parts: Vec<&[u8]> = member.slices().collect();
        together(
            [&mut self.diff],
            data,
            &mut self.blob,
            parts.iter().copied(),
        );
        self.write(&parts, sink)
    }

    fn put<S: Sink>(&mut self, parts: &[&[u8]], sink: &mut S) -> Result<(), SealError<S::Error>> {
        parts.iter().for_each(|part| self.blob.update(part));
        self.write(parts, sink)
    }

    fn write<S: Sink>(&mut self, parts: &[&[u8]], sink: &mut S) -> Result<(), SealError<S::Error>> {
        sink.write(self.written, parts).map_err(SealError::Sink)?;
        self.written += parts.iter().map(|p| p.len() as u64).sum::<u64>();
        Ok(())
    }
}

/// The digests of one file.
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

    /// The file's SHA-256, once its bytes are the promised ones.
    fn finish<E>(self, entry: &Entry) -> Result<Digest, SealError<E>> {
        let digest = Digest::from_bytes(self.sha256.finish());
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
