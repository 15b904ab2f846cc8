//! Promise: a copy brings images to another registry once, with the digests they have here, and says what is wrong if it cannot.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hf_oci::oci::Digest;
use serde_json::{Value, json};

use crate::binary::Server;
use crate::bundle::{Site, command};
use crate::elsewhere::{Elsewhere, Rules};
use crate::harness::Proxy;
use crate::hub::{Files, Hub, Repo, World};

/// Copies with what Docker's configuration has, and gives exit code, stdout and stderr.
async fn copy(site: &Site, args: &[&str]) -> (i32, String, String) {
    let mut command = command(&site.online(), &["copy", "--plain-http"]);
    let docker = site.path("docker");
    let path = std::env::var("PATH").expect("a path");
    command.args(args).env("DOCKER_CONFIG", &docker);
    // Where a helper is found, and a configuration of podman is not.
    command.env("PATH", format!("{}:{path}", docker.display()));
    command.env("REGISTRY_AUTH_FILE", site.path("none.json"));
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("a thread").expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let code = output.status.code().expect("a code");
    (code, text(output.stdout), text(output.stderr))
}

/// Leaves a login for a registry, as docker login does.
fn log_in(site: &Site, host: &str) {
    let auth = STANDARD.encode("ann:secret");
    let config = json!({"auths": {host: {"auth": auth}}}).to_string();
    fs::create_dir_all(site.path("docker")).expect("a folder");
    fs::write(site.path("docker/config.json"), config).expect("a file");
}

