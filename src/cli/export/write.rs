//! Writing a bundle: each blob is hashed on its way out, so that none leaves that is damaged.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

use super::aside::Aside;
use super::blob;
use crate::bundle::{Piece, Shape, Source};
use crate::cli::Failure;
use crate::cli::meter::Meter;
use crate::store::{Writeback, pump};

/// Zeros between entries and at the end.
static ZEROS: [u8; Shape::END] = [0; Shape::END];

/// Where the bundle goes.
struct Out {
    file: File,
    writeback: Option<Writeback>,
    meter: Meter,
    done: u64,
    total: u64,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.done += bytes.len() as u64;
        self.meter.show(self.done, self.total);
        match &mut self.writeback {
            Some(writeback) => writeback.wrote(&self.file, bytes.len() as u64),
            None => Ok(()),
        }
    }

    /// Writes an entry.
    fn piece(&mut self, data: &Path, piece: &Piece) -> Result<(), Failure> {
        let fail = |error: io::Error| Failure::new("cannot write the bundle").from(error);
        self.put(&piece.header()).map_err(fail)?;
        match &piece.source {
            Source::Bytes(bytes) => self.put(bytes).map_err(fail)?,
            Source::Blob(digest) => {
                let lost = || Failure::new(format!("cannot read the blob {digest}"));
                let mut blob = File::open(blob(data, digest)).map_err(|e| lost().from(e))?;
                let length = blob.metadata().map_err(|e| lost().from(e))?.len();
                let hashed = pump::<io::Error>(&mut blob, piece.size, &mut |part| self.put(part));
                let hashed = hashed.map_err(|error| {
                    Failure::new(format!("cannot copy the blob {digest}")).from(error)
                })?;
                if hashed != *digest || length != piece.size {
                    let damaged =
                        Failure::new(format!("the blob {digest} of the cache is damaged"));
                    return Err(damaged.next("hf-oci verify --repair has it fetched again"));
                }
            }
        }
        self.put(&ZEROS[..piece.padding()]).map_err(fail)
    }

    /// Writes all entries from the one of this number on, and the end.
    fn rest(&mut self, data: &Path, shape: &Shape, from: usize) -> Result<(), Failure> {
        for piece in &shape.pieces[from..] {
            self.piece(data, piece)?;
        }
        self.put(&ZEROS)
            .map_err(|error| Failure::new("cannot write the bundle").from(error))
    }
}

/// Writes a bundle to stdout.
pub(super) fn stream(data: &Path, shape: &Shape) -> Result<(), Failure> {
    let stdout = io::stdout();
    let file = stdout.as_fd().try_clone_to_owned();
    let file = file.map_err(|error| Failure::new("cannot write to stdout").from(error))?;
    let mut out = Out {
        file: file.into(),
        writeback: None,
        meter: Meter::new(),
        done: 0,
        total: shape.size(),
    };
    out.rest(data, shape, 0)
}

/// Writes a bundle to a file, which is there when it is complete and on the disk.
pub(super) fn file(data: &Path, shape: &Shape, path: &Path, resume: bool) -> Result<(), Failure> {
    let aside = Aside::open(path, ".partial")?;
    let fail = |error: io::Error| {
        Failure::new(format!("cannot write {}", aside.path().display())).from(error)
    };
    let mut file = aside.file.try_clone().map_err(fail)?;
    let from = match resume {
        true => verify(&mut file, shape).map_err(fail)?,
        false => 0,
    };
    let at = shape
        .pieces
        .get(from)
        .map_or(shape.size() - Shape::END as u64, |p| p.at);
    file.set_len(at).map_err(fail)?;
    file.seek(SeekFrom::Start(at)).map_err(fail)?;
    let mut out = Out {
        file,
        writeback: Some(Writeback::default()),
        meter: Meter::new(),
        done: at,
        total: shape.size(),
    };
    let written = out.rest(data, shape, from);
    written.map_err(|failure| {
        failure.then(format!(
            "what is written stays in {}; --resume goes on with it",
            aside.path().display()
        ))
    })?;
    let ended = out.writeback.take().map_or(Ok(()), |mut w| w.end());
    ended.map_err(fail)?;
    aside.publish()
}

/// How many entries of a file are what they should be, from its beginning on.
fn verify(file: &mut File, shape: &Shape) -> io::Result<usize> {
    let length = file.metadata()?.len();
    file.rewind()?;
    for (number, piece) in shape.pieces.iter().enumerate() {
        if piece.end() > length || !is_there(file, piece)? {
            return Ok(number);
        }
    }
    Ok(shape.pieces.len())
}

/// Whether the next bytes of a file are an entry.
fn is_there(file: &mut File, piece: &Piece) -> io::Result<bool> {
    let mut header = piece.header();
    file.read_exact(&mut header)?;
    if header != piece.header() {
        return Ok(false);
    }
    let same = match &piece.source {
        Source::Bytes(bytes) => {
            let mut there = vec![0; bytes.len()];
            file.read_exact(&mut there)?;
            there == *bytes
        }
        Source::Blob(digest) => {
            let hashed = pump::<io::Error>(file, piece.size, &mut |_| Ok(()))?;
            hashed == *digest
        }
    };
    let mut zeros = vec![0; piece.padding()];
    file.read_exact(&mut zeros)?;
    Ok(same && zeros.iter().all(|byte| *byte == 0))
}

/// Replaces a small file.
pub(super) fn small(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut aside = Aside::open(path, ".new")?;
    let written = aside.file.set_len(0);
    written
        .and_then(|()| aside.file.write_all(bytes))
        .map_err(|error| Failure::new(format!("cannot write {}", path.display())).from(error))?;
    aside.publish()
}
