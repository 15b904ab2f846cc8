//! `hf-oci health`: asks a running server whether it is well; for the health checks of containers.

use std::time::Duration;

use clap::Args;
use reqwest::Url;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Failure;
use crate::config::{self, ConfigError, Flags, Listen, Sources};

/// How long the server may take, from connecting to the end of the status line.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks a running server whether it is well: exit code 0 if so, else 1
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci health
  hf-oci health --server http://proxy:5000

In a Dockerfile or compose file: [\"CMD\", \"/hf-oci\", \"health\"]")]
pub(super) struct Health {
    /// Server to ask [default: the address of the setting listen, on this machine]
    #[arg(long, value_name = "URL")]
    server: Option<Url>,
}

impl Health {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let server = match &self.server {
            Some(url) => address(url)?,
            None => config::listen(&load(Flags::new())?)?.local(),
        };
        let url = format!("http://{server}/healthz");
        let unwell = || Failure::new(format!("{url} is not well"));
        let next = "is hf-oci serve running there? --server URL asks another address";
        match tokio::time::timeout(TIMEOUT, status(&server)).await {
            Ok(Ok(200)) => {
                println!("{url} is well");
                Ok(())
            }
            Ok(Ok(status)) => Err(unwell().from(format!("it answers {status}"))),
            Ok(Err(error)) => Err(unwell().from(error).next(next)),
            Err(_) => Err(unwell().from(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }
}

/// The host and port of a plain address.
fn address(url: &Url) -> Result<Listen, Failure> {
    let parts = (url.scheme(), url.host_str(), url.port_or_known_default());
    match parts {
        ("http", Some(host), Some(port)) => Ok(Listen {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        }),
        _ => Err(Failure::new(format!(
            "--server: '{url}' is not the address of a server, such as http://127.0.0.1:5000"
        ))),
    }
}

/// The status with which the server answers `GET /healthz`.
async fn status(server: &Listen) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
    let version = env!("CARGO_PKG_VERSION");
    let request = format!(
        "GET /healthz HTTP/1.1\r\nHost: {server}\r\nUser-Agent: hf-oci/{version}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    // "HTTP/1.1 200": all that is needed of the answer.
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    let text = std::str::from_utf8(&head).unwrap_or_default();
    let code = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..));
    code.and_then(|code| code.parse().ok())
        .ok_or_else(|| std::io::Error::other("its answer is not HTTP"))
}
