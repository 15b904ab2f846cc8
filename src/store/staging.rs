//! Staging: layers that are being filled, and the orders of the fills under way. Nothing refers to what is here.
//!
//! ```text
//! staging/layer-RECIPE/layer     at its full size from the start; which chunks of it are there, it tells itself (`Plan::read_back`)
//! staging/order-KEY              a fill that was under way: the next process goes on with it (`orders`)
//! staging/done-RECIPE            which blob a finished layer is, until an image has it (`finished`)
//! staging/file-N                 a document about to be renamed into its place
//! staging/evicted-DIGEST         a blob taken out of its place, about to be deleted
//! ```

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::budget::Room;
use super::direct::{Direct, Pace};
use super::writeback::Writeback;
use super::{StoreError, blobs, finished, orders};
use crate::layer::{ChunkRef, Plan, Sink};
use crate::oci::Digest;

/// The most parts of one vectored write; the system's limit is 1,024.
const PARTS: usize = 16;

/// Bytes that are written while others are hashed; less is not worth it.
const WORTH_A_THREAD: u64 = 1 << 20;

/// Layers that are shorter always go into the page cache.
const WORTH_THE_DISK: u64 = 64 << 20;

/// The most that writing into the page cache may take, in hundredths of the time of the hashing: it takes 15 as a rule.
const CACHE_PACE: u128 = 50;

/// The most that writing past it may take: a disk that is as slow as that keeps everybody waiting who reads from it.
const DISK_PACE: u128 = 200;

/// A layer that nobody went on with for so long is given up.
pub(super) const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);

/// The file beside a layer that says that all of its bytes were held against a digest.
const VERIFIED: &str = "verified";

/// Where the layer of a recipe is filled.
pub(super) fn folder(root: &Path, recipe: &Digest) -> PathBuf {
    root.join("staging").join(format!("layer-{}", recipe.hex()))
}

/// Removes what no later fill can go on with: documents that were not renamed, and layers that were given up.
pub(super) fn sweep(root: &Path, now: SystemTime) -> Result<(), StoreError> {
    let fail = |what: &str| StoreError::io(format!("sweeping staging: {what}"));
    for entry in fs::read_dir(root.join("staging")).map_err(fail("listing"))? {
        let entry = entry.map_err(fail("listing"))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let path = entry.path();
        if name.starts_with(orders::PREFIX) || name.starts_with(finished::PREFIX) {
            continue;
        }
        if !name.starts_with("layer-") {
            match entry.file_type().map_err(fail("looking"))?.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            }
            .map_err(fail("removing"))?;
            continue;
        }
        let written = fs::metadata(path.join("layer")).and_then(|m| m.modified());
        let age = written.map_or(ABANDONED, |at| now.duration_since(at).unwrap_or_default());
        if age >= ABANDONED {
            fs::remove_dir_all(&path).map_err(fail("removing"))?;
        }
    }
    Ok(())
}

/// The layers in staging: their recipes and lengths.
pub(super) fn layers(root: &Path) -> Result<HashMap<Digest, u64>, StoreError> {
    let mut layers = HashMap::new();
    for entry in fs::read_dir(root.join("staging")).map_err(StoreError::io("listing staging"))? {
        let entry = entry.map_err(StoreError::io("listing staging"))?;
        let name = entry.file_name();
        let hex = name.to_str().and_then(|n| n.strip_prefix("layer-"));
        let recipe = hex.and_then(|hex| Digest::from_hex(hex).ok());
        if let Some(recipe) = recipe
            && let Ok(file) = fs::metadata(entry.path().join("layer"))
        {
            layers.insert(recipe, file.len());
        }
    }
    Ok(layers)
}

/// Gives up a layer.
pub(super) fn discard(root: &Path, recipe: &Digest) -> Result<(), StoreError> {
    match fs::remove_dir_all(folder(root, recipe)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(StoreError::io("removing a staging folder")(error))
        }
        _ => Ok(()),
    }
}

/// Whether something is there that was verified.
pub(super) fn has_verified(root: &Path, recipe: &Digest) -> bool {
    folder(root, recipe).join(VERIFIED).is_file()
}

/// Whether all `size` bytes that are there were held against this digest.
pub(super) fn is_verified(root: &Path, recipe: &Digest, digest: &Digest, size: u64) -> bool {
    let folder = folder(root, recipe);
    let length = fs::metadata(folder.join("layer")).map(|m| m.len());
    let told = fs::read(folder.join(VERIFIED));
    length.is_ok_and(|length| length == size)
        && told.is_ok_and(|told| told == verdict(digest, size).as_bytes())
}

/// What stands in the file that says it.
fn verdict(digest: &Digest, size: u64) -> String {
    format!("{digest} {size}\n")
}

