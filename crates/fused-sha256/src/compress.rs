//! The compression of blocks into states, by whatever the machine does fastest.

use crate::BLOCK;

/// A message block.
pub(crate) type Block = [u8; BLOCK];

/// What a SHA-256 carries from block to block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct State(pub(crate) [u32; 8]);

impl State {
    pub(crate) const INITIAL: Self = Self([
        0x6a09_e667,
        0xbb67_ae85,
        0x3c6e_f372,
        0xa54f_f53a,
        0x510e_527f,
        0x9b05_688c,
        0x1f83_d9ab,
        0x5be0_cd19,
    ]);

    pub(crate) fn to_bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        for (to, word) in out.as_chunks_mut().0.iter_mut().zip(self.0) {
            *to = word.to_be_bytes();
        }
        out
    }
}

/// The round constants.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[rustfmt::skip]
pub(crate) static ROUNDS: [[u32; 4]; 16] = [
    [0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5], [0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5],
    [0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3], [0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174],
    [0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc], [0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da],
    [0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7], [0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967],
    [0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13], [0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85],
    [0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3], [0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070],
    [0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5], [0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3],
    [0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208], [0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2],
];

/// How blocks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The processor's instructions for SHA-256, several digests interleaved.
    Instructions,
    /// The `sha2` crate, one digest after the other.
    Portable,
}

impl Backend {
    /// The fastest that this machine has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if crate::x86_64::available() {
            return Self::Instructions;
        }
        #[cfg(target_arch = "aarch64")]
        if crate::aarch64::available() {
            return Self::Instructions;
        }
        Self::Portable
    }
}

thread_local! {
    static FORCED: std::cell::Cell<Option<Backend>> = const { std::cell::Cell::new(None) };
}

/// Runs `work` with the portable compression on this thread if `backend` asks for it, for tests and benches. The instructions are used only
/// where the machine has them, whatever is asked for.
pub fn with_backend<T>(backend: Backend, work: impl FnOnce() -> T) -> T {
    struct Reset(Option<Backend>);
    impl Drop for Reset {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    let _reset = Reset(FORCED.replace(Some(backend)));
    work()
}

/// Compresses the same `blocks` into each of `shared`, and as many others into the state of `own`, if given.
///
/// Not generic, so that it is compiled as this crate is, however its users are.
pub(crate) fn run(
    shared: &mut [&mut State],
    blocks: &[Block],
    own: Option<(&mut State, &[Block])>,
) {
    if FORCED.get() != Some(Backend::Portable) {
        #[cfg(target_arch = "x86_64")]
        if crate::x86_64::available() {
            return crate::x86_64::run(shared, blocks, own);
        }
        #[cfg(target_arch = "aarch64")]
        if crate::aarch64::available() {
            return crate::aarch64::run(shared, blocks, own);
        }
    }
    portable(shared, blocks, own);
}

/// Blocks that stay in the first cache from one digest to the next.
const CACHED: usize = 256;

fn portable(shared: &mut [&mut State], blocks: &[Block], own: Option<(&mut State, &[Block])>) {
    for some in blocks.chunks(CACHED) {
        for state in shared.iter_mut() {
            sha2::block_api::compress256(&mut state.0, some);
        }
    }
    if let Some((state, theirs)) = own {
        sha2::block_api::compress256(&mut state.0, theirs);
    }
}
