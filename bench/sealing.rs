//! Sealing: from chunks in memory to a layer's bytes and digests, beside what the same bytes cost at least.
//!
//! The limits read the same chunks in the same order. A layer's bytes are seen by four SHA-256 (chunk, file, `diff_id`, blob) and one CRC-32,
//! so `limits::sha256_four_passes` and `limits::crc32` are what it would take without a smarter hash, `limits::fused` is the kernel that makes
//! all four in one pass and nothing else, and `limits::sha256` a single digest.

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::{Arc, LazyLock};

use divan::Bencher;
use divan::counter::BytesCount;
use hf_oci::layer::{CHUNK, Plan, Sealed, Sealer, Sink};
use hf_oci::oci::Digest;
use hf_oci::repo::{ContentId, Entry, FilePath};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

fn main() {
    divan::main();
}

/// Bytes that one iteration takes.
const TOTAL: u64 = 256 << 20;

/// Chunks of different bytes, more than the first cache levels hold; a file is these again and again.
const RING: usize = 8;

/// Bytes of a small file, as in a dataset of texts or pictures.
const SMALL: u64 = 20 << 10;

static CHUNKS: LazyLock<Vec<Vec<u8>>> =
    LazyLock::new(|| (0..RING).map(|i| noise(i as u64)).collect());

/// A chunk of bytes without pattern.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = (0..CHUNK / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

/// The chunks of [`TOTAL`] bytes, in order.
fn chunks() -> impl Iterator<Item = &'static [u8]> {
    (0..(TOTAL / CHUNK) as usize).map(|at| CHUNKS[at % RING].as_slice())
}

/// Takes everything and keeps nothing.
struct Null;

impl Sink for Null {
    type Error = Infallible;

    fn write(&mut self, _: u64, parts: &[&[u8]]) -> Result<(), Infallible> {
        black_box(parts);
        Ok(())
    }
}

fn seal(plan: &Arc<Plan>, data: impl Iterator<Item = &'static [u8]>) -> Sealed {
    let mut sealer = Sealer::new(Arc::clone(plan));
    for (chunk, data) in plan.chunks().zip(data) {
        let sealed = sealer.chunk(chunk, data, &mut Null);
        sealed.expect("the promised bytes");
    }
    sealer.finish(&mut Null).expect("the promised bytes")
}

/// One file in LFS.
#[divan::bench(sample_count = 12, sample_size = 1)]
fn one_large_file(bencher: Bencher<'_, '_>) {
    let mut hash = Sha256::new();
    chunks().for_each(|chunk| hash.update(chunk));
    let plan = Arc::new(Plan::new(vec![Entry {
        path: FilePath::new("model.safetensors").expect("a path"),
        size: TOTAL,
        content: ContentId::Sha256(Digest::from_bytes(hash.finalize().into())),
    }]));
    bencher
        .counter(BytesCount::new(TOTAL))
        .bench_local(|| seal(&plan, chunks()));
}

/// Many files of git, each of one chunk: three SHA-256, one SHA-1, a CRC-32 and a header.
#[divan::bench(sample_count = 12, sample_size = 1)]
fn many_small_files(bencher: Bencher<'_, '_>) {
    let slices = || {
        let every = CHUNKS.iter().flat_map(|c| c.chunks_exact(SMALL as usize));
        every.cycle().take((TOTAL / SMALL) as usize)
    };
    let files: Vec<Entry> = slices()
        .enumerate()
        .map(|(at, data)| Entry {
            path: FilePath::new(&format!("data/{at:06}.txt")).expect("a path"),
            size: SMALL,
            content: git(data),
        })
        .collect();
    let bytes = files.len() as u64 * SMALL;
    let plan = Arc::new(Plan::new(files));
    bencher
        .counter(BytesCount::new(bytes))
        .bench_local(|| seal(&plan, slices()));
}

/// The id that git gives to a file of these bytes.
fn git(data: &[u8]) -> ContentId {
    let head = format!("blob {}\0", data.len());
    let hash = Sha1::new_with_prefix(head).chain_update(data);
    ContentId::Git(hash.finalize().into())
}

/// What the same bytes cost at least.
#[divan::bench_group(sample_count = 12, sample_size = 1)]
mod limits {
    use super::*;

    /// One pass of SHA-256.
    #[divan::bench]
    fn sha256(bencher: Bencher<'_, '_>) {
        bencher.counter(BytesCount::new(TOTAL)).bench_local(|| {
            let mut hash = Sha256::new();
            chunks().for_each(|chunk| hash.update(chunk));
            hash.finalize()
        });
    }

    /// Four passes over each chunk, one after the other.
    #[divan::bench]
    fn sha256_four_passes(bencher: Bencher<'_, '_>) {
        bencher.counter(BytesCount::new(TOTAL)).bench_local(|| {
            let mut hashes: [Sha256; 4] = std::array::from_fn(|_| Sha256::new());
            for chunk in chunks() {
                hashes.iter_mut().for_each(|hash| hash.update(chunk));
            }
            hashes.map(Sha256::finalize)
        });
    }

    /// One pass of the fused kernel: three digests of the same blocks, and one of the same bytes framed.
    #[divan::bench]
    fn fused(bencher: Bencher<'_, '_>) {
        bencher.counter(BytesCount::new(TOTAL)).bench_local(|| {
            let [mut a, mut b, mut c, mut own] = [const { fused_sha256::Sha256::new() }; 4];
            for chunk in chunks() {
                let shared = [&mut a, &mut b, &mut c];
                let parts = chunk.chunks(65_535).flat_map(|part| [&[0; 5][..], part]);
                fused_sha256::together(shared, chunk, &mut own, parts);
            }
            [a, b, c, own].map(fused_sha256::Sha256::finish)
        });
    }

    /// One pass of SHA-1.
    #[divan::bench]
    fn sha1(bencher: Bencher<'_, '_>) {
        bencher.counter(BytesCount::new(TOTAL)).bench_local(|| {
            let mut hash = Sha1::new();
            chunks().for_each(|chunk| hash.update(chunk));
            hash.finalize()
        });
    }

    /// The checksum of gzip members.
    #[divan::bench]
    fn crc32(bencher: Bencher<'_, '_>) {
        bencher.counter(BytesCount::new(TOTAL)).bench_local(|| {
            let mut crc = flate2::Crc::new();
            chunks().for_each(|chunk| crc.update(chunk));
            crc.sum()
        });
    }

    /// Copying the bytes once.
    #[divan::bench]
    fn memcpy(bencher: Bencher<'_, '_>) {
        let mut to = vec![0; CHUNK as usize];
        bencher.counter(BytesCount::new(TOTAL)).bench_local(|| {
            for chunk in chunks() {
                to.copy_from_slice(black_box(chunk));
                black_box(&mut to);
            }
        });
    }
}
