//! What the files of local folders hash to, remembered across restarts by what the file system says of them.
//!
//! The memory is a file of lines that are only added to; it can be deleted at any time. What it says is believed for listings only:
//! the bytes of a file are hashed once more whenever they become a layer.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fused_sha256::Sha256;
use tokio_util::sync::CancellationToken;

use super::beneath::{Facts, facts};
use crate::oci::Digest;

/// Bytes read at once.
const STEP: usize = 256 << 10;

/// The most files that are remembered.
const CAPACITY: usize = 1_000_000;

/// How long a file must have been left alone to be remembered: within that, a change might not show in its times.
const SETTLED: Duration = Duration::from_secs(2);

/// Hex digits at the end of a line that tell whether it is whole.
const CHECK: usize = 8;

/// The memory. It belongs to whoever has the data folder, so it is read when it is first asked.
#[derive(Debug)]
pub struct ContentIds {
    file: PathBuf,
    known: Mutex<Option<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    ids: HashMap<(Root, Facts), Digest>,
    /// Where new ones are written; `None` if that failed.
    log: Option<File>,
}

/// The folder that a file was found in. Disks that are mounted in turn may get the same number, and have the same inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Root(u64);

impl Root {
    /// That of an upstream at `path`. Blocks.
    pub(super) fn of(path: &Path) -> Self {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let [a, b, c, d, e, f, g, h, ..] = *Digest::of(path.as_os_str().as_bytes()).as_bytes();
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// Why a file has no content id.
#[derive(Debug)]
pub(super) enum NoId {
    /// It was written while it was read.
    Changing,
    /// Nobody wants to know any more.
    Stopped,
    /// It cannot be read.
    Io(io::Error),
}

impl From<io::Error> for NoId {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl ContentIds {
    /// The memory in `file`, which need not be there yet. Nothing is read or written before the first question.
    pub const fn new(file: PathBuf) -> Self {
        Self {
            file,
            known: Mutex::new(None),
        }
    }

    /// The content id of a file that was seen before and has not changed.
    pub(super) fn known(&self, root: Root, file: &Facts) -> Option<Digest> {
        self.with(|known| known.ids.get(&(root, *file)).copied())
    }

    /// Hashes a file, and remembers that. Blocks for as long as it takes to read it, or until `stop`.
    pub(super) fn learn(
        &self,
        root: Root,
        file: &mut File,
        stop: &CancellationToken,
    ) -> Result<Digest, NoId> {
        let before = facts(file)?;
        let id = hash(file, stop)?;
        if facts(file)? != before {
            return Err(NoId::Changing);
        }
        if is_settled(&before, SystemTime::now()) {
            self.remember(root, before, id);
        }
        Ok(id)
    }

    /// Writes down what a file hashes to.
    pub(super) fn remember(&self, root: Root, file: Facts, id: Digest) {
        self.with(|known| {
            if known.ids.len() >= CAPACITY || known.ids.insert((root, file), id) == Some(id) {
                return;
            }
            let written = known.log.as_mut().map(|log| log.write_all(line(root, &file, &id).as_bytes()));
            if let Some(Err(error)) = written {
                tracing::warn!(%error, file = %self.file.display(), "content ids are not remembered: they are made again after a restart");
                known.log = None;
            }
        });
    }

    /// Does not believe any more what a file hashed to. What it is found to be then is written after it, and counts.
    pub(super) fn forget(&self, root: Root, file: &Facts) {
        self.with(|known| known.ids.remove(&(root, *file)));
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        ask(known.get_or_insert_with(|| {
            Known::read(&self.file).unwrap_or_else(|error| {
                tracing::warn!(%error, file = %self.file.display(), "content ids are not remembered: they are made again after a restart");
                Known::default()
            })
        }))
    }
}

impl Known {
    /// Reads what is there. If most of its lines say nothing any more, it is written anew.
    fn read(file: &Path) -> io::Result<Self> {
        let bytes = match fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&bytes);
        let ids: HashMap<_, _> = text.lines().filter_map(read_line).take(CAPACITY).collect();
        let whole = text.is_empty() || text.ends_with('\n');
        if !whole || text.lines().count() > 2 * ids.len() + 1000 {
            let lines: String = ids
                .iter()
                .map(|((root, file), id)| line(*root, file, id))
                .collect();
            let new = file.with_extension("new");
            fs::write(&new, lines)?;
            fs::rename(&new, file)?;
        }
        let log = OpenOptions::new().append(true).create(true).open(file)?;
        Ok(Self {
            ids,
            log: Some(log),
        })
    }
}

fn hash(file: &mut File, stop: &CancellationToken) -> Result<Digest, NoId> {
    let mut hash = Sha256::default();
    let mut buffer = vec![0; STEP];
    loop {
        if stop.is_cancelled() {
            return Err(NoId::Stopped);
        }
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hash.finish())),
            Ok(len) => hash.update(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a file was left alone for long enough before `now`. Whatever changes it sets its ctime to the clock; its mtime can be set to
/// anything, a day to come too.
fn is_settled(file: &Facts, now: SystemTime) -> bool {
    let (seconds, _) = file.ctime;
    let changed = u64::try_from(seconds).unwrap_or(0);
    let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(changed + 1));
    changed.is_some_and(|changed| now.duration_since(changed).is_ok_and(|age| age >= SETTLED))
}

/// `ROOT DEV INO SIZE MTIME NANOS CTIME NANOS SHA256 CHECK`
fn line(Root(root): Root, file: &Facts, id: &Digest) -> String {
    let Facts {
        dev,
        ino,
        size,
        mtime,
        ctime,
    } = file;
    let mut text = format!(
        "{root:016x} {dev} {ino} {size} {} {} {} {} {}",
        mtime.0,
        mtime.1,
        ctime.0,
        ctime.1,
        id.hex()
    );
    let check = Digest::of(text.as_bytes()).hex();
    let _ = writeln!(text, " {}", &check[..CHECK]);
    text
}

fn read_line(text: &str) -> Option<((Root, Facts), Digest)> {
    let (said, check) = text.rsplit_once(' ')?;
    if check != &Digest::of(said.as_bytes()).hex()[..CHECK] {
        return None;
    }
    let words: Vec<&str> = said.split(' ').collect();
    let [root, dev, ino, size, m, mn, c, cn, id] = words.as_slice() else {
        return None;
    };
    let root = Root(u64::from_str_radix(root, 16).ok()?);
    let file = Facts {
        dev: dev.parse().ok()?,
        ino: ino.parse().ok()?,
        size: size.parse().ok()?,
        mtime: (m.parse().ok()?, mn.parse().ok()?),
        ctime: (c.parse().ok()?, cn.parse().ok()?),
    };
    Some(((root, file), Digest::from_hex(id).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Root = Root(5);

    fn old() -> Facts {
        Facts {
            dev: 1,
            ino: 7,
            size: 1,
            mtime: (1, 999_999_999),
            ctime: (-3, 0),
        }
    }

    #[test]
    fn what_was_learned_is_known_after_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("content-ids");
        let id = Digest::of(b"x");
        ContentIds::new(file.clone()).remember(ROOT, old(), id);
        assert_eq!(ContentIds::new(file).known(ROOT, &old()), Some(id));
    }

    #[test]
    fn a_damaged_line_is_not_believed_and_the_others_are() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("content-ids");
        let other = Facts { ino: 8, ..old() };
        let (id, second) = (Digest::of(b"x"), Digest::of(b"y"));
        let text = line(ROOT, &old(), &id) + &line(ROOT, &other, &second);
        for at in 0..line(ROOT, &old(), &id).len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            fs::write(&file, bytes).expect("written");
            let ids = ContentIds::new(file.clone());
            assert_eq!(ids.known(ROOT, &old()), None, "{at}");
            assert_eq!(ids.known(ROOT, &other), Some(second), "{at}");
        }
    }

    #[test]
    fn a_line_that_a_crash_cut_off_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("content-ids");
        fs::write(&file, &line(ROOT, &old(), &Digest::of(b"x"))[..20]).expect("written");
        ContentIds::new(file.clone()).remember(ROOT, old(), Digest::of(b"y"));
        assert_eq!(
            ContentIds::new(file).known(ROOT, &old()),
            Some(Digest::of(b"y"))
        );
    }

