//! Promise: what is on this machine already becomes the same layers as from the Hub; of several upstreams the first that has a repository
//! answers; and no name, token or content goes where it does not belong.

mod doubts;
mod serving;

use std::fs;
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hf_oci::auth::{Glob, Mode, Rules};
use hf_oci::fill::FillSettings;
use hf_oci::hub::{
    Access, ByteStream, Chain, ContentIds, Credentials, HubClient, HubSettings, Link, Local,
    LocalKind, Offline, Refs, RemoteFile, Resolved, Token, Upstream, UpstreamError,
};
use hf_oci::oci::Digest;
use hf_oci::repo::{Commit, RepoId, Snapshot};

use crate::binary::started;
use crate::harness::{OciError, Proxy, Setup, http, small, wanted};
use crate::hub::{Files, Hub, Repo, World};
use crate::logins::{ask, basic, gate};

/// A tag is asked about at each request.
fn fresh() -> Setup {
    Setup {
        fill: FillSettings {
            tag_ttl: Duration::ZERO,
            ..FillSettings::default()
        },
        retries: 0,
        ..Setup::default()
    }
}

fn local(path: &Path, private: bool) -> Local {
    let (kind, _) = LocalKind::of(path).expect("a folder");
    let ids = ContentIds::new(path.with_extension("content-ids"));
    let denied = Arc::new(|_: &RepoId| false);
    Local::new(path.to_owned(), kind, private, Arc::new(ids), denied)
}

fn write(path: PathBuf, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    fs::write(path, bytes).expect("written");
}

/// Puts what the Hub has of a repository into a folder.
fn copy(hub: &Hub, repo: &str, to: &Path) {
    for (path, bytes) in wanted(hub, repo, "main") {
        write(to.join(path), &bytes);
    }
}

/// Puts some files of a commit into a cache, as the Hub's client does.
fn cache(hub: &Hub, repo: &str, folder: &Path, only: &[&str]) {
    let commit = hub.at(repo, "main");
    let sha = hub.sha(repo, "main");
    write(folder.join("refs/main"), sha.as_bytes());
    for (path, entry) in &commit.files {
        if !only.is_empty() && !only.contains(&path.as_str()) {
            continue;
        }
        let content = &entry.content;
        let name = match entry.lfs {
            true => content.sha256(),
            false => content.blob_id(),
        };
        write(folder.join("blobs").join(name), &content.to_bytes());
        let link = folder.join("snapshots").join(&sha).join(path);
        fs::create_dir_all(link.parent().expect("a folder")).expect("folders");
        let up = "../".repeat(path.split('/').count() + 1);
        symlink(format!("{up}blobs/{name}"), link).expect("a link");
    }
}

