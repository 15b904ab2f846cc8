//! The operators' commands: the same with a running server and without one, and with exit codes that scripts can use.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::binary::{Server, run};
use crate::harness::{Proxy, wanted};
use crate::hub::{Files, Hub, Repo, World};

const FILE: u64 = 5 << 20;

async fn hub() -> Hub {
    let world = (0..3).fold(World::new(), |world, n| {
        let files = Files::new()
            .file("README.md", format!("model {n}"))
            .pattern("a.bin", FILE, n);
        world.repo(Repo::model(format!("org/m{n}")).commit(files))
    });
    Hub::start(world).await
}

/// The last line of a command with `--json` that succeeds.
fn result(data: &Path, args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let (code, out, err) = run(data, &args);
    assert_eq!(code, 0, "{args:?}: {out}{err}");
    serde_json::from_str(out.lines().last().expect("a line")).expect("JSON")
}

/// Fills the three models, and gives the folder up.
async fn filled(hub: &Hub, data: &Path) {
    let proxy = Proxy::start_on(hub, data).await;
    for n in 0..3 {
        proxy.index(&format!("org/m{n}"), "main").await;
    }
    proxy.stop().await;
}

async fn get(server: &Server, path: &str) -> u16 {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("{}{path}", server.url)).await;
    let answer = answer.expect("an answer");
    let status = answer.status().as_u16();
    answer.bytes().await.expect("a body");
    status
}

/// The layer of a model, and its path.
fn layer(data: &Path, name: &str) -> (String, PathBuf) {
    let blob = |digest: &Value| {
        let hex = digest.as_str().expect("text")["sha256:".len()..].to_owned();
        (hex.clone(), data.join("blobs/sha256").join(hex))
    };
    let read = |path: &Path| -> Value {
        serde_json::from_slice(&fs::read(path).expect("a document")).expect("JSON")
    };
    let index = read(&data.join("index.json"));
    let entry = index["manifests"].as_array().expect("manifests").iter();
    let entry = entry
        .clone()
        .find(|m| m["annotations"].to_string().contains(name));
    let image = read(&blob(&entry.expect("an image")["digest"]).1);
    let manifest = read(&blob(&image["manifests"][0]["digest"]).1);
    blob(&manifest["layers"][0]["digest"])
}