/// The events of a copy with `--json`.
fn events(stdout: &str) -> Vec<Value> {
    let lines = stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// The digest of the index that a tag has here.
fn index(data: &Path, tag: &str) -> String {
    let layout = fs::read(data.join("index.json")).expect("a layout");
    let layout: Value = serde_json::from_slice(&layout).expect("JSON");
    let name = format!("org/demo:{tag}");
    let mut entries = layout["manifests"].as_array().expect("entries").iter();
    let named = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == name;
    entries.find(named).expect("the image")["digest"]
        .as_str()
        .expect("text")
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_copied_with_its_digests_and_only_once() {
    let site = Site::new().await;
    let registry = Elsewhere::start(Rules::default()).await;
    let to = format!("{}/mirror", registry.host);
    let (code, out, err) = copy(&site, &["org/demo:v1", &to]).await;
    let digest = index(&site.online(), "v1");
    assert_eq!(
        (code, out.trim_end()),
        (0, format!("{to}/org/demo:v1@{digest}").as_str()),
        "{err}"
    );
    assert_eq!(registry.tag("mirror/org/demo", "v1"), Some(digest));
    registry.forget_requests();
    let (code, _, err) = copy(&site, &["org/demo:v1", &to]).await;
    assert_eq!(code, 0, "{err}");
    let sent: Vec<_> = registry
        .requests()
        .into_iter()
        .filter(|r| r.method != "HEAD")
        .collect();
    assert!(sent.is_empty(), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_repository_got_is_mounted_with_a_token_that_opens_both() {
    let files = || Files::new().pattern("model.bin", 5_000_000, 1);
    let twin = |name: &str| Repo::model(name).commit(files());
    let world = World::new().repo(twin("org/one")).repo(twin("org/two"));
    let site = Site {
        folder: tempfile::tempdir().expect("a folder"),
        hub: Hub::start(world).await,
    };
    let proxy = Proxy::start_on(&site.hub, &site.online()).await;
    for name in ["org/one", "org/two"] {
        proxy.index(name, "main").await;
    }
    proxy.stop().await;
    let rules = Rules {
        tokens: true,
        ..Rules::default()
    };
    let registry = Elsewhere::start(rules).await;
    log_in(&site, &registry.host);
    let args = ["org/one:main", "org/two:main", &registry.host, "--json"];
    let (code, out, err) = copy(&site, &args).await;
    assert_eq!(code, 0, "{out}{err}");
    let large = |event: &&Value| event["size"].as_u64() > Some(1_000_000);
    let events = events(&out);
    let how: Vec<_> = events
        .iter()
        .filter(large)
        .map(|event| &event["how"])
        .collect();
    assert_eq!(how, ["pushed", "mounted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_goes_to_the_registry_alone() {
    let site = Site::new().await;
    let storage = Elsewhere::start(Rules::default()).await;
    let rules = Rules {
        password: true,
        uploads: Some(storage.host.clone()),
        ..Rules::default()
    };
    let registry = Elsewhere::start(rules).await;
    log_in(&site, &registry.host);
    let (code, ..) = copy(&site, &["org/demo:v1", &registry.host, "--retries", "0"]).await;
    let elsewhere = storage.requests();
    // It keeps what it gets to itself, so the registry lacks the blobs in the end.
    assert_eq!(code, 4);
    assert!(elsewhere.iter().any(|request| request.method == "PUT"));
    assert!(
        elsewhere.iter().all(|request| request.login.is_none()),
        "{elsewhere:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_in_trouble_is_asked_again() {
    let site = Site::new().await;
    let rules = Rules {
        troubles: 1,
        ..Rules::default()
    };
    let registry = Elsewhere::start(rules).await;
    let (code, _, err) = copy(&site, &["org/demo:v1", &registry.host, "--retries", "1"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("503") && err.contains("trying again"), "{err}");
    assert!(registry.tag("org/demo", "v1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_a_refusal_and_a_missing_image_have_exit_codes_and_tell_what_to_do() {
    let site = Site::new().await;
    let registry = Elsewhere::start(Rules {
        password: true,
        ..Rules::default()
    })
    .await;
    let host = registry.host.as_str();
    for (args, code, text) in [
        (
            ["org/demo:v1", "127.0.0.1:1"],
            5,
            "the same command goes on",
        ),
        (["org/demo:v1", host], 4, "docker login"),
        (["org/demo:v9", host], 4, "hf-oci pull"),
        (["org/demo:v1", "org/other"], 2, "no host of a registry"),
        (["org/demo:v1", "http://r.io"], 2, "--plain-http"),
    ] {
        let args: Vec<_> = args.into_iter().chain(["--retries", "0"]).collect();
        let (got, _, err) = copy(&site, &args).await;
        assert_eq!(got, code, "{args:?}: {err}");
        assert!(err.contains(text), "{args:?}: {err}");
    }
    assert!(
        registry
            .requests()
            .iter()
            .all(|request| request.method == "HEAD")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_does_not_leave() {
    let site = Site::new().await;
    let registry = Elsewhere::start(Rules::default()).await;
    let blobs = fs::read_dir(site.online().join("blobs/sha256")).expect("a folder");
    let path = blobs.map(|entry| entry.expect("an entry").path());
    let largest = path
        .max_by_key(|path| fs::metadata(path).expect("a file").len())
        .expect("a blob");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&largest)
        .expect("a file");
    file.write_all_at(b"damage", 1000).expect("a write");
    let (code, _, err) = copy(&site, &["org/demo:v1", &registry.host]).await;
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("is damaged") && err.contains("verify --repair"),
        "{err}"
    );
    let hex = largest.file_name().expect("a name").to_str().expect("text");
    let digest: Digest = format!("sha256:{hex}").parse().expect("a digest");
    assert!(!registry.has("org/demo", &digest) && registry.tag("org/demo", "v1").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_running_server_it_is_the_same() {
    let site = Site::new().await;
    let registry = Elsewhere::start(Rules::default()).await;
    let server = Server::start(&site.online(), &site.hub, &[]);
    let (code, out, err) = copy(&site, &["org/demo:v2", &registry.host]).await;
    server.stop();
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(
        registry.tag("org/demo", "v2"),
        Some(index(&site.online(), "v2"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_helper_is_asked_for_the_login() {
    let site = Site::new().await;
    let rules = Rules {
        password: true,
        ..Rules::default()
    };
    let registry = Elsewhere::start(rules).await;
    let helper = site.path("docker/docker-credential-demo");
    let config = json!({"credHelpers": {&registry.host: "demo"}}).to_string();
    fs::create_dir_all(site.path("docker")).expect("a folder");
    fs::write(site.path("docker/config.json"), config).expect("a file");
    let script = "#!/bin/sh\nread -r server\n\
        echo \"{\\\"ServerURL\\\":\\\"$server\\\",\\\"Username\\\":\\\"ann\\\",\\\"Secret\\\":\\\"secret\\\"}\"\n";
    fs::write(&helper, script).expect("a file");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("a program");
    let (code, _, err) = copy(&site, &["org/demo:v1", &registry.host]).await;
    assert_eq!(code, 0, "{err}");
    assert!(registry.tag("org/demo", "v1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_read_is_told_and_no_secret_of_it() {
    let site = Site::new().await;
    let registry = Elsewhere::start(Rules::default()).await;
    fs::create_dir_all(site.path("docker")).expect("a folder");
    fs::write(site.path("docker/config.json"), "{\"auths\": secret").expect("a file");
    let (code, _, err) = copy(&site, &["org/demo:v1", &registry.host]).await;
    assert_eq!(code, 1, "{err}");
    assert!(
        err.contains("configuration of docker") && !err.contains("secret"),
        "{err}"
    );
    assert!(registry.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_with_a_code_of_its_own() {
    let site = Site::new().await;
    let rules = Rules {
        silent: true,
        ..Rules::default()
    };
    let registry = Elsewhere::start(rules).await;
    let args = ["copy", "--plain-http", "org/demo:v1", &registry.host];
    let mut child = command(&site.online(), &args).spawn().expect("it runs");
    while registry.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("sent");
    let ended = tokio::task::spawn_blocking(move || child.wait()).await;
    let ended = ended.expect("a thread").expect("gone");
    assert_eq!(ended.code(), Some(130));
}