/// The digests of an image's layers.
async fn layers(proxy: &Proxy, name: &str, tag: &str) -> Vec<Digest> {
    let (manifest, _) = proxy.manifest(name, tag).await;
    manifest.layers.iter().map(|layer| layer.digest).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_gives_the_layers_that_the_hub_gives() {
    let data = Files::new().pattern("train/0.parquet", 5_000_000, 3);
    let world = World::new().repo(Repo::model("Org/Demo").commit(small()));
    let hub = Hub::start(world.repo(Repo::dataset("org/data").commit(data))).await;
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("top");
    copy(&hub, "Org/Demo", &top.join("Org/Demo"));
    copy(&hub, "datasets/org/data", &top.join("datasets/org/data"));
    let online = Proxy::start(&hub).await;
    let proxy = Proxy::start_over(local(&top, false), &scratch.path().join("data"), fresh()).await;
    for name in ["org/demo", "datasets/org/data"] {
        let same = layers(&online, name, "main").await;
        for tag in ["main", "latest"] {
            assert_eq!(layers(&proxy, name, tag).await, same, "{name}:{tag}");
        }
    }
    assert_eq!(
        proxy.files("org/demo", "main").await,
        wanted(&hub, "Org/Demo", "main")
    );
    let missing = proxy.error("/v2/org/none/manifests/main").await;
    assert_eq!((missing.status, &*missing.code), (404, "NAME_UNKNOWN"));
    let missing = proxy.error("/v2/org/demo/manifests/v1").await;
    assert_eq!((missing.status, &*missing.code), (404, "MANIFEST_UNKNOWN"));
    assert!(missing.message.contains("main"), "{}", missing.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_another_image_and_the_old_one_stays_under_its_commit() {
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("top");
    write(top.join("org/m/a.txt"), b"one");
    let proxy = Proxy::start_over(local(&top, false), &scratch.path().join("data"), fresh()).await;
    let (first, _) = proxy.index("org/m", "main").await;
    let (manifest, _) = proxy.manifest("org/m", "main").await;
    let commit = &manifest.annotations["org.opencontainers.image.revision"];
    write(top.join("org/m/a.txt"), b"two");
    let (second, _) = proxy.index("org/m", "main").await;
    assert_ne!(first, second);
    assert_eq!(proxy.files("org/m", "main").await["a.txt"], b"two");
    assert_eq!(proxy.index("org/m", commit).await.0, first);
    write(top.join("org/m/a.txt"), b"one");
    assert_eq!(proxy.index("org/m", "main").await.0, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_gives_the_layers_that_the_hub_gives() {
    let world = World::new().repo(Repo::model("Org/Demo").commit(small()).branch("v1"));
    let hub = Hub::start(world).await;
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("hub");
    cache(&hub, "Org/Demo", &top.join("models--Org--Demo"), &[]);
    let online = Proxy::start(&hub).await;
    let same = layers(&online, "org/demo", "main").await;
    let proxy = Proxy::start_over(local(&top, false), &scratch.path().join("data"), fresh()).await;
    let sha = hub.sha("Org/Demo", "main");
    for tag in ["main", "latest", &sha, &sha[..10]] {
        assert_eq!(layers(&proxy, "org/demo", tag).await, same, "{tag}");
    }
    assert_eq!(
        proxy.files("org/demo", "main").await,
        wanted(&hub, "Org/Demo", "main")
    );
    let tags = proxy
        .get("/v2/org/demo/tags/list")
        .await
        .text()
        .await
        .expect("text");
    assert!(tags.contains(r#""tags":["main"]"#), "{tags}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_commit_is_never_taken_for_the_commit() {
    let hub = crate::harness::demo().await;
    let scratch = tempfile::tempdir().expect("a folder");
    let (top, data) = (scratch.path().join("hub"), scratch.path().join("data"));
    cache(
        &hub,
        "Org/Demo",
        &top.join("models--Org--Demo"),
        &["config.json"],
    );
    let sha = hub.sha("Org/Demo", "main");
    let proxy = Proxy::start_over(local(&top, false), &data, fresh()).await;
    for tag in ["main", &sha] {
        let files = proxy.files("org/demo", tag).await;
        assert_eq!(
            files.into_keys().collect::<Vec<_>>(),
            ["config.json"],
            "{tag}"
        );
    }
    // More of it is downloaded: the commit by its name means that now.
    cache(
        &hub,
        "Org/Demo",
        &top.join("models--Org--Demo"),
        &["README.md"],
    );
    assert_eq!(proxy.files("org/demo", &sha).await.len(), 2);
    proxy.stop().await;
    // The same data folder, now with the Hub.
    let online = Proxy::start_on_with(&hub, &data, fresh()).await;
    for tag in ["main", &sha] {
        assert_eq!(
            online.files("org/demo", tag).await,
            wanted(&hub, "Org/Demo", "main"),
            "{tag}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_what_the_cache_calls_them_are_published_nowhere() {
    let hub = crate::harness::demo().await;
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("hub");
    let folder = top.join("models--Org--Demo");
    cache(&hub, "Org/Demo", &folder, &[]);
    let content = hub.content("Org/Demo", "main", "config.json");
    let blob = folder.join("blobs").join(content.blob_id());
    let mut bytes = fs::read(&blob).expect("a blob");
    bytes[3] ^= 1;
    fs::write(&blob, bytes).expect("written");
    let proxy = Proxy::start_over(local(&top, false), &scratch.path().join("data"), fresh()).await;
    let told = proxy.error("/v2/org/demo/manifests/main").await;
    assert_eq!(told.status, 502);
    assert!(told.message.contains("config.json"), "{}", told.message);
    assert!(proxy.blobs().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_out_of_a_folder_is_an_error_that_names_it() {
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("top");
    write(top.join("org/m/a.txt"), b"one");
    symlink("/etc/passwd", top.join("org/m/passwd")).expect("a link");
    let proxy = Proxy::start_over(local(&top, false), &scratch.path().join("data"), fresh()).await;
    let told = proxy.error("/v2/org/m/manifests/main").await;
    assert_eq!((told.status, &*told.code), (422, "MANIFEST_INVALID"));
    assert!(told.message.contains("\"passwd\""), "{}", told.message);
}

/// A client of a simulator.
fn client(hub: &Hub, token: Option<&str>) -> Arc<HubClient> {
    let client = HubClient::new(HubSettings {
        endpoint: hub.url().parse().expect("an endpoint"),
        token: token.map(|token| Token::new(token).expect("a token")),
        retries: 0,
        ..HubSettings::default()
    });
    Arc::new(client.expect("a client"))
}

/// A link for what `pattern` stands for.
fn link<T: Upstream + Credentials>(upstream: Arc<T>, is_hub: bool, pattern: &str) -> Link {
    let rules = Rules {
        allow: vec![pattern.parse::<Glob>().expect("a pattern")],
        deny: Vec::new(),
    };
    Link {
        own: upstream.clone(),
        credentials: upstream,
        serves: Arc::new(move |repo| rules.check(repo).is_ok()),
        is_hub,
    }
}

fn model(id: &str, text: &str) -> Repo {
    Repo::model(id).commit(Files::only().file("which.txt", text))
}

async fn which(proxy: &Proxy, name: &str) -> String {
    let files = proxy.files(name, "main").await;
    String::from_utf8(files["which.txt"].clone()).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_upstream_that_has_a_repository_answers() {
    let first = World::new()
        .repo(model("org/both", "first"))
        .repo(model("org/one", "first"));
    let first = Hub::start(first).await;
    let second = World::new()
        .repo(model("org/both", "second"))
        .repo(model("org/two", "second"));
    let second = Hub::start(second).await;
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("top");
    for name in ["org/both", "org/two", "org/three"] {
        write(top.join(name).join("which.txt"), b"folder");
    }
    let chain = Chain::new(
        vec![
            link(client(&first, None), true, "**"),
            link(client(&second, None), true, "**"),
            link(Arc::new(local(&top, false)), false, "**"),
        ],
        false,
    );
    let proxy = Proxy::start_over(chain, &scratch.path().join("data"), fresh()).await;
    for (name, from) in [
        ("org/both", "first"),
        ("org/one", "first"),
        ("org/two", "second"),
        ("org/three", "folder"),
    ] {
        assert_eq!(which(&proxy, name).await, from, "{name}");
        let tags = proxy.get(&format!("/v2/{name}/tags/list")).await;
        assert_eq!(tags.status(), 200, "{name}");
    }
    assert_eq!(proxy.error("/v2/org/none/manifests/main").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_answer_is_stood_in_for_by_no_other() {
    let first = Hub::start(World::new().repo(model("org/m", "first"))).await;
    let second = Hub::start(World::new().repo(model("org/m", "second"))).await;
    let scratch = tempfile::tempdir().expect("a folder");
    let chain = Chain::new(
        vec![
            link(client(&first, None), true, "**"),
            link(client(&second, None), true, "**"),
        ],
        false,
    );
    first.stop();
    let proxy = Proxy::start_over(chain, scratch.path(), fresh()).await;
    let told = proxy.error("/v2/org/m/manifests/main").await;
    assert_eq!(told.status, 502, "{}", told.message);
    assert!(second.records().is_empty(), "the name was told");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_tokens_go_only_where_they_are_meant_to_go() {
    let first = World::new().repo(model("own/m", "first").private().allow("hf_first"));
    let first = Hub::start(first).await;
    let second = World::new()
        .repo(model("org/m", "second"))
        .user("hf_second", "somebody");
    let second = Hub::start(second).await;
    let scratch = tempfile::tempdir().expect("a folder");
    let chain = Chain::new(
        vec![
            link(client(&first, Some("hf_first")), true, "own/*"),
            link(client(&second, Some("hf_second")), true, "org/*"),
        ],
        false,
    );
    let proxy = Proxy::start_over(chain, scratch.path(), fresh()).await;
    assert_eq!(which(&proxy, "own/m").await, "first");
    assert_eq!(which(&proxy, "org/m").await, "second");
    assert_eq!(proxy.error("/v2/own/none/manifests/main").await.status, 404);
    assert_eq!(proxy.error("/v2/else/m/manifests/main").await.status, 404);
    for (hub, other, token) in [
        (&first, "/org/", "hf_second"),
        (&second, "/own/", "hf_first"),
    ] {
        assert!(!hub.records().is_empty());
        for record in hub.records() {
            let told = format!("{record:?}");
            assert!(!told.contains(other) && !told.contains("else/m"), "{told}");
            assert!(
                !record.authorization().unwrap_or_default().contains(token),
                "{told}"
            );
        }
    }
}

/// A gate for logins, and the same for those without.
fn telling_apart(mode: Mode) -> Setup {
    Setup {
        gate: Some(gate(mode, Duration::ZERO)),
        ..fresh()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_name_does_not_mean_another_repository_to_those_who_may_not_see_it() {
    let first = World::new().repo(model("org/m", "private").private().allow("hf_in"));
    let first = Hub::start(first).await;
    let second = Hub::start(World::new().repo(model("org/m", "other"))).await;
    for mode in [Mode::HuggingFace, Mode::Public] {
        let scratch = tempfile::tempdir().expect("a folder");
        let top = scratch.path().join("top");
        write(top.join("org/m/which.txt"), b"folder");
        let chain = Chain::new(
            vec![
                link(client(&first, None), true, "**"),
                link(client(&second, None), true, "**"),
                link(Arc::new(local(&top, false)), false, "**"),
            ],
            true,
        );
        let data = scratch.path().join("data");
        let proxy = Proxy::start_over(chain, &data, telling_apart(mode.clone())).await;
        let path = "/v2/org/m/manifests/main";
        if mode == Mode::HuggingFace {
            let inside = ask(&proxy, path, basic("x", "hf_in").as_deref()).await;
            assert_eq!(inside.status(), 200);
        }
        let outside = ask(&proxy, path, None).await.status().as_u16();
        assert!(matches!(outside, 401 | 404), "{outside}");
        assert!(second.records().is_empty(), "the name was told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_client_goes_to_the_first_hub_and_to_no_other() {
    let first = World::new().repo(model("own/m", "first").private().allow("hf_in"));
    let first = Hub::start(first).await;
    let second = Hub::start(World::new().repo(model("org/m", "second"))).await;
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("top");
    write(top.join("here/m/which.txt"), b"folder");
    let chain = Chain::new(
        vec![
            link(Arc::new(local(&top, false)), false, "**"),
            link(client(&first, None), true, "own/*"),
            link(client(&second, None), true, "org/*"),
        ],
        true,
    );
    let data = scratch.path().join("data");
    let proxy = Proxy::start_over(chain, &data, telling_apart(Mode::HuggingFace)).await;
    let login = basic("x", "hf_in");
    for name in ["own/m", "org/m", "here/m"] {
        let path = format!("/v2/{name}/manifests/main");
        assert_eq!(
            ask(&proxy, &path, login.as_deref()).await.status(),
            200,
            "{name}"
        );
        let wanted = if name == "own/m" { 401 } else { 200 };
        assert_eq!(ask(&proxy, &path, None).await.status(), wanted, "{name}");
    }
    let presented = |hub: &Hub| hub.records().iter().any(|r| r.authorization().is_some());
    assert!(presented(&first) && !presented(&second));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_a_private_folder_is_for_those_who_may_have_everything() {
    let hub = Hub::start(World::new().user("hf_in", "somebody")).await;
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("top");
    write(top.join("org/m/which.txt"), b"folder");
    let data = scratch.path().join("data");
    // Cached before, by those who may.
    for (mode, login, status) in [
        (Mode::Open, None, 200),
        (Mode::Public, None, 404),
        (Mode::HuggingFace, None, 401),
        (Mode::HuggingFace, basic("x", "hf_in"), 404),
    ] {
        let chain = Chain::new(
            vec![
                link(Arc::new(local(&top, true)), false, "**"),
                link(client(&hub, None), true, "**"),
            ],
            mode != Mode::Open,
        );
        let proxy = Proxy::start_over(chain, &data, telling_apart(mode.clone())).await;
        let blobs = proxy
            .blobs()
            .into_iter()
            .map(|hex| format!("blobs/sha256:{hex}"));
        for what in blobs.chain(["manifests/main".to_owned(), "tags/list".to_owned()]) {
            let path = format!("/v2/org/m/{what}");
            let answer = ask(&proxy, &path, login.as_deref()).await;
            assert_eq!(answer.status(), status, "{mode:?} {what}");
        }
        proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_folders_are_read_and_what_is_cached_stays() {
    let hub = Hub::start(World::new().repo(model("org/m", "hub"))).await;
    let scratch = tempfile::tempdir().expect("a folder");
    let (top, data) = (scratch.path().join("top"), scratch.path().join("data"));
    write(top.join("here/m/which.txt"), b"folder");
    let online = Proxy::start_on_with(&hub, &data, fresh()).await;
    assert_eq!(which(&online, "org/m").await, "hub");
    online.stop().await;
    let nobody = || Arc::new(Offline);
    let chain = Chain::new(
        vec![
            link(nobody(), true, "**"),
            link(Arc::new(local(&top, false)), false, "**"),
            link(nobody(), false, "**"),
        ],
        false,
    );
    let proxy = Proxy::start_over(chain, &data, fresh()).await;
    assert_eq!(which(&proxy, "org/m").await, "hub");
    assert_eq!(which(&proxy, "here/m").await, "folder");
    let told = proxy.error("/v2/org/none/manifests/main").await;
    assert_eq!(told.status, 404);
    assert!(told.message.contains("offline"), "{}", told.message);
}
