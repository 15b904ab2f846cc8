//! Promise: tokens and passwords are in memory only: not in the log at any level, no answer, no file; and they go to the Hub's own origin.

use std::fmt::Write;
use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::RequestBuilder;

use crate::binary::address;
use crate::harness::http;
use crate::hub::{Effect, Fault, Files, Hub, Repo, World};
use crate::logins::basic;

/// What must be found nowhere: the server's token, those of clients, a wrong one, and a user's password.
const CANARIES: [&str; 5] = [
    "hf_ServerCanary",
    "hf_InsideCanary",
    "hf_OutsideCanary",
    "hf_WrongCanary",
    "PasswordCanary",
];

/// The real server, and everything that it wrote to its log.
struct Server {
    child: Child,
    log: std::path::PathBuf,
    url: String,
}

impl Server {
    fn start(hub: &Hub, folder: &Path, flags: &[&str]) -> Self {
        let log = folder.join("log");
        let file = std::fs::File::create(&log).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_hf-oci"))
            .env_clear()
            .env("HF_TOKEN", CANARIES[0])
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--log",
                "trace,hf_oci=trace",
            ])
            .args(["--upstream", hub.url(), "--auth-ttl", "10ms", "--data-dir"])
            .arg(folder.join("data"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(file))
            .spawn()
            .expect("the binary");
        let mut url = None;
        for _ in 0..500 {
            let text = std::fs::read_to_string(&log).expect("the log");
            // Only whole lines: the last one may be half written.
            let whole = text.rsplit_once('\n').map(|(whole, _)| whole);
            url = whole.and_then(address);
            if url.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let url = url.expect("a start-up line");
        Self { child, log, url }
    }

    /// Asks it to stop, and gives its log.
    fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        self.child.wait().expect("its end");
        std::fs::read_to_string(&self.log).expect("the log")
    }
}

/// A test that fails leaves no server behind.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hub_world() -> World {
    let files = || {
        Files::new()
            .file("config.json", "{}")
            .pattern("w.bin", 3_000_000, 1)
    };
    let insiders = |repo: Repo| repo.allow(CANARIES[0]).allow(CANARIES[1]);
    World::new()
        .user(CANARIES[2], "outsider")
        .repo(Repo::model("org/public").commit(files()))
        .repo(insiders(Repo::model("org/private").private()).commit(files()))
        .repo(insiders(Repo::model("org/gated").gated("manual")).commit(files()))
        .repo(
            insiders(Repo::model("org/broken").private())
                .commit(files().pattern("b.bin", 2_000_000, 9)),
        )
}

/// Everything that an answer says.
async fn told(request: RequestBuilder) -> String {
    let response = request.send().await.expect("an answer");
    let mut text = format!("{} {:?}\n", response.status(), response.headers());
    let body = response.bytes().await.unwrap_or_default();
    text.push_str(&String::from_utf8_lossy(&body));
    text
}

/// Asks for everything of some repositories with a login; gives all answers.
async fn with(url: &str, login: &str, names: &[&str]) -> String {
    let client = http();
    let get = |path: &str| {
        let request = client.get(format!("{url}{path}"));
        request.header("authorization", login)
    };
    let mut answers = String::new();
    for path in [
        "/v2/",
        "/v2/_catalog",
        "/token",
        "/token?scope=repository:org/gated:pull",
    ] {
        let _ = writeln!(answers, "{}", told(get(path)).await);
    }
    for name in names {
        for rest in ["manifests/main", "tags/list", "manifests/none"] {
            let path = format!("/v2/org/{name}/{rest}");
            let _ = writeln!(answers, "{}", told(get(&path)).await);
        }
    }
    answers
}

/// Goes everywhere with every secret; gives all answers.
async fn everywhere(url: &str) -> String {
    let mut logins: Vec<String> = CANARIES.iter().filter_map(|c| basic("ann", c)).collect();
    logins.extend(CANARIES.iter().map(|canary| format!("Bearer {canary}")));
    logins.push(format!("Digest {}", CANARIES[3]));
    let names = ["public", "private", "gated", "missing"];
    let asked = logins.iter().map(|login| with(url, login, &names));
    let mut answers = futures_util::future::join_all(asked).await.concat();
    for secret in CANARIES {
        let form = format!("grant_type=password&username=x&password={secret}");
        let request = http().post(format!("{url}/token")).body(form);
        let _ = writeln!(answers, "{}", told(request).await);
    }
    answers
}

