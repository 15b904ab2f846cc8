//! What a file holds: bytes in memory, a file on disk, or a pattern that is never stored.
//!
//! Reading is by offset and never loads a whole file. Hashes are computed once per content, in whatever thread asks first.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use bytes::{Bytes, BytesMut};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::git;

/// The period of a pattern: a prime, so that no two aligned chunks of a file are the same.
const PERIOD: usize = 1_048_573;

/// How much [`Content::read`] and the hashes take from a file at a time.
const READ: u64 = 1 << 20;

/// The content of a file. Cheap to clone; clones share their hashes.
#[derive(Clone, Debug)]
pub struct Content {
    source: Source,
    hashes: Arc<Hashes>,
    lfs: Option<bool>,
}

#[derive(Clone, Debug)]
enum Source {
    Memory(Bytes),
    Disk { path: Arc<PathBuf>, size: u64 },
    Pattern { size: u64, seed: u64, block: Bytes },
}

#[derive(Debug, Default)]
struct Hashes {
    sha256: OnceLock<String>,
    blob: OnceLock<String>,
}

impl Content {
    /// Bytes in memory.
    pub fn memory(bytes: impl Into<Bytes>) -> Self {
        Self::new(Source::Memory(bytes.into()))
    }

    /// A file on disk, of the size that it has now. Fails if it is not there.
    pub fn disk(path: impl AsRef<Path>) -> io::Result<Self> {
        let size = std::fs::metadata(path.as_ref())?.len();
        let path = Arc::new(path.as_ref().to_owned());
        Ok(Self::new(Source::Disk { path, size }))
    }

    /// `size` bytes made up on the fly; the same for the same arguments, different for another `seed`.
    pub fn pattern(size: u64, seed: u64) -> Self {
        static KNOWN: LazyLock<Mutex<HashMap<(u64, u64), Content>>> = LazyLock::new(Mutex::default);
        let block = block(seed);
        let mut known = KNOWN.lock().expect("no holder of this lock panics");
        known
            .entry((size, seed))
            .or_insert_with(|| Self::new(Source::Pattern { size, seed, block }))
            .clone()
    }

    /// The same content, kept in LFS or in git whatever its size.
    pub fn lfs(mut self, lfs: bool) -> Self {
        self.lfs = Some(lfs);
        self
    }

