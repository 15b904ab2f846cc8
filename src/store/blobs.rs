//! Blobs and staging: a blob is visible exactly when it is whole and on the disk.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;
use crate::oci::Digest;

/// The largest document that is read whole.
const MAX_DOCUMENT: u64 = 4 << 20;

/// Where a blob stands, relative to the data directory.
pub(super) fn place(digest: &Digest) -> String {
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

/// Publishes a document, unless it is there; tells whether it was not. The caller syncs the folder.
pub(super) fn put(root: &Path, digest: &Digest, bytes: &[u8]) -> Result<bool, StoreError> {
    if has(root, digest, bytes.len() as u64) {
        return Ok(false);
    }
    replace(root, &place(digest), bytes)?;
    Ok(true)
}

/// Every file of `blobs/sha256` that is named as a blob, with its length. One that vanishes meanwhile is left out.
pub(super) fn list(root: &Path) -> Result<Vec<(Digest, u64)>, StoreError> {
    let fail = || StoreError::io("listing blobs/sha256");
    let mut all = Vec::new();
    for entry in fs::read_dir(root.join("blobs/sha256")).map_err(fail())? {
        let entry = entry.map_err(fail())?;
        let name = entry.file_name();
        let digest = name.to_str().and_then(|hex| Digest::from_hex(hex).ok());
        if let (Some(digest), Ok(file)) = (digest, entry.metadata())
            && file.is_file()
        {
            all.push((digest, file.len()));
        }
    }
    Ok(all)
}

/// Takes a blob out of its place, which is quick; gives its length. The file is deleted by [`delete`], or at the next start.
pub(super) fn take_out(root: &Path, digest: &Digest) -> Result<Option<u64>, StoreError> {
    move_to(root, digest, &aside(root, digest))
}

/// Moves a blob out of its place to `target`; gives its length.
pub(super) fn move_to(
    root: &Path,
    digest: &Digest,
    target: &Path,
) -> Result<Option<u64>, StoreError> {
    let from = root.join(place(digest));
    let moved = fs::metadata(&from).and_then(|file| {
        fs::rename(&from, target)?;
        Ok(file.len())
    });
    match moved {
        Ok(size) => Ok(Some(size)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io(format!("removing {}", place(digest)))(error)),
    }
}

/// Deletes what was taken out of its place. Of large files that takes its time.
pub(super) fn delete(root: &Path, digest: &Digest) {
    if let Err(error) = fs::remove_file(aside(root, digest))
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, %digest, "a blob could not be deleted; the next start tries again");
    }
}

fn aside(root: &Path, digest: &Digest) -> PathBuf {
    root.join("staging")
        .join(format!("evicted-{}", digest.hex()))
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

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
