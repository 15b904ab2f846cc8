//! What cannot be served is told clearly, and leaves nothing behind.

use serde_json::json;

use crate::harness::{OciError, Proxy, demo, small};
use crate::hub::{Files, Hub, Repo, World};

/// Asks for what must fail, and holds the proxy to having kept nothing of it.
async fn refused(world: World, path: &str) -> OciError {
    let hub = Hub::start(world).await;
    let proxy = Proxy::start(&hub).await;
    let error = proxy.error(path).await;
    assert!(proxy.staged().is_empty(), "{:?}", proxy.staged());
    assert!(proxy.blobs().is_empty(), "{:?}", proxy.blobs());
    let catalog = proxy
        .get("/v2/_catalog")
        .await
        .text()
        .await
        .expect("a body");
    assert_eq!(catalog, r#"{"repositories":[]}"#);
    error
}

fn model(files: Files) -> World {
    World::new().repo(Repo::model("org/m").commit(files))
}

fn assert_tells(error: &OciError, status: u16, code: &str, words: &[&str]) {
    assert_eq!(
        (error.status, error.code.as_str()),
        (status, code),
        "{}",
        error.message
    );
    for word in words {
        assert!(
            error.message.contains(word),
            "{word:?} is not in {:?}",
            error.message
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_repository() {
    let error = refused(model(small()), "/v2/org/none/manifests/main").await;
    assert_tells(&error, 404, "NAME_UNKNOWN", &["org/none", "private"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_revision_says_what_was_tried_and_what_exists() {
    let error = refused(model(small()), "/v2/org/m/manifests/no--such").await;
    assert_tells(
        &error,
        404,
        "MANIFEST_UNKNOWN",
        &["'no--such'", "'no/such'", "main"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_file_says_what_exists() {
    let error = refused(model(small()), "/v2/org/m/onnx/none/manifests/main").await;
    assert_tells(
        &error,
        404,
        "MANIFEST_UNKNOWN",
        &["'none'", "'/onnx/'", "'model.onnx'"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gated_repository_without_a_token_names_the_page_that_gives_access() {
    let world = World::new().repo(Repo::model("org/m").gated("manual").commit(small()));
    let error = refused(world, "/v2/org/m/manifests/main").await;
    assert_tells(
        &error,
        403,
        "DENIED",
        &["gated", "https://huggingface.co/org/m", "HF_TOKEN"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_paths_are_refused_by_name() {
    for path in [
        "../x",
        "/x",
        ".wh.x",
        "a/../b",
        "sub/.wh..wh..opq",
        "stargz.index.json",
        "a\nb",
    ] {
        let oid = "0".repeat(40);
        let entry = json!({"type": "file", "oid": oid, "size": 1, "path": path});
        let error = refused(model(small().raw(entry)), "/v2/org/m/manifests/main").await;
        assert_tells(&error, 422, "MANIFEST_INVALID", &[&format!("{path:?}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_beside_a_folder_of_its_name_is_refused() {
    let files = Files::new().file("a", "1").file("a/b", "2");
    let error = refused(model(files), "/v2/org/m/manifests/main").await;
    assert_tells(&error, 422, "MANIFEST_INVALID", &["\"a\"", "\"a/b\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_listed_twice_is_refused() {
    let entry = json!({"type": "file", "oid": "0".repeat(40), "size": 1, "path": "config.json"});
    let error = refused(model(small().raw(entry)), "/v2/org/m/manifests/main").await;
    assert_tells(
        &error,
        422,
        "MANIFEST_INVALID",
        &["\"config.json\"", "twice"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_differs_from_the_right_one_in_escapes_only_is_refused_with_the_right_one() {
    let error = refused(model(small()), "/v2/org/0--6d/manifests/main").await;
    assert_tells(&error, 400, "NAME_INVALID", &["'0--6d'", "'m'"]);
    let error = refused(model(small()), "/v2/o--72g/m/manifests/main").await;
    assert_tells(&error, 400, "NAME_INVALID", &["'o--72g'", "'org'"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_over_long_tag_and_a_bad_digest_are_refused() {
    let tag = "x".repeat(129);
    let error = refused(model(small()), &format!("/v2/org/m/manifests/{tag}")).await;
    assert_tells(&error, 400, "TAG_INVALID", &["127"]);
    let error = refused(model(small()), "/v2/org/m/blobs/sha256:xyz").await;
    assert_tells(&error, 400, "DIGEST_INVALID", &["sha256:xyz"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_repository_is_no_image() {
    let error = refused(model(Files::only()), "/v2/org/m/manifests/main").await;
    assert_tells(&error, 404, "MANIFEST_UNKNOWN", &["no files"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_refused_by_the_files_name() {
    use crate::hub::{Effect, Fault};
    let hub = demo().await;
    hub.fault(Fault::any("model.onnx").then(Effect::Corrupt(1234)));
    let proxy = Proxy::start(&hub).await;
    let error = proxy.error("/v2/org/demo/manifests/main").await;
    assert_tells(&error, 502, "UNAVAILABLE", &["onnx/model.onnx", "Org/Demo"]);
    assert!(proxy.staged().is_empty(), "{:?}", proxy.staged());
    assert!(proxy.blobs().is_empty(), "{:?}", proxy.blobs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_is_only_served_under_a_repository_that_has_it() {
    let world = World::new()
        .repo(Repo::model("org/m").commit(small()))
        .repo(Repo::model("org/other").commit(Files::new().file("x", "y")));
    let hub = Hub::start(world).await;
    let proxy = Proxy::start(&hub).await;
    let (digest, _) = proxy.index("org/m", "main").await;
    let (manifest, _) = proxy.manifest("org/m", "main").await;
    proxy.index("org/other", "main").await;
    let error = proxy
        .error(&format!("/v2/org/other/manifests/{digest}"))
        .await;
    assert_tells(&error, 404, "MANIFEST_UNKNOWN", &["org/other"]);
    let layer = manifest.layers[0].digest;
    let error = proxy.error(&format!("/v2/org/other/blobs/{layer}")).await;
    assert_tells(&error, 404, "BLOB_UNKNOWN", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_are_refused() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    for (method, path) in [
        ("POST", "/v2/org/demo/blobs/uploads/"),
        ("PUT", "/v2/org/demo/manifests/main"),
        ("DELETE", "/v2/org/demo/manifests/main"),
        ("PATCH", "/v2/org/demo/blobs/uploads/1"),
    ] {
        let method = method.parse().expect("a method");
        let response = proxy.send(method, path, &[]).await;
        assert_eq!(response.status(), 405, "{path}");
    }
}
