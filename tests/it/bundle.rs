//! Promise: a bundle carries images to a site without internet: the same bytes from anywhere, only what is missing there, served at once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hf_oci::control::{Event, Transfer, transfer};
use hf_oci::oci::Digest;
use hf_oci::store::Store;
use serde_json::Value;

use crate::binary::Server;
use crate::harness::{Proxy, Setup, wanted};
use crate::hub::{Files, Hub, Repo, World};

/// The command on a data folder.
pub fn command(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hf-oci"));
    command.args(args).arg("--data-dir").arg(data);
    command
}

/// The exit code and what was said.
pub fn run(data: &Path, args: &[&str]) -> (i32, String) {
    let output = command(data, args).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let said = text(output.stdout) + &text(output.stderr);
    (output.status.code().expect("a code"), said)
}

/// A command that succeeds.
pub fn done(data: &Path, args: &[&str]) -> String {
    let (code, said) = run(data, args);
    assert_eq!(code, 0, "{args:?}: {said}");
    said
}

/// Every file of a folder and what is in it, and every folder.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, Option<Digest>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let file = path.is_file();
            let digest = file.then(|| Digest::of(&fs::read(&path).expect("a file")));
            if path.is_dir() {
                folders.push(path.clone());
            }
            all.insert(path, digest);
        }
    }
    all
}

/// Scratch: the folders `online` and `offline`, and bundles beside them.
pub struct Site {
    pub folder: tempfile::TempDir,
    pub hub: Hub,
}

