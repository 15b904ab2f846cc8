//! Repositories that the Hub calls otherwise than they are asked for, and tags that share one image.

use std::time::Duration;

use crate::harness::{Proxy, Setup, demo, small, wanted};
use crate::hub::{Hub, Repo, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_repository_is_pulled_by_its_old_name() {
    let world = World::new()
        .repo(Repo::model("openai-community/gpt2").commit(small()))
        .renamed("models/gpt2", "models/openai-community/gpt2");
    let hub = Hub::start(world).await;
    let proxy = Proxy::start(&hub).await;
    let files = proxy.files("gpt2", "main").await;
    assert!(files == wanted(&hub, "openai-community/gpt2", "main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tag_that_shared_a_fill_is_known_when_the_hub_is_down() {
    let hub = demo().await;
    let mut setup = Setup {
        retries: 0,
        ..Setup::default()
    };
    setup.fill.tag_ttl = Duration::ZERO;
    setup.fill.revalidate = Duration::from_secs(1);
    let proxy = Proxy::start_with(&hub, setup).await;
    hub.pause();
    let resume = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        hub.resume();
    };
    tokio::join!(
        proxy.index("org/demo", "main"),
        proxy.index("org/demo", "latest"),
        resume
    );
    hub.stop();
    let main = proxy.index("org/demo", "main").await;
    let latest = proxy.index("org/demo", "latest").await;
    assert_eq!(main.0, latest.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_noted_once_however_its_beginning_is_spelled() {
    let hub = demo().await;
    let proxy = Proxy::start(&hub).await;
    let sha = hub.sha("Org/Demo", "main");
    for tag in [&sha[..8], &sha[..12], &sha[..20].to_uppercase(), &sha] {
        proxy.index("org/demo", tag).await;
    }
    let text = std::fs::read_to_string(proxy.data().join("index.json")).expect("text");
    assert_eq!(
        text.matches("org.opencontainers.image.ref.name").count(),
        1,
        "{text}"
    );
}
