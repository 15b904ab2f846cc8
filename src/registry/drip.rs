//! A document that is not there yet, sent byte by byte so that no idle timer runs out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Body, Frame};
use tokio::time::{Instant, Sleep};

use crate::error::Error;

/// Bytes of an early answer that come at the interval; those after them take three times as long.
const QUICK: usize = 20;

/// Sends the first bytes of a document, which never vary, one by one while the document is being made; then its rest.
///
/// If the document cannot be made, or does not begin like that, the body fails, and with it the connection: no client may take what it has
/// for the whole. Dropping it drops its interest only.
pub struct Drip {
    document: BoxFuture<'static, Result<Bytes, Error>>,
    prefix: &'static [u8],
    sent: usize,
    every: Duration,
    timer: Pin<Box<Sleep>>,
    ended: bool,
}

impl Drip {
    /// Sends a byte of `prefix` at once and after each interval, later after three, until `document` is there.
    ///
    /// At once, because where a body ends with its connection (HTTP/1.0, as some gateways speak it) only its bytes tell that it is not
    /// whole: one byte of a document is not valid JSON, and none might pass for an empty answer.
    pub fn new(
        document: BoxFuture<'static, Result<Bytes, Error>>,
        prefix: &'static [u8],
        every: Duration,
    ) -> Self {
        Self {
            document,
            prefix,
            sent: 0,
            every,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            ended: false,
        }
    }

    fn rest(&self, document: Result<Bytes, Error>) -> io::Result<Bytes> {
        let document = document.map_err(|error| {
            tracing::warn!(%error, "the image could not be filled; the client that waits for it is cut off");
            io::Error::other(error)
        })?;
        if document.starts_with(&self.prefix[..self.sent]) {
            Ok(document.slice(self.sent..))
        } else {
            tracing::error!(
                "an image index does not begin as all should; the client that waits for it is cut off"
            );
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

impl Body for Drip {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Poll::Ready(document) = self.document.as_mut().poll(cx) {
            self.ended = true;
            return Poll::Ready(Some(self.rest(document).map(Frame::data)));
        }
        if self.sent == self.prefix.len() {
            return Poll::Pending;
        }
        ready!(self.timer.as_mut().poll(cx));
        // The bytes are few: after the first ones they are spent slowly, still within the minute that idle timers give.
        let pause = if self.sent < QUICK {
            self.every
        } else {
            self.every * 3
        };
        self.timer.as_mut().reset(Instant::now() + pause);
        let byte = Bytes::from_static(&self.prefix[self.sent..=self.sent]);
        self.sent += 1;
        Poll::Ready(Some(Ok(Frame::data(byte))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::error::Kind;

    const PREFIX: &[u8] = b"{\"schemaVersion\":2";
    const EVERY: Duration = Duration::from_secs(15);

    fn drip(after: Duration, end: Result<&'static str, Error>) -> Drip {
        let document = Box::pin(async move {
            tokio::time::sleep(after).await;
            end.map(Bytes::from)
        });
        Drip::new(document, PREFIX, EVERY)
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_drips_and_then_comes() {
        let text = "{\"schemaVersion\":2,\"more\":1}";
        let mut body = drip(EVERY * 3 + EVERY / 2, Ok(text));
        let (start, mut frames) = (Instant::now(), Vec::new());
        while let Some(frame) = body.frame().await {
            frames.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(start.elapsed(), EVERY * 3 + EVERY / 2);
        assert_eq!(frames, ["{", "\"", "s", "c", &text[4..]]);
        assert!(body.is_end_stream());
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_is_whole_even_if_all_its_constant_bytes_dripped_away() {
        let text = "{\"schemaVersion\":2}";
        let body = drip(EVERY * 100, Ok(text))
            .collect()
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(body, text);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_breaks_the_body() {
        let mut body = drip(EVERY / 2, Err(Error::new(Kind::BadGateway, "gone")));
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "{"
        );
        assert_eq!(body.frame().await.unwrap().unwrap_err().to_string(), "gone");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_that_begins_otherwise_breaks_the_body() {
        assert!(
            drip(EVERY * 5, Ok("{\"manifests\":[]}"))
                .collect()
                .await
                .is_err()
        );
    }
}
