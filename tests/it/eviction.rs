//! The cache keeps its budget: what was used longest ago goes first, and what is pinned, shared or in use never.

use std::fs;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use hf_oci::oci::Digest;
use hf_oci::store::{Limits, MinFree, Store};

use crate::binary::Server;
use crate::harness::{Proxy, Setup, wanted};
use crate::hub::{Effect, Fault, Files, Hub, Repo, World};

const FILE: u64 = 8 << 20;

/// Room for two models, their documents, and not for a third.
const TWO: u64 = 2 * FILE + (2 << 20);

/// Models `org/m0` and on, of one layer each.
async fn hub(models: u64) -> Hub {
    let world = (0..models).fold(World::new(), |world, n| {
        let files = Files::new().pattern("a.bin", FILE, n);
        world.repo(Repo::model(format!("org/m{n}")).commit(files))
    });
    Hub::start(world).await
}

fn limited(max_size: u64) -> Setup {
    Setup {
        limits: Limits {
            max_size: Some(max_size),
            ..Limits::default()
        },
        ..Setup::default()
    }
}

/// Which models are in the store.
fn cached(proxy: &Proxy) -> Vec<String> {
    proxy.store.catalog().expect("names")
}

/// Every blob is what its name says, index.json names only what is there, and nothing else is.
fn assert_sound(proxy: &Proxy) {
    let blobs = proxy.data().join("blobs/sha256");
    let mut bytes = 0;
    for name in proxy.blobs() {
        let content = fs::read(blobs.join(&name)).expect("a blob");
        assert_eq!(Digest::of(&content).hex(), name);
        bytes += content.len() as u64;
    }
    assert_eq!(proxy.store.used().published, bytes);
    let text = fs::read_to_string(proxy.data().join("index.json")).expect("text");
    let index: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for entry in index["manifests"].as_array().expect("manifests") {
        let digest = entry["digest"].as_str().expect("text");
        assert!(blobs.join(&digest["sha256:".len()..]).exists());
    }
}

