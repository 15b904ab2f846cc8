use std::io::Write as _;

use proptest::prelude::*;
use sha2::Digest as _;

use super::*;

/// Bytes without pattern.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let step = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    (0..len).map(step).collect()
}

fn wanted(bytes: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(bytes).into()
}

const BACKENDS: [Backend; 2] = [Backend::Instructions, Backend::Portable];

/// The lengths up to `most`; fewer under an interpreter, which takes a second for each.
fn lengths(most: usize) -> impl Iterator<Item = usize> {
    (0..=most).step_by(if cfg!(miri) { 37 } else { 1 })
}

#[test]
fn every_length_gives_the_digest_that_sha2_gives() {
    let data = noise(1_000);
    for backend in BACKENDS {
        for len in lengths(1_000) {
            let got = with_backend(backend, || Sha256::digest(&data[..len]));
            assert_eq!(got, wanted(&data[..len]), "{backend:?}, {len} bytes");
        }
    }
}

#[test]
fn every_length_gives_every_digest_of_a_pass_together() {
    let data = noise(1_000);
    for backend in BACKENDS {
        for len in lengths(1_000) {
            let data = &data[..len];
            let [mut a, mut b, mut c, mut own] = [const { Sha256::new() }; 4];
            let prefix = noise(64);
            b.update(&prefix);
            with_backend(backend, || {
                together(
                    [&mut a, &mut b, &mut c],
                    data,
                    &mut own,
                    [&b"framed"[..], data, b"end"],
                );
            });
            let with = |before: &[u8], after: &[u8]| wanted(&[before, data, after].concat());
            assert_eq!(a.finish(), with(b"", b""), "{backend:?}, {len} bytes");
            assert_eq!(b.finish(), with(&prefix, b""), "{backend:?}, {len} bytes");
            assert_eq!(c.finish(), with(b"", b""), "{backend:?}, {len} bytes");
            assert_eq!(
                own.finish(),
                with(b"framed", b"end"),
                "{backend:?}, {len} bytes"
            );
        }
    }
}

#[test]
fn a_digest_knows_where_a_padding_needs_a_block_more() {
    for len in [55, 56, 63, 64, 119, 120] {
        let data = noise(len);
        assert_eq!(Sha256::digest(&data), wanted(&data), "{len} bytes");
    }
}

/// Where the processor has no such instructions, the tests with [`Backend::Instructions`] compare `sha2` with itself: that is no failure, but
/// must not go unseen. `tests/run` expects the instructions of a processor that says it has them.
#[test]
fn the_instructions_are_tested_where_they_are_expected() {
    if Backend::detect() == Backend::Instructions {
        return;
    }
    let told =
        "NOT TESTED: the kernels with SHA instructions, because this machine has none of them";
    // Not captured, as what is printed would be.
    let _ = writeln!(std::io::stderr().lock(), "\n{told}\n");
    let expected = std::env::var_os("HF_OCI_EXPECT_SHA").is_some_and(|v| v == "1");
    assert!(!expected, "{told}, but HF_OCI_EXPECT_SHA=1");
}

/// Cuts `data` at these places, in any order and however often.
fn cut<'a>(data: &'a [u8], at: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = at.iter().map(|i| i.index(data.len() + 1)).collect();
    at.sort_unstable();
    let starts = std::iter::once(0).chain(at.iter().copied());
    let ends = at.iter().copied().chain(std::iter::once(data.len()));
    starts.zip(ends).map(|(from, to)| &data[from..to]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 512 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn splits_do_not_change_a_digest(
        data in prop::collection::vec(any::<u8>(), 0..4_000),
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        portable: bool,
    ) {
        let mut hash = Sha256::new();
        with_backend(BACKENDS[usize::from(portable)], || {
            cut(&data, &at).into_iter().for_each(|part| hash.update(part));
        });
        prop_assert_eq!(hash.finish(), wanted(&data));
    }

    #[test]
    fn a_pass_together_is_as_a_pass_each(
        data in prop::collection::vec(any::<u8>(), 0..4_000),
        before in prop::array::uniform3(0usize..130),
        own_before in 0usize..130,
        at in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        frame in prop::collection::vec(any::<u8>(), 0..20),
        count in 0usize..=3,
        portable: bool,
    ) {
        let seed = noise(130);
        let begun = |len: usize| { let mut hash = Sha256::new(); hash.update(&seed[..len]); hash };
        let [mut a, mut b, mut c] = before.map(begun);
        let mut own = begun(own_before);
        let framed: Vec<&[u8]> = cut(&data, &at).into_iter().flat_map(|part| [frame.as_slice(), part]).collect();
        with_backend(BACKENDS[usize::from(portable)], || {
            let parts = framed.iter().copied();
            match count {
                0 => together([], &data, &mut own, parts),
                1 => together([&mut a], &data, &mut own, parts),
                2 => together([&mut a, &mut b], &data, &mut own, parts),
                _ => together([&mut a, &mut b, &mut c], &data, &mut own, parts),
            }
        });
        for (i, hash) in [a, b, c].into_iter().enumerate() {
            let data = if i < count { data.as_slice() } else { &[] };
            prop_assert_eq!(hash.finish(), wanted(&[&seed[..before[i]], data].concat()));
        }
        prop_assert_eq!(own.finish(), wanted(&[&seed[..own_before], &framed.concat()].concat()));
    }
}
