//! A bundle of another site: its archive, its `index.json` and the documents of its images.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hf_oci::fuzzing::bundle(bytes));