/// Takes back that bytes were verified, before other ones are written.
fn take_back(folder: &Path) -> io::Result<()> {
    match fs::remove_file(folder.join(VERIFIED)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(folder)?.sync_all(),
    }
}

/// A layer that is being filled, at its full size from the start. Dropping it removes it, unless it is to be [kept](Self::keep).
#[derive(Debug)]
pub struct Staging {
    root: PathBuf,
    room: Arc<Room>,
    recipe: Digest,
    folder: PathBuf,
    file: File,
    /// Writes past the page cache, where that is the better way.
    direct: Option<Direct>,
    /// Whether it was tried.
    tried: bool,
    pace: Pace,
    writeback: Writeback,
    size: u64,
    found: bool,
    kept: bool,
}

impl Staging {
    /// Goes on with the layer of a recipe, or begins it. Only one at a time may be open for a recipe.
    pub(super) fn open(
        root: &Path,
        room: &Arc<Room>,
        recipe: &Digest,
        size: u64,
    ) -> Result<Self, StoreError> {
        let folder = folder(root, recipe);
        let path = folder.join("layer");
        let found = fs::metadata(&path).is_ok_and(|m| m.len() == size);
        let opened = if found {
            OpenOptions::new().read(true).write(true).open(&path)
        } else {
            begin(&folder, size)
        };
        match opened {
            Ok(file) => {
                room.staged(recipe, size);
                Ok(Self {
                    root: root.to_owned(),
                    room: Arc::clone(room),
                    recipe: *recipe,
                    folder,
                    file,
                    direct: None,
                    tried: size < WORTH_THE_DISK,
                    pace: Pace::default(),
                    writeback: Writeback::default(),
                    size,
                    found,
                    kept: false,
                })
            }
            Err(error) => {
                // Best effort: what stays is found again, or swept.
                let _ = fs::remove_dir_all(&folder);
                room.unstaged(recipe);
                match StoreError::io("making a staging file")(error) {
                    StoreError::Full { .. } => Err(StoreError::Full {
                        needed: size,
                        free: free(root),
                    }),
                    other => Err(other),
                }
            }
        }
    }

    /// Whether an earlier fill began it.
    pub const fn is_found(&self) -> bool {
        self.found
    }

    /// Lets it stay when it is dropped, for a later fill to go on with.
    pub const fn keep(&mut self) {
        self.kept = true;
    }

    /// Reads a chunk that an earlier fill wrote; `false` if it is not there, or not whole. `member` and `data` are scratch space; `data`
    /// has the chunk then.
    pub fn read_back(
        &self,
        plan: &Plan,
        chunk: ChunkRef,
        member: &mut Vec<u8>,
        data: &mut Vec<u8>,
    ) -> bool {
        let range = plan.member_range(chunk);
        member.resize((range.end - range.start) as usize, 0);
        self.file.read_exact_at(member, range.start).is_ok() && plan.read_back(chunk, member, data)
    }

    /// Other bytes are going to be written: nothing of it is verified.
    pub(super) fn take_back(&self) -> Result<(), StoreError> {
        take_back(&self.folder).map_err(StoreError::io("taking back what was verified"))
    }

    /// All of its bytes were held against a digest: brings them to the disk, notes it, and lets it stay.
    pub(super) fn verified(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let settled = self
            .back_to_cache()
            .and_then(|()| self.writeback.end())
            .and_then(|()| self.file.sync_data());
        settled.map_err(StoreError::io("writing out a staging file"))?;
        let text = verdict(digest, self.size);
        fs::write(self.folder.join(VERIFIED), text)
            .map_err(StoreError::io("noting a verified blob"))?;
        self.keep();
        Ok(())
    }

    /// Makes the layer a blob: fsync, rename, fsync of the folder.
    pub(super) fn publish(mut self, digest: &Digest) -> Result<(), StoreError> {
        let place = blobs::place(digest);
        let done = self.root.join(&place);
        let fail = || StoreError::io(format!("publishing {place}"));
        self.back_to_cache().map_err(fail())?;
        self.writeback.end().map_err(fail())?;
        self.file.sync_all().map_err(fail())?;
        let moving = self.room.moving();
        let new = !done.exists();
        fs::rename(self.folder.join("layer"), done).map_err(fail())?;
        self.room.sealed(&self.recipe, self.size, new);
        drop(moving);
        blobs::sync_folder(&self.root)
    }
}

fn begin(folder: &Path, size: u64) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    take_back(folder)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(folder.join("layer"))?;
    reserve(&file, size)?;
    Ok(file)
}

