//! A server elsewhere fills.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_elsewhere_is_waited_for_through_its_drip() {
    let hub = large().await;
    hold(&hub);
    let folder = tempfile::tempdir().expect("a folder");
    let here = tempfile::tempdir().expect("a folder");
    let flags = [
        "--registry-wait",
        "100ms",
        "--registry-drip",
        "100ms",
        "--cache-min-free",
        "0",
    ];
    let server = Server::start(folder.path(), &hub, &flags);
    let mut pull = Pull::start(&hub, here.path(), &["org/m", "--server", &server.url]);
    let waiting = pull.until(|event| event["event"] == "waiting");
    assert_eq!(
        waiting.as_object().expect("an event").len(),
        3,
        "no invented numbers: {waiting}"
    );
    hub.release("half");
    let pulled = pull.until(|event| event["event"] == "pulled");
    let (_, digest) = get(&format!("{}/v2/org/m/manifests/main", server.url)).await;
    assert_eq!(pulled["index"], digest);
    assert_eq!(pulled["commit"], hub.sha("org/m", "main"));
    assert!(pulled["size"].as_u64() > Some(2 * SIZE));
    assert!(pull.child.wait().expect("gone").success());
    assert_eq!(
        std::fs::read_dir(here.path()).expect("a folder").count(),
        0,
        "nothing is kept here"
    );

    let elsewhere = |args: &[&str]| {
        let args: Vec<&str> = args
            .iter()
            .copied()
            .chain(["--server", &server.url])
            .collect();
        run(&hub, here.path(), &args)
    };
    let (code, _, err) = elsewhere(&["org/none"]);
    assert_eq!(code, 4);
    assert!(err.contains("org/none"), "{err}");
    let exact = format!("org/m@{digest}");
    assert_eq!(elsewhere(&[&exact]).0, 0);
    let other = format!("org/m@sha256:{}", "0".repeat(64));
    assert_eq!(elsewhere(&[&other]).0, 4);
    let url = server.url.clone();
    server.stop();
    assert_eq!(run(&hub, here.path(), &["org/m", "--server", &url]).0, 5);
    assert_eq!(
        run(&hub, here.path(), &["org/m", "--server", "ftp://x"]).0,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_that_fails_elsewhere_after_its_headers_is_trouble() {
    let hub = large().await;
    hub.fault(
        Fault::cdn("b.bin")
            .range_start(SIZE / 2..SIZE)
            .then(Effect::Hold("half"))
            .then(Effect::Status(410, vec![])),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let flags = [
        "--registry-wait",
        "100ms",
        "--registry-drip",
        "100ms",
        "--cache-min-free",
        "0",
    ];
    let server = Server::start(folder.path(), &hub, &flags);
    let mut pull = Pull::start(&hub, folder.path(), &["org/m", "--server", &server.url]);
    pull.until(|event| event["event"] == "waiting");
    hub.release("half");
    let failed = pull.until(|event| event["event"] == "not-pulled");
    assert_eq!(failed["why"], "upstream", "{failed}");
    assert!(
        failed["message"]
            .as_str()
            .expect("text")
            .contains("broke off"),
        "{failed}"
    );
    assert_eq!(pull.child.wait().expect("gone").code(), Some(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_elsewhere_is_given_or_dockers_and_is_never_shown() {
    let hub = demo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let users = folder.path().join("users");
    let hash = bcrypt_of("geheim-7");
    std::fs::write(&users, format!("ada:{hash}\n")).expect("written");
    let users = users.to_str().expect("text");
    let flags = [
        "--auth-mode",
        "htpasswd",
        "--auth-htpasswd-file",
        users,
        "--cache-min-free",
        "0",
    ];
    let server = Server::start(&data, &hub, &flags);
    let args = ["org/demo", "--server", &server.url, "--log", "trace"];
    let (code, _, err) = ended(&mut command(&hub, &args));
    assert_eq!(code, 4);
    assert!(err.contains("docker login"), "{err}");

    let given = args
        .iter()
        .copied()
        .chain(["--user", "ada:geheim-7"])
        .collect::<Vec<_>>();
    let (code, _, err) = ended(&mut command(&hub, &given));
    assert_eq!(code, 0, "{err}");
    assert!(!err.contains("geheim-7"), "{err}");

    let host = server.url.trim_start_matches("http://");
    let docker = folder.path().join("docker");
    std::fs::create_dir(&docker).expect("a folder");
    // "ada:geheim-7"
    let auth = serde_json::json!({"auths": {host: {"auth": "YWRhOmdlaGVpbS03"}}});
    std::fs::write(docker.join("config.json"), auth.to_string()).expect("written");
    let (code, _, err) = ended(command(&hub, &args).env("DOCKER_CONFIG", &docker));
    assert_eq!(code, 0, "{err}");
    assert!(!err.contains("YWRh"), "{err}");
}

/// A cheap hash, as htpasswd -B writes it.
fn bcrypt_of(password: &str) -> String {
    bcrypt::hash(password, 4).expect("a hash")
}
