//! What clients may not do.

use hyper::client::conn::http2;

use super::*;

fn short(header_timeout: u64, stall_timeout: u64) -> ServerSettings {
    ServerSettings {
        header_timeout: Duration::from_millis(header_timeout),
        stall_timeout: Duration::from_millis(stall_timeout),
        ..settings()
    }
}

/// The preface of HTTP/2 and empty settings.
const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A GET of `/`, from the static table.
fn headers(stream: u32) -> Vec<u8> {
    frame(1, 5, stream, &[0x82, 0x84, 0x86, 0x41, 1, b'x'])
}

#[tokio::test]
async fn too_many_headers_are_refused() {
    let server = Running::start(settings()).await;
    let many = |n| {
        format!(
            "GET / HTTP/1.1\r\nConnection: close\r\n{}\r\n",
            "A: b\r\n".repeat(n)
        )
    };
    assert!(
        server
            .told(many(99).as_bytes())
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(
        server
            .told(many(100).as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
}

#[tokio::test]
async fn a_large_body_is_refused_unread_and_its_connection_closed() {
    let server = Running::start(settings()).await;
    let head =
        "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n";
    let text = server.told(head.as_bytes()).await;
    assert!(
        text.starts_with("HTTP/1.1 413") && text.contains("connection: close"),
        "{text}"
    );
    let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let text = server.told(head.as_bytes()).await;
    assert!(
        text.starts_with("HTTP/1.1 200") && text.contains("connection: close"),
        "{text}"
    );
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_and_no_other() {
    let server = Running::start(settings()).await;
    let mut stream = server.connect().await;
    let mut flood = BEGIN.to_vec();
    for at in 0..2000 {
        flood.extend(headers(2 * at + 1));
        flood.extend(frame(3, 0, 2 * at + 1, &8_u32.to_be_bytes()));
    }
    // It may be closed before all is sent.
    let _ = stream.write_all(&flood).await;
    assert!(closed(&mut stream).await < Duration::from_secs(2));
    assert!(
        server
            .told(&get("/", "close"))
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn an_idle_http_2_connection_is_closed() {
    let server = Running::start(short(200, 60_000)).await;
    let mut stream = server.connect().await;
    stream.write_all(BEGIN).await.unwrap();
    let took = closed(&mut stream).await;
    assert!(took >= Duration::from_millis(150), "{took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_request_that_takes_long_is_not_idle() {
    let server = Running::start(short(100, 100)).await;
    let io = TokioIo::new(server.connect().await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://x/slow")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.collect().await.unwrap().to_bytes(), "fine");
}

#[tokio::test]
async fn a_stream_that_is_not_read_ends_its_connection() {
    let server = Running::start(short(60_000, 300)).await;
    let io = TokioIo::new(server.connect().await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = Request::get("http://x/endless")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    timeout(WAIT, driver).await.unwrap().unwrap().ok();
    drop(response);
}

type Unread = Vec<Response<Incoming>>;

/// A connection with so many streams of which nothing is read beyond their windows.
async fn unread(server: &Running, streams: usize) -> (http2::SendRequest<Empty<Bytes>>, Unread) {
    let io = TokioIo::new(server.connect().await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut unread = Vec::new();
    for _ in 0..streams {
        unread.push(ask(&mut sender, "/endless").await);
    }
    (sender, unread)
}

async fn ask(sender: &mut http2::SendRequest<Empty<Bytes>>, path: &str) -> Response<Incoming> {
    let request = Request::get(format!("http://x{path}"));
    let request = request.body(Empty::new()).unwrap();
    let answer = timeout(WAIT, sender.send_request(request)).await.unwrap();
    answer.unwrap()
}

fn few(max_connections: usize) -> ServerSettings {
    ServerSettings {
        max_connections,
        ..short(300, 60_000)
    }
}

#[tokio::test]
async fn further_requests_over_all_connections_have_a_bound() {
    let server = Running::start(few(4)).await;
    let (mut sender, mut unread) = unread(&server, 2).await;
    let busy = ask(&mut sender, "/").await;
    assert_eq!(busy.status(), 503);
    assert!(busy.headers().contains_key("retry-after"));
    unread.pop();
    assert_eq!(ask(&mut sender, "/").await.status(), 200);
}

#[tokio::test]
async fn whoever_takes_all_places_keeps_no_other_connection_from_being_served() {
    let server = Running::start(few(4)).await;
    let (mut sender, mut kept) = unread(&server, 2).await;
    assert_eq!(ask(&mut sender, "/").await.status(), 503);
    let (_other, more) = unread(&server, 1).await;
    kept.extend(more);
    assert!(kept.iter().all(|answer| answer.status() == 200));
    let text = server.told(&get("/healthz", "close")).await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}
