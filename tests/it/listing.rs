//! `ls`, `inspect` and `du`: what they tell is what lies on the disk, beside a server and without one, and they change nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::Value;

use crate::binary::{Server, run};
use crate::harness::Proxy;
use crate::hub::{Files, Hub, Repo, World};

/// Files of 256 MiB and more have layers of their own: two revisions share one.
const LARGE: u64 = 256 << 20;

fn json(data: &Path, args: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
    let (code, out, err) = run(data, &args);
    assert_eq!(code, 0, "{args:?}: {out}{err}");
    let lines = out.lines();
    lines
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect()
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// The length of every file below a folder, by its name.
fn lengths(folder: &Path) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.expect("an entry");
        let found = entry.metadata().expect("metadata");
        let name = entry.file_name().to_string_lossy().into_owned();
        match found.is_dir() {
            true => all.extend(
                lengths(&entry.path())
                    .into_iter()
                    .map(|(inner, len)| (format!("{name}/{inner}"), len)),
            ),
            false if found.is_file() => drop(all.insert(name, found.len())),
            false => {}
        }
    }
    all
}

/// Two revisions of a model which differ in their card, with a large layer in common.
async fn two_revisions() -> Hub {
    let first = Files::new()
        .file("README.md", "one")
        .pattern("model.bin", LARGE, 1);
    let repo = Repo::model("Org/Model").commit(first).branch("old");
    let repo = repo.commit(Files::new().file("README.md", "another"));
    Hub::start(World::new().repo(repo.tag("v1"))).await
}

