//! Promise: the program says what it does, what is wrong and what to do next, and its exit code can be relied on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hf_oci::config::KEYS;

/// The program with an environment of its own.
fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hf-oci"));
    command.env_clear().env("HOME", home).stdin(Stdio::null());
    command
}

fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_taken_port_is_told_with_the_next_step() {
    let home = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let (code, _, told) = output(program(home.path()).args(["serve", "--listen", &address]));
    assert_eq!(code, Some(1));
    assert!(
        told.starts_with(&format!("error: cannot listen on {address}: ")),
        "{told}"
    );
    assert!(told.contains("--listen"), "{told}");
}

#[test]
fn a_data_folder_that_is_none_is_told_with_the_next_step() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("file");
    std::fs::write(&file, "").expect("a file");
    for dir in [
        file.clone(),
        file.join("below"),
        PathBuf::from("/proc/hf-oci"),
    ] {
        let dir = dir.display().to_string();
        let mut command = program(home.path());
        let (code, _, told) =
            output(command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir", &dir]));
        assert_eq!(code, Some(1), "{told}");
        assert!(
            told.starts_with(&format!("error: cannot use the data folder {dir}: ")),
            "{told}"
        );
        assert!(told.contains("--data-dir"), "{told}");
    }
}

#[test]
fn wrong_flags_are_usage_errors() {
    let home = tempfile::tempdir().expect("a folder");
    let (code, _, told) = output(program(home.path()).args(["serve", "--layout", "flat"]));
    assert_eq!(code, Some(2));
    assert_eq!(
        told,
        "error: --layout: 'flat' is no layout: 'split' or 'single' is wanted\n"
    );
    let (code, _, told) = output(program(home.path()).args(["serve", "--token", "x"]));
    assert_eq!(code, Some(2), "{told}");
    let (code, _, told) = output(program(home.path()).arg("serve").env("HF_OCI_LISTEN", "x"));
    assert_eq!(code, Some(1), "{told}");
}

#[test]
fn the_help_of_each_command_has_an_example() {
    let home = tempfile::tempdir().expect("a folder");
    for arguments in [&["--help"][..], &["serve", "--help"], &["health", "--help"]] {
        let (code, help, _) = output(program(home.path()).args(arguments));
        assert_eq!(code, Some(0));
        assert!(help.contains("Example"), "{help}");
    }
    let (_, help, _) = output(program(home.path()).args(["serve", "--help"]));
    for key in KEYS {
        assert!(
            [" ", "["]
                .iter()
                .any(|after| help.contains(&format!("--{}{after}", key.flag)))
                && help.contains(key.env[0]),
            "{}",
            key.path
        );
    }
}

/// A server that answers each connection with `answer`, and its address.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = [0; 1024];
            let n = stream.read(&mut request).expect("a request");
            assert!(request[..n].starts_with(b"GET /healthz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).expect("an answer");
        }
    });
    address
}

#[test]
fn health_says_whether_a_server_is_well() {
    let home = tempfile::tempdir().expect("a folder");
    let well = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let port = well.rsplit(':').next().expect("a port");
    for (name, value) in [
        ("HF_OCI_LISTEN", well.clone()),
        ("HF_OCI_LISTEN", format!("0.0.0.0:{port}")),
    ] {
        let (code, said, _) = output(program(home.path()).arg("health").env(name, value));
        assert_eq!(
            (code, said),
            (Some(0), format!("http://{well}/healthz is well\n"))
        );
    }
    let url = format!("http://{well}");
    let (code, ..) = output(program(home.path()).args(["health", "--server", &url]));
    assert_eq!(code, Some(0));

    let unwell = answering("HTTP/1.1 503 Service Unavailable\r\n\r\n");
    let (code, _, told) = output(
        program(home.path())
            .arg("health")
            .env("HF_OCI_LISTEN", &unwell),
    );
    assert_eq!(code, Some(1));
    assert_eq!(
        told,
        format!("error: http://{unwell}/healthz is not well: it answers 503\n")
    );

    let free = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("its address");
    let (code, _, told) = output(
        program(home.path())
            .arg("health")
            .env("HF_OCI_LISTEN", free.to_string()),
    );
    assert_eq!(code, Some(1));
    assert!(
        told.contains("refused") && told.contains("hf-oci serve"),
        "{told}"
    );
}

