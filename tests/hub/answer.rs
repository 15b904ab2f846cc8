//! Answers, before they become HTTP responses: errors of the table, JSON, redirects, content.

use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::{Value, json};

use super::content::Content;

/// Headers in order; names in lower case.
pub type Headers = Vec<(String, String)>;

/// What a route comes to.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// All headers but those of the body's length.
    pub headers: Headers,
    /// The body.
    pub body: Body,
}

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// All of it at hand.
    Text(String),
    /// A file's bytes, of which the request may want a range.
    File(Content),
}

impl Answer {
    /// 200 with JSON.
    pub fn json(value: &Value) -> Self {
        Self::text(200, value.to_string()).with("content-type", "application/json; charset=utf-8")
    }

    /// Any status with a text.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self {
            status: StatusCode::from_u16(status).expect("a valid status"),
            headers: Vec::new(),
            body: Body::Text(text.into()),
        }
    }

    /// A redirect, whose body and Content-Length are its own.
    pub fn redirect(status: u16, location: &str) -> Self {
        let reason = if status == 302 {
            "Found"
        } else {
            "Temporary Redirect"
        };
        Self::text(status, format!("{reason}. Redirecting to {location}"))
            .with("content-type", "text/plain; charset=utf-8")
            .with("location", location)
    }

    /// A file.
    pub fn file(content: Content) -> Self {
        Self {
            status: StatusCode::OK,
            headers: Vec::new(),
            body: Body::File(content),
        }
    }

    /// With one more header.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// An error with the Hub's headers. `code` is what the client acts on.
    pub fn error(status: u16, code: Option<&str>, message: &str) -> Self {
        let answer = Self::text(status, json!({ "error": message }).to_string())
            .with("content-type", "application/json; charset=utf-8")
            .with("x-error-message", message);
        match code {
            Some(code) => answer.with("x-error-code", code),
            None => answer,
        }
    }
}

/// A header value of any text; bytes that no header may hold become `?`.
pub fn header_value(text: &str) -> HeaderValue {
    let safe = |b: u8| if (0x20..0x7f).contains(&b) { b } else { b'?' };
    let bytes: Vec<u8> = text.bytes().map(safe).collect();
    HeaderValue::from_bytes(&bytes).expect("printable ASCII")
}