impl Site {
    /// `org/demo` with two revisions that differ in their README, its `main` and its `sub` at both, cached.
    pub async fn new() -> Self {
        let files = |readme: &str| {
            let files = Files::new().file("README.md", readme);
            let files = files.pattern("sub/model.bin", 5_000_000, 1);
            files.pattern("other.bin", 1_000_000, 2)
        };
        let repo = Repo::model("Org/Demo").commit(files("one")).tag("v1");
        let repo = repo.commit(files("two")).tag("v2");
        let hub = Hub::start(World::new().repo(repo)).await;
        let site = Self {
            folder: tempfile::tempdir().expect("a folder"),
            hub,
        };
        let proxy = Proxy::start_on(&site.hub, &site.online()).await;
        for tag in ["v1", "v2"] {
            proxy.index("org/demo", tag).await;
            proxy.index("org/demo/sub", tag).await;
        }
        proxy.stop().await;
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn online(&self) -> PathBuf {
        self.path("online")
    }

    pub fn offline(&self) -> PathBuf {
        self.path("offline")
    }

    /// Exports to a file of this name, with more arguments.
    pub fn export(&self, name: &str, args: &[&str]) -> PathBuf {
        let path = self.path(name);
        let out = path.to_str().expect("text");
        let args: Vec<&str> = ["export", "-o", out].iter().chain(args).copied().collect();
        done(&self.online(), &args);
        path
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// The other site's server.
pub async fn offline(site: &Site) -> Proxy {
    let setup = Setup {
        offline: true,
        ..Setup::default()
    };
    Proxy::start_on_with(&site.hub, &site.offline(), setup).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_images_are_the_same_bytes_from_anywhere() {
    let site = Site::new().await;
    let both = ["org/demo:v2", "org/demo/sub:v1"];
    let first = fs::read(site.export("a.tar", &both)).expect("a bundle");
    let turned = fs::read(site.export("b.tar", &[both[1], both[0], both[1]])).expect("a bundle");
    assert!(first == turned, "the order of the arguments changes bytes");
    done(&site.offline(), &["import", text(&site.path("a.tar"))]);
    let args = ["export", both[0], both[1], "-o", "-"];
    let output = command(&site.offline(), &args).output().expect("it runs");
    assert!(first == output.stdout, "another site writes other bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_site_serves_what_was_imported() {
    let site = Site::new().await;
    let bundle = site.export("a.tar", &["org/demo:v2", "org/demo/sub:v1"]);
    let said = done(&site.offline(), &["import", text(&bundle)]);
    assert!(said.contains("imported 2 images"), "{said}");
    site.hub.reset();
    let proxy = offline(&site).await;
    assert!(proxy.files("org/demo", "v2").await == wanted(&site.hub, "Org/Demo", "v2"));
    assert_eq!(proxy.files("org/demo/sub", "v1").await.len(), 1);
    let commit = site.hub.sha("Org/Demo", "v2");
    assert_eq!(proxy.files("org/demo", &commit).await.len(), 3);
    assert!(site.hub.records().is_empty());
    assert_eq!(proxy.staged(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_offline_server_serves_it_at_once() {
    let site = Site::new().await;
    let server = Server::start(&site.online(), &site.hub, &[]);
    // Beside a running server on both sides, and through a pipe.
    let bundle = site.export("a.tar", &["org/demo:v2"]);
    drop(server);
    let server = Server::start(&site.offline(), &site.hub, &["--offline"]);
    let url = format!("{}/v2/org/demo/manifests/v2", server.url);
    let status = async || {
        let answer = crate::harness::http().get(&url).send().await;
        answer.expect("an answer").status().as_u16()
    };
    assert_eq!(status().await, 404);
    let input = File::open(bundle).expect("a bundle");
    let mut cat = Command::new("cat")
        .stdin(input)
        .stdout(Stdio::piped())
        .spawn()
        .expect("cat");
    let pipe = cat.stdout.take().expect("a pipe");
    let mut import = command(&site.offline(), &["import", "-", "--json"]);
    let output = import.stdin(pipe).output().expect("it runs");
    assert_eq!(status().await, 200);
    assert!(cat.wait().expect("gone").success());
    let last = String::from_utf8(output.stdout).expect("text");
    let last: Value = serde_json::from_str(last.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["event"], "imported");
    assert_eq!(last["images"][0], "org/demo:v2");
    assert_eq!(last["blobs"], 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_bundle_has_only_what_the_former_lacks_and_says_so() {
    let site = Site::new().await;
    let first = site.export(
        "first.tar",
        &["org/demo/sub:v1", "--list", text(&site.path("l"))],
    );
    let since = text(&first);
    let next = site.export("next.tar", &["org/demo/sub:v2", "--since", since]);
    let list = site.path("l");
    let same = site.export("same.tar", &["org/demo/sub:v2", "--since", text(&list)]);
    assert!(fs::read(&next).expect("a bundle") == fs::read(same).expect("a bundle"));
    // Both revisions have the same layer, which is nearly all of them.
    let size = |path: &Path| fs::metadata(path).expect("a file").len();
    assert!(size(&next) < 60_000, "{}", size(&next));
    assert!(size(&first) > 5_000_000);

    let (code, said) = run(&site.offline(), &["import", text(&next)]);
    assert_eq!(code, 1);
    assert!(said.contains("import the former one first"), "{said}");
    done(&site.offline(), &["import", since]);
    done(&site.offline(), &["import", text(&next)]);
    let proxy = offline(&site).await;
    assert_eq!(proxy.files("org/demo/sub", "v2").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_was_cut_off_goes_on_and_is_the_same() {
    let site = Site::new().await;
    let whole = fs::read(site.export("a.tar", &["org/demo:v1"])).expect("a bundle");
    for (cut, bad) in [
        (0, None),
        (100, None),
        (4_000_000, Some(2000)),
        (whole.len(), None),
    ] {
        let mut part = whole[..cut].to_vec();
        if let Some(at) = bad {
            part[at] ^= 1;
        }
        fs::write(site.path("b.tar.partial"), part).expect("written");
        let resumed = site.export("b.tar", &["org/demo:v1", "--resume"]);
        assert!(fs::read(&resumed).expect("a bundle") == whole, "{cut}");
        assert!(!site.path("b.tar.partial").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_cut_off_writes_nothing_twice() {
    let site = Site::new().await;
    let bundle = fs::read(site.export("a.tar", &["org/demo:v1"])).expect("a bundle");
    // All blobs are whole, and the end is missing.
    let cut = bundle.len() - 700;
    let mut import = command(&site.offline(), &["import", "-", "--resume"]);
    let import = import.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut import = import.spawn().expect("it runs");
    let mut stdin = import.stdin.take().expect("a pipe");
    stdin.write_all(&bundle[..cut]).expect("taken");
    drop(stdin);
    let output = import.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("cut off"), "{said}");
    let largest = || {
        let files = tree(&site.offline()).into_keys().filter(|p| p.is_file());
        let file = files.max_by_key(|p| fs::metadata(p).expect("a file").len());
        let file = fs::metadata(file.expect("a file")).expect("a file");
        (file.ino(), file.mtime(), file.mtime_nsec())
    };
    let staged = largest();
    done(
        &site.offline(),
        &["import", text(&site.path("a.tar")), "--resume"],
    );
    assert_eq!(largest(), staged, "the layer was written again");
    assert!(done(&site.offline(), &["verify"]).contains("all are what they should be"));
    let proxy = offline(&site).await;
    assert_eq!(proxy.files("org/demo", "v1").await.len(), 3);
    assert_eq!(proxy.staged(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_interrupted_leaves_nothing_behind() {
    let site = Site::new().await;
    let bundle = fs::read(site.export("a.tar", &["org/demo:v1"])).expect("a bundle");
    drop(Store::open(&site.offline()).expect("a store"));
    let staged = || {
        let staging = fs::read_dir(site.offline().join("staging")).expect("a folder");
        staging.map(|entry| entry.expect("an entry").file_name())
    };
    let mut import = command(&site.offline(), &["import", "-"]);
    let import = import.stdin(Stdio::piped()).stderr(Stdio::null());
    let mut import = import.spawn().expect("it runs");
    let mut stdin = import.stdin.take().expect("a pipe");
    stdin.write_all(&bundle[..bundle.len() / 2]).expect("taken");
    while staged().next().is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let id = rustix::process::Pid::from_child(&import);
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("sent");
    assert_eq!(import.wait().expect("gone").code(), Some(130));
    assert_eq!(staged().collect::<Vec<_>>(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_exported_is_not_deleted() {
    let site = Site::new().await;
    let _server = Server::start(&site.online(), &site.hub, &[]);
    let mut export = command(&site.online(), &["export", "org/demo:v1", "-o", "-"]);
    let mut export = export.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut out = export.stdout.take().expect("a pipe");
    // It waits for its reader, and has its images by now.
    let mut bytes = vec![0; 512];
    out.read_exact(&mut bytes).expect("a header");
    let said = done(&site.online(), &["rm", "org/demo:v1"]);
    assert!(said.contains("are in use"), "{said}");
    out.read_to_end(&mut bytes).expect("the rest");
    assert!(export.wait().expect("gone").success());
    fs::write(site.path("a.tar"), bytes).expect("written");
    done(&site.offline(), &["import", text(&site.path("a.tar"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_keep_no_other_command_waiting() {
    let site = Site::new().await;
    let _server = Server::start(&site.online(), &site.hub, &[]);
    let request = Transfer::Hold {
        images: vec![("org/demo".to_owned(), "v1".to_owned())],
    };
    let mut last = None;
    let mut hold = || {
        let each = &mut |event| {
            last = Some(event);
            true
        };
        let held = transfer(&site.online(), &request, None, each);
        (held.expect("an answer"), last.take())
    };
    // More than the server answers at once.
    let held: Vec<_> = (0..64).map(|_| hold()).collect();
    assert!(held.iter().all(|(_, last)| *last == Some(Event::Held)));
    assert!(done(&site.online(), &["ls"]).contains("org/demo"));
    let (_, refused) = hold();
    let busy = matches!(&refused, Some(Event::Failed { message }) if message.contains("busy"));
    assert!(busy, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_exports_to_one_file_one_is_refused() {
    let site = Site::new().await;
    let (out, partial) = (site.path("a.tar"), site.path("a.tar.partial"));
    fs::write(&partial, "of the other").expect("written");
    let other = File::open(&partial).expect("a file");
    other.lock().expect("locked");
    let args = ["export", "org/demo:v1", "-o", text(&out)];
    let (code, said) = run(&site.online(), &args);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("another export is writing"), "{said}");
    let left = fs::read_to_string(&partial).expect("a file");
    assert_eq!(left, "of the other");
    drop(other);
    done(&site.online(), &args);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_replaces_files_and_nothing_else() {
    let site = Site::new().await;
    let whole = fs::read(site.export("a.tar", &["org/demo:v1"])).expect("a bundle");
    let (link, far) = (site.path("link.tar"), site.path("far.tar"));
    fs::write(&far, "before").expect("written");
    std::os::unix::fs::symlink(&far, &link).expect("a link");
    site.export("link.tar", &["org/demo:v1"]);
    assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
    assert!(fs::read(&far).expect("a bundle") == whole);
    let socket = site.path("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    for place in [text(&socket), "/dev/null"] {
        let (code, said) = run(&site.online(), &["export", "org/demo:v1", "-o", place]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("no regular file"), "{said}");
    }
    assert!(socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_a_bundle_that_failed_is_not_written() {
    let site = Site::new().await;
    let list = site.path("keep.list");
    fs::write(&list, "of the former").expect("written");
    let out = site.path("nowhere/a.tar");
    let args = ["export", "org/demo:v1", "-o", text(&out), "--list"];
    let args: Vec<&str> = args.into_iter().chain([text(&list)]).collect();
    let (code, said) = run(&site.online(), &args);
    assert_eq!(code, 1, "{said}");
    let kept = fs::read_to_string(&list).expect("a list");
    assert_eq!(kept, "of the former");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quantisation_is_exported_by_any_spelling_and_never_as_its_commit() {
    let files = Files::new().file("README.md", "x");
    let files = files.pattern("model-BF16.gguf", 100_000, 1);
    let files = files.pattern("model-Q8_0.gguf", 100_000, 2);
    let hub = Hub::start(World::new().repo(Repo::model("org/gguf").commit(files))).await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("online");
    let proxy = Proxy::start_on(&hub, &data).await;
    let (_, part) = proxy.index("org/gguf", "bf16").await;
    let commit = hub.sha("org/gguf", "main");
    let out = folder.path().join("a.tar");
    let args = |image: String| {
        [
            "export".to_owned(),
            image,
            "-o".to_owned(),
            text(&out).to_owned(),
        ]
    };
    proxy.stop().await;
    let run = |image: String| {
        let args = args(image);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        run(&data, &args)
    };
    let (code, said) = run(format!("org/gguf:{commit}"));
    assert_eq!(code, 4, "a part was exported as the whole: {said}");
    let (code, said) = run("org/gguf:BF16".to_owned());
    assert_eq!(code, 0, "{said}");
    let bundle = fs::read(&out).expect("a bundle");
    let title = b"org/gguf:bf16";
    assert!(bundle.windows(title.len()).any(|part| part == title));
    assert!(!part.manifests.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_cached_is_not_exported() {
    let site = Site::new().await;
    let out = site.path("a.tar");
    let (code, said) = run(&site.online(), &["export", "org/demo:v9", "-o", text(&out)]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("cached are: v1, v2"), "{said}");
    assert!(!out.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_image_is_made_of_imported_layers() {
    let site = Site::new().await;
    let bundle = site.export("a.tar", &["org/demo/sub:v1"]);
    done(&site.offline(), &["import", text(&bundle)]);
    // Also not after the index was made anew.
    fs::remove_dir_all(site.offline().join("index")).expect("removed");
    site.hub.reset();
    let proxy = Proxy::start_on(&site.hub, &site.offline()).await;
    let (old, _) = proxy.manifest("org/demo/sub", "v1").await;
    assert_eq!(site.hub.bytes(), 0);
    let (new, _) = proxy.manifest("org/demo/sub", "v2").await;
    assert_eq!(old.layers, new.layers);
    assert!(
        site.hub.bytes() > 4_000_000,
        "what a bundle says was believed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_not_exported() {
    let site = Site::new().await;
    let store = Store::open(&site.online()).expect("a store");
    drop(store);
    let blobs = tree(&site.online().join("blobs"));
    let large = |path: &&PathBuf| fs::metadata(path).expect("a file").len() > 4_000_000;
    for path in blobs.keys().filter(large).filter(|p| p.is_file()) {
        let mut bytes = fs::read(path).expect("a blob");
        bytes[3_000_000] ^= 1;
        fs::write(path, bytes).expect("written");
    }
    let out = site.path("a.tar");
    let (code, said) = run(&site.online(), &["export", "org/demo:v1", "-o", text(&out)]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("is damaged"), "{said}");
    assert!(!out.exists());
}
