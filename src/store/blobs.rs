//! Blobs and staging: a blob is visible exactly when it is whole and on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;
use crate::layer::Sink;
use crate::oci::Digest;

/// The largest document that is read whole.
const MAX_DOCUMENT: u64 = 4 << 20;

/// The most parts of one vectored write; the system's limit is 1,024.
const PARTS: usize = 512;

/// Where a blob stands, relative to the data directory.
fn place(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Opens a published blob.
pub(super) fn open(root: &Path, digest: &Digest) -> Result<Option<(File, u64)>, StoreError> {
    let place = place(digest);
    let opened = File::open(root.join(&place)).and_then(|file| {
        let size = file.metadata()?.len();
        Ok((file, size))
    });
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io(format!("opening {place}"))(error)),
    }
}

/// Reads a published document.
pub(super) fn read(root: &Path, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
    let Some((file, size)) = open(root, digest)? else {
        return Ok(None);
    };
    if size > MAX_DOCUMENT {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(MAX_DOCUMENT)
        .read_to_end(&mut bytes)
        .map_err(StoreError::io(format!("reading {}", place(digest))))?;
    Ok(Some(bytes))
}

/// Reads the concatenation of some ranges of a published blob.
pub(super) fn read_pieces(
    root: &Path,
    digest: &Digest,
    pieces: &[Range<u64>],
) -> Result<Option<Vec<u8>>, StoreError> {
    let Some((file, _)) = open(root, digest)? else {
        return Ok(None);
    };
    let mut out = Vec::new();
    for piece in pieces {
        let from = out.len();
        out.resize(from + (piece.end - piece.start) as usize, 0);
        file.read_exact_at(&mut out[from..], piece.start)
            .map_err(StoreError::io(format!("reading {}", place(digest))))?;
    }
    Ok(Some(out))
}

/// Whether a blob of this size is published.
pub(super) fn has(root: &Path, digest: &Digest, size: u64) -> bool {
    fs::metadata(root.join(place(digest))).is_ok_and(|m| m.is_file() && m.len() == size)
}

/// Publishes a document, unless it is there. The caller syncs the folder.
pub(super) fn put(root: &Path, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
    if has(root, digest, bytes.len() as u64) {
        return Ok(());
    }
    replace(root, &place(digest), bytes)
}

/// Writes a file so that at any moment it is the old one or the whole new one.
pub(super) fn replace(root: &Path, place: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let staged = root.join("staging").join(format!("file-{}", next_id()));
    let done = File::create_new(&staged)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&staged, root.join(place)));
    if done.is_err() {
        // Best effort: what stays is cleared at the next start.
        let _ = fs::remove_file(&staged);
    }
    done.map_err(StoreError::io(format!("writing {place}")))
}

/// Makes the renames in `blobs/sha256` durable.
pub(super) fn sync_folder(root: &Path) -> Result<(), StoreError> {
    sync(root, "blobs/sha256")
}

/// Makes the renames in a folder durable.
pub(super) fn sync(root: &Path, folder: &str) -> Result<(), StoreError> {
    File::open(root.join(folder))
        .and_then(|folder| folder.sync_all())
        .map_err(StoreError::io(format!("syncing {folder}")))
}

/// Removes what an earlier process left unpublished.
pub(super) fn clear_staging(root: &Path) -> Result<(), StoreError> {
    let staging = root.join("staging");
    match fs::remove_dir_all(&staging) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(StoreError::io("clearing staging")(error))
        }
        _ => fs::create_dir(&staging).map_err(StoreError::io("making staging")),
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A layer that is being filled, at its full size from the start. Dropping it removes it.
#[derive(Debug)]
pub struct Staging {
    root: PathBuf,
    folder: PathBuf,
    file: File,
    size: u64,
}

impl Staging {
    pub(super) fn new(root: &Path, size: u64) -> Result<Self, StoreError> {
        let folder = root.join("staging").join(format!("layer-{}", next_id()));
        fs::create_dir(&folder).map_err(StoreError::io("making a staging folder"))?;
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.join("layer"))
            .and_then(|file| {
                reserve(&file, size)?;
                Ok(file)
            });
        match made {
            Ok(file) => Ok(Self {
                root: root.to_owned(),
                folder,
                file,
                size,
            }),
            Err(error) => {
                // Best effort: what stays is cleared at the next start.
                let _ = fs::remove_dir_all(&folder);
                match StoreError::io("making a staging file")(error) {
                    StoreError::Full { .. } => Err(StoreError::Full { needed: size }),
                    other => Err(other),
                }
            }
        }
    }

    /// Makes the layer a blob: fsync, rename, fsync of the folder.
    pub(super) fn publish(self, digest: &Digest) -> Result<(), StoreError> {
        let place = place(digest);
        self.file
            .sync_all()
            .and_then(|()| fs::rename(self.folder.join("layer"), self.root.join(&place)))
            .map_err(StoreError::io(format!("publishing {place}")))?;
        sync_folder(&self.root)
    }
}

/// Takes the disk's room for a file of `size` bytes; a file system that cannot is left to fail later.
///
/// A request that cannot be met is refused before it is tried: file systems take all that is left before they find it too little,
/// and others on the disk would see it full meanwhile.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
    if size == 0 {
        return Ok(());
    }
    let disk = fstatvfs(file)?;
    if disk.f_bavail.saturating_mul(disk.f_frsize) < size {
        return Err(ErrorKind::StorageFull.into());
    }
    match fallocate(file, FallocateFlags::empty(), 0, size) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(size),
        Err(error) => Err(error.into()),
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, "a staging folder could not be removed; the next start does");
        }
    }
}

impl Sink for Staging {
    type Error = StoreError;

    fn write(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), StoreError> {
        let end = offset + parts.iter().map(|p| p.len() as u64).sum::<u64>();
        if end > self.size {
            return Err(StoreError::Io {
                what: "writing staging".to_owned(),
                source: io::Error::other("past the planned end"),
            });
        }
        let mut at = offset;
        for parts in parts.chunks(PARTS) {
            at += write_parts(&self.file, at, parts)
                .map_err(StoreError::io("writing a staging file"))?;
        }
        Ok(())
    }
}

/// Writes the concatenation of `parts` at `offset` with as few calls as the system takes.
fn write_parts(file: &File, offset: u64, parts: &[&[u8]]) -> io::Result<u64> {
    let slices: Vec<io::IoSlice<'_>> = parts.iter().map(|p| io::IoSlice::new(p)).collect();
    let total: u64 = parts.iter().map(|p| p.len() as u64).sum();
    let mut done = loop {
        match rustix::io::pwritev(file, &slices, offset) {
            Ok(done) => break done as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    // A short write is rare: what is left goes part by part.
    let mut at = 0;
    for part in parts {
        let end = at + part.len() as u64;
        if done < end {
            let from = done.saturating_sub(at) as usize;
            file.write_all_at(&part[from..], offset + at + from as u64)?;
            done = end;
        }
        at = end;
    }
    Ok(total)
}
