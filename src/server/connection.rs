//! One connection: which protocol it speaks, its limits, its end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, HeaderValue, RETRY_AFTER};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::activity::{Activity, Hold, Patience, Placed, Stream, Tracked, Verdict};
use super::guarded::Guarded;
use super::tls::too_slow;
use super::wire::{Socket, Wire};
use super::{Allowance, Body, Handler, Piece, Server, Shutdown};

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The most bytes that the head of a request may have.
pub(super) const MAX_HEAD: usize = 64 << 10;
/// The most headers that a request of HTTP/1.1 may have; in HTTP/2 each counts 32 bytes of the head.
const MAX_HEADERS: usize = 100;
/// Nothing here takes a body but a login's form, which its handler reads. Any other small one is let pass unread, though what came with the
/// head may be dropped.
const MAX_BODY: u64 = 64 << 10;
/// Requests at once on a connection of HTTP/2; clients keep more to themselves.
const MAX_STREAMS: u32 = 32;
/// Streams that a client has reset and this side has not seen yet; beyond, the connection is ended (CVE-2023-44487).
const MAX_RESETS: usize = 20;
/// How long a stream waits for a place at most: less than clients wait for a head.
const PLACE_WAIT: Duration = Duration::from_secs(20);
/// How long a client may leave a further stream unread while others wait for a place: less than they wait.
const HURRIED: Duration = Duration::from_secs(10);
/// What a client may send of bodies that nobody reads.
const WINDOW: u32 = 64 << 10;
/// What the bodies of one connection should hold together: a single one needs less.
const BODIES: usize = 1 << 20;
/// What is written to the system ahead of what the network takes: a client that does not read pins no more.
const UNSENT: u32 = 256 << 10;
/// What a refused connection may still send before it is closed, and for how long.
const LAST_WORDS: u64 = 256 << 10;
const LAST_WORDS_TIME: Duration = Duration::from_secs(2);
/// How often an HTTP/2 connection is asked whether it lives, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// Go's TLS looks at the first five bytes of this.
const NOT_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 63\r\nConnection: close\r\n\r\n\
    This port speaks plain HTTP, and what came was something else.\n";

/// What a client of plain HTTP hears on a port that speaks TLS.
const NOT_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 44\r\nConnection: close\r\n\r\n\
    This port speaks TLS: ask it with https://.\n";

/// The first byte of a TLS connection: a record of the handshake.
const HANDSHAKE: u8 = 0x16;

