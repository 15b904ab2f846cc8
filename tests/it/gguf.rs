//! Promise: a tag that is called as a GGUF quantisation means that quantisation of the default branch, and costs no more than its files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use hf_oci::image::ImageName;

use crate::harness::{OciError, Proxy, Setup, wanted};
use crate::hub::{Files, Hub, Repo, World};

const QUANTISATIONS: [&str; 10] = [
    "Q2_K",
    "Q3_K_M",
    "Q4_0",
    "Q4_K",
    "Q4_K_M",
    "Q4_K_S",
    "Q5_K_M",
    "Q6_K",
    "Q8_0",
    "UD-Q4_K_XL",
];

const SIZE: u64 = 3_000_017;

/// What goes with every quantisation.
const SMALL: [&str; 4] = [
    ".gitattributes",
    "README.md",
    "config.json",
    "params/tokenizer.json",
];

fn quantised(seed: u64) -> Files {
    let files = Files::new()
        .file(".gitattributes", "*.gguf filter=lfs\n")
        .file("README.md", "---\nlicense: mit\n---\n# Quantised\n")
        .file("config.json", "{}")
        .pattern("params/tokenizer.json", 2_000_000, seed + 100)
        .pattern("model.safetensors", 4_000_000, seed + 101);
    QUANTISATIONS
        .iter()
        .zip(seed..)
        .fold(files, |files, (name, seed)| {
            files.pattern(format!("model-{name}.gguf"), SIZE, seed)
        })
}

async fn hub() -> Hub {
    Hub::start(World::new().repo(Repo::model("Org/Model-GGUF").commit(quantised(1)))).await
}

const NAME: &str = "org/model-gguf";

/// A proxy that asks for every tag anew.
fn anew() -> Setup {
    let mut setup = Setup::default();
    setup.fill.tag_ttl = Duration::ZERO;
    setup
}

async fn error(proxy: &Proxy, name: &str, tag: &str) -> OciError {
    proxy.error(&format!("/v2/{name}/manifests/{tag}")).await
}

async fn tags(proxy: &Proxy, name: &str) -> Vec<String> {
    let answer = proxy.get(&format!("/v2/{name}/tags/list")).await;
    let bytes = answer.bytes().await.expect("a body");
    let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    serde_json::from_value(value["tags"].clone()).expect("tags")
}

/// The files of the whole repository that a quantisation of `quantised` holds.
fn held(hub: &Hub, gguf: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = wanted(hub, "Org/Model-GGUF", "main");
    files.retain(|path, _| path == gguf || SMALL.contains(&path.as_str()));
    files
}

