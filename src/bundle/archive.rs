//! The entries of a bundle, one after the other, from bytes of which none is trusted.

use std::collections::HashSet;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use super::header::{self, BLOCK, Kind};
use super::{MAX_BLOB, MAX_BLOBS, MAX_DOCUMENT};
use crate::oci::Digest;

/// The longest extended header: a few lines of text.
const MAX_EXTENDED: u64 = 64 << 10;

/// The longest `oci-layout`.
const MAX_LAYOUT: u64 = 4 << 10;

/// The most zeros after the mark of the end: tapes want whole records.
const MAX_TAIL: u64 = 1 << 20;

/// Which file of a layout an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `oci-layout`
    Layout,
    /// `index.json`
    Index,
    /// `blobs/sha256/HEX`
    Blob(Digest),
}

/// A file of the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Which one.
    pub part: Part,
    /// Its length in bytes.
    pub size: u64,
}

/// Why bytes are no bundle.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// They cannot be read.
    #[error("the bundle cannot be read at byte {at}: {source}")]
    Io {
        /// Where.
        at: u64,
        /// Why.
        source: io::Error,
    },
    /// They end before the mark of the end.
    #[error("the bundle is cut off: it ends at byte {at}, before its end")]
    CutOff {
        /// Where.
        at: u64,
    },
    /// An entry that no bundle has.
    #[error("{entry} at byte {at}: {why}")]
    Entry {
        /// Where its header begins.
        at: u64,
        /// What it is called.
        entry: String,
        /// What is wrong.
        why: String,
    },
}

/// Reads a bundle. Between two entries all of the first one is read or skipped.
#[derive(Debug)]
pub struct Archive<R> {
    input: R,
    /// Bytes taken from `input`.
    at: u64,
    /// Bytes of the entry's content that are left, and the zeros after them.
    left: u64,
    padding: u64,
    /// Where the entry's header begins, and its name.
    header: (u64, String),
    layout: bool,
    index: bool,
    blobs: HashSet<Digest>,
    /// The size that an extended header gives the next entry.
    extended: Option<Option<u64>>,
    entries: usize,
}

impl<R: Read> Archive<R> {
    /// A bundle that begins where `input` stands.
    pub fn new(input: R) -> Self {
        Self {
            input,
            at: 0,
            left: 0,
            padding: 0,
            header: (0, String::new()),
            layout: false,
            index: false,
            blobs: HashSet::new(),
            extended: None,
            entries: 0,
        }
    }

    /// How many bytes were read or skipped.
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// What the current entry's content lies in: for those who read around this reader, and say so by [`skipped`](Self::skipped).
    pub const fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// Bytes of the entry's content that are not read yet.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// So many bytes of the content were taken from the input by others.
    pub const fn skipped(&mut self, bytes: u64) {
        self.at += bytes;
        self.left -= bytes;
    }

    /// Something is wrong with the current entry.
    pub fn refuse(&self, why: impl Into<String>) -> ArchiveError {
        let (at, name) = &self.header;
        ArchiveError::Entry {
            at: *at,
            entry: format!("entry '{name}'"),
            why: why.into(),
        }
    }

    /// What the failure of a read of the content means.
    pub fn failed(&self, source: io::Error) -> ArchiveError {
        let at = self.at;
        match source.kind() {
            ErrorKind::UnexpectedEof => ArchiveError::CutOff { at },
            _ => ArchiveError::Io { at, source },
        }
    }

