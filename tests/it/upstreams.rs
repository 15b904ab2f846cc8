//! Promise: what is on this machine already becomes the same layers as from the Hub; of several upstreams the first that has a repository
//! answers; and no name, token or content goes where it does not belong.

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

/// The real server, with only these flags and this configuration file.
struct Server {
    child: Child,
    url: String,
    log: std::thread::JoinHandle<Vec<String>>,
}

impl Server {
    fn start(scratch: &Path, config: &str, flags: &[&str]) -> Self {
        let file = scratch.join("hf-oci.toml");
        fs::write(&file, config).expect("a file");
        let mut child = command(scratch, flags)
            .arg("--config")
            .arg(file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let (lines, url) = started(&mut child);
        let log = std::thread::spawn(move || lines.map_while(Result::ok).collect());
        Self { child, url, log }
    }

    async fn status(&self, name: &str) -> u16 {
        let url = self.url.replace("0.0.0.0", "127.0.0.1");
        let answer = http().get(format!("{url}/v2/{name}/manifests/main"));
        answer.send().await.expect("an answer").status().as_u16()
    }

    fn stop(mut self) -> Vec<String> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("sent");
        assert!(self.child.wait().expect("gone").success());
        let log = std::mem::replace(&mut self.log, std::thread::spawn(Vec::new));
        log.join().expect("its log")
    }
}