/// Starts a server and gives the first lines of its log.
fn first_lines(command: &mut Command, lines: usize) -> Vec<String> {
    let mut server = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let log = BufReader::new(server.stderr.take().expect("its log"));
    let first = log
        .lines()
        .take(lines)
        .map(|line| line.expect("a line"))
        .collect();
    let _ = server.kill();
    server.wait().expect("its end");
    first
}

#[test]
fn the_start_line_tells_address_data_and_upstream_at_any_level() {
    let home = tempfile::tempdir().expect("a folder");
    let data = home
        .path()
        .join(".local/share/hf-oci")
        .display()
        .to_string();
    let quiet = ["serve", "--listen", "127.0.0.1:0", "--log", "off"];
    let line = first_lines(program(home.path()).args(quiet), 1).remove(0);
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        line.starts_with(&format!("hf-oci {version} listening on http://127.0.0.1:")),
        "{line}"
    );
    assert!(!line.contains(":0 "), "{line}");
    let end = format!(" · data {data} · upstream https://huggingface.co (anonymous)");
    assert!(line.ends_with(&end), "{line}");

    let json = ["--log-format", "json", "--upstream", "http://localhost:9"];
    let mut command = program(home.path());
    command.args(quiet).args(json).env("HF_TOKEN", "hf_secret");
    let line = first_lines(&mut command, 1).remove(0);
    let fields: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(fields["fields"]["upstream"], "http://localhost:9");
    assert_eq!(fields["fields"]["token"], true);
    assert!(!line.contains("secret"));
}

#[test]
fn a_server_is_offline_by_flag_or_variable_and_says_so() {
    let home = tempfile::tempdir().expect("a folder");
    let serve = ["serve", "--listen", "127.0.0.1:0", "--log", "off"];
    for (flags, variable, offline) in [
        (&["--offline"][..], "", true),
        (&["--offline=false"], "1", false),
        (&[], "1", true),
        (&[], "YES", true),
        (&[], "0", false),
    ] {
        let mut command = program(home.path());
        command
            .args(serve)
            .args(flags)
            .env("HF_HUB_OFFLINE", variable);
        let line = first_lines(&mut command, 1).remove(0);
        let told = line.ends_with(" · upstream none (offline)");
        assert_eq!(told, offline, "{flags:?} {variable}: {line}");
    }
}

#[test]
fn an_address_that_others_reach_is_warned_of() {
    let home = tempfile::tempdir().expect("a folder");
    for (flags, told) in [
        (
            &[][..],
            "What else the server's Hub token can read is refused",
        ),
        (
            &["--upstream-share-private"],
            "can pull everything that the server's Hub token can read",
        ),
        (&["--auth-mode", "huggingface"], "unencrypted"),
    ] {
        let mut command = program(home.path());
        command
            .args(["serve", "--listen", "0.0.0.0:0"])
            .args(flags)
            .env("HF_TOKEN", "hf_secret");
        let lines = first_lines(&mut command, 2);
        assert!(
            lines[1].contains("WARN") && lines[1].contains(told),
            "{lines:?}"
        );
        assert!(!lines[1].contains('\u{1b}'), "{lines:?}");
    }
}

#[test]
fn an_upstream_that_gets_tokens_in_clear_is_warned_of() {
    let home = tempfile::tempdir().expect("a folder");
    let mut command = program(home.path());
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    command.args([
        "--auth-mode",
        "huggingface",
        "--upstream",
        "http://mirror.example",
    ]);
    let lines = first_lines(&mut command, 2);
    assert!(
        lines[1].contains("WARN") && lines[1].contains("http://mirror.example unencrypted"),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_log_nobody_reads_serves_and_stops() {
    let hub = crate::harness::demo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let server = crate::binary::Server::start_unread(folder.path(), &hub);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("{}/v2/org/demo/manifests/main", server.url)).await;
    assert_eq!(answer.expect("an answer").status(), 200);
    server.stop();
}
