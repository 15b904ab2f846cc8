//! An HTTP client that hides nothing: one request a connection, no redirects followed, broken bodies kept.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// What came back, as far as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// The body, with chunks put together.
    pub body: Vec<u8>,
    /// Whether the body ended as the headers promised.
    pub whole: bool,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }
}

/// GET with some headers. `url` is absolute.
pub fn get(url: &str, headers: &[(&str, &str)]) -> Reply {
    ask("GET", url, headers).expect("an answer")
}

/// HEAD likewise.
pub fn head(url: &str, headers: &[(&str, &str)]) -> Reply {
    ask("HEAD", url, headers).expect("an answer")
}

/// GET that follows redirects, by hand: the token stays at its host.
pub fn follow(url: &str, headers: &[(&str, &str)]) -> Reply {
    let mut headers = headers.to_vec();
    let mut url = url.to_owned();
    for _ in 0..5 {
        let reply = get(&url, &headers);
        let Some(location) = reply.header("location") else {
            return reply;
        };
        if location.starts_with('/') {
            url = format!("{}{location}", origin(&url));
        } else {
            headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
            location.clone_into(&mut url);
        }
    }
    panic!("too many redirects")
}

/// One request. Nothing if the connection ended without an answer or was refused.
pub fn ask(method: &str, url: &str, headers: &[(&str, &str)]) -> Option<Reply> {
    let origin = origin(url);
    let host = origin.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a timeout");
    let mut text = format!(
        "{method} {} HTTP/1.1\r\nhost: {host}\r\n",
        &url[origin.len()..]
    );
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("connection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    // A cut connection may end in a reset: what came before it counts.
    let _ = stream.read_to_end(&mut bytes);
    parse(method, &bytes)
}

fn origin(url: &str) -> &str {
    let end = url["http://".len()..].find('/');
    &url[..end.map_or(url.len(), |end| end + "http://".len())]
}

fn parse(method: &str, bytes: &[u8]) -> Option<Reply> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).expect("headers in ASCII");
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut reply = Reply {
        status,
        headers,
        body: bytes[end + 4..].to_vec(),
        whole: true,
    };
    if reply.header("transfer-encoding") == Some("chunked") {
        (reply.body, reply.whole) = dechunk(&reply.body);
    } else if let Some(length) = reply.header("content-length")
        && method != "HEAD"
    {
        reply.whole = length.parse() == Ok(reply.body.len());
    }
    Some(reply)
}

fn dechunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else {
            return (body, false);
        };
        let line = String::from_utf8_lossy(&rest[..end]);
        let size = usize::from_str_radix(&line, 16).expect("a chunk's size");
        rest = &rest[end + 2..];
        if size == 0 {
            return (body, true);
        }
        let Some(chunk) = rest.get(..size) else {
            body.extend_from_slice(rest);
            return (body, false);
        };
        body.extend_from_slice(chunk);
        rest = rest.get(size + 2..).unwrap_or_default();
    }
}
