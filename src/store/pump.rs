//! Moving bytes and hashing them, at once: one thread reads and writes, another one hashes.

use std::io::{self, ErrorKind, Read};
use std::sync::mpsc;
use std::thread;

use fused_sha256::Sha256;

use crate::oci::Digest;

/// Bytes that are moved at once.
const STEP: usize = 1 << 20;

/// Pieces under way between the two threads.
const PIECES: usize = 4;

/// Bytes for which a second thread is not worth it.
const SMALL: u64 = 2 << 20;

/// Reads exactly `size` bytes, gives each piece to `write`, and tells the digest of all. Ends with what `read` or `write` fails with; an
/// input that ends early is [`UnexpectedEof`](ErrorKind::UnexpectedEof). Blocks; uses 4 MiB.
pub fn pump<E: From<io::Error>>(
    read: &mut dyn Read,
    size: u64,
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<Digest, E> {
    if size <= SMALL {
        return alone(read, size, write);
    }
    thread::scope(|scope| {
        let (filled, to_hash) = mpsc::sync_channel::<Vec<u8>>(PIECES);
        let (done, free) = mpsc::sync_channel::<Vec<u8>>(PIECES);
        let hashing = thread::Builder::new().spawn_scoped(scope, move || {
            let mut hash = Sha256::new();
            for piece in to_hash {
                hash.update(&piece);
                // Nobody takes it back when all is read.
                let _ = done.send(piece);
            }
            Digest::from_bytes(hash.finish())
        });
        let Ok(hashing) = hashing else {
            return alone(read, size, write);
        };
        let mut pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| Vec::new()).collect();
        let mut left = size;
        let lost = || io::Error::other("the thread that hashes was lost");
        while left > 0 {
            let mut piece = match pieces.pop() {
                Some(piece) => piece,
                None => free.recv().map_err(|_| lost())?,
            };
            piece.resize(left.min(STEP as u64) as usize, 0);
            read.read_exact(&mut piece)?;
            write(&piece)?;
            left -= piece.len() as u64;
            filled.send(piece).map_err(|_| lost())?;
        }
        drop((filled, free));
        hashing.join().map_err(|_| lost().into())
    })
}

fn alone<E: From<io::Error>>(
    read: &mut dyn Read,
    size: u64,
    write: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<Digest, E> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; size.min(STEP as u64) as usize];
    let mut left = size;
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match read.read(&mut piece[..most]) {
            Ok(0) => return Err(io::Error::from(ErrorKind::UnexpectedEof).into()),
            Ok(read) => {
                hash.update(&piece[..read]);
                write(&piece[..read])?;
                left -= read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Digest::from_bytes(hash.finish()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_is_what_is_hashed_whatever_its_length() {
        for size in [0, 1, STEP, SMALL as usize + 1, 3 * STEP + 7, 9 * STEP] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let mut out = Vec::new();
            let digest = pump::<io::Error>(&mut &bytes[..], size as u64, &mut |piece| {
                out.extend_from_slice(piece);
                Ok(())
            });
            assert_eq!(digest.expect("moved"), Digest::of(&bytes));
            assert!(out == bytes, "{size}");
        }
    }

    #[test]
    fn an_end_that_comes_early_is_an_error() {
        for size in [1, SMALL + 1] {
            let moved = pump::<io::Error>(&mut io::empty(), size, &mut |_| Ok(()));
            assert_eq!(
                moved.expect_err("early").kind(),
                ErrorKind::UnexpectedEof,
                "{size}"
            );
        }
    }

    #[test]
    fn a_failed_write_ends_it() {
        for size in [1, 64 << 20] {
            let mut write = |_: &[u8]| Err(io::Error::other("no disk"));
            assert!(pump::<io::Error>(&mut io::repeat(1), size, &mut write).is_err());
        }
    }
}
