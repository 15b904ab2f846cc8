//! Promise: rules say which files the images of some repositories hold, how they are cut, kept and filled ahead; what a rule does not
//! change has the digests that it has without it.

use std::sync::Arc;
use std::time::Duration;

use hf_oci::fill::{Outcome, Prefetch, Rule, Rules};
use hf_oci::image::{Filter, ImageName, Layout};
use hf_oci::repo::RepoId;
use hf_oci::store::Order;

use crate::binary::Server;
use crate::harness::{Proxy, Setup, demo, small, wanted};
use crate::hub::{Effect, Fault, Files, Hub, Repo, World};

fn rule(globs: &[&str]) -> Rule {
    let globs = globs.iter().map(|glob| glob.parse().expect("a pattern"));
    Rule {
        matches: globs.collect(),
        ..Rule::default()
    }
}

fn filter(include: &[&str], exclude: &[&str]) -> Option<Arc<Filter>> {
    let patterns = |texts: &[&str]| {
        let parsed = texts.iter().map(|text| text.parse().expect("a pattern"));
        parsed.collect::<Vec<_>>()
    };
    let filter = Filter::new(patterns(include), patterns(exclude));
    Some(Arc::new(filter.expect("few patterns")))
}

/// A rule for `org/*` with a filter.
fn filtered(include: &[&str], exclude: &[&str]) -> Rule {
    Rule {
        filter: filter(include, exclude),
        ..rule(&["org/*"])
    }
}

fn ruled(rules: impl Into<Vec<Rule>>) -> Setup {
    let mut setup = Setup {
        retries: 0,
        ..Setup::default()
    };
    setup.fill.rules = Arc::new(Rules(rules.into()));
    setup.fill.tag_ttl = Duration::ZERO;
    setup
}

fn name(text: &str) -> ImageName {
    ImageName::parse(text).expect("a name")
}

