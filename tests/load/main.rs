//! `cargo run --release --example load -- pull|abuse …`: load and abuse for a running server, over loopback, with a verdict.
//!
//! * `pull ADDRESS NAME:TAG CONNECTIONS`: that many connections pull a cached image at once; every byte is compared.
//! * `abuse ADDRESS NAME:TAG ROUNDS SECONDS`: the rate of 50 good clients beside 500 that never finish a head, 500 that never
//!   read and 100 of HTTP/2 that leave 32 streams unread, and without them, in turns.
//! * `aborts ADDRESS NAME:TAG COUNT`: clients that ask for everything and leave after the first bytes.
//!
//! `--pid PID` reads the server's memory and files from `/proc` and holds them against their bounds. tests/e2e/load.sh runs it.

mod abuse;
mod client;
mod process;
mod pull;

use std::net::SocketAddr;
use std::process::ExitCode;

use client::{Client, Failure};
use process::Process;

const USAGE: &str = "usage: load pull ADDRESS NAME:TAG CONNECTIONS [--pid PID]
       load abuse ADDRESS NAME:TAG ROUNDS SECONDS [--pid PID]
       load aborts ADDRESS NAME:TAG COUNT [--pid PID]";

/// What is pulled: the documents of one platform, and its blobs, the largest last.
#[derive(Debug, Clone)]
pub struct Image {
    /// Where it is pulled from.
    pub server: SocketAddr,
    /// Paths of the index and the manifest.
    pub documents: Vec<String>,
    /// Paths of the config and the layers.
    pub blobs: Vec<String>,
}

impl Image {
    async fn find(server: SocketAddr, reference: &str) -> Result<Self, Failure> {
        let (name, tag) = reference.rsplit_once(':').ok_or(USAGE)?;
        let mut client = Client::connect(server).await?;
        let index = format!("/v2/{name}/manifests/{tag}");
        let read: serde_json::Value = serde_json::from_slice(&client.get(&index).await?)?;
        let first = read["manifests"][0]["digest"]
            .as_str()
            .ok_or("no manifest")?;
        let manifest = format!("/v2/{name}/manifests/{first}");
        let read: serde_json::Value = serde_json::from_slice(&client.get(&manifest).await?)?;
        let layers = read["layers"].as_array().ok_or("no layers")?;
        let mut blobs: Vec<_> = layers.iter().chain([&read["config"]]).collect();
        blobs.sort_by_key(|blob| blob["size"].as_u64());
        let digests = blobs.iter().filter_map(|blob| blob["digest"].as_str());
        Ok(Self {
            server,
            documents: vec![index, manifest],
            blobs: digests.map(|d| format!("/v2/{name}/blobs/{d}")).collect(),
        })
    }

    /// The largest blob.
    pub fn largest(&self) -> &str {
        self.blobs.last().map_or("", String::as_str)
    }
}

async fn run(mut words: Vec<String>) -> Result<(), Failure> {
    let mut process = None;
    if let Some(at) = words.iter().position(|word| word == "--pid") {
        let pid = words.get(at + 1).ok_or(USAGE)?.parse()?;
        process = Some(Process::new(pid));
        words.drain(at..=at + 1);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (mode, address, reference, rest) = match words.as_slice() {
        [mode, address, reference, rest @ ..] => (*mode, *address, *reference, rest),
        _ => return Err(USAGE.into()),
    };
    let image = Image::find(address.parse()?, reference).await?;
    match (mode, rest) {
        ("pull", [connections]) => pull::run(&image, connections.parse()?, process).await,
        ("abuse", [rounds, seconds]) => {
            abuse::run(&image, rounds.parse()?, seconds.parse()?, process).await
        }
        ("aborts", [count]) => abuse::aborts(&image, count.parse()?, process).await,
        _ => Err(USAGE.into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("load: {failure}");
            ExitCode::FAILURE
        }
    }
}
