//! Four digests in one pass are what `sha2` says, wherever the pieces begin and end.
#![no_main]

use fused_sha256::{Sha256, together};
use libfuzzer_sys::fuzz_target;
use sha2::Digest as _;

fuzz_target!(|input: (&[u8], u8, u8, [u16; 4])| {
    let (data, lead, count, cuts) = input;
    let seed = [7; 255];
    let lead = &seed[..usize::from(lead)];
    let begun = || {
        let mut hash = Sha256::new();
        hash.update(lead);
        hash
    };
    let ([mut a, mut b], mut c, mut own) = ([const { Sha256::new() }; 2], begun(), begun());
    let mut cuts: Vec<usize> = cuts
        .iter()
        .map(|at| usize::from(*at) % (data.len() + 1))
        .collect();
    cuts.extend([0, data.len()]);
    cuts.sort_unstable();
    let parts: Vec<&[u8]> = cuts
        .windows(2)
        .flat_map(|at| [&b"frame"[..], &data[at[0]..at[1]]])
        .collect();
    let framed = parts.iter().copied();
    match count % 4 {
        0 => together([], data, &mut own, framed),
        1 => together([&mut a], data, &mut own, framed),
        2 => together([&mut a, &mut b], data, &mut own, framed),
        _ => together([&mut a, &mut b, &mut c], data, &mut own, framed),
    }
    let sha2 = |parts: &[&[u8]]| -> [u8; 32] { sha2::Sha256::digest(parts.concat()).into() };
    assert_eq!(own.finish(), sha2(&[lead, &parts.concat()]));
    if count % 4 > 0 {
        assert_eq!(a.finish(), sha2(&[data]));
    }
    if count % 4 > 1 {
        assert_eq!(b.finish(), sha2(&[data]));
    }
    if count % 4 > 2 {
        assert_eq!(c.finish(), sha2(&[lead, data]));
    }
});
