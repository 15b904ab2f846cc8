//! Promise: a server that is offline answers with what it has, says what it has not, and sends no packet to the upstream.

use std::path::Path;
use std::time::Duration;

use hf_oci::fill::Outcome;

use crate::harness::{Proxy, Setup, demo, wanted};
use crate::hub::Hub;

/// A data folder with `Org/Demo:main` and one folder of it, pulled while online.
async fn pulled(hub: &Hub) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start_on(hub, folder.path()).await;
    proxy.index("org/demo", "main").await;
    proxy.index("org/demo/onnx", "main").await;
    proxy.stop().await;
    hub.reset();
    folder
}

async fn offline(hub: &Hub, folder: &Path) -> Proxy {
    let mut setup = Setup {
        offline: true,
        ..Setup::default()
    };
    setup.fill.tag_ttl = Duration::ZERO;
    Proxy::start_on_with(hub, folder, setup).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_tags_and_commits_are_served_and_nobody_is_asked() {
    let hub = demo().await;
    let folder = pulled(&hub).await;
    let proxy = offline(&hub, folder.path()).await;
    let (files, sha) = (
        wanted(&hub, "Org/Demo", "main"),
        hub.sha("Org/Demo", "main"),
    );
    assert!(proxy.files("org/demo", "main").await == files);
    assert!(proxy.files("org/demo", &sha).await == files);
    assert!(proxy.files("org/demo", &sha[..9]).await == files);
    assert_eq!(proxy.files("org/demo/onnx", "main").await.len(), 1);
    let tags = proxy.get("/v2/org/demo/tags/list").await;
    let tags = tags.bytes().await.expect("a body");
    let tags: serde_json::Value = serde_json::from_slice(&tags).expect("JSON");
    assert_eq!(tags["tags"], serde_json::json!(["main"]));
    let outcomes = proxy.images.outcomes();
    assert_eq!(
        (outcomes.of(Outcome::Hit), outcomes.of(Outcome::Stale)),
        (1, 3)
    );
    assert!(hub.records().is_empty(), "{:?}", hub.records());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_is_a_404_with_the_reason() {
    let hub = demo().await;
    let folder = pulled(&hub).await;
    let proxy = offline(&hub, folder.path()).await;
    let sha = hub.sha("Org/Demo", "main");
    for (reference, known) in [
        ("org/demo/manifests/latest", "it has main"),
        ("org/demo/manifests/v1", "it has main"),
        ("org/demo/manifests/0123456789", "it has main"),
        ("org/demo/config.json/manifests/main", "it has main"),
        (
            &format!("org/demo/config.json/manifests/{sha}"),
            "it has main",
        ),
        ("org/other/manifests/main", "nothing of org/other is here"),
    ] {
        let error = proxy.error(&format!("/v2/{reference}")).await;
        assert_eq!(
            (error.status, error.code.as_str()),
            (404, "MANIFEST_UNKNOWN"),
            "{reference}"
        );
        for part in [
            "the server is offline and does not have",
            "pull it while online",
            known,
        ] {
            assert!(
                error.message.contains(part),
                "{reference}: {}",
                error.message
            );
        }
    }
    let error = proxy.error("/v2/org/other/tags/list").await;
    assert_eq!((error.status, error.code.as_str()), (404, "NAME_UNKNOWN"));
    assert!(error.message.contains("offline"), "{}", error.message);
    assert!(hub.records().is_empty(), "{:?}", hub.records());
    assert!(proxy.staged().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn online_again_it_goes_on_as_before() {
    let hub = demo().await;
    let folder = pulled(&hub).await;
    let proxy = offline(&hub, folder.path()).await;
    proxy.error("/v2/org/demo/manifests/latest").await;
    proxy.stop().await;
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    assert!(proxy.files("org/demo", "latest").await == wanted(&hub, "Org/Demo", "main"));
}
