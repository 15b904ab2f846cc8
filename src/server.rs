//! Listeners, limits and the drain at the end.
//!
//! HTTP/1.1 and HTTP/2 with prior knowledge share each port. A connection has a time for its first bytes and for each head, a time without
//! any progress of what is sent to it, and a place among a bounded number. What is no HTTP gets an answer that begins with `HTTP/`:
//! containerd and dockerd try TLS first, and fall back to plain HTTP only if they see that.
//!
//! Everything that a client can make this side hold is bounded: heads ([`MAX_HEAD`](connection::MAX_HEAD)), streams of an HTTP/2
//! connection, requests over all connections (one for each, and [`FURTHER`]), and request bodies, which are refused.

mod activity;
mod allowance;
mod connection;
mod guarded;
pub mod resident;
mod shutdown;
mod tls;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use allowance::Allowance;
pub use shutdown::Shutdown;
pub use tls::{Tls, TlsError, certificates};
pub use wire::{Piece, Wire};

/// There is one place for a further request of an HTTP/2 connection for so many connections as this.
pub const FURTHER: usize = 4;

/// The body of every answer. An error breaks the connection off.
pub type Body = UnsyncBoxBody<Piece, io::Error>;

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. The future is dropped if the client leaves.
    fn handle(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Response<Body>>;
}

/// The limits of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// Connections at once, over all listeners; more of them wait in the kernel's queue. Each may have one request being answered; for the
    /// further ones of HTTP/2 connections there are a [`FURTHER`]th as many places.
    pub max_connections: usize,
    /// Time for the TLS handshake, for the first bytes of a connection, and for each head of a request; so also the time a connection may be idle.
    pub header_timeout: Duration,
    /// Time that a client may take nothing, or next to nothing, of what is sent to it.
    pub stall_timeout: Duration,
    /// Time for requests in flight to end when the server stops.
    pub drain: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            header_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(600),
            drain: Duration::from_secs(30),
        }
    }
}

/// Serves until `shutdown` begins, then drains: accepts nothing more, closes idle connections at once and lets requests in flight end,
/// for [`ServerSettings::drain`] at most or until `shutdown` says at once. When it returns, no connection is left.
/// With `tls`, all listeners speak TLS only.
pub async fn run(
    listeners: Vec<TcpListener>,
    handler: Arc<dyn Handler>,
    settings: ServerSettings,
    tls: Option<Arc<Tls>>,
    shutdown: Shutdown,
) {
    // A semaphore has an upper bound of its own, and the drain counts places in 32 bits.
    let places = settings.max_connections.clamp(1, 1 << 24);
    let server = Arc::new(Server {
        handler,
        places: Arc::new(Semaphore::new(places)),
        further: Arc::new(Semaphore::new(places.div_ceil(FURTHER))),
        shutdown: shutdown.clone(),
        settings,
        tls: tls.clone(),
    });
    if let Some(tls) = tls {
        tokio::spawn(tls.watch(shutdown.clone()));
    }
    let accepting = listeners
        .into_iter()
        .map(|listener| server.clone().accept(listener));
    futures_util::future::join_all(accepting).await;
    shutdown.begun().await;

    let all = u32::try_from(places).unwrap_or(u32::MAX);
    let drained = tokio::time::timeout(server.settings.drain, server.places.acquire_many(all));
    tokio::select! {
        ended = drained => if ended.is_err() {
            let left = places - server.places.available_permits();
            tracing::warn!(connections = left, "the time to drain is over; the rest is cut off");
        },
        () = shutdown.at_once() => tracing::warn!("stopping at once"),
    }
    shutdown.stop_at_once();
    let _ = server.places.acquire_many(all).await;
}

/// What all connections share.
struct Server {
    handler: Arc<dyn Handler>,
    places: Arc<Semaphore>,
    /// Places for what an HTTP/2 connection asks for while it is being answered. Each connection has a place of its own besides, so
    /// whoever takes all of these keeps nobody from being served.
    further: Arc<Semaphore>,
    settings: ServerSettings,
    tls: Option<Arc<Tls>>,
    shutdown: Shutdown,
}

impl Server {
    /// Accepts connections until the shutdown begins. No error ends it.
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut pause = PAUSE;
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.begun() => return,
                accepted = self.next(&listener) => accepted,
            };
            match accepted {
                Ok((stream, place)) => {
                    pause = PAUSE;
                    tokio::spawn(connection::serve(self.clone(), stream, place));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "connections cannot be accepted; trying again");
                    tokio::select! {
                        () = self.shutdown.begun() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// The next connection, once there is a place for it. The place comes second: an idle listener must not keep one from the others.
    async fn next(&self, listener: &TcpListener) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let (stream, _) = listener.accept().await?;
        let place = self.places.clone().acquire_owned().await;
        Ok((stream, place.map_err(io::Error::other)?))
    }
}

/// How long to wait after an error of the system, such as too many open files.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Whether an error of `accept` tells of a connection that is gone already, and nothing of those that follow.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests;
