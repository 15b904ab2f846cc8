//! A folder of repositories is served as it lies on disk, and read anew when told.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::wire::{ask, follow, get};
use crate::hub::disk::Folder;
use crate::hub::{Hub, Launch};

fn write(root: &Path, path: &str, bytes: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, bytes).expect("a file");
}

fn start(root: &Path) -> Hub {
    let folder = Arc::new(Folder::new(root));
    let world = folder.load().expect("a world");
    let launch = Launch {
        reload: Some(Box::new(move || folder.load())),
        ..Launch::default()
    };
    Hub::launch(world, launch).expect("a hub")
}

#[test]
fn repositories_with_settings_and_revisions() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    write(root, "models/org/name/README.md", "base");
    write(root, "models/org/name/sub/w.bin", vec![7; 2 << 20]);
    write(root, "models/org/name/vocab.txt", "small");
    write(
        root,
        "models/org/name/.revisions/1-readme/README.md",
        "later",
    );
    write(root, "models/org/name/.revisions/2-dev/dev.txt", "dev");
    write(root, "models/org/name/.revisions/3-pr/pr.txt", "pr");
    write(
        root,
        "models/org/name/.hub.json",
        r#"{ "gated": "auto", "tokens": ["hf_in"], "lfs": ["*.txt"], "tags": { "v0": "base" },
             "branches": { "stable": "1-readme" },
             "revisions": { "2-dev": { "branch": "dev", "full": true },
                            "3-pr": { "pr": 1, "delete": ["vocab.txt"] } }, "renamed_from": ["org/old"] }"#,
    );
    write(root, "models/alone/.hub.json", "{}");
    write(root, "models/alone/a", "a");
    write(root, "datasets/org/data/x/y.csv", "1");
    let hub = start(root);
    let paths = |revision: &str| {
        hub.at("org/name", revision)
            .files
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(paths("main"), ["README.md", "sub/w.bin", "vocab.txt"]);
    assert_eq!(paths("dev"), ["dev.txt"]);
    assert_eq!(paths("refs/pr/1"), ["README.md", "pr.txt", "sub/w.bin"]);
    assert_eq!(hub.sha("org/name", "stable"), hub.sha("org/name", "main"));
    assert_eq!(
        hub.at("org/name", "main").parent,
        Some(hub.sha("org/name", "v0"))
    );
    assert!(hub.at("org/name", "main").files["vocab.txt"].lfs);
    let read = |path: &str| {
        follow(
            &format!("{}/{path}", hub.url()),
            &[("authorization", "Bearer hf_in")],
        )
    };
    assert_eq!(read("org/name/resolve/v0/README.md").text(), "base");
    assert_eq!(read("org/name/resolve/stable/README.md").text(), "later");
    assert!(read("org/name/resolve/main/sub/w.bin").body == vec![7; 2 << 20]);
    let renamed = read("org/old/resolve/main/README.md");
    assert_eq!(renamed.text(), "later");
    assert_eq!(read("alone/resolve/main/a").text(), "a");
    assert_eq!(read("datasets/org/data/resolve/main/x/y.csv").text(), "1");
    assert_eq!(
        get(
            &format!("{}/org/name/resolve/main/README.md", hub.url()),
            &[]
        )
        .status,
        401
    );
}

#[test]
fn changes_are_picked_up_when_told() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "spaces/o/app/app.py", "one");
    let hub = start(folder.path());
    let before = hub.sha("spaces/o/app", "main");
    write(folder.path(), "spaces/o/app/app.py", "three");
    assert_eq!(hub.sha("spaces/o/app", "main"), before);
    let reply = ask("POST", &format!("{}/-/reload", hub.url()), &[]).expect("an answer");
    assert_eq!(reply.status, 200);
    assert_ne!(hub.sha("spaces/o/app", "main"), before);
    let url = format!("{}/spaces/o/app/resolve/main/app.py", hub.url());
    assert_eq!(follow(&url, &[]).text(), "three");
}