/// Every way in which a secret might be written down.
fn spellings() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for canary in CANARIES {
        all.push((canary.to_owned(), canary.to_owned()));
        // The three ways in which base64 spells what stands inside of it.
        for shift in 0..3 {
            let padded = format!("{}{canary}", "x".repeat(shift));
            let text = STANDARD.encode(padded);
            let inner = text.trim_end_matches('=');
            let inner = &inner[4..inner.len() - 3];
            all.push((format!("{canary} in base64"), inner.to_owned()));
        }
    }
    all
}

fn find(place: &str, bytes: &[u8]) -> Vec<String> {
    // What is no text becomes something that no secret holds.
    let text = String::from_utf8_lossy(bytes);
    let spellings = spellings().into_iter();
    let found = spellings.filter(|(_, spelled)| text.contains(spelled));
    found
        .map(|(what, _)| format!("{what} is in {place}"))
        .collect()
}

fn find_in_files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        found.extend(find(
            &path.display().to_string(),
            path.as_os_str().as_encoded_bytes(),
        ));
        if path.is_dir() {
            found.extend(find_in_files(&path));
        } else {
            let mut bytes = Vec::new();
            let mut file = std::fs::File::open(&path).expect("a file");
            file.read_to_end(&mut bytes).expect("its bytes");
            found.extend(find(&path.display().to_string(), &bytes));
        }
    }
    found
}

/// Runs a server in a mode of auth past all of it, `user` being a secret that opens it, and looks everywhere.
async fn look(mode: &[&str], user: &str, folder: &Path) {
    let hub = Hub::start(hub_world()).await;
    hub.fault(Fault::cdn("broken/b.bin").then(Effect::Corrupt(5)));
    hub.fault(
        Fault::cdn("private/w.bin")
            .nth(1)
            .then(Effect::ExpireSignature),
    );
    let server = Server::start(&hub, folder, mode);
    let mut answers = everywhere(&server.url).await;
    // A fill that fails, and a Hub that is gone.
    let insider = basic("ann", user).expect("a header");
    answers.push_str(&with(&server.url, &insider, &["broken"]).await);
    hub.stop();
    // Each takes as long as the Hub may take to answer.
    let paths = ["/v2/", "/token", "/v2/org/private/manifests/main"];
    let asked = paths.map(|path| {
        let request = http().get(format!("{}{path}", server.url));
        told(request.header("authorization", &insider))
    });
    answers.push_str(&futures_util::future::join_all(asked).await.concat());
    let log = server.stop();

    let mut found = find("the log", log.as_bytes());
    found.extend(find("an answer", answers.as_bytes()));
    found.extend(find_in_files(&folder.join("data")));
    assert!(found.is_empty(), "{found:#?}");
    // That the search is of something: the tokens were used, the log is one of traces, and there is content.
    let used = |token: &str| {
        let bearer = format!("Bearer {token}");
        hub.records()
            .iter()
            .any(|r| r.authorization() == Some(&bearer))
    };
    assert!(used(CANARIES[0]));
    assert!(!mode.contains(&"huggingface") || (used(CANARIES[1]) && used(CANARIES[2])));
    assert!(log.contains("TRACE"), "the log has all there is");
    assert!(answers.contains("200 OK") && answers.contains("401 "));
    assert!(hub.leaks().is_empty(), "a token went to another origin");
}

#[tokio::test(flavor = "multi_thread")]
async fn hub_tokens_of_the_server_and_of_clients_are_written_nowhere() {
    let folder = tempfile::tempdir().expect("a folder");
    look(&["--auth-mode", "huggingface"], CANARIES[1], folder.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_of_users_are_written_nowhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let users = folder.path().join("users");
    let hash = bcrypt::hash(CANARIES[4], 4).expect("a hash");
    let mut file = std::fs::File::create(&users).expect("a file");
    writeln!(file, "ann:{hash}").expect("a line");
    let users = users.display().to_string();
    let mode = ["--auth-mode", "htpasswd", "--auth-htpasswd-file", &users];
    look(&mode, CANARIES[4], folder.path()).await;
}
