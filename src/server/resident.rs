//! What the system has of a file in memory, so that reading it waits for no disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A stretch is held to be in memory if every so many bytes one is.
const SAMPLE: u64 = 128 << 10;

/// How many of the `most` bytes from `at` on are in memory, from the first one on; 0 if the system cannot say, and then `known` becomes
/// false. Does not block.
pub fn reach(file: &File, at: u64, most: u64, known: &mut bool) -> u64 {
    let mut reached = 0;
    while *known && reached < most {
        // The first byte of each sample, and of the last one the last byte too.
        let next = (reached + SAMPLE).min(most);
        let there = |at| read(file, &mut [0], at, known).is_ok_and(|n| n == 1);
        if ![at + reached, at + next - 1].into_iter().all(there) {
            break;
        }
        reached = next;
    }
    reached
}

/// Has `length` bytes from `at` on in memory; less if the file ends before. Blocks on the disk.
pub fn fetch(file: &File, at: u64, length: u64) -> io::Result<()> {
    let mut nowhere = vec![0; SAMPLE.min(length) as usize];
    let mut done = 0;
    while done < length {
        let room = (nowhere.len() as u64).min(length - done) as usize;
        match file.read_at(&mut nowhere[..room], at + done) {
            Ok(0) => break,
            Ok(read) => done += read as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what is in memory; an error of the kind `WouldBlock` if nothing is, or if the system cannot say, and then `known` becomes false.
/// Does not block.
#[cfg(target_os = "linux")]
pub fn read(file: &File, out: &mut [u8], at: u64, known: &mut bool) -> io::Result<usize> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    let mut out = [io::IoSliceMut::new(out)];
    match preadv2(file, &mut out, at, ReadWriteFlags::NOWAIT) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
            *known = false;
            Err(io::ErrorKind::WouldBlock.into())
        }
        read => Ok(read?),
    }
}

/// As if nothing were in memory, because the system cannot say; `known` becomes false.
#[cfg(not(target_os = "linux"))]
pub fn read(_: &File, _: &mut [u8], _: u64, known: &mut bool) -> io::Result<usize> {
    *known = false;
    Err(io::ErrorKind::WouldBlock.into())
}