/// Bytes that the disk has left for us; 0 if it does not tell.
pub(super) fn free(root: &Path) -> u64 {
    rustix::fs::statvfs(root).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
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
        if self.kept {
            if let Err(error) = self.back_to_cache() {
                tracing::warn!(%error, "the end of an unfinished layer could not be written");
            }
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, "a staging folder could not be removed");
        }
        self.room.unstaged(&self.recipe);
    }
}

impl Staging {
    fn put(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), StoreError> {
        let end = offset + length(parts);
        if end > self.size {
            return Err(StoreError::Io {
                what: "writing staging".to_owned(),
                source: io::Error::other("past the planned end"),
            });
        }
        self.put_within(offset, parts)
            .map_err(StoreError::io("writing a staging file"))
    }

    fn put_within(&mut self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        if self.direct.as_ref().is_some_and(|d| d.next() != offset) {
            self.back_to_cache()?;
        }
        let Some(direct) = &mut self.direct else {
            let mut at = offset;
            for parts in parts.chunks(PARTS) {
                at += write_parts(&self.file, at, parts)?;
            }
            return Ok(());
        };
        if !direct.put(parts, &self.file)? {
            self.back_to_cache()?;
        }
        Ok(())
    }

    /// From here on the file is written through the page cache.
    fn back_to_cache(&mut self) -> io::Result<()> {
        let Some(direct) = self.direct.take() else {
            return Ok(());
        };
        let (at, held) = direct.held();
        self.file.write_all_at(held, at)
    }

    /// What was written through the cache is written out now and then.
    fn wrote(&mut self, parts: &[&[u8]]) -> Result<(), StoreError> {
        if self.direct.is_some() {
            return Ok(());
        }
        let wrote = self.writeback.wrote(&self.file, length(parts));
        wrote.map_err(StoreError::io("writing out a staging file"))
    }

    /// Writes on `thread` what is worth one, and works meanwhile. Without it, because none can be started, one comes after the other.
    fn put_during(
        &mut self,
        thread: std::thread::Builder,
        offset: u64,
        parts: &[&[u8]],
        work: impl FnOnce(),
    ) -> Result<(), StoreError> {
        let begin = Instant::now();
        let (written, working) = std::thread::scope(|scope| {
            let writing = thread.spawn_scoped(scope, || (self.put(offset, parts), begin.elapsed()));
            work();
            let working = begin.elapsed();
            let written = writing.map(|writing| {
                writing
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            (written, working)
        });
        let writing = match written {
            Ok((put, writing)) => put.map(|()| writing)?,
            Err(error) => {
                tracing::debug!(%error, "no thread can be started; writing without one");
                return self.put(offset, parts);
            }
        };
        let Some(pace) = self.pace.judge(writing, working) else {
            return Ok(());
        };
        if self.direct.is_none() && !self.tried && pace > CACHE_PACE {
            self.past_cache(offset + length(parts), pace);
        } else if self.direct.is_some() && pace > DISK_PACE {
            tracing::debug!(
                pace,
                "the disk does not keep up; the layer goes on through the page cache"
            );
            self.back_to_cache()
                .map_err(StoreError::io("writing a staging file"))?;
        }
        Ok(())
    }

    /// From `next` on the file is written past the page cache, if its file system can.
    fn past_cache(&mut self, next: u64, pace: u128) {
        self.tried = true;
        match Direct::open(&self.folder.join("layer"), &self.file, next) {
            Ok(direct) => {
                tracing::debug!(
                    pace,
                    "the page cache does not keep up; the layer goes on past it"
                );
                self.direct = Some(direct);
            }
            Err(error) => {
                tracing::debug!(%error, "the page cache does not keep up, and there is no way past it")
            }
        }
    }
}

fn length(parts: &[&[u8]]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

impl Sink for Staging {
    type Error = StoreError;

    fn write(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), StoreError> {
        self.put(offset, parts)?;
        self.wrote(parts)
    }

    /// A thread of its own costs less than 1 % of what the hashing of that many bytes takes.
    fn write_during(
        &mut self,
        offset: u64,
        parts: &[&[u8]],
        work: impl FnOnce(),
    ) -> Result<(), StoreError> {
        if length(parts) < WORTH_A_THREAD {
            work();
            return self.write(offset, parts);
        }
        self.put_during(std::thread::Builder::new(), offset, parts, work)?;
        self.wrote(parts)
    }
}

/// Writes the concatenation of `parts` at `offset` with as few calls as the system takes.
fn write_parts(file: &File, offset: u64, parts: &[&[u8]]) -> io::Result<u64> {
    let slices: Vec<io::IoSlice<'_>> = parts.iter().map(|p| io::IoSlice::new(p)).collect();
    let total = length(parts);
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

#[cfg(test)]
mod tests;