async fn pull(proxy: &Proxy, hub: &Hub, n: u64) {
    let name = format!("org/m{n}");
    assert!(proxy.files(&name, "main").await == wanted(hub, &name, "main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_image_goes_first() {
    let hub = hub(3).await;
    let proxy = Proxy::start_with(&hub, limited(TWO)).await;
    pull(&proxy, &hub, 0).await;
    pull(&proxy, &hub, 1).await;
    pull(&proxy, &hub, 0).await;
    pull(&proxy, &hub, 2).await;
    assert_eq!(cached(&proxy), ["org/m0", "org/m2"]);
    assert_eq!(proxy.store.evictions().images(), 1);
    assert!(proxy.store.evictions().bytes() > FILE);
    assert!(proxy.store.used().total() <= TWO);
    assert_sound(&proxy);
    assert_eq!(proxy.staged(), Vec::<String>::new());
    hub.reset();
    pull(&proxy, &hub, 0).await;
    pull(&proxy, &hub, 2).await;
    assert_eq!(hub.bytes(), 0);
    // The one that went comes back when it is asked for.
    pull(&proxy, &hub, 1).await;
    assert_eq!(cached(&proxy), ["org/m1", "org/m2"]);
    assert_sound(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_survives_a_restart_and_the_loss_of_the_index() {
    let hub = hub(3).await;
    let folder = tempfile::tempdir().expect("a folder");
    let start = async || Proxy::start_on_with(&hub, folder.path(), limited(TWO)).await;
    let proxy = start().await;
    for n in [0, 1, 0] {
        pull(&proxy, &hub, n).await;
    }
    proxy.store.save_uses().expect("written");
    proxy.stop().await;
    let proxy = start().await;
    pull(&proxy, &hub, 2).await;
    assert_eq!(cached(&proxy), ["org/m0", "org/m2"]);
    proxy.stop().await;
    // Then the times of index.json count, which are of whole seconds.
    fs::remove_dir_all(folder.path().join("index")).expect("removed");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let proxy = start().await;
    pull(&proxy, &hub, 1).await;
    assert_eq!(cached(&proxy), ["org/m1", "org/m2"]);
    assert_sound(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_image_stays_and_a_pin_survives_the_index() {
    let hub = hub(3).await;
    let folder = tempfile::tempdir().expect("a folder");
    let start = async || Proxy::start_on_with(&hub, folder.path(), limited(TWO)).await;
    let proxy = start().await;
    pull(&proxy, &hub, 0).await;
    pull(&proxy, &hub, 1).await;
    assert!(proxy.store.pin("org/m0", "main", true).expect("written"));
    assert!(!proxy.store.pin("org/m0", "nothing", true).expect("written"));
    proxy.stop().await;
    fs::remove_dir_all(folder.path().join("index")).expect("removed");
    let proxy = start().await;
    pull(&proxy, &hub, 2).await;
    assert_eq!(cached(&proxy), ["org/m0", "org/m2"]);
    assert!(proxy.store.pin("org/m2", "main", true).expect("written"));
    let error = proxy.error("/v2/org/m1/manifests/main").await;
    assert_eq!((error.status, &*error.code), (507, "UNAVAILABLE"));
    assert!(
        error.message.contains("8.1 MiB are needed"),
        "{}",
        error.message
    );
    assert!(
        error.message.contains("cache.max_size of 18.0 MiB"),
        "{}",
        error.message
    );
    assert!(proxy.store.pin("org/m0", "main", false).expect("written"));
    pull(&proxy, &hub, 1).await;
    assert_eq!(cached(&proxy), ["org/m1", "org/m2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_two_images_stays_until_both_are_gone() {
    let same = || Files::new().pattern("a.bin", FILE, 1);
    let world = World::new()
        .repo(Repo::model("org/a").commit(same()))
        .repo(Repo::model("org/b").commit(same()))
        .repo(Repo::model("org/c").commit(Files::new().pattern("c.bin", FILE, 2)))
        .repo(Repo::model("org/d").commit(Files::new().pattern("d.bin", FILE, 3)));
    let hub = Hub::start(world).await;
    let proxy = Proxy::start_with(&hub, limited(TWO)).await;
    let files = async |name: &str| {
        assert!(proxy.files(name, "main").await == wanted(&hub, name, "main"));
    };
    files("org/a").await;
    files("org/c").await;
    files("org/b").await;
    assert!(proxy.store.pin("org/b", "main", true).expect("written"));
    files("org/d").await;
    // The use of b's layer was one of a's too, so c went.
    assert!(!cached(&proxy).contains(&"org/c".to_owned()));
    hub.reset();
    files("org/b").await;
    assert_eq!(hub.bytes(), 0);
    assert_sound(&proxy);
    // What a repository lost is not told any more, what another one has stays its own.
    let (manifest, _) = proxy.manifest("org/b", "main").await;
    proxy.store.remove("org/a", None).expect("removed");
    let path = |name: &str| format!("/v2/{name}/blobs/{}", manifest.layers[0].digest);
    assert_eq!(proxy.get(&path("org/a")).await.status(), 404);
    assert_eq!(proxy.get(&path("org/b")).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_client_reads_is_not_evicted_under_it() {
    const LARGE: u64 = 48 << 20;
    let world = (0..3).fold(World::new(), |world, n| {
        let files = Files::new().pattern("a.bin", LARGE, n);
        world.repo(Repo::model(format!("org/m{n}")).commit(files))
    });
    let hub = Hub::start(world).await;
    let proxy = Proxy::start_with(&hub, limited(2 * LARGE + (2 << 20))).await;
    let (manifest, _) = proxy.manifest("org/m0", "main").await;
    let layer = &manifest.layers[0];
    let slow = proxy
        .get(&format!("/v2/org/m0/blobs/{}", layer.digest))
        .await;
    let mut slow = slow.bytes_stream();
    let mut bytes = slow.next().await.expect("a part").expect("a part").to_vec();
    pull(&proxy, &hub, 1).await;
    pull(&proxy, &hub, 2).await;
    assert_eq!(cached(&proxy), ["org/m0", "org/m2"]);
    // While it reads it may be removed by hand: then it goes when it has been read.
    proxy.store.remove("org/m0", None).expect("removed");
    let blob = proxy.data().join("blobs/sha256").join(layer.digest.hex());
    assert!(blob.exists());
    proxy.store.collect_left().expect("a look");
    assert!(blob.exists());
    while let Some(part) = slow.next().await {
        bytes.extend_from_slice(&part.expect("a part"));
    }
    drop(slow);
    assert_eq!(Digest::of(&bytes), layer.digest);
    for _ in 0..100 {
        proxy.store.collect_left().expect("a look");
        if !blob.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!blob.exists());
    assert_sound(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_can_not_fit_costs_nothing() {
    let large = Files::new().pattern("a.bin", 3 * FILE, 9);
    let world = World::new()
        .repo(Repo::model("org/m0").commit(Files::new().pattern("a.bin", FILE, 0)))
        .repo(Repo::model("org/large").commit(large));
    let hub = Hub::start(world).await;
    let proxy = Proxy::start_with(&hub, limited(TWO)).await;
    pull(&proxy, &hub, 0).await;
    hub.reset();
    let error = proxy.error("/v2/org/large/manifests/main").await;
    assert_eq!(error.status, 507);
    assert!(
        error
            .message
            .contains("24.1 MiB are needed, 18.0 MiB can be had"),
        "{}",
        error.message
    );
    assert_eq!(hub.bytes(), 0);
    assert_eq!(cached(&proxy), ["org/m0"]);
    assert_eq!(proxy.staged(), Vec::<String>::new());
    assert_eq!(proxy.store.used().reserved, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_fills_that_want_the_last_room_one_gets_it() {
    let hub = hub(2).await;
    hub.fault(Fault::cdn("a.bin").then(Effect::Hold("both")));
    let proxy = Proxy::start_with(&hub, limited(FILE + (2 << 20))).await;
    let ask = async |n: u64| {
        let response = proxy.get(&format!("/v2/org/m{n}/manifests/main")).await;
        let status = response.status().as_u16();
        response.bytes().await.expect("a body");
        status
    };
    // The one that is refused is so while nothing of the other is there; then the other goes on.
    let release = async {
        while proxy.store.used().reserved == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(proxy.store.used().reserved > FILE);
        hub.release("both");
    };
    let (one, two, ()) = tokio::join!(ask(0), ask(1), release);
    let mut ends = [one, two];
    ends.sort_unstable();
    assert_eq!(ends, [200, 507]);
    assert_eq!(cached(&proxy).len(), 1);
    // Now the winner is at rest, and makes room for the loser.
    let loser = u64::from(one == 200);
    pull(&proxy, &hub, loser).await;
    assert_eq!(cached(&proxy), [format!("org/m{loser}")]);
    assert_sound(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_fill_left_goes_before_any_image() {
    let hub = hub(3).await;
    let proxy = Proxy::start_with(&hub, limited(2 * FILE + (2 << 20))).await;
    pull(&proxy, &hub, 0).await;
    hub.fault(Fault::cdn("a.bin").then(Effect::Status(410, vec![])));
    assert_eq!(proxy.error("/v2/org/m1/manifests/main").await.status, 502);
    assert_eq!(proxy.staged().len(), 1);
    assert!(proxy.store.used().staging > FILE);
    hub.clear_faults();
    pull(&proxy, &hub, 2).await;
    assert_eq!(cached(&proxy), ["org/m0", "org/m2"]);
    assert_eq!(proxy.staged(), Vec::<String>::new());
    assert_eq!(proxy.store.used().staging, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_limit_holds_from_the_start_on() {
    let hub = hub(2).await;
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start_on_with(&hub, folder.path(), limited(TWO)).await;
    pull(&proxy, &hub, 0).await;
    pull(&proxy, &hub, 1).await;
    proxy.stop().await;
    let proxy = Proxy::start_on_with(&hub, folder.path(), limited(FILE + (1 << 20))).await;
    proxy.store.trim().expect("room");
    assert_eq!(cached(&proxy), ["org/m1"]);
    assert_sound(&proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_others_took_costs_no_image_in_vain() {
    let hub = hub(2).await;
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    pull(&proxy, &hub, 0).await;
    proxy.stop().await;
    // More than any disk has.
    let setup = Setup {
        limits: Limits {
            max_size: None,
            min_free: MinFree::Bytes(1 << 60),
        },
        ..Setup::default()
    };
    let proxy = Proxy::start_on_with(&hub, folder.path(), setup).await;
    proxy.store.trim().expect("a look");
    let error = proxy.error("/v2/org/m1/manifests/main").await;
    assert_eq!(error.status, 507);
    assert!(
        error.message.contains("lower cache.min_free"),
        "{}",
        error.message
    );
    assert_eq!(cached(&proxy), ["org/m0"]);
    hub.reset();
    pull(&proxy, &hub, 0).await;
    assert_eq!(hub.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_nothing_is_evicted() {
    let hub = hub(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    pull(&proxy, &hub, 0).await;
    let blobs = proxy.blobs();
    proxy.stop().await;
    let flags = ["--offline", "--cache-max-size", "1"];
    // It looks at its limits before it stops.
    Server::start(folder.path(), &hub, &flags).stop();
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    assert_eq!(cached(&proxy), ["org/m0"]);
    assert_eq!(proxy.blobs(), blobs);
}

/// A folder with one image, as a crash in mid-eviction leaves it, and the sound folder it should become.
async fn crashed(harm: impl FnOnce(&Path)) {
    let hub = hub(2).await;
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    pull(&proxy, &hub, 0).await;
    let kept = proxy.blobs();
    pull(&proxy, &hub, 1).await;
    proxy.stop().await;
    harm(folder.path());
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    assert_eq!(cached(&proxy), ["org/m0"]);
    let sweep = hf_oci::store::Sweep::GENTLE;
    proxy
        .store
        .collect(&sweep, &mut || true)
        .expect("collected");
    assert_eq!(proxy.blobs(), kept);
    assert_eq!(proxy.staged(), Vec::<String>::new());
    assert_sound(&proxy);
    hub.reset();
    pull(&proxy, &hub, 0).await;
    assert_eq!(hub.bytes(), 0);
    pull(&proxy, &hub, 1).await;
}

/// Takes an image out of index.json, as the first step of its eviction does.
fn forget(root: &Path, name: &str) {
    let place = root.join("index.json");
    let text = fs::read_to_string(&place).expect("text");
    let mut index: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let manifests = index["manifests"].as_array_mut().expect("manifests");
    manifests.retain(|m| !m["annotations"].to_string().contains(name));
    fs::write(place, index.to_string()).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_index_json_leaves_blobs_that_are_collected() {
    crashed(|root| forget(root, "org/m1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_index_leaves_blobs_that_are_collected() {
    crashed(|root| {
        forget(root, "org/m1");
        fs::remove_dir_all(root.join("index")).expect("removed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_blobs_leaves_the_others_to_be_collected() {
    crashed(|root| {
        forget(root, "org/m1");
        let blobs = root.join("blobs/sha256");
        let large = fs::read_dir(&blobs)
            .expect("a folder")
            .map(|e| e.expect("an entry"))
            .filter(|e| e.metadata().expect("a file").len() > FILE)
            .max_by_key(|e| e.metadata().expect("a file").modified().expect("a time"))
            .expect("a layer");
        let aside = format!("staging/evicted-{}", large.file_name().to_string_lossy());
        fs::rename(large.path(), root.join(aside)).expect("moved");
    })
    .await;
}

#[test]
fn what_other_tools_put_there_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    drop(Store::open(root).expect("a store"));
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(root.join("blobs/sha256").join(digest.hex()), bytes).expect("written");
        digest
    };
    let (config, layer, loose) = (put(b"{}"), put(b"a layer"), put(b"nobody's"));
    let manifest = put(serde_json::json!({
        "schemaVersion": 2,
        "config": { "mediaType": "x", "digest": config.to_string(), "size": 2 },
        "layers": [{ "mediaType": "x", "digest": layer.to_string(), "size": 7 }],
    })
    .to_string()
    .as_bytes());
    let entry = serde_json::json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest.to_string(), "size": 1 });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] });
    fs::write(root.join("index.json"), index.to_string()).expect("written");
    let limits = Limits {
        max_size: Some(1),
        ..Limits::default()
    };
    let store = Store::open_with(root, limits).expect("a store");
    store.trim().expect("trimmed");
    let there = |digest: &Digest| root.join("blobs/sha256").join(digest.hex()).exists();
    assert!(there(&config) && there(&layer) && there(&manifest));
    assert!(!there(&loose));
}