/// Two small models, and another name for the branch of the first.
async fn small(data: &Path) -> Hub {
    let files = |n| {
        Files::new()
            .file("README.md", format!("model {n}"))
            .pattern("dir/a.bin", 2_000_000, n)
    };
    let world = World::new()
        .repo(Repo::model("Org/One").commit(files(1)).tag("v1"))
        .repo(Repo::model("Org/Two").commit(files(2)));
    let hub = Hub::start(world).await;
    let proxy = Proxy::start_on(&hub, data).await;
    for (name, tag) in [("org/one", "main"), ("org/one", "v1"), ("org/two", "main")] {
        proxy.index(name, tag).await;
    }
    proxy.store.save_uses().expect("noted");
    proxy.stop().await;
    hub
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_revisions_share_is_told_and_counted_once() {
    let hub = two_revisions().await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    let proxy = Proxy::start_on(&hub, data).await;
    proxy.index("org/model", "old").await;
    let (manifest, _) = proxy.manifest("org/model", "main").await;
    let large = manifest
        .layers
        .iter()
        .map(|l| l.size)
        .max()
        .expect("layers");
    proxy.stop().await;
    let on_disk: u64 = lengths(&data.join("blobs")).values().sum();

    let lines = json(data, &["ls"]);
    let (sum, images) = lines.split_last().expect("lines");
    assert_eq!(
        (&sum["event"], &sum["images"]),
        (&"listed".into(), &2.into())
    );
    assert_eq!(sum["size"], on_disk);
    let mut unique = 0;
    for image in images {
        assert_eq!(image["shared"], large, "{image}");
        assert_eq!(number(&image["size"]), number(&image["unique"]) + large);
        unique += number(&image["unique"]);
    }
    assert_eq!(unique + large, on_disk);

    let inspected = &json(data, &["inspect", "org/model:old"])[0];
    assert_eq!(
        inspected["shared_with"],
        serde_json::json!(["org/model:main"])
    );
    let layers = inspected["layers"].as_array().expect("layers");
    let shared: Vec<&Value> = layers
        .iter()
        .filter(|l| l["shared_with"] != serde_json::json!([]))
        .collect();
    assert_eq!(shared.len(), 1);
    assert_eq!(shared[0]["size"], large);
    assert_eq!(
        shared[0]["files"],
        serde_json::json!([{"path": "model.bin", "size": LARGE}])
    );

    // What ls says that a removal frees, it frees.
    let old = images
        .iter()
        .find(|i| i["tags"] == serde_json::json!(["old"]));
    let frees = number(&old.expect("the old one")["unique"]);
    assert_eq!(json(data, &["rm", "org/model:old"])[0]["bytes"], frees);
    let left: u64 = lengths(&data.join("blobs")).values().sum();
    assert_eq!(left, on_disk - frees);
}

#[tokio::test(flavor = "multi_thread")]
async fn du_tells_every_file_of_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    let _hub = small(data).await;
    fs::write(data.join("blobs/sha256").join("ab".repeat(32)), "nobody's").expect("written");
    let staged = data
        .join("staging")
        .join(format!("layer-{}", "cd".repeat(32)));
    fs::create_dir_all(&staged).expect("a folder");
    fs::write(staged.join("layer"), vec![0; 5000]).expect("written");
    fs::create_dir_all(data.join("quarantine")).expect("a folder");
    fs::write(data.join("quarantine/x"), "bad").expect("written");

    let usage = &json(data, &["du"])[0];
    let sum = |place: &str| -> u64 { lengths(&data.join(place)).values().sum() };
    assert_eq!(usage["blobs"]["bytes"], sum("blobs"));
    assert_eq!(usage["blobs"]["count"], lengths(&data.join("blobs")).len());
    assert_eq!(usage["staging"]["bytes"], sum("staging"));
    assert_eq!(
        (&usage["staging"]["layers"], &usage["staging"]["resumable"]),
        (&1.into(), &0.into())
    );
    assert_eq!(usage["quarantine"], 3);
    assert_eq!(
        usage["unreachable"],
        serde_json::json!({"count": 1, "bytes": 8})
    );
    let parts = ["unique", "shared", "foreign", "unfinished", "unreachable"];
    let parts: u64 = parts.iter().map(|part| number(&usage[part]["bytes"])).sum();
    assert_eq!(usage["blobs"]["bytes"], parts);
    let total = sum("blobs") + sum("staging") + sum("index") + sum("quarantine");
    assert_eq!(usage["total"], total);
    assert_eq!(usage["counted"], sum("blobs") + 5000);
    assert!(number(&usage["disk_free"]) < number(&usage["disk_size"]));
    let (code, out, _) = run(data, &["du"]);
    assert_eq!(code, 0);
    assert!(
        out.contains("hf-oci gc deletes them") && out.contains("2 images, 3 references"),
        "{out}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_and_the_folder_alone_tell_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    let hub = small(data).await;
    let asked: [&[&str]; 4] = [
        &["ls"],
        &["ls", "org/one"],
        &["inspect", "Org/One:v1"],
        &["inspect", "org/two:main"],
    ];
    let alone = asked.map(|args| json(data, args));
    let limits = ["--cache-min-free", "0", "--cache-max-size", "1GiB"];
    let server = Server::start(data, &hub, &limits);
    let usage = &json(data, &["du"])[0];
    assert_eq!(
        (&usage["max_size"], &usage["min_free"]),
        (&(1 << 30).into(), &0.into())
    );
    let blobs: u64 = lengths(&data.join("blobs")).values().sum();
    assert_eq!(
        (&usage["blobs"]["bytes"], &usage["counted"]),
        (&blobs.into(), &blobs.into())
    );
    for (args, alone) in asked.iter().zip(&alone) {
        assert_eq!(&json(data, args), alone, "{args:?}");
    }
    server.stop();
    let one = &alone[1];
    assert_eq!(one.len(), 2, "an image and the sum");
    assert_eq!(one[0]["tags"], serde_json::json!(["main", "v1"]));
    assert_eq!(one[0]["repository"], "Org/One");
    assert_eq!(one[0]["commit"], hub.sha("Org/One", "main"));
    assert_eq!(one[0]["visibility"], "public");
    assert!(one[0]["used"].is_string(), "{}", one[0]);
    let files = &alone[2][0]["layers"][0]["files"];
    assert_eq!(
        files,
        &serde_json::json!([{"path": "README.md", "size": 7}, {"path": "dir/a.bin", "size": 2_000_000}])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_changes_no_file_and_needs_no_right_to_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let hub = small(&data).await;
    hub.reset();
    // Readable only: root may write all the same, so it is the content that tells.
    for place in ["", "blobs", "blobs/sha256", "staging"] {
        fs::set_permissions(data.join(place), fs::Permissions::from_mode(0o500)).expect("set");
    }
    let files = |place: &Path| {
        let mut all = lengths(place);
        all.retain(|name, _| !name.starts_with("index/"));
        all
    };
    let before = files(&data);
    for args in [&["ls"][..], &["inspect", "org/one:main"], &["du"]] {
        let (code, _, err) = run(&data, args);
        assert_eq!((code, &*err), (0, ""), "{args:?}");
    }
    assert!(files(&data) == before);
    assert_eq!(hub.records().len(), 0, "nobody is asked");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("set");

    // A folder that somebody else's process locks is read all the same.
    let lock = fs::File::open(data.join("lock")).expect("a lock");
    lock.lock().expect("locked");
    let lines = json(&data, &["ls"]);
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[0]["used"],
        Value::Null,
        "the index is not opened beside another"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_tables_and_what_is_not_there_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    let hub = small(data).await;
    assert_eq!(run(data, &["pin", "org/two:main"]).0, 0);
    let (code, out, _) = run(data, &["ls"]);
    assert_eq!(code, 0);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 4, "{out}");
    assert!(lines[0].starts_with("NAME     TAGS      COMMIT"), "{out}");
    let commit = &hub.sha("Org/One", "main")[..12];
    assert!(
        lines[1].starts_with(&format!("org/one  main, v1  {commit}")),
        "{out}"
    );
    assert!(lines[2].ends_with("pinned"), "{out}");
    assert!(
        lines[3].starts_with("2 images with 3 references, "),
        "{out}"
    );

    let (_, out, _) = run(data, &["inspect", "org/one:v1"]);
    assert!(
        out.contains("references   org/one:main, org/one:v1\n"),
        "{out}"
    );
    assert!(out.contains("1.9 MiB  dir/a.bin\n"), "{out}");

    let (code, _, err) = run(data, &["inspect", "org/one"]);
    assert_eq!(
        (code, &*err),
        (
            4,
            "error: org/one:latest is not cached\n  cached are: main, v1\n"
        )
    );
    assert_eq!(run(data, &["ls", "org/none"]).0, 4);
    assert_eq!(run(data, &["ls", "org/one:main"]).0, 2);
    assert_eq!(run(data, &["inspect", "org/one@sha256:xyz"]).0, 2);
    let digest = json(data, &["ls", "org/two"])[0]["index"]
        .as_str()
        .expect("text")
        .to_owned();
    assert_eq!(run(data, &["inspect", &format!("org/two@{digest}")]).0, 0);
    assert_eq!(
        run(data, &["inspect", &format!("org/one:main@{digest}")]).0,
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_is_told_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    let _hub = small(data).await;
    let layer = json(data, &["inspect", "org/one:main"])[0]["layers"][0].clone();
    let digest = layer["digest"].as_str().expect("text")["sha256:".len()..].to_owned();
    let blob = data.join("blobs/sha256").join(&digest);
    let aside = folder.path().join("aside");
    fs::rename(&blob, &aside).expect("moved");
    let image = &json(data, &["ls", "org/one"])[0];
    assert_eq!(image["missing"], 1);
    let inspected = &json(data, &["inspect", "org/one:main"])[0];
    let layer = &inspected["layers"][0];
    assert_eq!(
        (&layer["there"], &layer["file_count"]),
        (&false.into(), &Value::Null)
    );
    // A blob whose end is damaged tells no files, and nothing breaks.
    let mut bytes = fs::read(&aside).expect("a blob");
    let toc = b"\"version\":1";
    let at = bytes.windows(toc.len()).rposition(|w| w == toc);
    let at = at.expect("a table of contents");
    bytes[at] ^= 1;
    fs::write(&blob, bytes).expect("written");
    let layer = &json(data, &["inspect", "org/one:main"])[0]["layers"][0].clone();
    assert_eq!(
        (&layer["there"], &layer["file_count"]),
        (&true.into(), &Value::Null)
    );
    // A link in the folder is nobody's bytes.
    symlink("/etc", data.join("staging/file-link")).expect("a link");
    assert_eq!(json(data, &["du"])[0]["staging"]["bytes"], 0);
}

/// Every key of an object, and of those in it, but of maps whose keys are others'.
fn keys(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                out.push(key.clone());
                if key != "annotations" {
                    keys(inner, out);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| keys(inner, out)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_stands_on_its_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    let hub = small(data).await;
    let storage = include_str!("../../docs/storage.md");
    let told = |page: &str, lines: &[Value]| {
        let mut all = Vec::new();
        lines.iter().for_each(|line| keys(line, &mut all));
        for key in &all {
            assert!(page.contains(&format!("`{key}`")), "{key}");
        }
        all.len()
    };
    assert!(told(storage, &json(data, &["ls"])) > 30);
    assert!(told(storage, &json(data, &["inspect", "org/one:main"])) > 20);
    assert!(told(storage, &json(data, &["du"])) > 20);
    let new = folder.path().join("new");
    let pull = [
        "pull",
        "org/one",
        "--cache-min-free",
        "0",
        "--upstream",
        hub.url(),
    ];
    let mirrors = include_str!("../../docs/mirrors.md");
    assert!(told(mirrors, &json(&new, &pull)) > 20);
    let none = ["pull", "org/none", "--json", "--upstream", hub.url()];
    let (_, out, _) = run(&new, &none);
    let lines = out.lines();
    let lines: Vec<Value> = lines
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert!(told(mirrors, &lines) > 5);
}
