//! Good clients beside bad ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Image;
use crate::client::{Client, Failure};
use crate::process::{Process, kernel_mib};

const GOOD: usize = 50;
/// Of each kind.
const BAD: usize = 500;
/// Connections of HTTP/2 that leave all their streams unread, and the streams of each: more than there are places for.
const MANY: usize = 100;
const STREAMS: usize = 32;
/// What such a stream takes before it stops, in bytes.
const WINDOW: u32 = 1000;
/// How long a server that is abused may take to say that it is there.
const HEALTHY: Duration = Duration::from_secs(2);
/// What the good ones must keep of their rate.
const KEPT: f64 = 0.8;
/// The same in windows of less than [`LONG`] seconds: on a shared machine such rates swing, and only half of that would be a defect.
const KEPT_SHORT: f64 = 0.4;
const LONG: f64 = 3.0;
/// How long rates settle before they are measured.
const SETTLE: Duration = Duration::from_millis(300);

/// The rate without, with, without, … of `rounds` with bad clients; the medians are compared.
pub async fn run(
    image: &Image,
    rounds: usize,
    seconds: f64,
    process: Option<Process>,
) -> Result<(), Failure> {
    let bytes = Arc::new(AtomicU64::new(0));
    let mut good = JoinSet::new();
    for _ in 0..GOOD {
        let client = Client::connect(image.server).await?;
        good.spawn(pull(client, image.largest().to_owned(), bytes.clone()));
    }
    let window = Duration::from_secs_f64(seconds);
    let (mut without, mut with) = (vec![rate(&bytes, window).await], Vec::new());
    for _ in 0..rounds {
        let bad = bad(image).await?;
        with.push(rate(&bytes, window).await);
        healthy(image.server).await?;
        if let Some(process) = process {
            let (blobs, sockets) = process.files()?;
            println!(
                "beside {} bad ones: {blobs} blobs and {sockets} sockets are open, kernel memory {} MiB",
                2 * BAD + MANY,
                kernel_mib().unwrap_or_default()
            );
        }
        drop(bad);
        without.push(rate(&bytes, window).await);
    }
    if let Some(failed) = good.try_join_next() {
        return Err(failed?.expect_err("they never end").to_string().into());
    }
    println!("{GOOD} good ones alone, MiB/s: {}", list(&without));
    println!(
        "beside {BAD} slow heads, {BAD} that never read and {MANY} with {STREAMS} unread streams: {}",
        list(&with)
    );
    let kept = median(&mut with) / median(&mut without);
    println!("they keep {:.0} % of their rate", kept * 100.0);
    if let Some(process) = process {
        process.check_memory("abuse")?;
    }
    let least = if seconds < LONG { KEPT_SHORT } else { KEPT };
    match kept >= least {
        true => Ok(()),
        false => Err(format!("less than {:.0} %", least * 100.0).into()),
    }
}

/// Pulls without end.
async fn pull(
    mut client: Client,
    path: String,
    bytes: Arc<AtomicU64>,
) -> Result<std::convert::Infallible, Failure> {
    loop {
        let mut left = client.ask(&path).await?;
        while left > 0 {
            let some = client.some().await?.len() as u64;
            left = left.checked_sub(some).ok_or("more bytes than told")?;
            bytes.fetch_add(some, Relaxed);
        }
    }
}

/// MiB a second, over a window.
async fn rate(bytes: &AtomicU64, window: Duration) -> f64 {
    sleep(SETTLE).await;
    let (before, start) = (bytes.load(Relaxed), Instant::now());
    sleep(window).await;
    (bytes.load(Relaxed) - before) as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64()
}

/// All the bad clients. They go when the set is dropped.
async fn bad(image: &Image) -> Result<JoinSet<()>, Failure> {
    let mut bad = JoinSet::new();
    for _ in 0..BAD {
        bad.spawn(slow_head(image.server));
        let mut stream = TcpStream::connect(image.server).await?;
        let request = format!("GET {} HTTP/1.1\r\nHost: load\r\n\r\n", image.largest());
        stream.write_all(request.as_bytes()).await?;
        bad.spawn(async move {
            let _stream = stream;
            std::future::pending::<()>().await;
        });
    }
    for _ in 0..MANY {
        unread_streams(image, &mut bad).await?;
    }
    Ok(bad)
}

/// Whether a new client is served.
async fn healthy(server: SocketAddr) -> Result<(), Failure> {
    let asked = async { Client::connect(server).await?.get("/healthz").await };
    let answer = tokio::time::timeout(HEALTHY, asked).await;
    answer.map_err(|_| "nobody answers /healthz beside the bad ones")??;
    Ok(())
}

/// A connection of HTTP/2 that asks for the largest blob in every stream, and reads none.
async fn unread_streams(image: &Image, bad: &mut JoinSet<()>) -> Result<(), Failure> {
    let stream = TokioIo::new(TcpStream::connect(image.server).await?);
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .handshake(stream)
        .await?;
    bad.spawn(async move {
        // Whoever is cut off stays away.
        let _ = connection.await;
    });
    for _ in 0..STREAMS {
        let request = Request::get(format!("http://load{}", image.largest()));
        let answer = sender.send_request(request.body(Empty::<Bytes>::new())?);
        bad.spawn(async move {
            let _unread = answer.await;
            std::future::pending::<()>().await;
        });
    }
    Ok(())
}

/// A head of one byte every quarter of a second; whoever is cut off comes again.
async fn slow_head(server: SocketAddr) {
    loop {
        let head = b"GET /v2/ HTTP/1.1\r\nHost: load\r\nX: ";
        if let Ok(mut stream) = TcpStream::connect(server).await {
            for byte in head.iter().chain(std::iter::repeat(&b'a')) {
                if stream.write_all(&[*byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_millis(250)).await;
            }
        }
        sleep(Duration::from_millis(250)).await;
    }
}

fn list(rates: &[f64]) -> String {
    let texts: Vec<_> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
    texts.join(" ")
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    let middle = rates.len() / 2;
    match rates.len() % 2 {
        0 => (rates[middle - 1] + rates[middle]) / 2.0,
        _ => rates[middle],
    }
}

/// Clients that ask for everything and leave after the first bytes: nothing is read a moment later, and no blob is open for them.
pub async fn aborts(image: &Image, count: usize, process: Option<Process>) -> Result<(), Failure> {
    let start = Instant::now();
    for _ in 0..count {
        let mut client = Client::connect(image.server).await?;
        client.ask(image.largest()).await?;
        client.some().await?;
    }
    println!(
        "{count} aborted bodies: {:.2} ms each",
        start.elapsed().as_secs_f64() * 1e3 / count as f64
    );
    let Some(process) = process else {
        return Ok(());
    };
    sleep(Duration::from_millis(500)).await;
    let (before, (blobs, sockets)) = (process.bytes_read()?, process.files()?);
    sleep(Duration::from_millis(500)).await;
    let read = process.bytes_read()? - before;
    println!("a moment later: {read} bytes read, {blobs} blobs and {sockets} sockets open");
    match (read, blobs) {
        // The clock of a runtime and its signals are read too, in bytes. The store keeps the last files open that it was asked for, once each.
        (0..4096, 0..=1) => Ok(()),
        _ => Err("an aborted body goes on".into()),
    }
}
