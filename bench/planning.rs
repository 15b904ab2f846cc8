//! From a listing to laid-out layers: checking the files, cutting them into layers, recipes, plans, and walking the chunks.
//!
//! None of it touches a file's bytes, so its time is to be held against a download's seconds: it is what a cold image costs before the
//! first byte is asked for.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::ItemsCount;
use hf_oci::image::{Layout, recipe, split};
use hf_oci::layer::Plan;
use hf_oci::oci::Digest;
use hf_oci::repo::{ContentId, Entry, FilePath, Snapshot};

fn main() {
    divan::main();
}

/// What is planned.
const LISTINGS: [&str; 3] = ["one_file_of_16_GiB", "model_of_163_files", "100_000_files"];

fn entry(path: &str, size: u64) -> Entry {
    let digest = Digest::of(path.as_bytes());
    let content = if size >= 1 << 20 {
        ContentId::Sha256(digest)
    } else {
        let mut id = [0; 20];
        id.copy_from_slice(&digest.as_bytes()[..20]);
        ContentId::Git(id)
    };
    Entry {
        path: FilePath::new(path).expect("a path"),
        size,
        content,
    }
}

/// 150 shards of 4.3 GB, as the largest open models have, and the small files beside them.
fn model() -> Vec<Entry> {
    let shards = (1..=150).map(|i| {
        let path = format!("model-{i:05}-of-000150.safetensors");
        entry(&path, 4_302_348_000 + i * 8)
    });
    let small = [
        (".gitattributes", 1_519),
        ("LICENSE", 1_064),
        ("README.md", 21_894),
        ("config.json", 1_729),
        ("configuration_model.py", 9_897),
        ("figures/benchmark.png", 194_000),
        ("figures/niah.png", 106_000),
        ("generation_config.json", 171),
        ("inference/convert.py", 3_730),
        ("inference/model.py", 32_700),
        ("model.safetensors.index.json", 8_898_324),
        ("tokenizer.json", 7_847_602),
        ("tokenizer_config.json", 3_127),
    ];
    shards
        .chain(small.map(|(path, size)| entry(path, size)))
        .collect()
}

/// A dataset of pictures: 100 folders with 1,000 files each.
fn many() -> Vec<Entry> {
    let files = (0..100_000_u64).map(|i| {
        let path = format!("data/train/{:03}/{i:08}.jpg", i / 1_000);
        entry(&path, 10_000 + i * 7_919 % 90_000)
    });
    files.collect()
}

fn listing(name: &str) -> Vec<Entry> {
    match name {
        "one_file_of_16_GiB" => vec![entry("model.safetensors", 16 << 30)],
        "100_000_files" => many(),
        _ => model(),
    }
}

/// The layers of the default layout, planned.
fn plans(files: Vec<Entry>) -> Vec<Plan> {
    let layers = split(files, Layout::Split);
    layers.into_iter().map(Plan::new).collect()
}

/// Ordering and checking what the Hub listed.
#[divan::bench(args = LISTINGS, sample_count = 20)]
fn check(bencher: Bencher<'_, '_>, name: &str) {
    let mut files = listing(name);
    files.reverse();
    bencher
        .counter(ItemsCount::new(files.len()))
        .with_inputs(|| files.clone())
        .bench_local_values(|files| Snapshot::new(files).expect("good files"));
}

/// Cutting into layers, and the recipe of each.
#[divan::bench(args = LISTINGS, sample_count = 20)]
fn recipes(bencher: Bencher<'_, '_>, name: &str) {
    let snapshot = Snapshot::new(listing(name)).expect("good files");
    bencher
        .counter(ItemsCount::new(snapshot.files().len()))
        .bench_local(|| {
            let layers = split(snapshot.files().to_vec(), Layout::Split);
            layers.iter().map(|l| recipe(l)).collect::<Vec<_>>()
        });
}

/// Laying out every layer: all offsets, and the length of the TOC.
#[divan::bench(args = LISTINGS, sample_count = 20)]
fn plan(bencher: Bencher<'_, '_>, name: &str) {
    let snapshot = Snapshot::new(listing(name)).expect("good files");
    bencher
        .counter(ItemsCount::new(snapshot.files().len()))
        .with_inputs(|| snapshot.files().to_vec())
        .bench_local_values(plans);
}

/// Walking all chunks of all layers with their offsets; the count is of chunks.
#[divan::bench(args = LISTINGS, sample_count = 20)]
fn walk(bencher: Bencher<'_, '_>, name: &str) {
    let snapshot = Snapshot::new(listing(name)).expect("good files");
    let plans = plans(snapshot.files().to_vec());
    let chunks: usize = plans.iter().map(|p| p.chunks().count()).sum();
    bencher.counter(ItemsCount::new(chunks)).bench_local(|| {
        for plan in &plans {
            for chunk in plan.chunks() {
                black_box(plan.member_offset(chunk));
            }
        }
    });
}
