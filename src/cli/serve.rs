//! `hf-oci serve`: puts the server together and runs it until a signal ends it.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;

use super::Failure;
use super::flags::SettingFlags;
use super::{filling, gate};
use crate::config::{Address, ConfigError, Flags, LogFormat, Settings, Sources, TlsFiles};
use crate::control::{Context, Control};
use crate::fill::{Images, Prefetch, Upkeep};
use crate::registry::{Registry, RegistrySettings};
use crate::server::{self, FURTHER, ServerSettings, Shutdown, Tls};
use crate::store::Store;
use crate::telemetry;

/// Files that a server has open besides its connections: blobs being served and filled, the index, the upstream's connections.
const OTHER_FILES: u64 = 1024;

/// Serves the registry until SIGTERM or SIGINT; a second signal stops at once
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci serve
  hf-oci serve --listen 0.0.0.0:5000 --data-dir /srv/hf-oci
  HF_TOKEN=… hf-oci serve --config hf-oci.toml

Each setting is a flag, an environment variable or a key of the configuration file; what counts is flag, then environment, \
then file, then default. config.example.toml explains them all. The Hub token comes from HF_TOKEN or a file.")]
pub(super) struct Serve {
    #[command(flatten)]
    settings: SettingFlags,
}

impl Serve {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let sources = load(self.settings.0)?;
        let settings = Settings::resolve(&sources)?;
        telemetry::init(&settings.log, settings.log_format);
        for warning in sources.warnings() {
            tracing::warn!("{warning}");
        }
        run(settings).await
    }
}

