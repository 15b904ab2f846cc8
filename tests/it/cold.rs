//! The cold path: what comes out is what the Hub holds, and the image says what it is.

use hf_oci::image::Layout;
use hf_oci::oci::Digest;

use crate::harness::{Proxy, Setup, demo, small, wanted};
use crate::hub::{Files, Hub, Repo, World};

#[tokio::test(flavor = "multi_thread")]
async fn every_file_of_a_repository_comes_out_byte_for_byte() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    let files = proxy.files("org/demo", "main").await;
    assert!(files == wanted(&hub, "Org/Demo", "main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_in_staging() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    proxy.index("org/demo", "main").await;
    assert!(proxy.staged().is_empty(), "{:?}", proxy.staged());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_image_has_its_golden_digests() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    let (index, _) = proxy.index("org/demo", "main").await;
    let (manifest, _) = proxy.manifest("org/demo", "main").await;
    let layers: Vec<Digest> = manifest.layers.iter().map(|l| l.digest).collect();
    assert_eq!(
        format!("{layers:?}"),
        "[sha256:4c5dbe4e9cde4b5cb297b93fc3459a5a5eaf0d28d34ea558fd6a83786dc4d86e]"
    );
    assert_eq!(
        index.hex(),
        "9bf6a355c19136727478f0076ee753724a7b507b2abbba1949a789f4245412bb"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_single_layout_puts_everything_into_one_layer() {
    let repo = Repo::model("org/m").commit(small().pattern("big.bin", 257 << 20, 3));
    let hub = Hub::start(World::new().repo(repo)).await;
    let mut setup = Setup::default();
    setup.fill.layout = Layout::Single;
    let single = Proxy::start_with(&hub, setup).await;
    let split = Proxy::start(&hub).await;
    assert_eq!(single.manifest("org/m", "main").await.0.layers.len(), 1);
    assert_eq!(split.manifest("org/m", "main").await.0.layers.len(), 2);
    assert!(single.files("org/m", "main").await == split.files("org/m", "main").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_tell_source_commit_title_and_license() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    let (manifest, config) = proxy.manifest("org/demo", "main").await;
    let label =
        |key: &str| manifest.annotations[&format!("org.opencontainers.image.{key}")].clone();
    assert_eq!(label("source"), "https://huggingface.co/Org/Demo");
    assert_eq!(label("revision"), hub.sha("Org/Demo", "main"));
    assert_eq!(label("title"), "Org/Demo");
    assert_eq!(label("licenses"), "apache-2.0");
    assert_eq!(config.config.labels, manifest.annotations);
    assert_eq!(
        proxy.index("org/demo", "main").await.1.annotations,
        manifest.annotations
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_small_files_come_out() {
    let files = (0..2_000).fold(Files::new(), |files, i| {
        files.file(
            format!("data/{:02}/{i:04}.json", i % 50),
            format!("{{\"n\":{i}}}"),
        )
    });
    let hub = Hub::start(World::new().repo(Repo::dataset("org/many").commit(files))).await;
    let proxy = Proxy::start(&hub).await;
    let files = proxy.files("datasets/org/many", "main").await;
    assert!(files == wanted(&hub, "datasets/org/many", "main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_of_each_kind_is_listed_and_all_share_their_layers() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    let (_, index) = proxy.index("org/demo", "main").await;
    let platforms: Vec<String> = index
        .manifests
        .iter()
        .filter_map(|m| m.platform.as_ref())
        .map(|p| {
            format!(
                "{}/{}{}",
                p.os,
                p.architecture,
                p.variant.as_deref().unwrap_or_default()
            )
        })
        .collect();
    assert_eq!(
        platforms,
        [
            "linux/amd64",
            "linux/arm64",
            "linux/armv7",
            "linux/armv6",
            "linux/386",
            "linux/ppc64le",
            "linux/s390x",
            "linux/riscv64",
            "linux/loong64"
        ]
    );
}
