//! Names, tags and digests of requests: no panic, and what was read can be spelled again.
#![no_main]

use hf_oci::image::{ImageName, encode_component};
use hf_oci::oci::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = text.parse::<Reference>();
    if let Ok(name) = ImageName::parse(text) {
        for component in name.path() {
            let again = ImageName::parse(&format!("o/m/{}", encode_component(component)));
            assert_eq!(
                again.map(|n| n.path().to_vec()),
                Ok(vec![component.clone()])
            );
        }
    }
});
