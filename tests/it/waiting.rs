//! Waiting for a cold image: real statuses first, then early headers, and a broken connection if the fill fails.

use std::time::Duration;

use hf_oci::oci::Digest;
use reqwest::Method;

use crate::harness::{Proxy, Setup, demo, header};
use crate::hub::{Effect, Fault};

const MANIFEST: &str = "/v2/org/demo/manifests/main";

fn impatient() -> Setup {
    let mut setup = Setup {
        retries: 0,
        ..Setup::default()
    };
    setup.registry.wait = Duration::from_millis(300);
    setup.registry.drip = Duration::from_millis(20);
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_of_a_slow_image_has_early_headers_and_then_the_whole_document() {
    let hub = demo().await;
    let proxy = Proxy::start_with(&hub, impatient()).await;
    hub.pause();
    let response = proxy.get(MANIFEST).await;
    assert_eq!(response.status(), 200);
    assert_eq!(
        header(&response, "content-type").as_deref(),
        Some("application/vnd.oci.image.index.v1+json")
    );
    assert_eq!(header(&response, "docker-content-digest"), None);
    assert_eq!(header(&response, "content-length"), None);
    tokio::time::sleep(Duration::from_millis(200)).await;
    hub.resume();
    let body = response.bytes().await.expect("a body");
    assert_eq!(Digest::of(&body), proxy.index("org/demo", "main").await.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_a_slow_image_tells_its_type_only() {
    let hub = demo().await;
    let proxy = Proxy::start_with(&hub, impatient()).await;
    hub.pause();
    let response = proxy.send(Method::HEAD, MANIFEST, &[]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(
        header(&response, "content-type").as_deref(),
        Some("application/vnd.oci.image.index.v1+json")
    );
    assert_eq!(header(&response, "docker-content-digest"), None);
    assert_eq!(header(&response, "content-length"), None);
    hub.resume();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_fails_after_the_headers_breaks_the_connection() {
    let hub = demo().await;
    hub.fault(Fault::any("model.onnx").then(Effect::Corrupt(1)));
    let proxy = Proxy::start_with(&hub, impatient()).await;
    hub.pause();
    let response = proxy.get(MANIFEST).await;
    assert_eq!(response.status(), 200);
    hub.resume();
    assert!(
        response.bytes().await.is_err(),
        "the body must not end cleanly"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_there_is_answered_alike_to_get_and_head() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    let (digest, _) = proxy.index("org/demo", "main").await;
    let get = proxy.get(MANIFEST).await;
    let head = proxy.send(Method::HEAD, MANIFEST, &[]).await;
    for name in ["content-type", "content-length", "docker-content-digest"] {
        assert_eq!(header(&get, name), header(&head, name), "{name}");
    }
    assert_eq!(
        header(&head, "docker-content-digest"),
        Some(digest.to_string())
    );
}
