//! Writing a large file past the page cache, in aligned pieces.
//!
//! The cache is the better place for what is written, since whoever asks for the file next has it from memory; and to copy bytes into it
//! costs next to nothing as a rule. It does cost much where a machine has to fetch or free the memory for it first: more than hashing the
//! bytes does. There a disk that is fast takes them better. So the writer looks at the pace of both.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// What offsets, lengths and addresses are multiples of. No disk that is in use wants more; one that did would refuse, and get the cache.
const ALIGN: usize = 4096;

/// Bytes of one write. Disks are as fast with it as with more.
const PIECE: usize = 4 << 20;

/// The working time after which a way of writing is judged.
const TRIAL: Duration = Duration::from_millis(100);

/// A file that is written in order, and what of it is not yet a whole piece.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// [`PIECE`] bytes from `skew` on, where an address is a multiple of [`ALIGN`].
    buffer: Vec<u8>,
    skew: usize,
    held: usize,
    /// Where in the file the held bytes belong: a multiple of [`ALIGN`].
    at: u64,
}

impl Direct {
    /// Opens the file at `path`, of which the bytes before `next` are there, if its file system can; `cached` is the same file opened as
    /// usual, also for reading.
    pub(super) fn open(path: &Path, cached: &File, next: u64) -> io::Result<Self> {
        let file = open(path)?;
        let mut buffer = vec![0; PIECE + ALIGN];
        let skew = buffer.as_ptr().align_offset(ALIGN);
        if skew >= ALIGN {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let held = (next % ALIGN as u64) as usize;
        let at = next - held as u64;
        cached.read_exact_at(&mut buffer[skew..skew + held], at)?;
        Ok(Self {
            file,
            buffer,
            skew,
            held,
            at,
        })
    }

    /// Where the next bytes belong.
    pub(super) const fn next(&self) -> u64 {
        self.at + self.held as u64
    }

    /// Takes the bytes at [`next`](Self::next). If the system does not take a piece like this, it goes into `cached`, the same file opened
    /// as usual, and the answer is `false`: so should what follows, after what is [held](Self::held).
    pub(super) fn put(&mut self, parts: &[&[u8]], cached: &File) -> io::Result<bool> {
        let mut fits = true;
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                let from = self.skew + self.held;
                let (now, later) = rest.split_at(rest.len().min(PIECE - self.held));
                self.buffer[from..from + now.len()].copy_from_slice(now);
                self.held += now.len();
                rest = later;
                if self.held == PIECE {
                    fits &= self.write(cached)?;
                }
            }
        }
        Ok(fits)
    }

    /// Writes the piece.
    fn write(&mut self, cached: &File) -> io::Result<bool> {
        let piece = &self.buffer[self.skew..self.skew + PIECE];
        let fits = match self.file.write_all_at(piece, self.at) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                cached.write_all_at(piece, self.at)?;
                false
            }
            written => written.map(|()| true)?,
        };
        self.at += PIECE as u64;
        self.held = 0;
        Ok(fits)
    }

    /// The bytes that are not written yet, and where they belong.
    pub(super) fn held(&self) -> (u64, &[u8]) {
        (self.at, &self.buffer[self.skew..self.skew + self.held])
    }
}

/// How fast a way of writing is beside the work that goes on meanwhile.
#[derive(Debug, Default)]
pub(super) struct Pace {
    working: Duration,
    writing: Duration,
}

impl Pace {
    /// Writing took so long, and the work meanwhile so long. After a while of work, tells how many hundredths of the time of the work the
    /// writing took, and begins anew.
    pub(super) fn judge(&mut self, writing: Duration, working: Duration) -> Option<u128> {
        self.working += working;
        self.writing += writing;
        if self.working < TRIAL {
            return None;
        }
        let Self { working, writing } = std::mem::take(self);
        Some(writing.as_nanos() * 100 / working.as_nanos())
    }
}

#[cfg(target_os = "linux")]
fn open(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?.into())
}

#[cfg(not(target_os = "linux"))]
fn open(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn pieces_are_written_whole_and_what_is_left_is_held() {
        let file = tempfile::NamedTempFile::new_in(".").expect("a file");
        let mut direct =
            Direct::open(file.path(), file.as_file(), 0).expect("a file system that can");
        let bytes: Vec<u8> = (0..PIECE * 2 + 7).map(|i| (i % 251) as u8).collect();
        for part in bytes.chunks(PIECE + 100) {
            assert!(direct.put(&[part], file.as_file()).expect("written"));
        }
        let written = std::fs::read(file.path()).expect("read");
        let (at, held) = direct.held();
        assert_eq!((at, held.len()), (2 * PIECE as u64, 7));
        assert_eq!([&written[..], held].concat(), bytes);
    }

    #[test]
    fn a_piece_that_is_refused_is_written_through_the_cache() {
        let file = tempfile::NamedTempFile::new_in(".").expect("a file");
        let mut direct =
            Direct::open(file.path(), file.as_file(), 0).expect("a file system that can");
        // An address that is no multiple of anything.
        direct.skew = direct.buffer.as_ptr().align_offset(ALIGN) + 1;
        direct.buffer.push(0);
        let bytes = vec![7; PIECE + 1];
        assert!(!direct.put(&[&bytes], file.as_file()).expect("written"));
        assert_eq!(direct.held(), (PIECE as u64, &[7][..]));
        assert!(std::fs::read(file.path()).expect("read") == bytes[1..]);
    }

    #[test]
    fn what_was_written_through_the_cache_before_stays() {
        let file = tempfile::NamedTempFile::new_in(".").expect("a file");
        let bytes: Vec<u8> = (0..PIECE + ALIGN).map(|i| (i % 251) as u8).collect();
        let (before, after) = bytes.split_at(ALIGN + 5);
        file.as_file().write_all_at(before, 0).expect("written");
        let mut direct = Direct::open(file.path(), file.as_file(), before.len() as u64)
            .expect("a file system that can");
        assert!(direct.put(&[after], file.as_file()).expect("written"));
        assert!(std::fs::read(file.path()).expect("read") == bytes);
    }

    #[test]
    fn a_pace_is_judged_after_a_while_of_work_and_then_anew() {
        let mut pace = Pace::default();
        assert_eq!(pace.judge(ms(900), ms(99)), None);
        assert_eq!(pace.judge(ms(100), ms(1)), Some(1000));
        assert_eq!(pace.judge(ms(50), ms(100)), Some(50));
    }
}
