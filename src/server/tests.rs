//! The server over real sockets, with a trivial handler.

mod limits;

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::*;

/// `/slow` answers after 300 ms, `/panic` panics, `/endless` has no end, all else at once.
struct Trivial;

/// Never pending, and never at its end.
struct Endless;

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<io::Result<hyper::body::Frame<Bytes>>>> {
        let frame = hyper::body::Frame::data(Bytes::from_static(&[0; 4096]));
        std::task::Poll::Ready(Some(Ok(frame)))
    }
}

impl Handler for Trivial {
    fn handle(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            match request.uri().path() {
                "/slow" => sleep(Duration::from_millis(300)).await,
                "/never" => sleep(Duration::from_secs(3600)).await,
                "/panic" => panic!("as asked"),
                "/endless" => return Response::new(Endless.boxed_unsync()),
                _ => {}
            }
            Response::new(Full::from("fine").map_err(io::Error::other).boxed_unsync())
        })
    }
}

struct Running {
    address: SocketAddr,
    shutdown: Shutdown,
    ended: JoinHandle<()>,
}

impl Running {
    async fn start(settings: ServerSettings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let ended = tokio::spawn(run(
            vec![listener],
            Arc::new(Trivial),
            settings,
            None,
            shutdown.clone(),
        ));
        Self {
            address,
            shutdown,
            ended,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `bytes` and reads until the server closes.
    async fn told(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        let mut text = Vec::new();
        timeout(WAIT, stream.read_to_end(&mut text))
            .await
            .unwrap()
            .unwrap();
        String::from_utf8(text).unwrap()
    }

    /// Waits for the end; gives the time it took.
    async fn ended(self) -> Duration {
        let start = Instant::now();
        timeout(WAIT, self.ended).await.unwrap().unwrap();
        start.elapsed()
    }
}

const WAIT: Duration = Duration::from_secs(10);

fn settings() -> ServerSettings {
    ServerSettings::default()
}

fn get(path: &str, connection: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\n\r\n").into_bytes()
}

/// Reads one answer of the trivial handler.
async fn one_answer(stream: &mut TcpStream) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 1024]);
    while !text.ends_with("fine") {
        let n = timeout(WAIT, stream.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert_ne!(n, 0, "closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    text
}

/// Waits until the other side closes; whatever comes before is dropped.
async fn closed(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    let _ = timeout(WAIT, stream.read_to_end(&mut Vec::new()))
        .await
        .unwrap();
    start.elapsed()
}

#[tokio::test]
async fn http_1_is_served_and_kept_alive() {
    let server = Running::start(settings()).await;
    let mut stream = server.connect().await;
    for _ in 0..2 {
        stream.write_all(&get("/", "keep-alive")).await.unwrap();
        assert!(
            one_answer(&mut stream)
                .await
                .starts_with("HTTP/1.1 200 OK\r\n")
        );
    }
}

#[tokio::test]
async fn http_2_is_served_on_the_same_port() {
    let server = Running::start(settings()).await;
    let io = TokioIo::new(server.connect().await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://x/")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.version(), hyper::Version::HTTP_2);
    assert_eq!(response.collect().await.unwrap().to_bytes(), "fine");
}

#[tokio::test]
async fn a_tls_hello_is_answered_in_http() {
    let server = Running::start(settings()).await;
    let mut hello = vec![0x16, 3, 1, 7, 0xfc, 1, 0, 7, 0xf8, 3, 3];
    hello.resize(2049, 0xa5);
    assert!(
        server
            .told(&hello)
            .await
            .starts_with("HTTP/1.1 400 Bad Request\r\n")
    );
    // Today's hellos come in two segments; the second must not destroy the answer.
    let mut stream = server.connect().await;
    stream.set_nodelay(true).unwrap();
    stream.write_all(&hello[..1400]).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    stream.write_all(&hello[1400..]).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n"));
}

#[tokio::test]
async fn other_garbage_is_answered_in_http_too() {
    let server = Running::start(settings()).await;
    for garbage in [
        &b"\0\0\0\0"[..],
        b"\xff\xfe\xfd",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"hello there\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"{\"jsonrpc\":\"2.0\"}\n",
    ] {
        let text = server.told(garbage).await;
        assert!(text.starts_with("HTTP/1.1 400"), "{garbage:?}: {text}");
    }
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(70_000));
    let mut stream = server.connect().await;
    stream.write_all(long.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 431");
}

#[tokio::test]
async fn whoever_sends_no_head_in_time_is_closed() {
    let header_timeout = Duration::from_millis(150);
    let server = Running::start(ServerSettings {
        header_timeout,
        ..settings()
    })
    .await;
    for start in [
        &b""[..],
        b"P",
        b"PRI * HTTP/2.0\r\n",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHo",
    ] {
        let mut stream = server.connect().await;
        stream.write_all(start).await.unwrap();
        let took = closed(&mut stream).await;
        assert!(
            took >= header_timeout && took < Duration::from_secs(2),
            "{start:?}: {took:?}"
        );
    }
    // Nor may a connection be idle for longer.
    let mut stream = server.connect().await;
    stream.write_all(&get("/", "keep-alive")).await.unwrap();
    one_answer(&mut stream).await;
    assert!(closed(&mut stream).await < Duration::from_secs(2));
}

#[tokio::test]
async fn a_panic_is_an_answer_and_the_connection_lives() {
    let server = Running::start(settings()).await;
    let mut stream = server.connect().await;
    stream
        .write_all(&get("/panic", "keep-alive"))
        .await
        .unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 500");
    stream.write_all(&get("/", "keep-alive")).await.unwrap();
    one_answer(&mut stream).await;
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_a_place() {
    let server = Running::start(ServerSettings {
        max_connections: 1,
        ..settings()
    })
    .await;
    let mut first = server.connect().await;
    first.write_all(&get("/", "keep-alive")).await.unwrap();
    one_answer(&mut first).await;
    let mut second = server.connect().await;
    second.write_all(&get("/", "keep-alive")).await.unwrap();
    let early = timeout(Duration::from_millis(200), second.read(&mut [0; 1])).await;
    assert!(early.is_err());
    drop(first);
    one_answer(&mut second).await;
}

#[tokio::test]
async fn a_drain_ends_at_once_if_nothing_is_in_flight() {
    let server = Running::start(settings()).await;
    let fresh = server.connect().await;
    let mut begun = server.connect().await;
    begun.write_all(b"GET / HT").await.unwrap();
    let mut idle = server.connect().await;
    idle.write_all(&get("/", "keep-alive")).await.unwrap();
    one_answer(&mut idle).await;
    drop(begun);
    server.shutdown.begin();
    let address = server.address;
    assert!(server.ended().await < Duration::from_secs(2));
    closed(&mut idle).await;
    drop(fresh);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_drain_lets_requests_in_flight_end() {
    let server = Running::start(settings()).await;
    let mut stream = server.connect().await;
    stream.write_all(&get("/slow", "keep-alive")).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    server.shutdown.begin();
    let text = one_answer(&mut stream).await;
    assert!(text.contains("connection: close"), "{text}");
    assert!(server.ended().await < Duration::from_secs(2));
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let drain = Duration::from_millis(200);
    let server = Running::start(ServerSettings {
        drain,
        ..settings()
    })
    .await;
    let mut stream = server.connect().await;
    stream.write_all(&get("/never", "close")).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    server.shutdown.begin();
    let took = server.ended().await;
    assert!(took >= drain && took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_drain_can_be_cut_short() {
    let server = Running::start(settings()).await;
    let mut stream = server.connect().await;
    stream.write_all(&get("/never", "close")).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    server.shutdown.begin();
    sleep(Duration::from_millis(50)).await;
    server.shutdown.stop_at_once();
    assert!(server.ended().await < Duration::from_secs(2));
    closed(&mut stream).await;
}

#[test]
fn errors_of_one_connection_do_not_slow_the_others() {
    for (error, one) in [
        (io::ErrorKind::ConnectionAborted.into(), true),
        // EMFILE
        (io::Error::from_raw_os_error(24), false),
    ] {
        assert_eq!(is_of_one_connection(&error), one);
    }
}
