//! A fill that was cut off goes on where it was: what is on the disk is not fetched again, and what is wrong on it is.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{Proxy, wanted};
use crate::hub::{Effect, Fault, Files, Hub, Repo, World};

const SIZE: u64 = 64 << 20;

async fn hub() -> Hub {
    let files = Files::new()
        .pattern("a.bin", SIZE, 1)
        .pattern("b.bin", SIZE, 2);
    Hub::start(World::new().repo(Repo::model("org/m").commit(files))).await
}

/// Fills until half of the second file is on disk, and stops there.
async fn cut_off(hub: &Hub, folder: &std::path::Path) {
    hub.fault(
        Fault::cdn("b.bin")
            .range_start(SIZE / 2..SIZE)
            .then(Effect::Hold("half")),
    );
    let proxy = Proxy::start_on(hub, folder).await;
    let asked =
        tokio::time::timeout(Duration::from_millis(200), proxy.index("org/m", "main")).await;
    assert!(asked.is_err(), "it is held");
    let progress = proxy.images.fills().remove(0);
    while progress.bytes() < SIZE + SIZE / 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.stop().await;
    hub.release("half");
    hub.clear_faults();
}

fn staged(folder: &std::path::Path) -> PathBuf {
    let layer = fs::read_dir(folder.join("staging"))
        .expect("a folder")
        .map(|e| e.expect("an entry").path())
        .find(|p| p.is_dir());
    layer.expect("a staged layer").join("layer")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_process_fetches_only_what_is_missing_and_nobody_needs_to_ask() {
    let hub = hub().await;
    let folder = tempfile::tempdir().expect("a folder");
    cut_off(&hub, folder.path()).await;
    hub.reset();
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    assert_eq!(proxy.images.resume().await.expect("orders"), 1);
    assert!(proxy.files("org/m", "main").await == wanted(&hub, "org/m", "main"));
    assert_eq!(hub.bytes(), SIZE / 2);
    assert!(proxy.staged().is_empty(), "{:?}", proxy.staged());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_on_disk_is_fetched_again_from_there_on() {
    let hub = hub().await;
    let folder = tempfile::tempdir().expect("a folder");
    cut_off(&hub, folder.path()).await;
    let layer = fs::OpenOptions::new()
        .write(true)
        .open(staged(folder.path()))
        .expect("a file");
    layer
        .write_all_at(b"damage", SIZE + 9_000_000)
        .expect("written");
    hub.reset();
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    assert!(proxy.files("org/m", "main").await == wanted(&hub, "org/m", "main"));
    assert_eq!(hub.bytes_by_file()["models/org/m/b.bin"], SIZE - (8 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_between_the_files_does_not_reach_the_blob() {
    let hub = hub().await;
    let folder = tempfile::tempdir().expect("a folder");
    cut_off(&hub, folder.path()).await;
    // The first bytes are the header of the first file: no checksum of a chunk covers them.
    let layer = fs::OpenOptions::new()
        .write(true)
        .open(staged(folder.path()))
        .expect("a file");
    layer.write_all_at(b"damage", 20).expect("written");
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    assert!(proxy.files("org/m", "main").await == wanted(&hub, "org/m", "main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_wrong_byte_is_fetched_once_more_and_nothing_else_is() {
    let hub = hub().await;
    hub.fault(Fault::cdn("b.bin").first(1).then(Effect::Corrupt(5)));
    let proxy = Proxy::start(&hub).await;
    assert!(proxy.files("org/m", "main").await == wanted(&hub, "org/m", "main"));
    let bytes = hub.bytes_by_file();
    assert_eq!(
        (bytes["models/org/m/a.bin"], bytes["models/org/m/b.bin"]),
        (SIZE, 2 * SIZE)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_the_upstream_ended_goes_on_when_it_is_asked_for_again() {
    let hub = hub().await;
    hub.fault(
        Fault::cdn("b.bin")
            .range_start(SIZE / 2..SIZE)
            .then(Effect::Status(410, vec![])),
    );
    let proxy = Proxy::start(&hub).await;
    let error = proxy.error("/v2/org/m/manifests/main").await;
    assert_eq!(error.status, 502, "{}", error.message);
    hub.clear_faults();
    hub.reset();
    assert!(proxy.files("org/m", "main").await == wanted(&hub, "org/m", "main"));
    assert!(hub.bytes() <= SIZE, "{}", hub.bytes());
}