/// Serves a connection until it ends or the server's shutdown ends it. `place` is given back then.
pub(super) async fn serve(server: Arc<Server>, stream: TcpStream, place: OwnedSemaphorePermit) {
    let _place = place;
    // Answers are written whole; waiting for more to send would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection has no TCP_NODELAY");
    }
    bound_unsent(&stream);
    let served = tokio::select! {
        served = begin(&server, stream) => served,
        () = server.shutdown.at_once() => return,
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[cfg(any(target_os = "linux", target_os = "android"))]
fn bound_unsent(stream: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!(%error, "a connection has no TCP_NOTSENT_LOWAT");
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bound_unsent(_: &TcpStream) {}

/// Shakes hands, where the listener speaks TLS; then serves.
async fn begin(server: &Arc<Server>, stream: TcpStream) -> Result<(), Failure> {
    let Some(tls) = &server.tls else {
        let socket = Socket::new(stream);
        let wire = socket.wire().clone();
        return speak(server, socket, Some(wire)).await;
    };
    let limit = server.settings.header_timeout;
    let mut first = [0];
    let peeked = tokio::select! {
        peeked = timeout(limit, stream.peek(&mut first)) => peeked,
        () = server.shutdown.begun() => return Ok(()),
    };
    if peeked.map_err(|_| too_slow())?? == 1 && first[0] != HANDSHAKE {
        return Ok(refuse(stream, NOT_TLS).await?);
    }
    let shaken = timeout(limit, tls.acceptor().accept(stream)).await;
    speak(server, shaken.map_err(|_| too_slow())??, None).await
}

/// Serves what comes over `io`; `wire` is what it can send files by.
async fn speak<I>(server: &Arc<Server>, mut io: I, wire: Option<Wire>) -> Result<(), Failure>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = &server.settings;
    let (protocol, head) = tokio::select! {
        sniffed = timeout(settings.header_timeout, sniff(&mut io)) => sniffed??,
        // It has asked for nothing yet.
        () = server.shutdown.begun() => return Ok(()),
    };
    if protocol == Protocol::Unknown {
        return Ok(refuse(io, NOT_HTTP).await?);
    }
    let io = TokioIo::new(Guarded::new(io, head, settings.stall_timeout));
    let activity = Activity::new();
    let (handler, streams) = (server.handler.clone(), activity.clone());
    let places = Places::of(server);
    let bodies = Allowance::new(BODIES);
    // The frames of HTTP/2 hold bytes.
    let wire = wire.filter(|_| protocol == Protocol::Http1);
    let service = service_fn(move |mut request: Request<Incoming>| {
        match &wire {
            Some(wire) => request.extensions_mut().insert(wire.clone()).is_none(),
            None => request.extensions_mut().insert(bodies.clone()).is_none(),
        };
        answer(handler.clone(), places.clone(), streams.begin(), request)
    });
    if protocol == Protocol::Http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEAD as u32)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_RESETS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN)
            .serve_connection(io, service);
        let stop = http2::Connection::graceful_shutdown;
        let patience = Patience {
            idle: settings.header_timeout,
            stall: settings.stall_timeout,
            hurried: HURRIED,
        };
        let over = || activity.over(&patience, || server.further.available_permits() == 0);
        until_drained(connection, stop, &server.shutdown, over).await??;
    } else {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_timeout)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .serve_connection(io, service);
        let stop = http1::Connection::graceful_shutdown;
        let over = std::future::pending;
        until_drained(connection, stop, &server.shutdown, over).await??;
    }
    Ok(())
}

