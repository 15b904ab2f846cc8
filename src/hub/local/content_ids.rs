//! What the files of local folders hash to, remembered across restarts by what the file system says of them.
//!
//! The memory is a file of lines that are only added to; it can be deleted at any time. What it says is believed for listings only:
//! the bytes of a file are hashed once more whenever they become a layer.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
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
    ids: HashMap<Facts, Digest>,
    /// Where new ones are written; `None` if that failed.
    log: Option<File>,
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
    pub(super) fn known(&self, file: &Facts) -> Option<Digest> {
        self.with(|known| known.ids.get(file).copied())
    }

    /// Hashes a file, and remembers that. Blocks for as long as it takes to read it, or until `stop`.
    pub(super) fn learn(&self, file: &mut File, stop: &CancellationToken) -> Result<Digest, NoId> {
        let before = facts(file)?;
        let id = hash(file, stop)?;
        if facts(file)? != before {
            return Err(NoId::Changing);
        }
        if is_settled(&before, SystemTime::now()) {
            self.remember(before, id);
        }
        Ok(id)
    }

    /// Writes down what a file hashes to.
    pub(super) fn remember(&self, file: Facts, id: Digest) {
        self.with(|known| {
            if known.ids.len() >= CAPACITY || known.ids.insert(file, id) == Some(id) {
                return;
            }
            let written = known.log.as_mut().map(|log| log.write_all(line(&file, &id).as_bytes()));
            if let Some(Err(error)) = written {
                tracing::warn!(%error, file = %self.file.display(), "content ids are not remembered: they are made again after a restart");
                known.log = None;
            }
        });
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
            let lines: String = ids.iter().map(|(file, id)| line(file, id)).collect();
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

/// Whether a file was left alone for long enough before `now`.
fn is_settled(file: &Facts, now: SystemTime) -> bool {
    let (seconds, _) = file.mtime.max(file.ctime);
    let changed = u64::try_from(seconds).unwrap_or(0);
    let changed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(changed + 1));
    changed.is_some_and(|changed| now.duration_since(changed).is_ok_and(|age| age >= SETTLED))
}

/// `INO SIZE MTIME NANOS CTIME NANOS SHA256 CHECK`
fn line(file: &Facts, id: &Digest) -> String {
    let Facts {
        ino,
        size,
        mtime,
        ctime,
    } = file;
    let mut text = format!(
        "{ino} {size} {} {} {} {} {}",
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

fn read_line(text: &str) -> Option<(Facts, Digest)> {
    let (said, check) = text.rsplit_once(' ')?;
    if check != &Digest::of(said.as_bytes()).hex()[..CHECK] {
        return None;
    }
    let words: Vec<&str> = said.split(' ').collect();
    let [ino, size, m, mn, c, cn, id] = words.as_slice() else {
        return None;
    };
    let file = Facts {
        ino: ino.parse().ok()?,
        size: size.parse().ok()?,
        mtime: (m.parse().ok()?, mn.parse().ok()?),
        ctime: (c.parse().ok()?, cn.parse().ok()?),
    };
    Some((file, Digest::from_hex(id).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old() -> Facts {
        Facts {
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
        ContentIds::new(file.clone()).remember(old(), id);
        assert_eq!(ContentIds::new(file).known(&old()), Some(id));
    }

    #[test]
    fn a_damaged_line_is_not_believed_and_the_others_are() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("content-ids");
        let other = Facts { ino: 8, ..old() };
        let (id, second) = (Digest::of(b"x"), Digest::of(b"y"));
        let text = line(&old(), &id) + &line(&other, &second);
        for at in 0..line(&old(), &id).len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            fs::write(&file, bytes).expect("written");
            let ids = ContentIds::new(file.clone());
            assert_eq!(ids.known(&old()), None, "{at}");
            assert_eq!(ids.known(&other), Some(second), "{at}");
        }
    }

    #[test]
    fn a_line_that_a_crash_cut_off_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("content-ids");
        fs::write(&file, &line(&old(), &Digest::of(b"x"))[..20]).expect("written");
        ContentIds::new(file.clone()).remember(old(), Digest::of(b"y"));
        assert_eq!(ContentIds::new(file).known(&old()), Some(Digest::of(b"y")));
    }

    #[test]
    fn a_file_that_was_just_written_is_hashed_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("f");
        fs::write(&path, "x").expect("written");
        let ids = ContentIds::new(dir.path().join("content-ids"));
        let mut file = File::open(&path).expect("a file");
        let seen = facts(&file).expect("facts");
        let id = ids.learn(&mut file, &CancellationToken::new());
        assert_eq!(id.expect("an id"), Digest::of(b"x"));
        assert_eq!(ids.known(&seen), None);
        assert!(is_settled(&old(), SystemTime::now()));
    }
}
