//! A listing becomes a snapshot, a selection, layers and a plan whose length is right, or an error.
#![no_main]

use hf_oci::image::{Layout, Selection, recipe, select, split};
use hf_oci::layer::Plan;
use hf_oci::repo::{ContentId, Entry, FilePath, Snapshot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<(String, u64)>, Vec<String>)| {
    let (files, components) = input;
    let entries = files.iter().filter_map(|(path, size)| {
        Some(Entry {
            path: FilePath::new(path).ok()?,
            // A plan lists every chunk in its table of contents: keep that small.
            size: size % (64 << 20),
            content: ContentId::Git([0; 20]),
        })
    });
    let Ok(snapshot) = Snapshot::new(entries.collect()) else {
        return;
    };
    let Ok(selected) = select(&snapshot, &components, &Selection::default()) else {
        return;
    };
    for layer in split(selected.files, Layout::Split) {
        let _ = recipe(&layer);
        let plan = Plan::new(layer);
        assert!(plan.blob_len() > plan.payload());
        let mut end = 0;
        for chunk in plan.chunks() {
            let range = plan.member_range(chunk);
            assert!(range.start >= end && range.end <= plan.toc_offset());
            end = range.end;
        }
    }
});
