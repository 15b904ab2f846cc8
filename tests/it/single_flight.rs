//! One fill per image: however many ask, the upstream serves each byte once; who leaves changes nothing.

use std::time::Duration;

use futures_util::future::join_all;

use crate::harness::{Proxy, Setup, demo, small, wanted};
use crate::hub::{Hub, Repo, World};

fn size(hub: &crate::hub::Hub) -> u64 {
    wanted(hub, "Org/Demo", "main")
        .values()
        .map(|f| f.len() as u64)
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_at_once_cost_the_upstream_one_download() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    let pulls = join_all((0..50).map(|_| proxy.index("org/demo", "main"))).await;
    assert!(pulls.iter().all(|(digest, _)| *digest == pulls[0].0));
    assert_eq!(hub.bytes(), size(&hub));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_does_not_stop_the_fill_and_the_next_one_joins_it() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    hub.pause();
    let left =
        tokio::time::timeout(Duration::from_millis(300), proxy.index("org/demo", "main")).await;
    assert!(left.is_err(), "the hub is paused");
    assert_eq!(proxy.images.fills().len(), 1);
    hub.resume();
    proxy.index("org/demo", "main").await;
    assert_eq!(hub.bytes(), size(&hub));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_images_that_need_one_layer_at_once_download_it_once() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    // The same files under two tags of one commit, and so two flights that share every recipe.
    let sha = hub.sha("Org/Demo", "main");
    let (by_tag, by_path) = tokio::join!(
        proxy.index("org/demo/onnx", "main"),
        proxy.index("org/demo/onnx/model.onnx", &sha)
    );
    assert_ne!(by_tag.0, by_path.0);
    let onnx = hub.bytes_by_file()["models/Org/Demo/onnx/model.onnx"];
    assert_eq!(onnx, 5_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_counted_to_the_last_byte_and_file() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    hub.pause();
    let _ = tokio::time::timeout(Duration::from_millis(300), proxy.index("org/demo", "main")).await;
    let progress = proxy.images.fills().remove(0);
    assert_eq!(
        (progress.total_bytes(), progress.total_files()),
        (size(&hub), 6)
    );
    hub.resume();
    proxy.index("org/demo", "main").await;
    assert_eq!(progress.bytes(), size(&hub));
    assert_eq!(progress.files(), 6, "the empty one too");
    let layers = progress.layers();
    let each: u64 = layers.iter().map(|layer| layer.bytes()).sum();
    assert_eq!(each, size(&hub));
    assert!(layers.iter().all(|layer| layer.blob().is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn fills_beyond_the_bound_wait_for_their_turn() {
    let names = ["Org/One", "Org/Two", "Org/Three"];
    let repos = names.map(|name| Repo::model(name).commit(small()));
    let hub = Hub::start(repos.into_iter().fold(World::new(), World::repo)).await;
    let mut setup = Setup::default();
    setup.fill.concurrent = 1;
    let proxy = Proxy::start_with(&hub, setup).await;
    hub.pause();
    let pulls = ["org/one", "org/two", "org/three"].map(|name| proxy.index(name, "main"));
    let watch = async {
        hub.wait_until(|_| proxy.images.fills().len() == 3).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let fills = proxy.images.fills();
        hub.resume();
        fills.iter().filter(|fill| fill.total_files() > 0).count()
    };
    let (_, begun) = tokio::join!(join_all(pulls), watch);
    assert_eq!(begun, 1);
}
