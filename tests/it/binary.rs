//! The real binary, as a server over the simulator.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;

use crate::hub::Hub;

/// A running server.
pub struct Server {
    child: Child,
    log: Option<JoinHandle<Vec<String>>>,
    pub url: String,
}

impl Server {
    /// Starts one on a data folder, with more flags.
    pub fn start(data: &Path, hub: &Hub, flags: &[&str]) -> Self {
        let (child, lines, url) = launch(data, hub, flags);
        // Read all the time, so that it never waits for us.
        let log = std::thread::spawn(move || lines.map_while(Result::ok).collect());
        let log = Some(log);
        Self { child, log, url }
    }

    /// Starts one whose log nobody reads after the start-up line, as that of `hf-oci serve 2>&1 | head`.
    pub fn start_unread(data: &Path, hub: &Hub) -> Self {
        let (child, _, url) = launch(data, hub, &[]);
        let log = None;
        Self { child, log, url }
    }

    /// Ends it as `kill -9` does. Gives what it logged since its start-up line.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
        let log = self.log.take().expect("its log");
        log.join().expect("its log")
    }

    /// Ends it as a service manager does.
    pub fn stop(mut self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("sent");
        assert!(self.child.wait().expect("gone").success());
    }
}

impl Drop for Server {
    /// One that a failed test leaves behind is ended.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub type Lines = std::io::Lines<BufReader<ChildStderr>>;

fn launch(data: &Path, hub: &Hub, flags: &[&str]) -> (Child, Lines, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hf-oci"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--fill-memory",
            "32MiB",
            "--upstream",
            hub.url(),
            "--data-dir",
        ])
        .arg(data)
        .args(flags)
        .env("HF_OCI_TAG_TTL", "0s")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    let (lines, url) = started(&mut child);
    (child, lines, url)
}

/// Waits until a server that was just started listens: where, and the rest of its log.
pub fn started(child: &mut Child) -> (Lines, String) {
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let url = lines
        .by_ref()
        .map(|line| line.expect("text"))
        .find_map(|line| address(&line))
        .expect("a start-up line");
    (lines, url)
}

/// The address that the start-up line tells, if it is in `log`.
pub fn address(log: &str) -> Option<String> {
    let (_, rest) = log.split_once("listening on ")?;
    rest.split(' ').next().map(str::to_owned)
}

/// The exit code, stdout and stderr of a command.
pub fn run(data: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hf-oci"))
        .args(args)
        .arg("--data-dir")
        .arg(data)
        .output()
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let code = output.status.code().expect("a code");
    (code, text(output.stdout), text(output.stderr))
}
