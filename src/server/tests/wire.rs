//! Files to sockets without a copy, through hyper.

use std::fs::File;
use std::io::Write as _;

use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::header::CONTENT_LENGTH;

use super::super::wire::Socket;
use super::*;

/// A piece of an answer.
#[derive(Clone, Copy)]
enum Part {
    Text(&'static [u8]),
    /// From a place of the file, so many bytes.
    Stretch(u64, u64),
}

use Part::{Stretch, Text};

fn pattern(size: usize) -> Vec<u8> {
    let numbers = (0..size as u32).flat_map(u32::to_le_bytes);
    numbers.take(size).collect()
}

fn file(bytes: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(file)
}

/// A connection whose every request is answered by these parts, with the length that they promise.
async fn connection(
    file: Arc<File>,
    parts: Vec<Part>,
) -> (TcpStream, JoinHandle<hyper::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let socket = Socket::new(listener.accept().await.unwrap().0);
    let wire = socket.wire().clone();
    let service = hyper::service::service_fn(move |_: Request<Incoming>| {
        let (wire, file) = (wire.clone(), file.clone());
        let length: u64 = parts
            .iter()
            .map(|part| match part {
                Text(text) => text.len() as u64,
                Stretch(_, length) => *length,
            })
            .sum();
        let pieces = parts.clone().into_iter().map(move |part| {
            Ok::<_, io::Error>(Frame::data(match part {
                Text(text) => Bytes::from_static(text).into(),
                Stretch(at, length) => wire.piece(&file, at, length),
            }))
        });
        let response = Response::builder().header(CONTENT_LENGTH, length);
        let response = response.body(StreamBody::new(stream::iter(pieces)));
        async move { response }
    });
    let served =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    (client, tokio::spawn(served))
}

async fn ask(client: &mut TcpStream, more: &str) {
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{more}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
}

/// The body of the only answer on a connection.
async fn body(file: Arc<File>, parts: Vec<Part>) -> Vec<u8> {
    let (mut client, _served) = connection(file, parts).await;
    ask(&mut client, "Connection: close\r\n").await;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    let head = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    answer.split_off(head + 4)
}

#[tokio::test]
async fn a_stretch_arrives_as_the_files_bytes() {
    let bytes = pattern(3 << 20);
    let got = body(file(&bytes), vec![Stretch(5, (3 << 20) - 5)]).await;
    assert!(got == bytes[5..]);
}

#[tokio::test]
async fn stretches_and_text_arrive_in_their_order() {
    let bytes = pattern(200_000);
    let parts = vec![
        Text(b"one"),
        Stretch(7, 70_000),
        Text(b"two"),
        Stretch(0, 1),
        Stretch(150_000, 50_000),
        Text(b"three"),
    ];
    let got = body(file(&bytes), parts).await;
    let wanted = [
        b"one",
        &bytes[7..70_007],
        b"two",
        &bytes[..1],
        &bytes[150_000..],
        b"three",
    ]
    .concat();
    assert!(got == wanted);
}

#[tokio::test]
async fn requests_one_after_the_other_get_their_own_answers() {
    let bytes = pattern(100_000);
    let (mut client, _served) = connection(file(&bytes), vec![Stretch(0, 100_000)]).await;
    // Both are there before the first is answered.
    ask(&mut client, "").await;
    ask(&mut client, "Connection: close\r\n").await;
    let mut answers = Vec::new();
    client.read_to_end(&mut answers).await.unwrap();
    let found = answers
        .windows(bytes.len())
        .filter(|window| *window == bytes)
        .count();
    assert_eq!(found, 2);
}

#[tokio::test]
async fn a_file_that_is_too_short_breaks_the_connection_off() {
    let (mut client, served) = connection(file(&pattern(1000)), vec![Stretch(0, 1001)]).await;
    ask(&mut client, "").await;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(served.await.unwrap().is_err());
    assert!(answer.ends_with(&pattern(1000)));
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_lets_go_of_the_file() {
    let file = file(&pattern(16 << 20));
    let (mut client, served) = connection(file.clone(), vec![Stretch(0, 16 << 20)]).await;
    ask(&mut client, "").await;
    client.read_exact(&mut [0; 1000]).await.unwrap();
    drop(client);
    assert!(served.await.unwrap().is_err());
    assert_eq!(Arc::strong_count(&file), 1);
}
