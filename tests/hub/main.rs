//! `cargo run --example hub -- DIR [--listen ADDRESS] [--cdn ADDRESS]`: the simulator on a folder of repositories.
//!
//! See `README.md` beside this file.

#[path = "mod.rs"]
mod hub;

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use hub::disk::Folder;
use hub::{Hub, Launch};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: hub DIR [--listen 127.0.0.1:0] [--cdn 127.0.0.1:0]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hub: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (path, mut launch) = arguments(std::env::args().skip(1))?;
    let folder = Arc::new(Folder::new(&path));
    let world = folder.load();
    let world = world.map_err(|error| format!("{path}: {error}"))?;
    launch.reload = Some(Box::new(move || folder.load()));
    let hub = Hub::launch(world, launch)?;
    let mut out = std::io::stdout();
    writeln!(out, "hub listening on {}", hub.url())?;
    out.flush()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(until_told(&hub))
}

/// Waits for SIGTERM or SIGINT; SIGHUP reads the folder anew.
async fn until_told(hub: &Hub) -> Result<(), Box<dyn Error>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => match hub.reload() {
                Ok(()) => eprintln!("hub: reloaded"),
                Err(error) => eprintln!("hub: {error}"),
            },
        }
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<(String, Launch), Box<dyn Error>> {
    let mut folder = None;
    let mut launch = Launch::default();
    let address = |word: Option<String>| -> Result<SocketAddr, Box<dyn Error>> {
        Ok(word.ok_or(USAGE)?.parse()?)
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--listen" => launch.listen = address(words.next())?,
            "--cdn" => launch.cdn = address(words.next())?,
            _ if word.starts_with('-') || folder.is_some() => return Err(USAGE.into()),
            _ => folder = Some(word),
        }
    }
    Ok((folder.ok_or(USAGE)?, launch))
}
