//! Several SHA-256 of the same bytes in one pass.
//!
//! A layer's payload is seen by four digests: of the chunk, of the file, of the uncompressed stream and of the blob. The first three see the
//! same 64-byte blocks, so a block is loaded once, its message schedule is made once, and the three compressions run interleaved; the blob's
//! sees the same bytes at another alignment and runs beside them with a schedule of its own. One compression alone waits for itself most of
//! the time: four in lock step take little more than two.
//!
//! [`Sha256`] is a digest in progress, [`together`] feeds several. The compression is chosen at run time: x86-64's SHA extensions,
//! aarch64's SHA-2 instructions, or else the `sha2` crate, one digest after the other.

#![deny(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod compress;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use compress::{Backend, with_backend};
use compress::{Block, State};

/// Bytes of a message block.
const BLOCK: usize = 64;

/// A SHA-256 in progress.
#[derive(Clone)]
pub struct Sha256 {
    state: State,
    /// The begun block; its first `len % BLOCK` bytes count.
    begun: Block,
    /// Bytes taken so far.
    len: u64,
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl Sha256 {
    /// A digest that has taken no byte.
    pub const fn new() -> Self {
        Self {
            state: State::INITIAL,
            begun: [0; BLOCK],
            len: 0,
        }
    }

    /// The digest of `bytes`.
    pub fn digest(bytes: &[u8]) -> [u8; 32] {
        let mut hash = Self::new();
        hash.update(bytes);
        hash.finish()
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = self.complete(bytes).as_chunks();
        self.blocks(blocks);
        self.begin(rest);
    }

    /// The digest of all bytes taken.
    ///
    /// The length is counted in bits modulo 2^64, as the standard says.
    pub fn finish(mut self) -> [u8; 32] {
        let bits = self.len.wrapping_mul(8).to_be_bytes();
        let begun = self.at();
        // A one bit, zeros up to 8 bytes before the end of a block, and the length.
        let mut padding = [0; BLOCK + 8];
        padding[0] = 0x80;
        let zeros = if begun < BLOCK - 8 {
            BLOCK - 8
        } else {
            2 * BLOCK - 8
        } - begun;
        self.update(&padding[..zeros]);
        self.update(&bits);
        self.state.to_bytes()
    }

    /// Bytes in the begun block.
    const fn at(&self) -> usize {
        (self.len % BLOCK as u64) as usize
    }

    /// Takes what completes the begun block, if there is one; gives the rest.
    fn complete<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let at = self.at();
        if at == 0 {
            return bytes;
        }
        let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - at));
        self.begun[at..at + now.len()].copy_from_slice(now);
        self.len += now.len() as u64;
        if self.at() == 0 {
            let Self { state, begun, .. } = self;
            compress::run(&mut [], &[], Some((state, std::slice::from_ref(begun))));
        }
        rest
    }

    /// Takes whole blocks at a block's boundary.
    fn blocks(&mut self, blocks: &[Block]) {
        debug_assert!(blocks.is_empty() || self.at() == 0);
        compress::run(&mut [], &[], Some((&mut self.state, blocks)));
        self.len += blocks.as_flattened().len() as u64;
    }

    /// Keeps less than a block for later, at a block's boundary or with nothing at all.
    fn begin(&mut self, rest: &[u8]) {
        debug_assert!(rest.is_empty() || (self.at() == 0 && rest.len() < BLOCK));
        self.begun[..rest.len()].copy_from_slice(rest);
        self.len += rest.len() as u64;
    }
}

/// Feeds `data` to each of `shared`, and the concatenation of `parts` to `own`, in one pass.
///
/// The result is what [`Sha256::update`] of each would give. It is one pass if all of `shared` are at a multiple of 64 bytes, which is where a
/// layer's chunks begin, and if the parts are about as long as the data: the data itself in pieces, and what frames it.
pub fn together<'a, const N: usize>(
    mut shared: [&mut Sha256; N],
    data: &[u8],
    own: &mut Sha256,
    parts: impl IntoIterator<Item = &'a [u8]>,
) {
    let aligned = shared.iter().all(|hash| hash.at() == 0);
    let (mut blocks, rest): (&[Block], &[u8]) = if aligned {
        data.as_chunks()
    } else {
        (&[], data)
    };
    for part in parts {
        let (theirs, last) = own.complete(part).as_chunks();
        let (now, later) = blocks.split_at(blocks.len().min(theirs.len()));
        lockstep(&mut shared, now, Some((&mut *own, &theirs[..now.len()])));
        own.blocks(&theirs[now.len()..]);
        own.begin(last);
        blocks = later;
    }
    lockstep(&mut shared, blocks, None);
    shared.iter_mut().for_each(|hash| hash.update(rest));
}

fn lockstep<const N: usize>(
    shared: &mut [&mut Sha256; N],
    blocks: &[Block],
    own: Option<(&mut Sha256, &[Block])>,
) {
    let bytes = blocks.as_flattened().len() as u64;
    let mut states = shared.each_mut().map(|hash| {
        hash.len += bytes;
        &mut hash.state
    });
    let own = own.map(|(hash, theirs)| {
        hash.len += bytes;
        (&mut hash.state, theirs)
    });
    compress::run(&mut states, blocks, own);
}

#[cfg(test)]
mod tests;