/// Drives a connection; when the shutdown begins, or the connection is over because it is idle, tells it to `stop` and lets it finish what
/// it is at. An error if it is over because its client does not read, or does not go.
async fn until_drained<C: Future, O: Future<Output = Verdict>>(
    connection: C,
    stop: impl FnOnce(Pin<&mut C>),
    shutdown: &Shutdown,
    over: impl Fn() -> O,
) -> io::Result<C::Output> {
    let mut connection = pin!(connection);
    tokio::select! {
        ended = &mut connection => return Ok(ended),
        () = shutdown.begun() => {}
        verdict = over() => if verdict == Verdict::Stalled {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    stop(connection.as_mut());
    tokio::select! {
        ended = &mut connection => Ok(ended),
        _ = over() => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The places that a connection's requests can have: one that is its own, and the common ones.
struct Places {
    own: Arc<Semaphore>,
    further: Arc<Semaphore>,
    /// How long is waited for one.
    wait: Duration,
}

impl Places {
    fn of(server: &Server) -> Arc<Self> {
        Arc::new(Self {
            own: Arc::new(Semaphore::new(1)),
            further: server.further.clone(),
            wait: server.settings.header_timeout.min(PLACE_WAIT),
        })
    }

    /// A place for `stream`; `None` if there is none in time.
    async fn take(&self, stream: &Stream) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = self.own.clone().try_acquire_owned() {
            return Some(place);
        }
        // Only a semaphore that was closed fails, and nobody closes these.
        tokio::select! {
            biased;
            place = self.own.clone().acquire_owned() => place.ok(),
            place = self.further.clone().acquire_owned() => {
                stream.is_further();
                place.ok()
            }
            () = tokio::time::sleep(self.wait) => None,
        }
    }
}

/// Has a request answered, once there is a place for it. It keeps the place until its answer is sent.
async fn answer(
    handler: Arc<dyn Handler>,
    places: Arc<Places>,
    stream: Arc<Stream>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let Some(place) = places.take(&stream).await else {
        return Ok(busy());
    };
    let many = request.version() >= Version::HTTP_2;
    let closes = !many && !request.body().is_end_stream();
    let mut response = if request.body().size_hint().lower() > MAX_BODY {
        plain(StatusCode::PAYLOAD_TOO_LARGE, "nothing here takes a body\n")
    } else {
        handled(handler, request).await
    };
    if closes {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
    Ok(response.map(|body| {
        let _place = place;
        if many {
            let hold = Arc::new(Hold { stream, _place });
            Tracked { body, hold }.boxed_unsync()
        } else {
            Placed { body, _place }.boxed_unsync()
        }
    }))
}

/// What a stream hears that has found no place.
fn busy() -> Response<Body> {
    let text =
        "too many requests on connections of many; ask again, or on a connection of its own\n";
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, text);
    let soon = HeaderValue::from_static("5");
    response.headers_mut().insert(RETRY_AFTER, soon);
    response
}

async fn handled(handler: Arc<dyn Handler>, request: Request<Incoming>) -> Response<Body> {
    // A defect in one answer must not take the connection's other requests with it, nor close it silently.
    let answered = AssertUnwindSafe(handler.handle(request)).catch_unwind();
    answered.await.unwrap_or_else(|_| {
        tracing::error!("a handler panicked");
        plain(StatusCode::INTERNAL_SERVER_ERROR, "the server failed\n")
    })
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let text = Full::new(Piece::from(Bytes::from_static(text.as_bytes())));
    let mut response = Response::new(text.map_err(io::Error::other).boxed_unsync());
    *response.status_mut() = status;
    response
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    Unknown,
}

/// Reads until it is clear what the client speaks; gives back what was read.
async fn sniff<I: AsyncRead + Unpin>(io: &mut I) -> io::Result<(Protocol, Bytes)> {
    let mut head = Vec::with_capacity(4096);
    loop {
        if io.read_buf(&mut head).await? == 0 {
            return Ok((Protocol::Http1, head.into()));
        }
        let seen = head.len().min(HTTP2_PREFACE.len());
        if head[..seen] != HTTP2_PREFACE[..seen] {
            // A request begins with the letters of a method; empty lines before it are forgiven (RFC 9112, section 2.2).
            let http = matches!(head[0], b'A'..=b'Z' | b'a'..=b'z' | b'\r' | b'\n');
            let protocol = if http {
                Protocol::Http1
            } else {
                Protocol::Unknown
            };
            return Ok((protocol, head.into()));
        }
        if seen == HTTP2_PREFACE.len() {
            return Ok((Protocol::Http2, head.into()));
        }
    }
}

/// Tells a client that speaks something else so, in a way that reaches it.
async fn refuse<I: AsyncRead + AsyncWrite + Unpin>(mut io: I, told: &[u8]) -> io::Result<()> {
    io.write_all(told).await?;
    io.shutdown().await?;
    // Closing with bytes unread would reset the connection, and the reset may overtake the answer.
    let (mut rest, mut nowhere) = (io.take(LAST_WORDS), tokio::io::sink());
    let drained = tokio::io::copy(&mut rest, &mut nowhere);
    let _ = timeout(LAST_WORDS_TIME, drained).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_to_what_is_something_else_have_their_lengths() {
        for told in [NOT_HTTP, NOT_TLS] {
            let text = std::str::from_utf8(told).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let length = format!("Content-Length: {}\r\n", body.len());
            assert!(head.contains(&length), "{length}");
        }
    }

    #[tokio::test]
    async fn protocols_are_told_apart_however_their_bytes_come() {
        for (bytes, wanted) in [
            (&b"GET / HTTP/1.1\r\n"[..], Protocol::Http1),
            (b"\r\nGET / HTTP/1.1\r\n", Protocol::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Protocol::Http2),
            (b"PRO", Protocol::Http1),
            (b"\x16\x03\x01\x02\0\x01", Protocol::Unknown),
            (b"\0", Protocol::Unknown),
            (b"\xff", Protocol::Unknown),
            (b"", Protocol::Http1),
        ] {
            for step in [1, 3, 64] {
                let (mut near, mut far) = tokio::io::duplex(step);
                let feed = async {
                    let _ = far.write_all(bytes).await;
                    drop(far);
                };
                let sniffed = async {
                    let (protocol, head) = sniff(&mut near).await.unwrap();
                    assert!(bytes.starts_with(&head));
                    drop(near);
                    protocol
                };
                assert_eq!(tokio::join!(feed, sniffed).1, wanted, "{bytes:?}");
            }
        }
    }
}
