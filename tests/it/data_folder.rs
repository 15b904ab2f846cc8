//! The data folder is the truth: its index can go at any time, and it is a standard OCI layout.

use std::fs;

use crate::harness::{Proxy, demo, wanted};

#[tokio::test(flavor = "multi_thread")]
async fn without_its_index_everything_is_served_without_asking_for_a_byte() {
    let hub = demo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    let (digest, _) = proxy.index("org/demo", "main").await;
    proxy.stop().await;
    fs::remove_dir_all(folder.path().join("index")).expect("removed");
    hub.reset();
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    assert_eq!(proxy.index("org/demo", "main").await.0, digest);
    assert!(proxy.files("org/demo", "main").await == wanted(&hub, "Org/Demo", "main"));
    assert_eq!(hub.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_is_an_oci_layout_whose_index_names_the_image() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    let (digest, _) = proxy.index("org/demo", "main").await;
    let read = |name: &str| -> serde_json::Value {
        let text = fs::read_to_string(proxy.data().join(name)).expect(name);
        serde_json::from_str(&text).expect("JSON")
    };
    assert_eq!(read("oci-layout")["imageLayoutVersion"], "1.0.0");
    let entry = &read("index.json")["manifests"][0];
    assert_eq!(entry["digest"], digest.to_string());
    let note = &entry["annotations"];
    assert_eq!(note["org.opencontainers.image.ref.name"], "org/demo:main");
    assert_eq!(note["io.hf-oci.commit"], hub.sha("Org/Demo", "main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_layer_is_filled_again() {
    let hub = demo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    let (manifest, _) = proxy.manifest("org/demo", "main").await;
    let blob = folder
        .path()
        .join("blobs/sha256")
        .join(manifest.layers[0].digest.hex());
    fs::remove_file(blob).expect("removed");
    assert!(proxy.files("org/demo", "main").await == wanted(&hub, "Org/Demo", "main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_waits_for_a_command_that_has_the_folder_for_a_moment() {
    let hub = demo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let command = hf_oci::store::Store::open(folder.path()).expect("a store");
    let done = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        drop(command);
    });
    let server = crate::binary::Server::start(folder.path(), &hub, &[]);
    done.join().expect("done");
    server.stop();
}
