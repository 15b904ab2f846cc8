//! `index.json`, indexes, manifests and configs of a data folder that somebody else wrote.
#![no_main]

use hf_oci::oci::{Config, Index, Manifest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    hf_oci::fuzzing::layout(bytes);
    let _ = serde_json::from_slice::<Index>(bytes);
    let _ = serde_json::from_slice::<Manifest>(bytes);
    let _ = serde_json::from_slice::<Config>(bytes);
});
