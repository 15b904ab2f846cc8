//! A scripted HTTP server on a socket, for tests: each request is answered by a closure, which may also break off or fall silent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) path: String,
    pub(super) headers: HashMap<String, String>,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The range asked for, exclusive at its end, cut to `size`; all of it without one.
    pub(super) fn range(&self, size: usize) -> std::ops::Range<usize> {
        let Some(range) = self.header("range") else {
            return 0..size;
        };
        let range = range.strip_prefix("bytes=").expect("bytes");
        let (first, last) = range.split_once('-').expect("a dash");
        let last: usize = last.parse().expect("a last byte");
        first.parse().expect("a first byte")..(last + 1).min(size)
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub(super) struct Act {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// After so many bytes of the body the connection ends, or falls silent.
    cut: Option<(usize, bool)>,
}

impl Act {
    pub(super) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn to(location: impl Into<String>) -> Self {
        Self::new(307, "moved").with("Location", location)
    }

    /// The part of `data` that was asked for.
    pub(super) fn part(seen: &Seen, data: &[u8]) -> Self {
        if seen.header("range").is_none() {
            return Self::new(200, data);
        }
        let range = seen.range(data.len());
        let shown = format!("bytes {}-{}/{}", range.start, range.end - 1, data.len());
        Self::new(206, &data[range]).with("Content-Range", shown)
    }

    pub(super) fn dropped_after(mut self, bytes: usize) -> Self {
        self.cut = Some((bytes, false));
        self
    }

    pub(super) fn silent_after(mut self, bytes: usize) -> Self {
        self.cut = Some((bytes, true));
        self
    }

    async fn send(&self, socket: &mut TcpStream) -> std::io::Result<bool> {
        let mut head = format!(
            "HTTP/1.1 {} X\r\nContent-Length: {}\r\n",
            self.status,
            self.body.len()
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        socket.write_all(head.as_bytes()).await?;
        let Some((bytes, silent)) = self.cut else {
            socket.write_all(&self.body).await?;
            return Ok(true);
        };
        socket
            .write_all(&self.body[..bytes.min(self.body.len())])
            .await?;
        socket.flush().await?;
        if silent {
            // Until the other side goes.
            let _ = socket.read_u8().await;
        }
        Ok(false)
    }
}

type Script = dyn Fn(&Seen, usize) -> Act + Send + Sync;

/// The server; it ends with this value.
pub(super) struct Fake {
    pub(super) at: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Fake {
    /// `script` is given each request and how many came before it.
    pub(super) async fn start(
        script: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, all): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&script), Arc::clone(&all)));
            }
        });
        Self { at, seen, task }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.seen().into_iter().map(|s| s.path).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut socket: TcpStream, script: Arc<Script>, all: Arc<Mutex<Vec<Seen>>>) {
    while let Some(seen) = request(&mut socket).await {
        let before = {
            let mut all = all.lock().expect("not poisoned");
            all.push(seen.clone());
            all.len() - 1
        };
        let act = script(&seen, before);
        if !matches!(act.send(&mut socket).await, Ok(true)) {
            return;
        }
    }
}

async fn request(socket: &mut TcpStream) -> Option<Seen> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).expect("text");
    let mut lines = head.lines();
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers = lines
        .filter_map(|l| l.split_once(": "))
        .map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()))
        .collect();
    Some(Seen { path, headers })
}
