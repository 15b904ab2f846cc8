//! Looking at what lies beneath a folder without ever leaving it: names are opened one component at a time, and no symbolic link is
//! followed. Whatever the links in a folder say, nothing outside of it is read.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, open, openat, readlinkat, statat};
use rustix::io::Errno;

/// The most entries of one folder that are looked at.
const MAX_ITEMS: usize = 1_000_000;

/// A file or folder as it is now: what changes when its content does, whether or not its times are put back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Facts {
    /// The file system that it is in: an inode is one of those only.
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    /// Seconds and nanoseconds of the last change of its content.
    pub mtime: (i64, u32),
    /// Seconds and nanoseconds of the last change of anything about it.
    pub ctime: (i64, u32),
}

/// What an entry of a folder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    File(Facts),
    Folder(Facts),
    /// A symbolic link, and what it says.
    Link(String),
    /// A device, a socket, a pipe.
    Other,
}

/// Opens the top folder. Its own path is its owner's word, so links in it are followed.
pub(super) fn top(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// Opens the folder `name` of `at`; `None` if there is none, or only a link to one.
pub(super) fn folder(at: impl AsFd, name: &str) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match openat(at, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::MLINK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens the folder at `path`, which has no empty, `.` or `..` component.
pub(super) fn folder_at(top: impl AsFd, path: &str) -> io::Result<Option<OwnedFd>> {
    let mut at = top.as_fd().try_clone_to_owned()?;
    for name in path.split('/') {
        match folder(&at, name)? {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// Opens the ordinary file at `path`, which has no empty, `.` or `..` component; `None` if there is none.
pub(super) fn file_at(top: impl AsFd, path: &str) -> io::Result<Option<File>> {
    let (folder, name) = match path.rsplit_once('/') {
        Some((folder, name)) => match folder_at(&top, folder)? {
            Some(folder) => (folder, name),
            None => return Ok(None),
        },
        None => (top.as_fd().try_clone_to_owned()?, path),
    };
    // Not to block: a pipe would wait for somebody to write.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match openat(&folder, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::MLINK | Errno::NXIO) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

/// What an open file is now.
pub(super) fn facts(file: &File) -> io::Result<Facts> {
    Ok(facts_of(&fstat(file)?))
}

fn facts_of(stat: &rustix::fs::Stat) -> Facts {
    Facts {
        dev: stat.st_dev as _,
        ino: stat.st_ino as _,
        size: stat.st_size as _,
        mtime: (stat.st_mtime as _, stat.st_mtime_nsec as _),
        ctime: (stat.st_ctime as _, stat.st_ctime_nsec as _),
    }
}

/// What `name` in a folder is; `None` if there is nothing.
pub(super) fn item(at: impl AsFd, name: &str) -> io::Result<Option<Item>> {
    let stat = match statat(&at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(match FileType::from_raw_mode(stat.st_mode as _) {
        FileType::RegularFile => Item::File(facts_of(&stat)),
        FileType::Directory => Item::Folder(facts_of(&stat)),
        FileType::Symlink => {
            let says = readlinkat(&at, name, Vec::new())?;
            // What is no text leads nowhere that is known.
            Item::Link(String::from_utf8(says.into_bytes()).unwrap_or_default())
        }
        _ => Item::Other,
    }))
}

/// The names in a folder.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Ascending by their bytes.
    pub text: Vec<String>,
    /// One that is no text, as far as it can be shown, if there is one.
    pub other: Option<String>,
}

/// The names in a folder.
pub(super) fn names(at: impl AsFd) -> io::Result<Names> {
    let mut names = Names::default();
    for entry in Dir::read_from(at)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        match std::str::from_utf8(name) {
            Ok(name) => names.text.push(name.to_owned()),
            Err(_) => names.other = Some(String::from_utf8_lossy(name).into_owned()),
        }
        if names.text.len() > MAX_ITEMS {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "a folder has more than a million entries",
            ));
        }
    }
    names.text.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_is_followed_wherever_it_stands() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("a/b")).expect("folders");
        std::fs::write(at("a/b/f"), "x").expect("a file");
        symlink("/etc", at("a/etc")).expect("a link");
        symlink("b/f", at("a/inside")).expect("a link");
        symlink("b", at("a/folder")).expect("a link");
        let top = top(dir.path()).expect("the top");
        assert!(file_at(&top, "a/b/f").expect("looked").is_some());
        for path in [
            "a/etc/passwd",
            "a/inside",
            "a/folder/f",
            "a/b",
            "none",
            "none/f",
        ] {
            assert!(file_at(&top, path).expect(path).is_none(), "{path}");
        }
        assert!(folder_at(&top, "a/folder").expect("looked").is_none());
        let told = item(folder_at(&top, "a").expect("a").expect("a"), "etc");
        assert_eq!(told.expect("looked"), Some(Item::Link("/etc".to_owned())));
    }

    #[test]
    fn a_pipe_is_no_file_and_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().expect("a folder");
        let mode = Mode::RUSR | Mode::WUSR;
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, mode, 0).expect("a pipe");
        let top = top(dir.path()).expect("the top");
        assert!(file_at(&top, "pipe").expect("looked").is_none());
        assert_eq!(item(&top, "pipe").expect("looked"), Some(Item::Other));
    }
}
