//! A file that is written beside its place, and comes into it when it is whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::cli::Failure;

/// How often it is opened anew because somebody else has just put it into its place.
const TRIES: usize = 16;

/// A file beside its place, locked: of several who write the same, one does.
pub(super) struct Aside {
    /// The file, with what an earlier one left in it.
    pub(super) file: File,
    path: PathBuf,
    place: PathBuf,
}

impl Aside {
    /// Opens the file for a place, with `end` behind its name. What is at the place must be nothing, or a file that may be replaced; of a
    /// symbolic link, that which it leads to.
    pub(super) fn open(place: &Path, end: &str) -> Result<Self, Failure> {
        let place = target(place)?;
        let mut path = place.clone().into_os_string();
        path.push(end);
        let path = PathBuf::from(path);
        let fail =
            |error: io::Error| Failure::new(format!("cannot write {}", path.display())).from(error);
        for _ in 0..TRIES {
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .custom_flags(flags.bits() as i32)
                .open(&path)
                .map_err(fail)?;
            let own = file.metadata().map_err(fail)?;
            if !own.is_file() {
                return Err(irregular(&path));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(busy(&path)),
                Err(TryLockError::Error(error)) => return Err(fail(error)),
            }
            // Whoever had it until now may have put it into its place.
            let there = fs::symlink_metadata(&path);
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())) {
                return Ok(Self { file, path, place });
            }
        }
        Err(busy(&path))
    }

    /// Where it is written.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Brings it to the disk and into its place.
    pub(super) fn publish(&self) -> Result<(), Failure> {
        let done = self
            .file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, &self.place))
            .and_then(|()| sync_folder(&self.place));
        done.map_err(|error| {
            Failure::new(format!("cannot write {}", self.place.display())).from(error)
        })
    }
}

/// The file that a path stands for, which may be replaced.
pub(super) fn target(path: &Path) -> Result<PathBuf, Failure> {
    let fail =
        |error: io::Error| Failure::new(format!("cannot write {}", path.display())).from(error);
    let target = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(path.to_owned()),
        Err(error) => return Err(fail(error)),
        Ok(there) if there.is_symlink() => fs::canonicalize(path).map_err(fail)?,
        Ok(_) => path.to_owned(),
    };
    match fs::metadata(&target).map_err(fail)?.is_file() {
        true => Ok(target),
        false => Err(irregular(path)),
    }
}

fn irregular(path: &Path) -> Failure {
    Failure::new(format!(
        "{} is no regular file, and is not replaced",
        path.display()
    ))
    .next("-o - writes a bundle to stdout, which may be a pipe or a device")
}

fn busy(path: &Path) -> Failure {
    Failure::new(format!(
        "another export is writing {}; wait for it, or choose another file",
        path.display()
    ))
}

/// Makes the rename durable; some file systems cannot, and do it by themselves.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}
