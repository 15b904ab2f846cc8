//! Layers are known by their recipe: what did not change is not downloaded again, in any revision or repository.

use crate::harness::{Proxy, small};
use crate::hub::{Files, Hub, Repo, World};

const WEIGHTS: u64 = 256 << 20;

async fn hub() -> Hub {
    let files = || small().pattern("weights.bin", WEIGHTS, 7);
    let world = World::new()
        .repo(Repo::model("org/a").commit(files()))
        .repo(Repo::model("org/b").commit(files()));
    Hub::start(world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_readme_leaves_the_weights_layer_and_downloads_only_the_small_files() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    let (before, _) = proxy.manifest("org/a", "main").await;
    hub.commit("org/a", "next", Files::new().file("README.md", "new"));
    hub.reset();
    let (after, _) = proxy.manifest("org/a", "next").await;
    assert_eq!(before.layers[0], after.layers[0]);
    assert_ne!(before.layers[1], after.layers[1]);
    assert!(hub.bytes() < 20_000_000, "{}", hub.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_repository_with_the_same_files_downloads_nothing() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    let (first, _) = proxy.manifest("org/a", "main").await;
    hub.reset();
    let (second, _) = proxy.manifest("org/b", "main").await;
    assert_eq!(first.layers, second.layers);
    assert_eq!(hub.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_of_a_large_file_shares_the_layer_of_the_full_image() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    let (full, _) = proxy.manifest("org/a", "main").await;
    let (part, _) = proxy.manifest("org/a/weights.bin", "main").await;
    assert_eq!(part.layers, full.layers[..1]);
}