/// One that a failed test leaves behind is ended.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(scratch: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hf-oci"));
    command
        .args(["serve", "--data-dir"])
        .arg(scratch.join("data"))
        .args(flags)
        .env_clear()
        .env("HF_OCI_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_as_the_upstream_is_served_also_offline() {
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("models");
    write(top.join("org/m/which.txt"), b"folder");
    let path = top.display().to_string();
    let url = format!("file://{path}");
    for flags in [
        ["--upstream", &path, "--log=info"],
        ["--upstream", &url, "--offline"],
    ] {
        let server = Server::start(scratch.path(), "", &flags);
        assert_eq!(server.status("org/m").await, 200, "{flags:?}");
        assert_eq!(server.status("org/none").await, 404, "{flags:?}");
        server.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_lists_several_upstreams() {
    let hub = Hub::start(World::new().repo(model("org/m", "hub").private().allow("hf_t"))).await;
    let scratch = tempfile::tempdir().expect("a folder");
    write(scratch.path().join("top/org/m/which.txt"), b"folder");
    write(scratch.path().join("top/here/m/which.txt"), b"folder");
    write(scratch.path().join("token"), b"hf_t\n");
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let config = format!(
        "[[upstreams]]\nurl = \"{}\"\nallow = [\"here/*\"]\n\n[[upstreams]]\nurl = \"{}\"\ntoken_file = \"{}\"\ndeny = [\"here/*\"]\n",
        at("top"),
        hub.url(),
        at("token")
    );
    let server = Server::start(scratch.path(), &config, &[]);
    assert_eq!(server.status("here/m").await, 200);
    assert_eq!(server.status("org/m").await, 200, "with its token");
    assert_eq!(server.status("here/none").await, 404);
    server.stop();
    assert!(
        hub.records()
            .iter()
            .all(|r| !format!("{r:?}").contains("here/"))
    );
    // A flag names the one upstream that counts.
    let top = at("top");
    let server = Server::start(scratch.path(), &config, &["--upstream", &top]);
    assert_eq!(server.status("here/m").await, 200);
    hub.reset();
    assert_eq!(server.status("org/m").await, 200, "from the folder");
    assert!(hub.records().is_empty());
    server.stop();
}

#[test]
fn an_upstream_that_cannot_be_is_told_at_the_start() {
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().display().to_string();
    for (flags, words) in [
        (
            vec!["--upstream", "/no/such/folder"],
            ["/no/such/folder", "No such file"],
        ),
        (
            vec!["--upstream", &top, "--auth-mode", "huggingface"],
            ["auth.mode huggingface", "[[upstreams]]"],
        ),
        (vec!["--upstream", "models"], ["--upstream", "./"]),
    ] {
        let output = command(scratch.path(), &flags).output().expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_is_given_to_everybody_only_if_its_owner_says_so() {
    let hub = crate::harness::demo().await;
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("hub");
    cache(&hub, "Org/Demo", &top.join("models--Org--Demo"), &[]);
    let path = top.display().to_string();
    let far = ["--listen", "0.0.0.0:0", "--upstream", &path];
    let output = command(scratch.path(), &far).output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && told.contains("upstream.share_private"),
        "{told}"
    );
    let list = format!("[[upstreams]]\nurl = \"{path}\"\npublic = true\n");
    let shared = ["--upstream-share-private", "--upstream", &path];
    for (config, flags) in [("", &shared[..]), (&list, &[])] {
        let flags = [&far[..2], flags].concat();
        let server = Server::start(scratch.path(), config, &flags);
        assert_eq!(server.status("org/demo").await, 200, "{flags:?}");
        server.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_a_folder_tells_no_path_of_this_machine() {
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("top");
    write(top.join("org/m/which.txt"), b"folder");
    let proxy = Proxy::start_over(local(&top, false), &scratch.path().join("data"), fresh()).await;
    fs::rename(&top, scratch.path().join("away")).expect("renamed");
    let told = OciError::of(proxy.get("/v2/org/m/manifests/main").await).await;
    assert_eq!(told.status, 502);
    assert!(
        !told.message.contains(&*scratch.path().to_string_lossy()),
        "{}",
        told.message
    );
}

/// A folder in which something changes between the listing and the reading.
struct Changing {
    folder: Local,
    change: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    doubted: Arc<AtomicUsize>,
}

impl Upstream for Changing {
    fn resolve<'a>(
        &'a self,
        repo: &'a RepoId,
        revision: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Resolved, UpstreamError>> {
        self.folder.resolve(repo, revision)
    }

    fn access<'a>(&'a self, repo: &'a RepoId) -> BoxFuture<'a, Result<Access, UpstreamError>> {
        self.folder.access(repo)
    }

    fn refs<'a>(&'a self, repo: &'a RepoId) -> BoxFuture<'a, Result<Refs, UpstreamError>> {
        self.folder.refs(repo)
    }

    fn commits<'a>(
        &'a self,
        repo: &'a RepoId,
        prefix: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Commit>, UpstreamError>> {
        self.folder.commits(repo, prefix)
    }

    fn snapshot<'a>(
        &'a self,
        repo: &'a RepoId,
        commit: Commit,
    ) -> BoxFuture<'a, Result<Snapshot, UpstreamError>> {
        self.folder.snapshot(repo, commit)
    }

    fn read<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Range<u64>,
    ) -> BoxFuture<'a, Result<ByteStream, UpstreamError>> {
        let change = self
            .change
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(change) = change {
            change();
        }
        self.folder.read(file, range)
    }

    fn doubt<'a>(&'a self, file: &'a RemoteFile) -> BoxFuture<'a, ()> {
        self.doubted.fetch_add(1, Ordering::Relaxed);
        self.folder.doubt(file)
    }
}

impl Credentials for Changing {
    fn with_token(&self, token: Option<&Token>) -> Arc<dyn Upstream> {
        self.folder.with_token(token)
    }

    fn knows<'a>(&'a self, token: &'a Token) -> BoxFuture<'a, Result<bool, UpstreamError>> {
        self.folder.knows(token)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_file_changed_during_a_fill_the_next_request_takes_it_as_it_is_then() {
    // Another length is found out by the folder, the same one by the fill, a file that is gone by nobody who reads it.
    for (now, doubts) in [(Some("longer"), 0), (Some("two"), 1), (None, 0)] {
        let scratch = tempfile::tempdir().expect("a folder");
        let top = scratch.path().join("top");
        write(top.join("org/m/which.txt"), b"one");
        write(top.join("org/m/stays.txt"), b"here");
        let changed = top.join("org/m/which.txt");
        let change = move || match now {
            Some(text) => fs::write(&changed, text).expect("written"),
            None => fs::remove_file(&changed).expect("removed"),
        };
        let doubted = Arc::new(AtomicUsize::new(0));
        let folder = Changing {
            folder: local(&top, false),
            change: Mutex::new(Some(Box::new(change))),
            doubted: Arc::clone(&doubted),
        };
        // Tags are believed for as long as they are where nothing is set.
        let setup = Setup {
            retries: 0,
            ..Setup::default()
        };
        let proxy = Proxy::start_over(folder, &scratch.path().join("data"), setup).await;
        let told = proxy.error("/v2/org/m/manifests/main").await;
        assert!(matches!(told.status, 502 | 404), "{told:?}");
        let files = proxy.files("org/m", "main").await;
        let found = files.get("which.txt").map(|bytes| &bytes[..]);
        assert_eq!(found, now.map(str::as_bytes));
        assert_eq!(doubted.load(Ordering::Relaxed), doubts, "{now:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_was_only_asked_hides_no_later_upstream() {
    let hub = Hub::start(World::new().repo(model("org/m", "hub"))).await;
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("hub");
    let sha = hub.sha("org/m", "main");
    write(top.join("models--org--m/refs/main"), sha.as_bytes());
    write(
        top.join("models--org--m/.no_exist").join(&sha).join("x"),
        b"",
    );
    let chain = Chain::new(
        vec![
            link(Arc::new(local(&top, false)), false, "**"),
            link(client(&hub, None), true, "**"),
        ],
        false,
    );
    let proxy = Proxy::start_over(chain, &scratch.path().join("data"), fresh()).await;
    assert_eq!(which(&proxy, "org/m").await, "hub");
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_a_name_of_the_hub_means_no_folder_where_not_all_may_read_the_same() {
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("top");
    write(top.join("org/m/which.txt"), b"folder");
    write(top.join("ours/m/which.txt"), b"folder");
    let chain = Chain::new(
        vec![
            link(Arc::new(Offline), true, "org/*"),
            link(Arc::new(local(&top, false)), false, "**"),
            link(Arc::new(Offline), false, "**"),
        ],
        true,
    );
    let proxy = Proxy::start_over(chain, &scratch.path().join("data"), fresh()).await;
    let told = proxy.error("/v2/org/m/manifests/main").await;
    assert_eq!(told.status, 404);
    assert!(told.message.contains("offline"), "{}", told.message);
    assert_eq!(which(&proxy, "ours/m").await, "folder");
}

#[test]
fn a_list_of_which_nobody_may_read_anything_does_not_start() {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut list = String::new();
    for name in ["one", "two"] {
        let top = scratch.path().join(name).join("hub");
        fs::create_dir_all(&top).expect("a folder");
        list += &format!("[[upstreams]]\nurl = \"{}\"\n", top.display());
    }
    let config = scratch.path().join("hf-oci.toml");
    fs::write(&config, list).expect("a file");
    for offline in [&[][..], &["--offline"]] {
        let far = [&["--listen", "0.0.0.0:0"], offline].concat();
        let mut command = command(scratch.path(), &far);
        let output = command.arg("--config").arg(&config).output();
        let output = output.expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{told}");
        assert!(told.contains("nobody may read any"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_is_not_served_by_the_name_of_a_part_or_of_the_whole() {
    let scratch = tempfile::tempdir().expect("a folder");
    let top = scratch.path().join("models");
    for path in [
        "secret/config.json",
        "secret/onnx/model.onnx",
        "ours/README.md",
        "ours/.DS_Store",
        "ours/m/config.json",
        "mixed/notes.txt",
        "mixed/m/config.json",
        "free/m/config.json",
    ] {
        write(top.join(path), path.as_bytes());
    }
    let path = top.display().to_string();
    let config = "[repositories]\ndeny = [\"secret\", \"ours/*\", \"mixed/*\"]\n";
    let server = Server::start(scratch.path(), config, &["--upstream", &path]);
    assert_eq!(server.status("free/m").await, 200);
    for name in [
        "secret",
        "secret/onnx",
        "ours",
        "ours/m",
        "mixed",
        "mixed/m",
    ] {
        let status = server.status(name).await;
        assert!(matches!(status, 403 | 404), "{name}: {status}");
    }
    server.stop();
}
