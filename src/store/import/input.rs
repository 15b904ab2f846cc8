//! What a bundle is read from: a file, where content can be gone past, or a pipe, which may be waited for.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bundle::{Archive, ArchiveError};

/// How long a pipe is waited for before it is asked whether to go on.
const WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Bytes after which it is asked whether to go on.
const ASKED: u64 = 16 << 20;

/// A file, or anything else.
pub(super) struct Input {
    file: File,
    /// The length, if it is a file.
    length: Option<u64>,
}

impl Input {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let length = metadata.is_file().then_some(metadata.len());
        Ok(Self { file, length })
    }

    pub(super) const fn is_regular(&self) -> bool {
        self.length.is_some()
    }

    pub(super) fn position(&mut self) -> io::Result<u64> {
        self.file.stream_position()
    }

    pub(super) fn go_to(&mut self, position: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(position)).map(drop)
    }

    /// Goes past bytes of a file.
    pub(super) fn skip(&mut self, bytes: u64) -> io::Result<()> {
        // Beyond its end a file can be gone to as well.
        let target = self.position()?.saturating_add(bytes);
        if self.length.is_some_and(|length| target > length) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.go_to(target)
    }

    /// Whether a read would not wait for long.
    fn is_ready(&self) -> io::Result<bool> {
        if self.is_regular() {
            return Ok(true);
        }
        match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&WAIT)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Read for &mut Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

/// An input that tells how far it is, and ends in an error when nobody wants to go on.
pub(super) struct Watch<'a> {
    input: Input,
    tell: &'a mut dyn FnMut(u64, u64) -> bool,
    read: u64,
    asked: u64,
}

impl<'a> Watch<'a> {
    pub(super) fn new(input: Input, tell: &'a mut dyn FnMut(u64, u64) -> bool) -> Self {
        let (read, asked) = (0, 0);
        Self {
            input,
            tell,
            read,
            asked,
        }
    }

    fn ask(&mut self) -> io::Result<()> {
        self.asked = self.read;
        match (self.tell)(self.read, self.input.length.unwrap_or(0)) {
            true => Ok(()),
            false => Err(io::Error::other("it was given up")),
        }
    }
}

impl Read for Watch<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.input.is_ready()? {
            self.ask()?;
        }
        let read = (&mut &mut self.input).read(buffer)?;
        self.read += read as u64;
        if self.read - self.asked >= ASKED {
            self.ask()?;
        }
        Ok(read)
    }
}

/// The content of a small entry.
pub(super) fn content<R: Read>(archive: &mut Archive<R>) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    let read = archive.read_to_end(&mut bytes);
    read.map_err(|error| archive.failed(error))?;
    Ok(bytes)
}

/// Goes past an entry's content without reading it.
pub(super) fn skip(archive: &mut Archive<&mut Input>) -> Result<(), ArchiveError> {
    let left = archive.left();
    let skipped = archive.input().skip(left);
    skipped.map_err(|error| archive.failed(error))?;
    archive.skipped(left);
    Ok(())
}
