//! A chunk that is read back from a layer is exactly what the sealer would write for it, or is refused.
#![no_main]

use hf_oci::layer::Plan;
use hf_oci::repo::{ContentId, Entry, FilePath};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (size, member) = input;
    let file = Entry {
        path: FilePath::new("a").expect("a path"),
        size: u64::from(size),
        content: ContentId::Git([0; 20]),
    };
    let plan = Plan::new(vec![file]);
    let mut data = Vec::new();
    for chunk in plan.chunks() {
        if plan.read_back(chunk, member, &mut data) {
            assert_eq!(data.len() as u64, chunk.len);
        }
    }
});
