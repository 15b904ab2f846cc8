//! The layout of a bundle: every byte's place is known before one is written.

use std::collections::BTreeMap;

use super::header::{self, BLOCK};
use super::{Contents, List, MAX_BLOBS, MAX_DOCUMENT, MAX_IMAGES, OCI_LAYOUT, Refusal};
use crate::oci::Digest;

/// Where the content of an entry comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From here.
    Bytes(Vec<u8>),
    /// From a blob.
    Blob(Digest),
}

/// An entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where its header begins.
    pub at: u64,
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its content.
    pub source: Source,
}

impl Piece {
    /// The header's bytes.
    pub fn header(&self) -> [u8; BLOCK] {
        header::render(&self.name, self.size)
    }

    /// Where its content begins.
    pub const fn content(&self) -> u64 {
        self.at + BLOCK as u64
    }

    /// How many zeros follow its content.
    pub const fn padding(&self) -> usize {
        (self.size.next_multiple_of(BLOCK as u64) - self.size) as usize
    }

    /// Where the next one begins.
    pub const fn end(&self) -> u64 {
        self.content() + self.size + self.padding() as u64
    }
}

/// A bundle, laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Its entries, in order.
    pub pieces: Vec<Piece>,
    /// All blobs of its images, those left out too.
    pub list: List,
    /// The blobs that are left out.
    pub omitted: List,
}

impl Shape {
    /// Zeros at the end of an archive.
    pub const END: usize = 2 * BLOCK;

    /// Lays out a bundle of images that have `blobs`, without those that `former` has.
    pub fn new(
        mut contents: Contents,
        blobs: BTreeMap<Digest, u64>,
        former: Option<&List>,
    ) -> Result<Self, Refusal> {
        let known = |digest: &Digest| former.is_some_and(|list| list.0.contains_key(digest));
        let (omitted, written): (BTreeMap<_, _>, BTreeMap<_, _>) = blobs
            .iter()
            .map(|(d, s)| (*d, *s))
            .partition(|(digest, _)| known(digest));
        let omitted = List(omitted);
        contents.omits = (!omitted.0.is_empty()).then(|| omitted.digest());
        let failed = |why: String| Refusal::new("the bundle's index.json", why);
        let many = contents.images.len() > MAX_IMAGES;
        let index = contents.render().map_err(|e| failed(e.to_string()))?;
        if many || index.len() as u64 > MAX_DOCUMENT || blobs.len() > MAX_BLOBS {
            return Err(failed(
                "would be too long; export fewer images at once".into(),
            ));
        }
        let mut shape = Self {
            pieces: Vec::with_capacity(written.len() + 2),
            list: List(blobs),
            omitted,
        };
        let layout = OCI_LAYOUT.as_bytes().to_vec();
        for (name, bytes) in [("oci-layout", layout), ("index.json", index)] {
            shape.push(name.to_owned(), bytes.len() as u64, Source::Bytes(bytes));
        }
        for (digest, size) in written {
            let name = format!("blobs/sha256/{}", digest.hex());
            shape.push(name, size, Source::Blob(digest));
        }
        Ok(shape)
    }

    fn push(&mut self, name: String, size: u64, source: Source) {
        self.pieces.push(Piece {
            at: self.end(),
            name,
            size,
            source,
        });
    }

    /// Where the last entry ends.
    fn end(&self) -> u64 {
        self.pieces.last().map_or(0, Piece::end)
    }

    /// Bytes of the whole archive.
    pub fn size(&self) -> u64 {
        self.end() + Self::END as u64
    }
}