    /// The next file; `None` after the mark of the end, with everything read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ArchiveError> {
        loop {
            self.finish()?;
            let at = self.at;
            let block = self.block()?;
            if header::is_zero(&block) {
                self.header = (at, "the end".to_owned());
                return self.end().map(|()| None);
            }
            self.header = (at, "of no name".to_owned());
            let header = header::parse(&block).map_err(|why| self.refuse(why))?;
            self.header = (at, clip(&header.name));
            self.entries += 1;
            if self.entries > 2 * MAX_BLOBS {
                return Err(self.refuse("there are more entries than a bundle may have"));
            }
            if let Some(entry) = self.take(&header)? {
                return Ok(Some(entry));
            }
        }
    }

    /// Understands a header; `None` if no file is behind it.
    fn take(&mut self, header: &header::Header) -> Result<Option<Entry>, ArchiveError> {
        if header.kind == Kind::Extended {
            self.extend(header.size)?;
            return Ok(None);
        }
        let size = self.extended.take().flatten().unwrap_or(header.size);
        let name = header.name.strip_prefix("./").unwrap_or(&header.name);
        if header.kind == Kind::Folder {
            let known = matches!(
                name.trim_end_matches('/'),
                "" | "." | "blobs" | "blobs/sha256"
            );
            return match known && size == 0 {
                true => Ok(None),
                false => Err(self.refuse("a bundle has no such folder")),
            };
        }
        let part = self.part(name)?;
        let most = match part {
            Part::Layout => MAX_LAYOUT,
            Part::Index => MAX_DOCUMENT,
            Part::Blob(_) => MAX_BLOB,
        };
        if size > most {
            return Err(self.refuse(format!(
                "it claims {size} bytes, and {most} are the most that it may have"
            )));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(Some(Entry { part, size }))
    }

    /// Which file a name is, the first time that it comes.
    fn part(&mut self, name: &str) -> Result<Part, ArchiveError> {
        let (part, first) = match name {
            "oci-layout" => (Part::Layout, !std::mem::replace(&mut self.layout, true)),
            "index.json" => (Part::Index, !std::mem::replace(&mut self.index, true)),
            _ => {
                let hex = name.strip_prefix("blobs/sha256/");
                let digest = hex.and_then(|hex| Digest::from_hex(hex).ok());
                let digest = digest.ok_or_else(|| {
                    self.refuse(
                        "a bundle has only oci-layout, index.json and blobs/sha256/ with 64 lower-case hex digits",
                    )
                })?;
                (Part::Blob(digest), self.blobs.insert(digest))
            }
        };
        if self.blobs.len() > MAX_BLOBS {
            return Err(self.refuse("there are more blobs than a bundle may have"));
        }
        match first {
            true => Ok(part),
            false => Err(self.refuse("it is there twice")),
        }
    }

    /// Reads an extended header: only a size counts; a time, an owner and attributes do no harm.
    fn extend(&mut self, size: u64) -> Result<(), ArchiveError> {
        if size > MAX_EXTENDED || self.extended.is_some() {
            return Err(self.refuse("its extended header is too long"));
        }
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        let mut text = Vec::new();
        self.read_to_end(&mut text)
            .map_err(|error| self.failed(error))?;
        let size = extended(&text).map_err(|why| self.refuse(why))?;
        self.extended = Some(size);
        Ok(())
    }

    /// Reads what is left of an entry's content, and the zeros after it.
    fn finish(&mut self) -> Result<(), ArchiveError> {
        let mut buffer = vec![0; if self.left > 0 { 64 << 10 } else { 0 }];
        while self.left > 0 {
            let read = self.read(&mut buffer).map_err(|error| self.failed(error))?;
            if read == 0 {
                return Err(ArchiveError::CutOff { at: self.at });
            }
        }
        let mut zeros = [0; BLOCK];
        let zeros = &mut zeros[..std::mem::take(&mut self.padding) as usize];
        self.fill(zeros)?;
        match header::is_zero(zeros) {
            true => Ok(()),
            false => Err(self.refuse("something stands between its end and the next entry")),
        }
    }

    /// The mark of the end is two blocks, and nothing but zeros may follow.
    fn end(&mut self) -> Result<(), ArchiveError> {
        if self.extended.is_some() {
            return Err(self.refuse("an extended header belongs to no entry"));
        }
        let second = self.block()?;
        let mut buffer = [0; 4096];
        let (mut tail, mut read) = (0, BLOCK);
        buffer[..BLOCK].copy_from_slice(&second);
        while read > 0 {
            if tail > MAX_TAIL || !header::is_zero(&buffer[..read]) {
                return Err(self.refuse("something follows it"));
            }
            read = match self.input.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.map_err(|error| self.failed(error))?,
            };
            self.at += read as u64;
            tail += read as u64;
        }
        Ok(())
    }

    fn block(&mut self) -> Result<[u8; BLOCK], ArchiveError> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        Ok(block)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ArchiveError> {
        self.input
            .read_exact(buffer)
            .map_err(|error| self.failed(error))?;
        self.at += buffer.len() as u64;
        Ok(())
    }
}

impl<R: Read + Seek> Archive<R> {
    /// Goes past the current entry's content. Beyond its end an input may be gone to; that it is cut off shows at the next entry.
    pub fn skip(&mut self) -> Result<(), ArchiveError> {
        let left = self.left;
        let far = i64::try_from(left).map_err(|_| self.refuse("it is too long"))?;
        let skipped = self.input.seek(SeekFrom::Current(far));
        skipped.map_err(|error| self.failed(error))?;
        self.skipped(left);
        Ok(())
    }
}

/// Reads the current entry's content; an input that ends before it does is an error.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.input.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// A name as a message shows it.
fn clip(name: &str) -> String {
    let short: String = name.chars().take(120).collect();
    short.escape_default().to_string()
}

/// The size that an extended header tells, if it tells one.
fn extended(text: &[u8]) -> Result<Option<u64>, String> {
    let bad = || "its extended header is damaged".to_owned();
    let mut size = None;
    let mut rest = text;
    while !rest.is_empty() {
        let space = rest.iter().take(8).position(|b| *b == b' ');
        let digits = std::str::from_utf8(&rest[..space.ok_or_else(bad)?]).ok();
        let length: usize = digits.and_then(|d| d.parse().ok()).ok_or_else(bad)?;
        let record = rest.get(..length).ok_or_else(bad)?;
        let record = record.get(digits.map_or(0, str::len) + 1..);
        let record = record.and_then(|r| r.strip_suffix(b"\n")).ok_or_else(bad)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"size" => {
                let value = std::str::from_utf8(value).ok();
                size = Some(value.and_then(|v| v.parse().ok()).ok_or_else(bad)?);
            }
            b"mtime" | b"atime" | b"ctime" | b"uid" | b"gid" | b"uname" | b"gname" => {}
            key if key.starts_with(b"SCHILY.xattr.") => {}
            _ => return Err("its extended header has parts that no bundle needs".to_owned()),
        }
        rest = &rest[length..];
    }
    Ok(size)
}

#[cfg(test)]
mod tests;
