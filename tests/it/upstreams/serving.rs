//! The real binary over local and several upstreams.

use super::*;

/// The real server, with only these flags and this configuration file.
pub(super) struct Server {
    child: Child,
    url: String,
    log: std::thread::JoinHandle<Vec<String>>,
}

impl Server {
    pub(super) fn start(scratch: &Path, config: &str, flags: &[&str]) -> Self {
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

    pub(super) async fn status(&self, name: &str) -> u16 {
        let url = self.url.replace("0.0.0.0", "127.0.0.1");
        let answer = http().get(format!("{url}/v2/{name}/manifests/main"));
        answer.send().await.expect("an answer").status().as_u16()
    }

    pub(super) fn stop(mut self) -> Vec<String> {
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

pub(super) fn command(scratch: &Path, flags: &[&str]) -> Command {
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
