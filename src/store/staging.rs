//! Staging: layers that are being filled, and the orders of the fills under way. Nothing refers to what is here.
//!
//! ```text
//! staging/layer-RECIPE/layer     at its full size from the start; which chunks of it are there, it tells itself (`Plan::read_back`)
//! staging/order-KEY              a fill that was under way: the next process goes on with it
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
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::budget::Room;
use super::writeback::Writeback;
use super::{ImageKey, StoreError, blobs, finished};
use crate::image::ImageName;
use crate::layer::{ChunkRef, Plan, Sink};
use crate::oci::{Digest, Tag};
use crate::repo::RepoId;

/// The most parts of one vectored write; the system's limit is 1,024.
const PARTS: usize = 16;

/// Bytes that are written while others are hashed; less is not worth it.
const WORTH_A_THREAD: usize = 1 << 20;

/// A layer that nobody went on with for so long is given up.
pub(super) const ABANDONED: Duration = Duration::from_secs(7 * 24 * 3600);

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
        if name.starts_with("order-") || name.starts_with(finished::PREFIX) {
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

/// A layer that is being filled, at its full size from the start. Dropping it removes it, unless it is to be [kept](Self::keep).
#[derive(Debug)]
pub struct Staging {
    root: PathBuf,
    room: Arc<Room>,
    recipe: Digest,
    folder: PathBuf,
    file: File,
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

    /// Where it stands.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Brings all that was written to the disk.
    pub(super) fn settle(&mut self) -> Result<(), StoreError> {
        let settled = self.writeback.end().and_then(|()| self.file.sync_data());
        settled.map_err(StoreError::io("writing out a staging file"))
    }

    /// Makes the layer a blob: fsync, rename, fsync of the folder.
    pub(super) fn publish(mut self, digest: &Digest) -> Result<(), StoreError> {
        let place = blobs::place(digest);
        let done = self.root.join(&place);
        let fail = || StoreError::io(format!("publishing {place}"));
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
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, "a staging folder could not be removed");
        }
        self.room.unstaged(&self.recipe);
    }
}

impl Staging {
    fn put(&self, offset: u64, parts: &[&[u8]]) -> Result<(), StoreError> {
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

    fn wrote(&mut self, parts: &[&[u8]]) -> Result<(), StoreError> {
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        let wrote = self.writeback.wrote(&self.file, bytes);
        wrote.map_err(StoreError::io("writing out a staging file"))
    }

    /// Writes on `thread` what is worth one, and works meanwhile. Without it, because none can be started, one comes after the other.
    fn put_during(
        &self,
        thread: std::thread::Builder,
        offset: u64,
        parts: &[&[u8]],
        work: impl FnOnce(),
    ) -> Result<(), StoreError> {
        std::thread::scope(|scope| {
            let writing = thread.spawn_scoped(scope, || self.put(offset, parts));
            work();
            match writing {
                Ok(writing) => writing
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(error) => {
                    tracing::debug!(%error, "no thread can be started; writing without one");
                    self.put(offset, parts)
                }
            }
        })
    }
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
        if parts.iter().map(|part| part.len()).sum::<usize>() < WORTH_A_THREAD {
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

/// A fill that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Which image.
    pub key: ImageKey,
    /// The repository in its canonical spelling.
    pub repo: RepoId,
    /// The tag under which the image is published.
    pub tag: Tag,
    /// The recipes of its layers, as soon as they are known: what is there of them is kept for this fill.
    pub recipes: Vec<Digest>,
}

#[derive(Serialize, Deserialize)]
struct OrderFile {
    name: String,
    layout: String,
    commit: String,
    repo: String,
    tag: String,
    #[serde(default)]
    recipes: Vec<Digest>,
}

fn order_place(key: &ImageKey) -> String {
    let text = format!("{}\0{}\0{}", key.name, key.layout, key.commit);
    format!("staging/order-{}", Digest::of(text.as_bytes()).hex())
}

/// Notes that a fill is under way.
pub(super) fn put_order(root: &Path, order: &Order) -> Result<(), StoreError> {
    let file = OrderFile {
        name: order.key.name.to_string(),
        layout: order.key.layout.to_string(),
        commit: order.key.commit.to_string(),
        repo: order.repo.to_string(),
        tag: order.tag.to_string(),
        recipes: order.recipes.clone(),
    };
    let bytes = serde_json::to_vec(&file).map_err(|e| StoreError::Index(e.to_string()))?;
    blobs::replace(root, &order_place(&order.key), &bytes)
}

/// Forgets a fill.
pub(super) fn remove_order(root: &Path, key: &ImageKey) -> Result<(), StoreError> {
    match fs::remove_file(root.join(order_place(key))) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(StoreError::io("removing an order")(error))
        }
        _ => Ok(()),
    }
}

/// The fills that an earlier process left under way. What cannot be read is removed.
pub(super) fn orders(root: &Path) -> Result<Vec<Order>, StoreError> {
    let mut orders = Vec::new();
    for entry in fs::read_dir(root.join("staging")).map_err(StoreError::io("listing staging"))? {
        let entry = entry.map_err(StoreError::io("listing staging"))?;
        if !entry.file_name().to_string_lossy().starts_with("order-") {
            continue;
        }
        match fs::read(entry.path()).ok().as_deref().and_then(parse_order) {
            Some(order) => orders.push(order),
            None => {
                tracing::warn!("an unreadable order of a fill is removed");
                fs::remove_file(entry.path()).map_err(StoreError::io("removing an order"))?;
            }
        }
    }
    Ok(orders)
}

fn parse_order(bytes: &[u8]) -> Option<Order> {
    let file: OrderFile = serde_json::from_slice(bytes).ok()?;
    Some(Order {
        key: ImageKey {
            name: ImageName::parse(&file.name).ok()?,
            layout: file.layout.parse().ok()?,
            commit: file.commit.parse().ok()?,
        },
        repo: file.repo.parse().ok()?,
        tag: file.tag.parse().ok()?,
        recipes: file.recipes,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    #[test]
    fn a_layer_is_written_even_if_no_thread_can_be_started() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("a store");
        let staging = store.stage(&Digest::of(b"recipe"), 6).expect("room");
        // No address space has room for its stack.
        let thread = std::thread::Builder::new().stack_size(usize::MAX >> 8);
        let mut worked = false;
        staging
            .put_during(thread, 0, &[b"abc", b"def"], || worked = true)
            .expect("written");
        assert!(worked);
        let path = staging.folder.join("layer");
        assert_eq!(fs::read(path).expect("a file"), b"abcdef");
    }
}
