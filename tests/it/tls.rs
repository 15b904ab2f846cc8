//! TLS: the real binary with a certificate of its own making, over both protocols, renewed without dropping a connection.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Certificate, Client, Version};

use crate::binary::started;
use crate::harness::demo;

fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_hf-oci"))
}

fn make(folder: &Path, more: &[&str]) {
    let made = binary()
        .args(["cert", "localhost", "127.0.0.1", "--out"])
        .arg(folder)
        .args(more)
        .output()
        .expect("the binary");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let said = String::from_utf8_lossy(&made.stdout);
    for place in [
        "/etc/docker/certs.d/localhost:5000",
        "buildkitd.toml",
        "hosts.toml",
        "/etc/containers/certs.d/",
    ] {
        assert!(said.contains(place), "{place} is not in {said}");
    }
}

struct Server {
    child: Child,
    url: String,
    cert: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Server {
    /// A server whose certificate was made for `localhost` and `127.0.0.1`.
    fn start(upstream: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        make(folder.path(), &[]);
        let cert = folder.path().join("localhost.crt");
        let mut child = binary()
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--upstream",
                upstream,
                "--tls-cert",
            ])
            .arg(&cert)
            .arg("--tls-key")
            .arg(folder.path().join("localhost.key"))
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let (lines, url) = started(&mut child);
        std::thread::spawn(move || lines.for_each(drop));
        assert!(url.starts_with("https://"), "{url}");
        Self {
            child,
            url,
            cert,
            _folder: folder,
        }
    }

    /// A client that trusts the certificate of this moment and nothing else.
    fn client(&self) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pem = std::fs::read(&self.cert).expect("a certificate");
        let cert = Certificate::from_pem(&pem).expect("a certificate");
        Client::builder()
            .tls_certs_only([cert])
            .build()
            .expect("a client")
    }

    fn key(&self) -> std::path::PathBuf {
        self.cert.with_extension("key")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_over_tls_for_who_trusts_the_certificate_that_was_made() {
    let hub = demo().await;
    let server = Server::start(hub.url());
    let url = format!("{}/v2/org/demo/manifests/main", server.url);
    let answer = server.client().get(&url).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let _ = rustls::crypto::ring::default_provider().install_default();
    assert!(
        Client::new().get(&url).send().await.is_err(),
        "nobody else trusts it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_on_the_port_is_told_so() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let hub = demo().await;
    let server = Server::start(hub.url());
    let address = server.url.strip_prefix("https://").expect("https");
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("a connection");
    stream
        .write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("sent");
    let mut said = String::new();
    stream.read_to_string(&mut said).await.expect("an answer");
    assert!(
        said.starts_with("HTTP/1.1 400 ")
            && said.ends_with("This port speaks TLS: ask it with https://.\n"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_and_a_bad_one_is_not_and_no_connection_drops() {
    let hub = demo().await;
    let server = Server::start(hub.url());
    let url = format!("{}/v2/", server.url);
    let old = server.client();
    assert_eq!(
        old.get(&url).send().await.expect("an answer").version(),
        Version::HTTP_11
    );
    std::fs::write(server.key(), "no key").expect("written");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(
        server.client().get(&url).send().await.is_ok(),
        "the old pair goes on"
    );
    make(server.cert.parent().expect("a folder"), &["--force"]);
    let mut renewed = false;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        renewed = server.client().get(&url).send().await.is_ok();
        if renewed {
            break;
        }
    }
    assert!(renewed, "new connections get the new certificate");
    assert!(
        old.get(&url).send().await.is_ok(),
        "the old connection is still open"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_speaks_tls_to_its_own_server() {
    let hub = demo().await;
    let server = Server::start(hub.url());
    let health = |cert: &Path| {
        binary()
            .arg("health")
            .env("HF_OCI_LISTEN", server.url.trim_start_matches("https://"))
            .env("HF_OCI_TLS_CERT", cert)
            .env("HF_OCI_TLS_KEY", server.key())
            .output()
            .expect("the binary")
            .status
            .success()
    };
    assert!(health(&server.cert));
    let other = tempfile::tempdir().expect("a folder");
    make(other.path(), &[]);
    assert!(
        !health(&other.path().join("localhost.crt")),
        "another certificate is not trusted"
    );
}

#[test]
fn a_key_is_only_for_its_owner_and_nothing_is_replaced_unasked() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    make(folder.path(), &[]);
    let key = folder.path().join("localhost.key");
    assert_eq!(
        std::fs::metadata(&key).expect("a key").permissions().mode() & 0o777,
        0o600
    );
    let again = binary()
        .args(["cert", "localhost", "--out"])
        .arg(folder.path())
        .output()
        .expect("the binary");
    assert!(!again.status.success());
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("--force"),
        "it says how"
    );
}
