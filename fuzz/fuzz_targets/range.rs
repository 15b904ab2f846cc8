//! `Range` headers: no panic, and every range that is served lies inside the blob.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &str)| {
    let (size, header) = input;
    hf_oci::fuzzing::range(header, size);
});
