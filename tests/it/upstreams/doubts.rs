//! What changes meanwhile, is not there yet, or is denied.

use super::serving::{Server, command};
use super::*;

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
