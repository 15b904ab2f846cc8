//! `hf-oci pull`: fills ahead of need, alone, through the server of the folder or one elsewhere; what is cut off is gone on with.

mod elsewhere;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binary::Server;
use crate::harness::demo;
use crate::hub::{Effect, Fault, Files, Hub, Repo, World};

const SIZE: u64 = 64 << 20;

/// Two large files.
async fn large() -> Hub {
    let files = Files::new()
        .pattern("a.bin", SIZE, 1)
        .pattern("b.bin", SIZE, 2);
    Hub::start(World::new().repo(Repo::model("org/m").commit(files))).await
}

/// The command, over a simulator.
fn command(hub: &Hub, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hf-oci"));
    command
        .args(["pull", "--upstream", hub.url(), "--fill-memory", "32MiB"])
        .args(["--cache-min-free", "0"])
        .args(args)
        .env("HF_OCI_TAG_TTL", "0s")
        .env("DOCKER_CONFIG", "/nonexistent")
        .stdin(Stdio::null());
    command
}

fn on<'a>(data: &'a Path, args: &[&'a str]) -> Vec<&'a str> {
    let folder = data.to_str().expect("text");
    args.iter().copied().chain(["--data-dir", folder]).collect()
}

/// The exit code, stdout and stderr of a command.
fn ended(command: &mut Command) -> (i32, String, String) {
    let output = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let code = output.status.code().expect("a code");
    (code, text(output.stdout), text(output.stderr))
}

fn run(hub: &Hub, data: &Path, args: &[&str]) -> (i32, String, String) {
    ended(&mut command(hub, &on(data, args)))
}

fn events(out: &str) -> Vec<Value> {
    let lines = out.lines();
    lines
        .map(|l| serde_json::from_str(l).unwrap_or_else(|_| panic!("no JSON: {l}")))
        .collect()
}

/// A pull that is under way, its events read one by one.
struct Pull {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Pull {
    fn start(hub: &Hub, data: &Path, args: &[&str]) -> Self {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let mut child = command(hub, &on(data, &args))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, out }
    }

    /// Reads on until an event is as told.
    fn until(&mut self, told: impl Fn(&Value) -> bool) -> Value {
        loop {
            let mut line = String::new();
            self.out.read_line(&mut line).expect("text");
            if line.is_empty() {
                let mut err = String::new();
                let mut stderr = self.child.stderr.take().expect("a pipe");
                stderr.read_to_string(&mut err).expect("text");
                panic!("it ended before that: {err}");
            }
            let event: Value = serde_json::from_str(&line).expect("JSON");
            if told(&event) {
                return event;
            }
        }
    }

    /// Sends a signal, and gives the exit code and stderr.
    fn end(mut self, signal: Signal) -> (i32, String) {
        kill_process(Pid::from_child(&self.child), signal).expect("sent");
        let mut err = String::new();
        let mut stderr = self.child.stderr.take().expect("a pipe");
        stderr.read_to_string(&mut err).expect("text");
        (
            self.child.wait().expect("gone").code().expect("a code"),
            err,
        )
    }
}

impl Drop for Pull {
    /// One that a failed test leaves behind is ended.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Holds what comes after the first half of the second file.
fn hold(hub: &Hub) {
    hub.fault(
        Fault::cdn("b.bin")
            .range_start(SIZE / 2..SIZE)
            .then(Effect::Hold("half")),
    );
}

fn half_is_there(event: &Value) -> bool {
    event["event"] == "filling" && event["bytes"].as_u64() >= Some(SIZE + SIZE / 2)
}

async fn get(url: &str) -> (u16, String) {
    let answer = crate::harness::http().get(url).send().await;
    let answer = answer.expect("an answer");
    let digest = crate::harness::header(&answer, "docker-content-digest");
    (answer.status().as_u16(), digest.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_it_fills_and_what_is_there_is_not_fetched_again() {
    let hub = demo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("new");
    let (code, out, err) = run(&hub, &data, &["Org/Demo:main"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("org/demo:main@sha256:"), "{out}");
    assert!(
        err.contains("org/demo:main: filling 13.4 MiB in 6 files and 1 layer, commit "),
        "{err}"
    );
    assert!(
        err.contains("org/demo:main: layer 1 of 1 done, 13.4 MiB, sha256:"),
        "{err}"
    );
    assert!(
        err.contains("org/demo:main: cached, 13.4 MiB downloaded in "),
        "{err}"
    );
    assert!(!err.contains(['\r', '\u{1b}']), "no terminal: {err:?}");
    let fetched = hub.bytes();

    let (code, again, err) = run(&hub, &data, &["org/demo:main"]);
    assert_eq!((code, &again), (0, &out));
    assert!(
        err.contains("org/demo:main: was cached already, 13.4 MiB in 1 layer"),
        "{err}"
    );
    assert_eq!(hub.bytes(), fetched);

    let server = Server::start(&data, &hub, &[]);
    let (status, digest) = get(&format!("{}/v2/org/demo/manifests/main", server.url)).await;
    assert_eq!(status, 200);
    assert_eq!(out.trim_end(), format!("org/demo:main@{digest}"));
    assert_eq!(hub.bytes(), fetched);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_every_layer_and_file_to_the_last() {
    let files = Files::new()
        .file("README.md", "hello")
        .pattern("large.bin", 257 << 20, 1);
    let hub = Hub::start(World::new().repo(Repo::model("org/m").commit(files))).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (code, out, err) = run(&hub, folder.path(), &["org/m", "--json"]);
    assert_eq!((code, &*err), (0, ""));
    let events = events(&out);
    let [.., filling, pulled, summary] = events.as_slice() else {
        panic!("{out}");
    };
    let total = (257 << 20) + 5_u64;
    assert_eq!(filling["event"], "filling");
    assert_eq!(filling["image"], "org/m");
    assert_eq!(filling["commit"], hub.sha("org/m", "main"));
    assert_eq!(
        (&filling["bytes"], &filling["total_bytes"]),
        (&total.into(), &total.into())
    );
    assert_eq!(
        (&filling["files"], &filling["total_files"]),
        (&2.into(), &2.into())
    );
    let layers = filling["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 2);
    let sizes: u64 = layers
        .iter()
        .map(|l| l["size"].as_u64().expect("published"))
        .sum();
    assert_eq!(pulled["event"], "pulled");
    assert_eq!(
        (&pulled["size"], &pulled["layers"]),
        (&sizes.into(), &2.into())
    );
    assert_eq!(
        (&pulled["outcome"], &pulled["bytes"]),
        (&"miss".into(), &total.into())
    );
    assert_eq!(
        summary,
        &serde_json::json!({"event": "summary", "cached": 1, "failed": [], "interrupted": false})
    );
    // Numbers only grow.
    let bytes = events.iter().filter_map(|e| e["bytes"].as_u64());
    assert!(bytes.is_sorted(), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_what_another_attempt_is_good_for() {
    let world = World::new()
        .repo(Repo::model("org/m").commit(Files::new().pattern("a.bin", 3_000_000, 1)))
        .repo(
            Repo::model("org/gated")
                .gated("auto")
                .commit(Files::new().file("a", "b")),
        );
    let hub = Hub::start(world).await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    let (code, out, err) = run(&hub, data, &["org/none"]);
    assert_eq!((code, &*out), (4, ""));
    assert!(
        err.contains("error: org/none: ") && err.contains("org/none"),
        "{err}"
    );
    assert_eq!(run(&hub, data, &["org/m:v9"]).0, 4);
    assert_eq!(run(&hub, data, &["org/gated"]).0, 4);
    assert_eq!(run(&hub, data, &["org//m"]).0, 2);
    assert_eq!(run(&hub, data, &[]).0, 2);
    let (code, _, err) = run(&hub, data, &["org/m", "--cache-max-size", "2MiB"]);
    assert_eq!(code, 1);
    assert!(err.contains("there is no room for this image"), "{err}");

    // Those that can be had are had, whatever becomes of the others.
    let (code, out, err) = run(&hub, data, &["org/none", "org/m", "org/gated"]);
    assert_eq!(code, 4);
    assert!(
        out.starts_with("org/m@sha256:") && out.lines().count() == 1,
        "{out}"
    );
    for name in ["org/none", "org/gated"] {
        assert!(err.contains(&format!("error: {name}: ")), "{err}");
    }
    let last = err.lines().last().expect("a line");
    assert!(
        last.starts_with("error: 2 of 3 images are not cached: "),
        "{err}"
    );

    let other = tempfile::tempdir().expect("a folder");
    hub.fault(Fault::cdn("a.bin").then(Effect::Status(410, vec![])));
    let (code, _, err) = run(&hub, other.path(), &["org/m"]);
    assert_eq!(code, 5, "{err}");
    assert!(err.contains("try again"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_comments_and_come_from_stdin_too() {
    let file = |n: u64| Files::new().pattern("a.bin", 1_000_000, n);
    let world = (0..4).fold(World::new(), |world, n| {
        world.repo(Repo::model(format!("org/m{n}")).commit(file(n)))
    });
    let hub = Hub::start(world).await;
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("list.txt");
    std::fs::write(&list, "# models\norg/m0 # the first\n\norg/m1:main\n").expect("written");
    let data = folder.path().join("data");
    let list = list.to_str().expect("text");
    let mut child = command(&hub, &on(&data, &["org/m2", "-f", list, "-f", "-"]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"org/m3\norg/m2\n").expect("sent");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let out = String::from_utf8(output.stdout).expect("text");
    let mut names: Vec<&str> = out.lines().filter_map(|l| l.split('@').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["org/m0", "org/m1:main", "org/m2", "org/m3"]);

    std::fs::write(folder.path().join("bad"), "org/m0\nNOT A NAME\n").expect("written");
    let bad = folder.path().join("bad");
    let (code, _, err) = run(&hub, &data, &["-f", bad.to_str().expect("text")]);
    assert_eq!(code, 2);
    assert!(err.contains("bad:2: NOT A NAME: "), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_and_run_again_every_byte_is_fetched_once() {
    for signal in [Signal::INT, Signal::TERM] {
        let hub = large().await;
        hold(&hub);
        let folder = tempfile::tempdir().expect("a folder");
        let mut pull = Pull::start(&hub, folder.path(), &["org/m"]);
        pull.until(half_is_there);
        let (code, err) = pull.end(signal);
        assert_eq!(code, 130, "{err}");
        assert!(
            err.contains("interrupted: 0 of 1 images are cached\n  what is on disk stays: the same command goes on with it"),
            "{err}"
        );
        hub.release("half");
        hub.clear_faults();
        let (code, out, err) = run(&hub, folder.path(), &["org/m", "--json"]);
        assert_eq!(code, 0, "{err}");
        let pulled = &events(&out)[events(&out).len() - 2];
        assert_eq!(pulled["bytes"], SIZE / 2, "{pulled}");
        let both = hub.bytes();
        assert!((2 * SIZE..=2 * SIZE + SIZE / 100).contains(&both), "{both}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folders_server_fills_and_goes_on_when_nobody_waits() {
    let hub = large().await;
    hold(&hub);
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    let server = Server::start(data, &hub, &["--cache-min-free", "0"]);
    let mut pull = Pull::start(&hub, data, &["org/m"]);
    let filling = pull.until(half_is_there);
    assert_eq!(filling["total_bytes"], 2 * SIZE);
    let (code, err) = pull.end(Signal::INT);
    assert_eq!(code, 130);
    assert!(err.contains("the server goes on filling"), "{err}");
    let joined = Pull::start(&hub, data, &["org/m"]);
    hub.release("half");
    hub.clear_faults();
    let mut joined = joined;
    let pulled = joined.until(|event| event["event"] == "pulled");
    assert!(
        pulled["outcome"] == "joined" || pulled["outcome"] == "revalidated",
        "{pulled}"
    );
    assert!(joined.child.wait().expect("gone").success());
    assert_eq!(hub.bytes(), 2 * SIZE, "one fill for all");
    let (code, out, _) = run(&hub, data, &["org/none", "org/m:main"]);
    assert_eq!(code, 4);
    assert!(out.starts_with("org/m:main@sha256:"), "{out}");
    let (status, digest) = get(&format!("{}/v2/org/m/manifests/main", server.url)).await;
    assert_eq!(
        (status, digest),
        (200, pulled["index"].as_str().expect("text").to_owned())
    );
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_server_ends_the_command_goes_on_by_itself() {
    let hub = large().await;
    hold(&hub);
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    let server = Server::start(data, &hub, &["--cache-min-free", "0"]);
    let mut pull = Pull::start(&hub, data, &["org/m"]);
    pull.until(half_is_there);
    server.kill();
    hub.clear_faults();
    hub.release("half");
    assert_eq!(pull.child.wait().expect("gone").code(), Some(0));
    assert!(hub.bytes() <= 3 * SIZE, "{}", hub.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_a_pull_others_pull_and_look() {
    let hub = large().await;
    hold(&hub);
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    let mut first = Pull::start(&hub, data, &["org/m"]);
    first.until(half_is_there);
    let output = Command::new(env!("CARGO_BIN_EXE_hf-oci"))
        .args(on(data, &["du", "--json"]))
        .output()
        .expect("it runs");
    let usage: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (&usage["staging"]["fills"], &usage["staging"]["layers"]),
        (&1.into(), &1.into())
    );
    assert!(
        usage["staging"]["resumable"].as_u64() > Some(2 * SIZE),
        "{usage}"
    );
    let mut second = Pull::start(&hub, data, &["org/m:main"]);
    second.until(half_is_there);
    // Another image, which the first did not ask for: it lets the second have it all the same.
    let mut third = Pull::start(&hub, data, &["org/m/b.bin"]);
    third.until(|event| event["bytes"].as_u64() >= Some(SIZE / 2));
    hub.release("half");
    for mut pull in [first, second, third] {
        assert!(pull.child.wait().expect("gone").success());
    }
    assert_eq!(hub.bytes(), 3 * SIZE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_must_be_the_images() {
    let hub = demo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (code, out, _) = run(&hub, folder.path(), &["org/demo"]);
    assert_eq!(code, 0);
    let exact = out.trim_end();
    hub.reset();
    let (code, again, _) = run(&hub, folder.path(), &[exact]);
    assert_eq!((code, again.trim_end()), (0, exact));
    assert_eq!(hub.records().len(), 0, "what has a digest cannot change");
    let other = format!("org/demo@sha256:{}", "0".repeat(64));
    let (code, _, err) = run(&hub, folder.path(), &[&other]);
    assert_eq!(code, 4);
    assert!(err.contains("org/demo:latest is sha256:"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_what_is_cached_is_had_and_the_rest_is_not_there() {
    let hub = demo().await;
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(run(&hub, folder.path(), &["org/demo:main"]).0, 0);
    hub.reset();
    let (code, _, err) = run(&hub, folder.path(), &["org/demo:main", "--offline"]);
    assert_eq!(code, 0, "{err}");
    assert!(err.contains("this is what was last known of it"), "{err}");
    assert_eq!(run(&hub, folder.path(), &["org/other", "--offline"]).0, 4);
    assert_eq!(hub.records().len(), 0);
}