    #[test]
    fn a_file_that_was_just_written_is_hashed_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("f");
        fs::write(&path, "x").expect("written");
        let ids = ContentIds::new(dir.path().join("content-ids"));
        let mut file = File::open(&path).expect("a file");
        let seen = facts(&file).expect("facts");
        let id = ids.learn(ROOT, &mut file, &CancellationToken::new());
        assert_eq!(id.expect("an id"), Digest::of(b"x"));
        assert_eq!(ids.known(ROOT, &seen), None);
        assert!(is_settled(&old(), SystemTime::now()));
    }

    #[test]
    fn a_file_of_another_disk_or_folder_is_another_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let ids = ContentIds::new(dir.path().join("content-ids"));
        ids.remember(ROOT, old(), Digest::of(b"x"));
        let elsewhere = Facts { dev: 2, ..old() };
        assert_eq!(ids.known(ROOT, &elsewhere), None);
        assert_eq!(ids.known(Root::of(dir.path()), &old()), None);
    }

    #[test]
    fn what_is_forgotten_is_learned_anew_and_stays_so_after_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("content-ids");
        let ids = ContentIds::new(file.clone());
        ids.remember(ROOT, old(), Digest::of(b"x"));
        ids.forget(ROOT, &old());
        assert_eq!(ids.known(ROOT, &old()), None);
        ids.remember(ROOT, old(), Digest::of(b"y"));
        let again = ContentIds::new(file);
        assert_eq!(again.known(ROOT, &old()), Some(Digest::of(b"y")));
    }

    #[test]
    fn a_time_to_come_is_no_reason_to_hash_a_file_again() {
        let file = Facts {
            mtime: (i64::MAX, 0),
            ctime: (1, 0),
            ..old()
        };
        assert!(is_settled(&file, SystemTime::now()));
    }
}