fn repo() -> RepoId {
    name("org/demo").repo().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_holds_what_the_rule_leaves_and_tells_what_it_left_out() {
    let hub = demo().await;
    let rules = [filtered(&["*.json", "*.md", "onnx/**"], &["*.onnx"])];
    let proxy = Proxy::start_with(&hub, ruled(rules)).await;
    hub.reset();
    let files = proxy.files("org/demo", "main").await;
    assert_eq!(
        files.keys().collect::<Vec<_>>(),
        ["README.md", "config.json"]
    );
    assert!(hub.bytes() < 1000, "{}", hub.bytes());
    let (_, index) = proxy.index("org/demo", "main").await;
    let told: Vec<(&str, &str)> = index
        .annotations
        .iter()
        .filter(|(key, _)| key.starts_with("io.hf-oci."))
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("io.hf-oci.exclude", "*.onnx"),
            ("io.hf-oci.excluded-bytes", "14000006"),
            ("io.hf-oci.excluded-files", "4"),
            ("io.hf-oci.include", "*.json, *.md, onnx/**"),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_leaves_nothing_out_changes_no_digest() {
    let hub = demo().await;
    let plain = Proxy::start(&hub).await;
    let (digest, _) = plain.index("org/demo", "main").await;
    for rules in [
        vec![filtered(&[], &["*.pt"])],
        vec![filtered(&["**"], &[])],
        vec![Rule {
            pin: true,
            ttl: Some(Duration::from_secs(9)),
            ..rule(&["**"])
        }],
        vec![Rule {
            layout: Some(Layout::Single),
            ..rule(&["other/*"])
        }],
    ] {
        let proxy = Proxy::start_with(&hub, ruled(rules)).await;
        assert_eq!(proxy.index("org/demo", "main").await.0, digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_rule_that_is_for_a_repository_counts() {
    let hub = demo().await;
    let rules = [
        filtered(&["README.md"], &[]),
        Rule {
            filter: filter(&["config.json"], &[]),
            ..rule(&["org/demo"])
        },
    ];
    let proxy = Proxy::start_with(&hub, ruled(rules)).await;
    let files = proxy.files("org/demo", "main").await;
    assert_eq!(files.keys().collect::<Vec<_>>(), ["README.md"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_cut_otherwise() {
    let hub = demo().await;
    let rules = [Rule {
        layout: Some(Layout::Single),
        ..rule(&["org/*"])
    }];
    let proxy = Proxy::start_with(&hub, ruled(rules)).await;
    proxy.index("org/demo", "main").await;
    let known = proxy
        .store
        .reference(&name("org/demo"), &"main".parse().expect("a tag"));
    assert_eq!(known.map(|known| known.layout), Some(Layout::Single));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_leaves_nothing_of_is_a_404_that_names_it() {
    let hub = demo().await;
    let proxy = Proxy::start_with(&hub, ruled([filtered(&[], &["onnx/**", "*.md"])])).await;
    for path in ["onnx", "onnx/model.onnx", "readme.md"] {
        let error = proxy
            .error(&format!("/v2/org/demo/{path}/manifests/main"))
            .await;
        assert_eq!(
            (error.status, error.code.as_str()),
            (404, "MANIFEST_UNKNOWN")
        );
        for part in [
            "leaves nothing of",
            "exclude onnx/**, *.md",
            "the rule is that of org/*",
        ] {
            assert!(error.message.contains(part), "{}", error.message);
        }
    }
    let nothing = Proxy::start_with(&hub, ruled([filtered(&["*.gguf"], &[])])).await;
    let error = nothing.error("/v2/org/demo/manifests/main").await;
    assert_eq!(error.status, 404);
    assert!(
        error.message.contains("include *.gguf"),
        "{}",
        error.message
    );
    assert!(nothing.staged().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_rule_gives_another_image_after_a_restart_and_the_first_one_is_not_lost() {
    let hub = demo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut digests = Vec::new();
    let rules = [
        vec![],
        vec![filtered(&["*.md"], &[])],
        vec![filtered(&["*.json"], &[])],
        vec![],
    ];
    for rules in rules {
        let proxy = Proxy::start_on_with(&hub, folder.path(), ruled(rules)).await;
        digests.push(proxy.index("org/demo", "main").await.0);
        // Each of them is still there by its digest, and after the index is made anew.
        for digest in &digests {
            let answer = proxy.get(&format!("/v2/org/demo/manifests/{digest}")).await;
            assert_eq!(answer.status(), 200);
        }
        proxy.stop().await;
        std::fs::remove_dir_all(folder.path().join("index")).expect("removed");
    }
    assert_eq!(digests[0], digests[3]);
    assert_ne!(digests[1], digests[2]);
    let commit = hub.sha("Org/Demo", "main");
    let proxy = Proxy::start_on_with(&hub, folder.path(), ruled([])).await;
    let tags = proxy.store.known_tags(&repo());
    assert_eq!(tags.len(), 4, "{tags:?}");
    assert!(tags.contains(&commit), "{tags:?}");
    hub.reset();
    assert!(proxy.files("org/demo", "main").await == wanted(&hub, "Org/Demo", "main"));
    assert_eq!(hub.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_hub_down_the_last_known_image_is_served_though_the_rule_changed() {
    let hub = demo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start_on_with(&hub, folder.path(), ruled([filtered(&["*.md"], &[])])).await;
    let (digest, _) = proxy.index("org/demo", "main").await;
    proxy.stop().await;
    hub.stop();
    let proxy = Proxy::start_on_with(&hub, folder.path(), ruled([])).await;
    assert_eq!(proxy.index("org/demo", "main").await.0, digest);
    assert_eq!(proxy.images.outcomes().of(Outcome::Stale), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_pins_is_pinned_when_it_is_filled() {
    let hub = demo().await;
    let rules = [Rule {
        pin: true,
        ..rule(&["org/demo"])
    }];
    let proxy = Proxy::start_with(&hub, ruled(rules)).await;
    proxy.index("org/demo", "main").await;
    let pinned = |tag: &str| {
        let tag = tag.parse().expect("a tag");
        proxy
            .store
            .reference(&name("org/demo"), &tag)
            .map(|r| r.pinned)
    };
    assert_eq!(pinned("main"), Some(true));
    // It stays with the tag; what the tag meant before may go.
    let before = hub.sha("Org/Demo", "main");
    hub.commit("Org/Demo", "main", Files::new().file("README.md", "new"));
    proxy.index("org/demo", "main").await;
    assert_eq!((pinned("main"), pinned(&before)), (Some(true), Some(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_believed_for_the_rules_time() {
    let hub = demo().await;
    let rules = [Rule {
        ttl: Some(Duration::from_secs(3600)),
        ..rule(&["org/demo"])
    }];
    let proxy = Proxy::start_with(&hub, ruled(rules)).await;
    let (before, _) = proxy.index("org/demo", "main").await;
    hub.commit("Org/Demo", "main", Files::new().file("README.md", "new"));
    hub.reset();
    assert_eq!(proxy.index("org/demo", "main").await.0, before);
    assert!(hub.records().is_empty(), "{:?}", hub.records());
}

/// A rule that prefetches references of `org/*`.
fn prefetching(wanted: &[(&str, &str)], every: Option<Duration>) -> Rule {
    let wanted = wanted
        .iter()
        .map(|(n, tag)| (name(n), tag.parse().expect("a tag")));
    Rule {
        prefetch: wanted.collect(),
        every,
        // Long: only prefetching asks again.
        ttl: Some(Duration::from_secs(3600)),
        ..rule(&["org/*"])
    }
}

/// Waits until a tag of `org/demo` means a commit.
async fn until_noted(proxy: &Proxy, tag: &str, commit: &str) {
    let tag = tag.parse().expect("a tag");
    let noted = async {
        loop {
            let known = proxy.store.reference(&name("org/demo"), &tag);
            if known.is_some_and(|known| known.commit.to_string() == commit) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let noted = tokio::time::timeout(Duration::from_secs(60), noted).await;
    noted.unwrap_or_else(|_| panic!("{tag:?} does not mean {commit}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_prefetches_is_there_before_anybody_asks() {
    let hub = demo().await;
    let commit = hub.sha("Org/Demo", "main");
    let wanted = [
        ("org/nowhere", "main"),
        ("org/demo", "none"),
        ("org/demo", "main"),
    ];
    let proxy = Proxy::start_with(&hub, ruled([prefetching(&wanted, None)])).await;
    let prefetch = Prefetch::start(Arc::clone(&proxy.images)).expect("something to do");
    // What cannot be had before it does not keep it from being had.
    until_noted(&proxy, "main", &commit).await;
    hub.reset();
    assert_eq!(proxy.files("org/demo", "main").await.len(), 6);
    assert!(hub.records().is_empty(), "{:?}", hub.records());
    prefetch.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_prefetched_again_and_a_failure_is_tried_again() {
    let hub = demo().await;
    let every = Some(Duration::from_millis(400));
    let rules = [prefetching(&[("org/demo", "main")], every)];
    let proxy = Proxy::start_with(&hub, ruled(rules)).await;
    hub.fault(
        Fault::any("config.json")
            .first(2)
            .then(Effect::Status(500, Vec::new())),
    );
    let prefetch = Prefetch::start(Arc::clone(&proxy.images)).expect("something to do");
    until_noted(&proxy, "main", &hub.sha("Org/Demo", "main")).await;
    assert!(hub.fault_hits() > 0);
    // Though the tag is believed for an hour.
    let after = hub.commit("Org/Demo", "main", Files::new().file("README.md", "new"));
    until_noted(&proxy, "main", &after).await;
    prefetch.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetching_waits_while_clients_fill_all_turns_have() {
    let world = World::new()
        .repo(Repo::model("Org/Demo").commit(small()))
        .repo(Repo::model("org/other").commit(small()));
    let hub = Hub::start(world).await;
    let mut setup = ruled([prefetching(&[("org/demo", "main")], None)]);
    setup.fill.concurrent = 1;
    let proxy = Proxy::start_with(&hub, setup).await;
    hub.pause();
    let (own, other) = (proxy.images.own(), name("org/other"));
    let tag = "main".parse().expect("a tag");
    let found = proxy.images.find(&own, &other, &tag).await.expect("found");
    hub.wait_until(|hub| hub.count("cdn") > 0).await;
    let prefetch = Prefetch::start(Arc::clone(&proxy.images)).expect("something to do");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(proxy.images.fills().len(), 1);
    hub.resume();
    until_noted(&proxy, "main", &hub.sha("Org/Demo", "main")).await;
    drop(found);
    prefetch.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_the_settings_no_longer_mean_is_not_gone_on_with() {
    let hub = demo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let proxy = Proxy::start_on_with(&hub, folder.path(), ruled([filtered(&["*.md"], &[])])).await;
    proxy.index("org/demo", "main").await;
    let known = proxy
        .store
        .reference(&name("org/demo"), &"main".parse().expect("a tag"));
    let key = known.and_then(|known| known.key()).expect("a key");
    let order = Order {
        key,
        repo: repo(),
        tag: "main".parse().expect("a tag"),
        recipes: Vec::new(),
    };
    proxy.store.put_order(&order).expect("written");
    proxy.stop().await;
    let proxy = Proxy::start_on_with(&hub, folder.path(), ruled([])).await;
    assert_eq!(proxy.store.orders().expect("read"), [order]);
    assert_eq!(proxy.images.resume().await.expect("read"), 0);
    assert_eq!(proxy.store.orders().expect("read"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_takes_its_rules_from_the_file() {
    let hub = demo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("hf-oci.toml");
    let rules = "[[repositories]]\nmatch = \"org/demo\"\nexclude = [\"*.onnx\", \"*.safetensors\"]\npin = true\nprefetch = [\":main\"]\n";
    std::fs::write(&config, rules).expect("written");
    let data = folder.path().join("data");
    let path = config.display().to_string();
    let server = Server::start(&data, &hub, &["--config", &path]);
    let index = data.join("index.json");
    let pinned = async {
        loop {
            let text = std::fs::read_to_string(&index).unwrap_or_default();
            if text.contains("org/demo:main") && text.contains("io.hf-oci.pinned") {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let text = tokio::time::timeout(Duration::from_secs(60), pinned)
        .await
        .expect("pinned");
    assert!(text.contains("io.hf-oci.selection"), "{text}");
    server.stop();
}
