//! How long a tag is believed, and what stands in when the Hub does not answer.

use std::time::Duration;

use hf_oci::fill::Outcome;

use crate::harness::{Proxy, Setup, demo, wanted};
use crate::hub::{Files, Hub};

fn ttl(tag_ttl: Duration) -> Setup {
    let mut setup = Setup {
        retries: 0,
        ..Setup::default()
    };
    setup.fill.tag_ttl = tag_ttl;
    setup.fill.revalidate = Duration::from_secs(1);
    setup
}

async fn revision(proxy: &Proxy, tag: &str) -> String {
    let (_, index) = proxy.index("org/demo", tag).await;
    index.annotations["org.opencontainers.image.revision"].clone()
}

fn move_main(hub: &Hub) -> String {
    hub.commit("Org/Demo", "main", Files::new().file("README.md", "new"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_believed_for_its_time_and_then_asked_for_again() {
    let hub = demo().await;
    let proxy = Proxy::start_with(&hub, ttl(Duration::from_secs(1))).await;
    let before = revision(&proxy, "main").await;
    let after = move_main(&hub);
    assert_eq!(revision(&proxy, "main").await, before);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(revision(&proxy, "main").await, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_within_its_time_and_a_commit_at_any_time_ask_nobody() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    let commit = revision(&proxy, "main").await;
    hub.reset();
    revision(&proxy, "main").await;
    revision(&proxy, &commit).await;
    assert_eq!(hub.records().len(), 0, "{:?}", hub.records());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_known_image_is_served_when_the_hub_is_down() {
    let hub = demo().await;
    let proxy = Proxy::start_with(&hub, ttl(Duration::ZERO)).await;
    let before = revision(&proxy, "main").await;
    hub.stop();
    assert_eq!(revision(&proxy, "main").await, before);
    assert_eq!(proxy.images.outcomes().of(Outcome::Stale), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_known_image_is_served_after_a_restart_with_the_hub_down() {
    let hub = demo().await;
    let files = wanted(&hub, "Org/Demo", "main");
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    proxy.index("org/demo", "main").await;
    proxy.stop().await;
    hub.stop();
    let proxy = Proxy::start_on(&hub, folder.path()).await;
    assert!(proxy.files("org/demo", "main").await == files);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_hub_down_an_image_that_was_never_here_is_a_bad_gateway() {
    let hub = demo().await;
    let proxy = Proxy::start_with(&hub, ttl(Duration::ZERO)).await;
    hub.stop();
    let error = proxy.error("/v2/org/demo/manifests/main").await;
    assert_eq!(error.status, 502, "{}", error.message);
}