fn disk_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let sizes = entries.map(|entry| {
        let entry = entry.expect("an entry");
        let meta = entry.metadata().expect("its size");
        match meta.is_dir() {
            true => disk_bytes(&entry.path()),
            false => meta.len(),
        }
    });
    sizes.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_ten_quantisations_costs_its_file_and_the_small_ones() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    hub.reset();
    let files = proxy.files(NAME, "q4_k_m").await;
    assert!(files == held(&hub, "model-Q4_K_M.gguf"));
    let fetched = hub.bytes_by_file();
    let paths: BTreeSet<&str> = fetched
        .keys()
        .map(|key| {
            key.strip_prefix("models/Org/Model-GGUF/")
                .expect("a file of it")
        })
        .collect();
    let held: BTreeSet<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(paths, held);
    let bytes: u64 = files.values().map(|bytes| bytes.len() as u64).sum();
    assert!(hub.bytes() <= bytes, "{} of {bytes}", hub.bytes());
    // What the format and the documents add to the files themselves.
    let disk = disk_bytes(&proxy.data().join("blobs"));
    assert!(disk <= bytes + bytes / 100 + 200_000, "{disk} of {bytes}");
    assert_eq!(proxy.staged(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_letter_case_is_one_image_and_one_note() {
    let hub = hub().await;
    let proxy = Proxy::start_with(&hub, anew()).await;
    let (digest, index) = proxy.index(NAME, "Q4_K_M").await;
    hub.reset();
    for tag in ["q4_k_m", "Q4_k_M", "Q4_K_M"] {
        assert_eq!(proxy.index(NAME, tag).await.0, digest);
    }
    assert_eq!(hub.bytes(), 0);
    let repo = ImageName::parse(NAME).expect("a name").repo().clone();
    assert_eq!(proxy.store.known_tags(&repo), ["q4_k_m"]);
    let label = |key: &str| index.annotations[key].clone();
    assert_eq!(label("io.hf-oci.quantisation"), "q4_k_m");
    assert_eq!(label("org.opencontainers.image.licenses"), "mit");
    assert_eq!(
        label("org.opencontainers.image.revision"),
        hub.sha("Org/Model-GGUF", "main")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_quantisation_is_never_meant_by_a_shorter_one() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    for (tag, gguf) in [
        ("q4_k", "model-Q4_K.gguf"),
        ("ud-q4_k_xl", "model-UD-Q4_K_XL.gguf"),
    ] {
        assert!(proxy.files(NAME, tag).await == held(&hub, gguf), "{tag}");
    }
    let error = error(&proxy, NAME, "q4_k_xl").await;
    assert_eq!(
        (error.status, error.code.as_str()),
        (404, "MANIFEST_UNKNOWN")
    );
    for part in [
        "no GGUF quantisation 'q4_k_xl'",
        "'q4_k', 'q4_k_m'",
        "'ud-q4_k_xl'",
        "no branch or tag",
    ] {
        assert!(error.message.contains(part), "{}", error.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_parts_of_a_split_model_belong_to_it() {
    let part = |q: &str, n: u32| format!("{q}/big-{q}-0000{n}-of-00002.gguf");
    let files = Files::new()
        .file("README.md", "split")
        .pattern(part("Q4_K_M", 1), 1_500_000, 1)
        .pattern(part("Q4_K_M", 2), 1_500_001, 2)
        .pattern(part("Q8_0", 1), 1_500_002, 3)
        .pattern(part("Q8_0", 2), 1_500_003, 4)
        .pattern("mmproj-F16.gguf", 1_200_000, 5)
        .pattern("mmproj-F32.gguf", 1_200_001, 6);
    let hub = Hub::start(World::new().repo(Repo::model("org/big").commit(files))).await;
    let proxy = Proxy::start(&hub).await;
    let mut all = wanted(&hub, "org/big", "main");
    let held = [
        part("Q4_K_M", 1),
        part("Q4_K_M", 2),
        "README.md".into(),
        "mmproj-F16.gguf".into(),
    ];
    all.retain(|path, _| held.contains(path));
    assert!(proxy.files("org/big", "Q4_K_M").await == all);
    assert_eq!(tags(&proxy, "org/big").await, ["main", "q4_k_m", "q8_0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_is_called_so_wins() {
    let branch = Files::only().file("branch.txt", "a branch");
    let repo = Repo::model("Org/Model-GGUF")
        .commit(quantised(1))
        .commit_on("q4_k_m", branch.clone())
        .commit_on("Q8_0", branch);
    let hub = Hub::start(World::new().repo(repo)).await;
    let proxy = Proxy::start(&hub).await;
    for tag in ["q4_k_m", "Q4_K_M", "Q8_0"] {
        assert_eq!(proxy.files(NAME, tag).await.len(), 1, "{tag}");
    }
    assert!(proxy.files(NAME, "q8_0").await == held(&hub, "model-Q8_0.gguf"));
    let listed = tags(&proxy, NAME).await;
    assert_eq!(listed.iter().filter(|tag| *tag == "q4_k_m").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listed_tag_means_an_image() {
    let files = Files::new()
        .pattern("7b/m-Q4_0.gguf", 1_100_000, 1)
        .pattern("13b/m-Q4_0.gguf", 1_100_001, 2)
        .pattern("7b/m.q8_0.gguf", 1_100_002, 3)
        .pattern("7b/m-BF16.GGUF", 1_100_003, 4)
        .file("7b/readme.txt", "7b");
    let hub = Hub::start(World::new().repo(Repo::model("org/two").commit(files))).await;
    let proxy = Proxy::start(&hub).await;
    let listed = tags(&proxy, "org/two").await;
    assert_eq!(listed, ["bf16", "main", "q8_0"]);
    for tag in &listed {
        proxy.index("org/two", tag).await;
    }
    let ambiguous = error(&proxy, "org/two", "q4_0").await;
    assert_eq!(ambiguous.status, 404);
    assert!(
        ambiguous.message.contains("'13b/m-Q4_0', '7b/m-Q4_0'"),
        "{}",
        ambiguous.message
    );
    // A path says which one.
    let files = proxy.files("org/two/7b", "q4_0").await;
    let paths: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(paths, ["7b/m-Q4_0.gguf", "7b/readme.txt"]);
    assert_eq!(
        tags(&proxy, "org/two/7b").await,
        ["bf16", "main", "q4_0", "q8_0"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tag_follows_the_default_branch_and_the_old_image_stays() {
    let hub = hub().await;
    let proxy = Proxy::start_with(&hub, anew()).await;
    let before = hub.sha("Org/Model-GGUF", "main");
    let (old, _) = proxy.index(NAME, "q4_k_m").await;
    hub.commit(
        "Org/Model-GGUF",
        "main",
        Files::new().pattern("model-Q4_K_M.gguf", SIZE, 77),
    );
    assert!(proxy.files(NAME, "q4_k_m").await == held(&hub, "model-Q4_K_M.gguf"));
    let repo = ImageName::parse(NAME).expect("a name").repo().clone();
    assert_eq!(
        proxy.store.known_tags(&repo),
        [format!("{before}-q4_k_m"), "q4_k_m".to_owned()]
    );
    let by_digest = proxy.get(&format!("/v2/{NAME}/manifests/{old}")).await;
    assert_eq!(by_digest.status(), 200);
    // The commit means the whole of it.
    assert_eq!(
        proxy.files(NAME, &before).await.len(),
        SMALL.len() + QUANTISATIONS.len() + 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_served_offline_after_the_index_is_lost() {
    let hub = hub().await;
    let files = held(&hub, "model-Q6_K.gguf");
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    proxy.index(NAME, "Q6_K").await;
    proxy.stop().await;
    std::fs::remove_dir_all(folder.path().join("index")).expect("removed");
    hub.reset();
    let setup = Setup {
        offline: true,
        ..anew()
    };
    let proxy = Proxy::start_on_with(&hub, folder.path(), setup).await;
    for tag in ["Q6_K", "q6_k"] {
        assert!(proxy.files(NAME, tag).await == files, "{tag}");
    }
    assert_eq!(tags(&proxy, NAME).await, ["q6_k"]);
    let commit = hub.sha("Org/Model-GGUF", "main");
    for missing in ["q8_0", &commit, "main"] {
        assert_eq!(error(&proxy, NAME, missing).await.status, 404, "{missing}");
    }
    assert!(hub.records().is_empty(), "{:?}", hub.records());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_pinned_and_removed_as_any_other_tag() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    proxy.index(NAME, "q8_0").await;
    proxy.index(NAME, "main").await;
    let repo = ImageName::parse(NAME).expect("a name").repo().clone();
    assert!(proxy.store.pin(NAME, "Q8_0", true).expect("written"));
    let refused = proxy.store.remove(NAME, Some("Q8_0")).expect("looked");
    assert!(
        format!("{refused:?}").contains("org/model-gguf:q8_0"),
        "{refused:?}"
    );
    assert!(proxy.store.pin(NAME, "q8_0", false).expect("written"));
    proxy.store.remove(NAME, Some("Q8_0")).expect("removed");
    assert_eq!(proxy.store.known_tags(&repo), ["main"]);
    assert!(proxy.files(NAME, "main").await == wanted(&hub, "Org/Model-GGUF", "main"));
}
