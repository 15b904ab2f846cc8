//! aarch64's SHA-2 instructions.

use std::arch::aarch64::{
    uint32x4_t, vaddq_u32, vdupq_n_u32, vld1q_u8, vld1q_u32, vreinterpretq_u32_u8, vrev32q_u8,
    vsha256h2q_u32, vsha256hq_u32, vsha256su0q_u32, vsha256su1q_u32, vst1q_u32,
};
use std::arch::is_aarch64_feature_detected;

use crate::compress::{Block, ROUNDS, State};

/// Whether this machine has what [`run`] needs.
pub(crate) fn available() -> bool {
    is_aarch64_feature_detected!("sha2") && is_aarch64_feature_detected!("neon")
}

/// As [`crate::compress::run`].
///
/// # Panics
/// If `own` has another number of blocks beside shared ones, or the machine has not what is needed.
pub(crate) fn run(
    shared: &mut [&mut State],
    blocks: &[Block],
    own: Option<(&mut State, &[Block])>,
) {
    assert!(available(), "no SHA-2 instructions");
    if let Ok(none) = shared.try_into() {
        few::<0>(none, blocks, own);
    } else if let Ok(one) = shared.try_into() {
        few::<1>(one, blocks, own);
    } else if let Ok(two) = shared.try_into() {
        few::<2>(two, blocks, own);
    } else if let Some((three, more)) = shared.split_first_chunk_mut() {
        few::<3>(three, blocks, own);
        if !more.is_empty() {
            run(more, blocks, None);
        }
    }
}

fn few<const N: usize>(
    shared: &mut [&mut State; N],
    blocks: &[Block],
    own: Option<(&mut State, &[Block])>,
) {
    #[expect(unsafe_code)]
    // SAFETY: the caller has found the features that the functions are compiled for.
    unsafe {
        match own {
            Some((state, theirs)) => interleaved::<N, true>(shared, blocks, state, theirs),
            None => interleaved::<N, false>(shared, blocks, &mut State::INITIAL.clone(), &[]),
        }
    }
}

/// A state in two halves.
#[derive(Clone, Copy)]
struct Chain {
    abcd: uint32x4_t,
    efgh: uint32x4_t,
}

#[target_feature(enable = "neon,sha2")]
#[inline]
fn load(words: &[u32; 4]) -> uint32x4_t {
    #[expect(unsafe_code)]
    // SAFETY: the 16 bytes behind the reference are read.
    unsafe {
        vld1q_u32(words.as_ptr())
    }
}

#[target_feature(enable = "neon,sha2")]
#[inline]
fn open(state: &State) -> Chain {
    let (halves, _) = state.0.as_chunks();
    Chain {
        abcd: load(&halves[0]),
        efgh: load(&halves[1]),
    }
}

#[target_feature(enable = "neon,sha2")]
#[inline]
fn close(chain: Chain, state: &mut State) {
    let (halves, _) = state.0.as_chunks_mut::<4>();
    #[expect(unsafe_code)]
    // SAFETY: the 16 bytes behind each reference are written.
    unsafe {
        vst1q_u32(halves[0].as_mut_ptr(), chain.abcd);
        vst1q_u32(halves[1].as_mut_ptr(), chain.efgh);
    }
}

/// The words of a block, the earliest in the lowest lane.
#[target_feature(enable = "neon,sha2")]
#[inline]
fn words(block: &Block) -> [uint32x4_t; 4] {
    let (quarters, _) = block.as_chunks::<16>();
    let mut out = [vdupq_n_u32(0); 4];
    for (to, from) in out.iter_mut().zip(quarters) {
        #[expect(unsafe_code)]
        // SAFETY: the 16 bytes behind the reference are read.
        let bytes = unsafe { vld1q_u8(from.as_ptr()) };
        *to = vreinterpretq_u32_u8(vrev32q_u8(bytes));
    }
    out
}

/// Replaces the four words that rounds `4 * group` used by the ones that they use 16 rounds later.
#[target_feature(enable = "neon,sha2")]
#[inline]
fn schedule(w: &mut [uint32x4_t; 4], group: usize) {
    let [now, next, late, last] = [0, 1, 2, 3].map(|i| w[(group + i) % 4]);
    w[group % 4] = vsha256su1q_u32(vsha256su0q_u32(now, next), late, last);
}

#[target_feature(enable = "neon,sha2")]
#[inline]
fn four_rounds(chain: &mut Chain, x: uint32x4_t) {
    let abcd = chain.abcd;
    chain.abcd = vsha256hq_u32(abcd, chain.efgh, x);
    chain.efgh = vsha256h2q_u32(chain.efgh, abcd, x);
}

#[target_feature(enable = "neon,sha2")]
fn interleaved<const N: usize, const OWN: bool>(
    shared: &mut [&mut State; N],
    blocks: &[Block],
    own: &mut State,
    theirs: &[Block],
) {
    let count = if N > 0 { blocks.len() } else { theirs.len() };
    assert!(!OWN || theirs.len() == count, "chains of different lengths");
    let mut chains = [Chain {
        abcd: vdupq_n_u32(0),
        efgh: vdupq_n_u32(0),
    }; N];
    for (chain, state) in chains.iter_mut().zip(shared.iter()) {
        *chain = open(state);
    }
    let mut alone = open(own);
    for at in 0..count {
        let (before, alone_before) = (chains, alone);
        let mut w = if N > 0 {
            words(&blocks[at])
        } else {
            [vdupq_n_u32(0); 4]
        };
        let mut v = if OWN {
            words(&theirs[at])
        } else {
            [vdupq_n_u32(0); 4]
        };
        // The compiler keeps every chain in registers, as the indexes are known.
        macro_rules! rounds {
            ($($group:literal)*) => {$(
                let k = load(&ROUNDS[$group]);
                if N > 0 {
                    let x = vaddq_u32(w[$group % 4], k);
                    for chain in &mut chains {
                        four_rounds(chain, x);
                    }
                }
                if OWN {
                    four_rounds(&mut alone, vaddq_u32(v[$group % 4], k));
                }
                if $group < 12 {
                    if N > 0 {
                        schedule(&mut w, $group);
                    }
                    if OWN {
                        schedule(&mut v, $group);
                    }
                }
            )*};
        }
        rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        for (chain, before) in chains.iter_mut().zip(before) {
            *chain = add(*chain, before);
        }
        alone = add(alone, alone_before);
    }
    for (chain, state) in chains.into_iter().zip(shared.iter_mut()) {
        close(chain, state);
    }
    if OWN {
        close(alone, own);
    }
}

#[target_feature(enable = "neon,sha2")]
#[inline]
fn add(a: Chain, b: Chain) -> Chain {
    Chain {
        abcd: vaddq_u32(a.abcd, b.abcd),
        efgh: vaddq_u32(a.efgh, b.efgh),
    }
}
