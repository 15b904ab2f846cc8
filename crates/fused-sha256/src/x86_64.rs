//! x86-64's SHA extensions.
//!
//! Two rounds are one instruction with a latency of four cycles and a throughput of one in two (on the processors of the day): a digest alone
//! leaves half of the unit idle, two or more interleaved fill it. The schedule's instructions and the additions run elsewhere.

use std::arch::is_x86_feature_detected;
use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_loadu_si128, _mm_set_epi64x,
    _mm_setzero_si128, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32,
    _mm_shuffle_epi8, _mm_shuffle_epi32, _mm_storeu_si128,
};

use crate::compress::{Block, ROUNDS, State};

/// Whether this machine has what [`run`] needs.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("ssse3")
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
    assert!(available(), "no SHA extensions");
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

/// A state as the instructions want it: the words a b e f, and c d g h, the first one highest.
#[derive(Clone, Copy)]
struct Chain {
    abef: __m128i,
    cdgh: __m128i,
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn load(words: &[u32; 4]) -> __m128i {
    #[expect(unsafe_code)]
    // SAFETY: the 16 bytes behind the reference are read, at any alignment.
    unsafe {
        _mm_loadu_si128(words.as_ptr().cast())
    }
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn store(words: &mut [u32; 4], value: __m128i) {
    #[expect(unsafe_code)]
    // SAFETY: the 16 bytes behind the reference are written, at any alignment.
    unsafe {
        _mm_storeu_si128(words.as_mut_ptr().cast(), value);
    }
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn open(state: &State) -> Chain {
    let (halves, _) = state.0.as_chunks();
    let badc = _mm_shuffle_epi32(load(&halves[0]), 0xb1);
    let hgfe = _mm_shuffle_epi32(load(&halves[1]), 0x1b);
    Chain {
        abef: _mm_alignr_epi8(badc, hgfe, 8),
        cdgh: _mm_blend_epi16(hgfe, badc, 0xf0),
    }
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn close(chain: Chain, state: &mut State) {
    let feba = _mm_shuffle_epi32(chain.abef, 0x1b);
    let dchg = _mm_shuffle_epi32(chain.cdgh, 0xb1);
    let (halves, _) = state.0.as_chunks_mut();
    store(&mut halves[0], _mm_blend_epi16(feba, dchg, 0xf0));
    store(&mut halves[1], _mm_alignr_epi8(dchg, feba, 8));
}

/// The words of a block, the earliest in the lowest lane.
#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn words(block: &Block) -> [__m128i; 4] {
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let (quarters, _) = block.as_chunks::<16>();
    let mut out = [_mm_setzero_si128(); 4];
    for (to, from) in out.iter_mut().zip(quarters) {
        #[expect(unsafe_code)]
        // SAFETY: the 16 bytes behind the reference are read, at any alignment.
        let bytes = unsafe { _mm_loadu_si128(from.as_ptr().cast()) };
        *to = _mm_shuffle_epi8(bytes, swap);
    }
    out
}

/// Replaces the four words that rounds `4 * group` used by the ones that they use 16 rounds later.
#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn schedule(w: &mut [__m128i; 4], group: usize) {
    let [now, next, late, last] = [0, 1, 2, 3].map(|i| w[(group + i) % 4]);
    let part = _mm_add_epi32(
        _mm_sha256msg1_epu32(now, next),
        _mm_alignr_epi8(last, late, 4),
    );
    w[group % 4] = _mm_sha256msg2_epu32(part, last);
}

#[target_feature(enable = "sha,sse4.1,ssse3")]
fn interleaved<const N: usize, const OWN: bool>(
    shared: &mut [&mut State; N],
    blocks: &[Block],
    own: &mut State,
    theirs: &[Block],
) {
    let count = if N > 0 { blocks.len() } else { theirs.len() };
    assert!(!OWN || theirs.len() == count, "chains of different lengths");
    let mut chains = [Chain {
        abef: _mm_setzero_si128(),
        cdgh: _mm_setzero_si128(),
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
            [_mm_setzero_si128(); 4]
        };
        let mut v = if OWN {
            words(&theirs[at])
        } else {
            [_mm_setzero_si128(); 4]
        };
        // The compiler keeps every chain in registers, as the indexes are known.
        macro_rules! rounds {
            ($($group:literal)*) => {$(
                let k = load(&ROUNDS[$group]);
                if N > 0 {
                    let x = _mm_add_epi32(w[$group % 4], k);
                    for c in &mut chains {
                        c.cdgh = _mm_sha256rnds2_epu32(c.cdgh, c.abef, x);
                    }
                    let x = _mm_shuffle_epi32(x, 0x0e);
                    for c in &mut chains {
                        c.abef = _mm_sha256rnds2_epu32(c.abef, c.cdgh, x);
                    }
                }
                if OWN {
                    let x = _mm_add_epi32(v[$group % 4], k);
                    alone.cdgh = _mm_sha256rnds2_epu32(alone.cdgh, alone.abef, x);
                    let x = _mm_shuffle_epi32(x, 0x0e);
                    alone.abef = _mm_sha256rnds2_epu32(alone.abef, alone.cdgh, x);
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

#[target_feature(enable = "sha,sse4.1,ssse3")]
#[inline]
fn add(a: Chain, b: Chain) -> Chain {
    Chain {
        abef: _mm_add_epi32(a.abef, b.abef),
        cdgh: _mm_add_epi32(a.cdgh, b.cdgh),
    }
}