fn flip(path: &Path) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("a blob");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3_000_000).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], 3_000_000)
        .expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_they_work_on_the_folder() {
    let hub = hub().await;
    let folder = tempfile::tempdir().expect("a folder");
    filled(&hub, folder.path()).await;
    all_commands(folder.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_server_it_does_the_work() {
    let hub = hub().await;
    let folder = tempfile::tempdir().expect("a folder");
    filled(&hub, folder.path()).await;
    let server = Server::start(folder.path(), &hub, &["--cache-min-free", "0"]);
    all_commands(folder.path());
    // The server knows what was done.
    let catalog = reqwest::get(format!("{}/v2/_catalog", server.url)).await;
    let text = catalog.expect("an answer").text().await.expect("text");
    assert!(
        !text.contains("org/m0") && text.contains("org/m1"),
        "{text}"
    );
    server.stop();
    assert!(!folder.path().join("control").exists());
}

/// Pin, unpin, rm and gc, of which three models the first goes.
fn all_commands(data: &Path) {
    let (code, out, _) = run(data, &["pin", "Org/M0:main"]);
    assert_eq!(
        (code, &*out),
        (0, "org/m0:main is pinned: it is never evicted\n")
    );
    let index = fs::read_to_string(data.join("index.json")).expect("text");
    assert_eq!(index.matches(r#""io.hf-oci.pinned":"true""#).count(), 1);
    let (code, _, err) = run(data, &["rm", "org/m0:main"]);
    assert_eq!(code, 1);
    assert!(
        err.contains("org/m0:main is pinned") && err.contains("unpin"),
        "{err}"
    );
    let (code, _, err) = run(data, &["pin", "org/m0"]);
    assert_eq!(code, 4);
    assert_eq!(
        err,
        "error: org/m0:latest is not cached\n  cached are: main\n"
    );
    assert_eq!(run(data, &["rm", "org/none:main"]).0, 4);
    assert_eq!(run(data, &["rm", "org/m0"]).0, 2);
    assert_eq!(run(data, &["rm", "org/m0:main", "--all-tags"]).0, 2);
    assert_eq!(run(data, &["rm", "not a name:main"]).0, 2);
    assert_eq!(result(data, &["unpin", "org/m0:main"])["pinned"], false);
    let (_, blob) = layer(data, "org/m0");
    let removed = result(data, &["rm", "org/m0", "--all-tags"]);
    assert_eq!(
        (&removed["references"], &removed["images"]),
        (&1.into(), &1.into())
    );
    assert!(removed["bytes"].as_u64().expect("a number") > FILE);
    assert!(!blob.exists());

    let loose = data.join("blobs/sha256").join("ab".repeat(32));
    fs::write(&loose, "nobody's").expect("written");
    let before = fs::read_dir(data.join("blobs/sha256"))
        .expect("a folder")
        .count();
    let collected = result(data, &["gc"]);
    assert_eq!(
        (&collected["blobs"], &collected["bytes"]),
        (&1.into(), &8.into())
    );
    let after = fs::read_dir(data.join("blobs/sha256"))
        .expect("a folder")
        .count();
    assert!(!loose.exists() && after == before - 1);
    assert_eq!(result(data, &["gc"])["blobs"], 0);

    let verified = result(data, &["verify"]);
    assert_eq!(
        (&verified["bad"], &verified["missing"]),
        (&0.into(), &0.into())
    );
    assert_eq!(verified["blobs"], after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_found_and_heals_when_it_is_asked_for() {
    let hub = hub().await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    filled(&hub, data).await;
    let (hex, bad) = layer(data, "org/m0");
    flip(&bad);
    let (_, gone) = layer(data, "org/m1");
    fs::remove_file(&gone).expect("removed");
    let (code, out, err) = run(data, &["verify"]);
    assert_eq!(code, 3, "{out}{err}");
    assert!(out.contains(&format!("bad        sha256:{hex}")), "{out}");
    assert!(
        out.contains("org/m0:main") && out.contains("missing"),
        "{out}"
    );
    assert!(bad.exists(), "only --repair moves anything");
    let (code, out, err) = run(data, &["verify", "--repair"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(!bad.exists() && data.join("quarantine").join(&hex).exists());
    let proxy = Proxy::start_on(&hub, data).await;
    hub.reset();
    for n in 0..3 {
        let name = format!("org/m{n}");
        assert!(proxy.files(&name, "main").await == wanted(&hub, &name, "main"));
    }
    assert!(
        (2 * FILE..2 * FILE + 1000).contains(&hub.bytes()),
        "{}",
        hub.bytes()
    );
    proxy.stop().await;
    assert_eq!(run(data, &["verify"]).0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_document_heals_without_the_layers() {
    let hub = hub().await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    filled(&hub, data).await;
    let config = fs::read_dir(data.join("blobs/sha256"))
        .expect("a folder")
        .map(|e| e.expect("an entry").path())
        .find(|p| {
            let parsed = serde_json::from_slice::<Value>(&fs::read(p).expect("a blob"));
            parsed.is_ok_and(|document| document["rootfs"].is_object())
        })
        .expect("a config");
    fs::write(&config, "{}").expect("written");
    assert_eq!(run(data, &["verify", "--repair"]).0, 0);
    // The layers are still of use, and known to be.
    assert_eq!(result(data, &["gc"])["blobs"], 0);
    let proxy = Proxy::start_on(&hub, data).await;
    hub.reset();
    for n in 0..3 {
        let name = format!("org/m{n}");
        assert!(proxy.files(&name, "main").await == wanted(&hub, &name, "main"));
    }
    assert_eq!(hub.bytes(), 0);
    assert!(config.exists());
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_fetches_again_at_once_what_is_bad() {
    let hub = hub().await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    filled(&hub, data).await;
    let server = Server::start(data, &hub, &["--cache-min-free", "0"]);
    let (_, bad) = layer(data, "org/m0");
    flip(&bad);
    let repaired = result(data, &["verify", "--repair"]);
    assert_eq!(
        (&repaired["bad"], &repaired["refetching"]),
        (&1.into(), &1.into())
    );
    for _ in 0..200 {
        if bad.exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(bad.exists(), "nobody asked for it, and it is there");
    assert_eq!(get(&server, "/v2/org/m0/manifests/main").await, 200);
    server.stop();
    assert_eq!(run(data, &["verify"]).0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_its_owner_survives_a_kill_and_says_what_it_does_not_understand() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let hub = hub().await;
    // A path that no socket address holds.
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("long".repeat(40));
    filled(&hub, &data).await;
    let flags = ["--cache-min-free", "0"];
    Server::start(&data, &hub, &flags).kill();
    assert!(data.join("control").exists());
    assert_eq!(
        run(&data, &["pin", "org/m1:main"]).0,
        0,
        "nobody listens there"
    );
    let server = Server::start(&data, &hub, &flags);
    assert_eq!(get(&server, "/healthz").await, 200);
    let mode = fs::metadata(data.join("control"))
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let short = folder.path().join("s");
    std::os::unix::fs::symlink(&data, &short).expect("a link");
    for request in ["nonsense\n", "{\"do\":\"format-disk\"}\n"] {
        let mut stream = UnixStream::connect(short.join("control")).expect("connected");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        assert!(
            text.contains("\"failed\"") && text.contains("not understood"),
            "{text}"
        );
    }
    // Those who say nothing do not keep others out for ever, nor the server from stopping.
    let _silent: Vec<_> = (0..3)
        .map(|_| UnixStream::connect(short.join("control")))
        .collect();
    assert_eq!(result(&data, &["unpin", "org/m1:main"])["pinned"], false);
    server.stop();
}

#[test]
fn a_folder_without_a_cache_is_told_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, _, err) = run(folder.path(), &["gc"]);
    assert_eq!(code, 1);
    assert!(
        err.contains("there is no cache in") && err.contains("--data-dir"),
        "{err}"
    );
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}