    /// The same content with a SHA-256 that nobody computed: for files too large to hash, and for lies.
    pub fn claiming_sha256(mut self, hex: impl Into<String>) -> Self {
        self.hashes = Arc::new(Hashes {
            sha256: OnceLock::from(hex.into()),
            blob: self.hashes.blob.clone(),
        });
        self
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            hashes: Arc::default(),
            lfs: None,
        }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        match &self.source {
            Source::Memory(bytes) => bytes.len() as u64,
            Source::Disk { size, .. } | Source::Pattern { size, .. } => *size,
        }
    }

    /// Whether it is kept in LFS, where files of `threshold` bytes and more are.
    pub fn is_lfs(&self, threshold: u64) -> bool {
        self.lfs.unwrap_or(self.size() >= threshold)
    }

    /// SHA-256 of the bytes, in hex. Slow the first time.
    pub fn sha256(&self) -> &str {
        self.hashes.sha256.get_or_init(|| {
            let mut hash = Sha256::new();
            self.feed(|bytes| hash.update(bytes));
            git::hex(&hash.finalize())
        })
    }

    /// The id of the bytes as a git blob. Slow the first time.
    pub fn blob_id(&self) -> &str {
        self.hashes.blob.get_or_init(|| {
            let mut hash = Sha1::new();
            hash.update(format!("blob {}\0", self.size()));
            self.feed(|bytes| hash.update(bytes));
            git::hex(&hash.finalize())
        })
    }

    /// Whether the hash that a listing shows is known already.
    pub fn is_hashed(&self, lfs: bool) -> bool {
        let hash = if lfs {
            &self.hashes.sha256
        } else {
            &self.hashes.blob
        };
        hash.get().is_some()
    }

    /// What a commit id is made of. Patterns are named, not hashed, so that a commit of them costs nothing.
    pub fn identity(&self, lfs: bool) -> String {
        match &self.source {
            Source::Pattern { size, seed, .. } => format!("pattern {size} {seed}"),
            _ if lfs => format!("lfs {}", self.sha256()),
            _ => format!("blob {}", self.blob_id()),
        }
    }

    /// The bytes of a range, all in memory.
    pub fn read(&self, range: Range<u64>) -> Bytes {
        let mut bytes = BytesMut::with_capacity((range.end - range.start) as usize);
        let mut reader = self.reader().expect("the file is readable");
        let mut at = range.start;
        while at < range.end {
            let chunk = reader.chunk(at, range.end - at).expect("the file is whole");
            at += chunk.len() as u64;
            bytes.extend_from_slice(&chunk);
        }
        bytes.freeze()
    }

    /// All its bytes.
    pub fn to_bytes(&self) -> Bytes {
        self.read(0..self.size())
    }

    fn feed(&self, mut each: impl FnMut(&[u8])) {
        let mut reader = self.reader().expect("the file is readable");
        let mut at = 0;
        while at < self.size() {
            let most = READ.min(self.size() - at);
            let chunk = reader.chunk(at, most).expect("the file is whole");
            each(&chunk);
            at += chunk.len() as u64;
        }
    }

    /// Opens it for reading by offset.
    pub fn reader(&self) -> io::Result<Reader> {
        Ok(match &self.source {
            Source::Memory(bytes) => Reader::Memory(bytes.clone()),
            Source::Pattern { block, .. } => Reader::Pattern(block.clone()),
            Source::Disk { path, .. } => Reader::Disk(File::open(path.as_path())?),
        })
    }
}

/// An open content.
pub enum Reader {
    /// Bytes that are already there.
    Memory(Bytes),
    /// Two periods of a pattern.
    Pattern(Bytes),
    /// An open file: reading it blocks.
    Disk(File),
}

impl Reader {
    /// Between one and `most` bytes at `at`, which must lie inside the file. Copies nothing that is in memory.
    pub fn chunk(&mut self, at: u64, most: u64) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => {
                let at = at as usize;
                let end = bytes.len().min(at.saturating_add(most as usize));
                Ok(bytes.slice(at..end))
            }
            Self::Pattern(block) => {
                let at = (at % PERIOD as u64) as usize;
                let end = at + most.min(PERIOD as u64) as usize;
                Ok(block.slice(at..end))
            }
            Self::Disk(file) => {
                let mut bytes = BytesMut::zeroed(most.min(READ) as usize);
                let read = file.read_at(&mut bytes, at)?;
                if read == 0 && most > 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                bytes.truncate(read);
                Ok(bytes.freeze())
            }
        }
    }

    /// Whether [`Reader::chunk`] may wait for a disk.
    pub fn blocks(&self) -> bool {
        matches!(self, Self::Disk(_))
    }
}

/// Two periods of the pattern of a seed, so that any window of one period lies in one piece.
fn block(seed: u64) -> Bytes {
    static KNOWN: LazyLock<Mutex<HashMap<u64, Bytes>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().expect("no holder of this lock panics");
    known
        .entry(seed)
        .or_insert_with(|| {
            let mut state = seed;
            let mut period = Vec::with_capacity(2 * PERIOD + 8);
            while period.len() < PERIOD {
                period.extend_from_slice(&splitmix(&mut state).to_le_bytes());
            }
            period.truncate(PERIOD);
            period.extend_from_within(..);
            Bytes::from(period)
        })
        .clone()
}

/// The next number of the SplitMix64 generator.
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::memory(text.as_bytes().to_vec())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::memory(text)
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::memory(bytes.to_vec())
    }
}

impl<const N: usize> From<&[u8; N]> for Content {
    fn from(bytes: &[u8; N]) -> Self {
        Self::memory(bytes.to_vec())
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::memory(bytes)
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::memory(bytes)
    }
}
