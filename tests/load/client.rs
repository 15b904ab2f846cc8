//! The smallest HTTP/1.1 client that can pull: one connection, one buffer, no redirects, no chunks.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How much is read at once.
const BUFFER: usize = 64 << 10;

/// A connection that is kept alive.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Client {
    pub async fn connect(server: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; BUFFER],
            filled: 0,
        })
    }

    /// Asks for `path` and reads the head of the answer, which must be a 200; gives the length of its body.
    pub async fn ask(&mut self, path: &str) -> Result<u64, Failure> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: load\r\nAccept: */*\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        self.filled = 0;
        loop {
            let n = self.stream.read(&mut self.buffer[self.filled..]).await?;
            if n == 0 {
                return Err("closed before the head's end".into());
            }
            self.filled += n;
            let seen = &self.buffer[..self.filled];
            let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") else {
                continue;
            };
            let head = std::str::from_utf8(&seen[..end])?.to_ascii_lowercase();
            if !head.starts_with("http/1.1 200") {
                return Err(format!("{path}: {head}").into());
            }
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: "));
            let length = length.ok_or("no length")?.trim().parse()?;
            self.buffer.copy_within(end + 4..self.filled, 0);
            self.filled -= end + 4;
            return Ok(length);
        }
    }

    /// The next bytes of the body, as many as there are.
    pub async fn some(&mut self) -> Result<&[u8], Failure> {
        if self.filled == 0 {
            self.filled = self.stream.read(&mut self.buffer).await?;
            if self.filled == 0 {
                return Err("closed before the body's end".into());
            }
        }
        let n = std::mem::take(&mut self.filled);
        Ok(&self.buffer[..n])
    }

    /// Asks for `path` and reads all of it.
    pub async fn get(&mut self, path: &str) -> Result<Vec<u8>, Failure> {
        let length = self.ask(path).await?;
        let mut body = Vec::new();
        while (body.len() as u64) < length {
            body.extend_from_slice(self.some().await?);
        }
        Ok(body)
    }
}
