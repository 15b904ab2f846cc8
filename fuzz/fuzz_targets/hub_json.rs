//! Whatever the Hub answers is a checked value or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| hf_oci::fuzzing::hub_answer(bytes));