/// Puts the server together and serves until it has drained.
async fn run(settings: Settings) -> Result<(), Failure> {
    let files = raise_file_limit();
    filling::prepare_data_dir(&settings.data_dir)?;
    let (listener, address) = listen(&settings).await?;

    let tls = load_tls(&settings).await?;
    let shutdown = Shutdown::on_signals()
        .map_err(|error| Failure::new("cannot wait for signals").from(error))?;
    let origin = filling::origin(&settings)?;
    let store = filling::open_store(&settings).await?;
    let gate = gate::gate(&settings, address, &origin, &store).await?;
    let upkeep = Upkeep::start(Arc::clone(&store), Upkeep::EVERY);
    let proof = gate::tells_apart(&settings, address);
    let images = filling::images(&settings, origin, &store, proof);
    let control = control(&settings, &store, &images);
    let registry = Registry::new(Arc::clone(&images), store, registry_settings(&settings));
    let registry = registry.behind(gate);

    announce(&settings, address);
    // Offline they could only fail, and would be forgotten.
    if !settings.offline
        && let Err(error) = images.resume().await
    {
        tracing::warn!(%error, "fills that were under way begin again when they are asked for");
    }

    let prefetch = (!settings.offline)
        .then(|| Prefetch::start(Arc::clone(&images)))
        .flatten();

    let limits = server_settings(&settings, files);
    let begun = shutdown.clone();
    let serving = server::run(vec![listener], Arc::new(registry), limits, tls, shutdown);
    let prefetching = async {
        begun.begun().await;
        if let Some(prefetch) = prefetch {
            prefetch.stop().await;
        }
    };
    tokio::join!(serving, prefetching);
    // Nobody waits any more; what is filled is lost only as far as it is not published.
    if let Some(control) = control {
        control.stop().await;
    }
    images.shutdown().await;
    upkeep.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// The socket for operators' commands; the server is of use without it too.
fn control(settings: &Settings, store: &Arc<Store>, images: &Arc<Images>) -> Option<Control> {
    let context = Context {
        store: Arc::clone(store),
        images: Arc::clone(images),
        offline: settings.offline,
        limits: settings.cache,
    };
    Control::start(context)
        .inspect_err(|error| {
            tracing::warn!(%error, "no control socket: hf-oci pull, gc, pin, unpin, rm, verify, export and import wait until this server stops");
        })
        .ok()
}

/// Reads the certificate, away from the runtime's threads.
async fn load_tls(settings: &Settings) -> Result<Option<Arc<Tls>>, Failure> {
    let Some(TlsFiles { cert, key }) = settings.tls.clone() else {
        return Ok(None);
    };
    let loaded = tokio::task::spawn_blocking(move || Tls::load(&cert, &key)).await;
    let loaded =
        loaded.map_err(|error| Failure::new("reading the certificate was lost").from(error))?;
    match loaded {
        Ok(tls) => Ok(Some(Arc::new(tls))),
        Err(error) => Err(Failure::new("cannot speak TLS")
            .from(error)
            .next("check tls.cert and tls.key; hf-oci cert makes a pair")),
    }
}

fn registry_settings(settings: &Settings) -> RegistrySettings {
    RegistrySettings {
        wait: settings.registry.wait,
        drip: settings.registry.drip,
        max_waiting: settings.registry.max_waiting,
    }
}

fn server_settings(settings: &Settings, files: Option<u64>) -> ServerSettings {
    ServerSettings {
        max_connections: connections(settings.server.max_connections, files),
        header_timeout: settings.server.header_timeout,
        stall_timeout: settings.server.stall_timeout,
        drain: settings.server.drain,
    }
}

/// Lets this process have as many files open as the system allows it; gives that number, if there is one.
fn raise_file_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// As many connections as wanted, or as the limit of open files has room for: each is one, and so is the blob that it is sent; and there are
/// [`FURTHER`] requests.
fn connections(wanted: usize, files: Option<u64>) -> usize {
    let Some(files) = files else {
        return wanted;
    };
    let room = files.saturating_sub(OTHER_FILES).max(files / 2);
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let room = (room / (2 * FURTHER + 1)).saturating_mul(FURTHER).max(1);
    if room < wanted {
        tracing::warn!(
            limit = files,
            wanted,
            served = room,
            "the limit of open files is low for server.max_connections; raise it (ulimit -n, LimitNOFILE)"
        );
    }
    wanted.min(room)
}

/// Binds the address. From here on clients can connect, and wait.
async fn listen(settings: &Settings) -> Result<(TcpListener, SocketAddr), Failure> {
    let listen = &settings.listen;
    let bound = TcpListener::bind((listen.host.as_str(), listen.port)).await;
    let bound = bound.and_then(|listener| {
        let address = listener.local_addr()?;
        Ok((listener, address))
    });
    bound.map_err(|error| {
        let next = match error.kind() {
            ErrorKind::AddrInUse => {
                "another program has this port; stop it, or choose another one with --listen HOST:PORT"
            }
            ErrorKind::PermissionDenied => {
                "ports below 1024 need a privilege; choose a higher one with --listen HOST:PORT"
            }
            ErrorKind::AddrNotAvailable => {
                "this machine does not have the address; choose another one with --listen HOST:PORT"
            }
            _ => "choose another address with --listen HOST:PORT",
        };
        Failure::new(format!("cannot listen on {listen}"))
            .from(error)
            .next(next)
    })
}

/// Says what runs where, whatever the log's level; then warns of what its owner may not have meant.
fn announce(settings: &Settings, address: SocketAddr) {
    let line = start_line(settings, address);
    // Nobody reads it if stderr is closed; that is no reason not to serve.
    let _ = writeln!(std::io::stderr(), "{line}");

    gate::warn(settings, address);
    for origin in &settings.upstream.origins {
        let exposed = origin.endpoint().filter(|hub| hub.is_exposed());
        if let (Some(hub), true) = (exposed, origin.token.is_some()) {
            tracing::warn!("the Hub token goes to {hub} unencrypted");
        }
    }
}

/// The upstreams that are asked, each with how.
fn asked(settings: &Settings) -> String {
    let origins = settings.upstream.origins.iter();
    let asked = origins.filter_map(|origin| match (&origin.address, settings.offline) {
        (Address::Folder(path), _) => Some(format!("{} (folder)", path.display())),
        (Address::Hub(_), true) => None,
        (Address::Hub(hub), false) if origin.token.is_some() => Some(format!("{hub} (with token)")),
        (Address::Hub(hub), false) => Some(format!("{hub} (anonymous)")),
    });
    match asked.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "none (offline)".to_owned(),
        asked => asked,
    }
}

fn start_line(settings: &Settings, address: SocketAddr) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let scheme = if settings.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let listen = format!("{scheme}://{address}");
    let data = settings.data_dir.display().to_string();
    let addresses = settings
        .upstream
        .origins
        .iter()
        .map(|o| o.address.to_string());
    let upstream = addresses.collect::<Vec<_>>().join(", ");
    let token = settings.upstream.has_token();
    match settings.log_format {
        LogFormat::Text => {
            let who = asked(settings);
            format!("hf-oci {version} listening on {listen} · data {data} · upstream {who}")
        }
        LogFormat::Json => {
            let now = humantime::format_rfc3339_micros(std::time::SystemTime::now());
            let line = serde_json::json!({
                "timestamp": now.to_string(),
                "level": "INFO",
                "fields": {
                    "message": "listening",
                    "version": version,
                    "listen": listen,
                    "data_dir": data,
                    "upstream": upstream,
                    "token": token,
                    "offline": settings.offline,
                },
                "target": "hf_oci::serve",
            });
            line.to_string()
        }
    }
}
