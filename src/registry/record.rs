//! One line of the log for each request, written when its body ends: no headers, no query, nothing secret.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Buf;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, SizeHint};
use hyper::{Method, Response};

use crate::fill::Outcome;
use crate::server::{Body, Piece};

/// The longest path that is logged whole.
const MAX_PATH: usize = 512;

/// What is known of a request before its answer.
pub struct Record {
    number: u64,
    method: Method,
    path: String,
    started: Instant,
}

impl Record {
    /// Starts the clock.
    pub fn begin(number: u64, method: &Method, path: &str) -> Self {
        Self {
            number,
            method: method.clone(),
            // A path of a request is ASCII.
            path: path.get(..MAX_PATH).unwrap_or(path).to_owned(),
            started: Instant::now(),
        }
    }
}

/// A body that writes its request's line when it is dropped.
pub struct Recorded {
    inner: Body,
    record: Record,
    status: u16,
    outcome: Option<Outcome>,
    bytes: u64,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody saw the end: the client left.
    Left,
    Whole,
    Broken,
}

impl Recorded {
    /// Puts the record under the answer's body.
    pub fn wrap(response: Response<Body>, record: Record) -> Response<Body> {
        let (head, inner) = response.into_parts();
        let recorded = Self {
            end: if inner.is_end_stream() {
                End::Whole
            } else {
                End::Left
            },
            inner,
            record,
            status: head.status.as_u16(),
            outcome: head.extensions.get::<Outcome>().copied(),
            bytes: 0,
        };
        Response::from_parts(head, recorded.boxed_unsync())
    }
}

impl hyper::body::Body for Recorded {
    type Data = Piece;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Piece>>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.remaining() as u64);
                if self.inner.is_end_stream() {
                    self.end = End::Whole;
                }
            }
            Some(Err(_)) => self.end = End::Broken,
            None if self.end == End::Left => self.end = End::Whole,
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let Record {
            number,
            method,
            path,
            started,
        } = &self.record;
        let ms = started.elapsed().as_millis();
        let (status, bytes) = (self.status, self.bytes);
        let outcome = self.outcome.map(Outcome::as_str);
        let end = match self.end {
            End::Whole => None,
            End::Left => Some("client left"),
            End::Broken => Some("broken off"),
        };
        // Health checks come every few seconds and say nothing.
        if path == "/healthz" {
            tracing::debug!(request = number, %method, path, status, bytes, ms, outcome, end, "request");
        } else {
            tracing::info!(request = number, %method, path, status, bytes, ms, outcome, end, "request");
        }
    }
}
