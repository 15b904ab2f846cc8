//! The waiting rule over real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::server::{ServerSettings, Shutdown};

/// A registry on a real port, with short waits.
struct Running {
    address: std::net::SocketAddr,
    waiting: Arc<AtomicUsize>,
    shutdown: Shutdown,
}

impl Running {
    async fn start() -> Self {
        Self::start_with(1000).await
    }

    /// At most so many wait.
    async fn start_with(max_waiting: usize) -> Self {
        let content = Scripted::default();
        let waiting = content.waiting.clone();
        let settings = RegistrySettings {
            wait: Duration::from_millis(50),
            drip: Duration::from_millis(20),
            max_waiting,
        };
        let registry = Arc::new(Registry::over(Arc::new(content), settings));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let run = crate::server::run(
            vec![listener],
            registry,
            ServerSettings::default(),
            None,
            shutdown.clone(),
        );
        tokio::spawn(run);
        Self {
            address,
            waiting,
            shutdown,
        }
    }

    async fn send(&self, method: &str, tag: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{method} /v2/org/model/manifests/{tag} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn told(&self, method: &str, tag: &str) -> String {
        let mut text = String::new();
        let mut stream = self.send(method, tag).await;
        let _ = stream.read_to_string(&mut text).await;
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.stop_at_once();
    }
}

#[tokio::test]
async fn on_the_wire_an_early_answer_is_chunked_and_ends_well() {
    let running = Running::start().await;
    let text = running.told("GET", "in-150-ms").await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    assert!(
        !head.contains("digest:") && !head.contains("content-length"),
        "{head}"
    );
    assert!(body.starts_with("1\r\n{\r\n1\r\n\"\r\n"), "{body}");
    assert!(body.ends_with("]}\r\n0\r\n\r\n"), "{body}");
}

#[tokio::test]
async fn on_the_wire_a_failed_fill_never_ends_the_body_cleanly() {
    let running = Running::start().await;
    let text = running.told("GET", "fail-150-ms").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(!text.contains("0\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn on_the_wire_an_early_head_has_neither_length_nor_digest() {
    let running = Running::start().await;
    let text = running.told("HEAD", "in-10").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains(MEDIA_INDEX));
    for absent in ["content-length", "digest", "transfer-encoding", "etag"] {
        assert!(!text.contains(absent), "{absent} in {text}");
    }
    let text = running.told("HEAD", "ready").await;
    assert!(
        text.contains(&format!("content-length: {}\r\n", ready().size)),
        "{text}"
    );
}

#[tokio::test]
async fn a_client_that_leaves_drops_its_own_interest_at_once() {
    let running = Running::start().await;
    for tag in ["in-600", "late-600"] {
        let stream = running.send("GET", tag).await;
        let until = async |wanted| {
            while running.waiting.load(Ordering::SeqCst) != wanted {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = Duration::from_secs(5);
        tokio::time::timeout(limit, until(1)).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        drop(stream);
        tokio::time::timeout(limit, until(0)).await.unwrap();
    }
}

#[tokio::test]
async fn on_the_wire_an_http_1_0_gateway_gets_a_body_that_is_never_empty() {
    let running = Running::start().await;
    for (tag, whole) in [("in-150-ms", true), ("fail-150-ms", false)] {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let request = format!("GET /v2/org/model/manifests/{tag} HTTP/1.0\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).await;
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("chunked"), "{head}");
        assert!(body.starts_with('{'), "{body}");
        assert_eq!(serde_json::from_str::<Value>(body).is_ok(), whole, "{body}");
    }
}

#[tokio::test]
async fn beyond_those_who_may_wait_clients_are_sent_away_at_once_and_a_place_comes_back() {
    let running = Running::start_with(1).await;
    // Waiting is holding a place, before the early headers and after.
    let mut first = running.send("GET", "in-600").await;
    first.read_exact(&mut [0; 12]).await.unwrap();
    let text = running.told("GET", "in-600").await;
    assert!(text.starts_with("HTTP/1.1 503"), "{text}");
    assert!(text.contains("retry-after: 30\r\n"), "{text}");
    assert!(
        running
            .told("GET", "ready")
            .await
            .starts_with("HTTP/1.1 200")
    );
    drop(first);
    let limit = Duration::from_secs(5);
    let served = async {
        while !running
            .told("HEAD", "in-600")
            .await
            .starts_with("HTTP/1.1 200")
        {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(limit, served).await.unwrap();
}
