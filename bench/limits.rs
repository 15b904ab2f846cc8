//! What a cold layer cannot do without, each alone on one thread, so that `bench/peers` can add up its seconds of processor.
//!
//! ```text
//! limits fused BYTES            four SHA-256 in one pass of the fused kernel: three of the same blocks, one of the same bytes framed
//! limits sha2 BYTES             the same four by the sha2 crate, one pass after the other
//! limits crc BYTES              one CRC-32, the checksum of gzip
//! limits read HOST:PORT PATH    one HTTP answer, read from the socket and forgotten
//! limits write FILE BYTES       a file of its full size written once, until the disk has it
//! ```
//!
//! Prints how many bytes it took. Whoever starts it has the clock.

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpStream;

use fused_sha256::{Sha256 as Fused, together};
use sha2::{Digest as _, Sha256};

/// Bytes that a kernel sees at a time: a chunk of a layer.
const CHUNK: usize = 4 << 20;

/// Different chunks, taken in turn; they do not stay in the first cache levels.
const RING: usize = 8;

/// The longest stored block of a gzip member, and its frame.
const STORED: usize = 65_535;
const FRAME: [u8; 5] = [0; 5];

/// Bytes of a read from the socket.
const READ: usize = 1 << 20;

/// Bytes of a write to the file. On virtual disks more at once takes more of the processor, not less.
const WRITE: usize = 256 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let bytes = match args[..] {
        ["fused", bytes] => hash(bytes.parse()?, fused),
        ["sha2", bytes] => hash(bytes.parse()?, four_passes),
        ["crc", bytes] => hash(bytes.parse()?, crc),
        ["read", host, path] => read(host, path)?,
        ["write", file, bytes] => write(file, bytes.parse()?)?,
        _ => {
            return Err(
                "usage: limits fused|sha2|crc BYTES, read HOST:PORT PATH or write FILE BYTES"
                    .into(),
            );
        }
    };
    println!("{bytes}");
    Ok(())
}

/// Whole chunks of `bytes` in all, through `kernel`.
fn hash(bytes: usize, kernel: impl FnOnce(&mut dyn Iterator<Item = &[u8]>)) -> usize {
    let noise = noise();
    let ring: Vec<Vec<u8>> = (0..RING).map(|at| turned(&noise, at)).collect();
    let count = bytes / CHUNK;
    kernel(&mut ring.iter().map(Vec::as_slice).cycle().take(count));
    count * CHUNK
}

/// A chunk of bytes without pattern.
fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..CHUNK / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

/// Another chunk of the same bytes, which costs next to nothing to make.
fn turned(chunk: &[u8], at: usize) -> Vec<u8> {
    let (head, tail) = chunk.split_at(at * 4_099);
    [tail, head].concat()
}

fn fused(chunks: &mut dyn Iterator<Item = &[u8]>) {
    let [mut a, mut b, mut c, mut own] = [const { Fused::new() }; 4];
    for chunk in chunks {
        let parts = chunk.chunks(STORED).flat_map(|part| [&FRAME[..], part]);
        together([&mut a, &mut b, &mut c], chunk, &mut own, parts);
    }
    black_box([a, b, c, own].map(Fused::finish));
}

fn four_passes(chunks: &mut dyn Iterator<Item = &[u8]>) {
    let mut hashes: [Sha256; 4] = std::array::from_fn(|_| Sha256::new());
    for chunk in chunks {
        hashes.iter_mut().for_each(|hash| hash.update(chunk));
    }
    black_box(hashes.map(Sha256::finalize));
}

fn crc(chunks: &mut dyn Iterator<Item = &[u8]>) {
    let mut crc = flate2::Crc::new();
    chunks.for_each(|chunk| crc.update(chunk));
    black_box(crc.sum());
}

fn read(host: &str, path: &str) -> Result<usize, Box<dyn Error>> {
    let mut stream = TcpStream::connect(host)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let (mut buffer, mut total) = (vec![0; READ], 0);
    loop {
        let count = stream.read(&mut buffer)?;
        if total == 0 && !buffer.starts_with(b"HTTP/1.1 200") {
            return Err(format!("{host}{path}: not a 200").into());
        }
        if count == 0 {
            return Ok(total);
        }
        total += count;
    }
}

fn write(path: &str, bytes: usize) -> Result<usize, Box<dyn Error>> {
    let piece = noise();
    let mut file = File::create_new(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes as u64)?;
    let count = bytes / WRITE;
    for at in 0..count {
        let from = at * WRITE % piece.len();
        file.write_all(&piece[from..from + WRITE])?;
    }
    file.sync_all()?;
    Ok(count * WRITE)
}
