//! Settings: flags, environment, file and defaults, in that order of precedence.
//!
//! [`KEYS`] is the table of all of them, [`Sources`] finds the value that counts, and [`Settings::resolve`] reads and checks each.
//! Every error says which place is wrong and what is expected there.

mod access;
mod keys;
mod rules;
mod source;
mod token;
mod upstreams;
mod value;

use std::fmt::Display;
use std::num::NonZero;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use keys::{KEYS, Key, LIST, SWITCH};
pub use source::{ConfigError, Environment, Flags, Place, Sources};
pub use upstreams::{Address, Origin};
pub use value::{Listen, LogFilter, LogFormat, Size, ValueError};

use crate::auth::Rules;
use crate::fill;
use crate::image::Layout;
use crate::store::Limits;

use access::{Globs, Mode, PublicUrl};
use value::{Count, Share, Switch, Time};

/// All settings, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the registry listens.
    pub listen: Listen,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The address by which clients reach the server, if it is not the one that they ask by; without a slash at its end.
    pub public_url: Option<String>,
    /// How long a branch or tag is believed before the upstream is asked again.
    pub tag_ttl: Duration,
    /// Whether the upstream is never asked.
    pub offline: bool,
    /// What is logged.
    pub log: LogFilter,
    /// In which form.
    pub log_format: LogFormat,
    /// Where files come from.
    pub upstream: Upstream,
    /// Who may pull.
    pub auth: Auth,
    /// Which repositories are served.
    pub repositories: Rules,
    /// What is otherwise for some of them.
    pub rules: Arc<fill::Rules>,
    /// How much room the cache may take.
    pub cache: Limits,
    /// How images are filled.
    pub fill: Fill,
    /// How requests for cold images wait.
    pub registry: Registry,
    /// Certificate and key, if the registry speaks TLS.
    pub tls: Option<TlsFiles>,
    /// Connections.
    pub server: Server,
}

/// Two files in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, with its chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Where files come from.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The upstreams in their order; at least one.
    pub origins: Vec<Origin>,
    /// How long a connection may take to open.
    pub connect_timeout: Duration,
    /// How long nothing may arrive.
    pub stall_timeout: Duration,
    /// Whether, without logins, everybody may have what the token opens.
    pub share_private: bool,
}

impl Upstream {
    /// Whether one of them is asked with a token of the server's.
    pub fn has_token(&self) -> bool {
        self.origins.iter().any(|origin| origin.token.is_some())
    }
}

/// Who may pull.
#[derive(Debug, Clone)]
pub struct Auth {
    /// How they show it.
    pub mode: AuthMode,
    /// How long the upstream's word on who may read what is believed; never zero.
    pub ttl: Duration,
}

/// How clients show that they may pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthMode {
    /// Not at all.
    None,
    /// As one of the users of this file.
    Htpasswd(PathBuf),
    /// With a Hub token.
    HuggingFace,
}

/// How images are filled.
#[derive(Debug, Clone)]
pub struct Fill {
    /// Bytes in flight of all fills together; at least 32 MiB.
    pub memory: u64,
    /// Parallel downloads of one fill; at least 1.
    pub connections: usize,
    /// Images that are filled at once; at least 1.
    pub concurrent: usize,
    /// Layers of one image that are filled at once; at least 1.
    pub layers: usize,
    /// How files become layers.
    pub layout: Layout,
}

/// How requests for cold images wait.
#[derive(Debug, Clone)]
pub struct Registry {
    /// How long a request is held before its headers are sent early.
    pub wait: Duration,
    /// The time between two bytes after that; never zero.
    pub drip: Duration,
    /// Requests that may wait; at least 1.
    pub max_waiting: usize,
}

/// Connections.
#[derive(Debug, Clone)]
pub struct Server {
    /// How long requests may go on after a signal.
    pub drain: Duration,
    /// Connections served at once; at least 1.
    pub max_connections: usize,
    /// How long a request's headers may take; never zero.
    pub header_timeout: Duration,
    /// How long nothing may be taken of what is sent; never zero.
    pub stall_timeout: Duration,
}

impl Settings {
    /// Reads and checks every setting. Reads the token's file, and no other.
    pub fn resolve(sources: &Sources) -> Result<Self, ConfigError> {
        Ok(Self {
            listen: listen(sources)?,
            data_dir: data_dir(sources)?,
            public_url: {
                let url: Option<PublicUrl> = sources.get("public_url", |_| Ok(()))?;
                url.map(|PublicUrl(url)| url)
            },
            tag_ttl: time(sources, "tag_ttl", Duration::ZERO)?,
            offline: required(sources, "offline", |_: &Switch| Ok(()))?.0,
            log: required(sources, "log", |_| Ok(()))?,
            log_format: required(sources, "log_format", |_| Ok(()))?,
            upstream: Upstream {
                origins: upstreams::origins(sources)?,
                connect_timeout: time(sources, "upstream.connect_timeout", SHORTEST)?,
                stall_timeout: time(sources, "upstream.stall_timeout", SHORTEST)?,
                share_private: required(sources, "upstream.share_private", |_: &Switch| Ok(()))?.0,
            },
            auth: auth(sources)?,
            repositories: Rules {
                allow: globs(sources, "repositories.allow")?,
                deny: globs(sources, "repositories.deny")?,
            },
            rules: Arc::new(fill::Rules(sources.rules())),
            cache: cache(sources)?,
            fill: Fill {
                memory: required(sources, "fill.memory", at_least(Size(32 << 20)))?.0,
                connections: required(sources, "fill.connections", between(1, 256))?.0,
                concurrent: required(sources, "fill.concurrent", between(1, 1000))?.0,
                layers: match sources.get("fill.layers", between(1, 256))? {
                    Some(Count(layers)) => layers,
                    None => std::thread::available_parallelism().map_or(1, NonZero::get),
                },
                layout: required(sources, "fill.layout", |_| Ok(()))?,
            },
            registry: Registry {
                wait: time(sources, "registry.wait", Duration::ZERO)?,
                drip: time(sources, "registry.drip", SHORTEST)?,
                max_waiting: required(sources, "registry.max_waiting", between(1, 1_000_000))?.0,
            },
            tls: tls(sources)?,
            server: Server {
                drain: time(sources, "server.drain", Duration::ZERO)?,
                max_connections: required(
                    sources,
                    "server.max_connections",
                    between(1, 1_000_000),
                )?
                .0,
                header_timeout: time(sources, "server.header_timeout", SHORTEST)?,
                stall_timeout: time(sources, "server.stall_timeout", SHORTEST)?,
            },
        })
    }
}

/// Where the registry listens; for a command that needs no other setting.
pub fn listen(sources: &Sources) -> Result<Listen, ConfigError> {
    required(sources, "listen", |_| Ok(()))
}

/// How much room the cache may take; for a command that needs no other setting.
pub fn cache(sources: &Sources) -> Result<Limits, ConfigError> {
    let max_size: Option<Size> = sources.get("cache.max_size", |_| Ok(()))?;
    Ok(Limits {
        max_size: max_size.map(|size| size.0),
        min_free: required(sources, "cache.min_free", |_: &Share| Ok(()))?.0,
    })
}

/// The shortest timeout that can do its work.
const SHORTEST: Duration = Duration::from_millis(10);

fn required<T: FromStr<Err: Display>>(
    sources: &Sources,
    path: &'static str,
    check: impl FnOnce(&T) -> Result<(), String>,
) -> Result<T, ConfigError> {
    let value = sources.get(path, check)?;
    value.ok_or_else(|| ConfigError::new(Place::Default(path), "there is none; set it"))
}

fn time(sources: &Sources, path: &'static str, least: Duration) -> Result<Duration, ConfigError> {
    Ok(required(sources, path, at_least(Time(least)))?.0)
}

fn at_least<T: PartialOrd + Display>(least: T) -> impl FnOnce(&T) -> Result<(), String> {
    move |value| match *value < least {
        true => Err(format!("{value} is too little; {least} is the least")),
        false => Ok(()),
    }
}

fn between(least: usize, most: usize) -> impl FnOnce(&Count) -> Result<(), String> {
    move |Count(value)| match (least..=most).contains(value) {
        true => Ok(()),
        false => Err(format!("{value} is not between {least} and {most}")),
    }
}

/// Who may pull. A file of users is wanted for the mode that has users; with another, its owner takes a server for closed that is not.
fn auth(sources: &Sources) -> Result<Auth, ConfigError> {
    let mode = required(sources, "auth.mode", |_| Ok(()))?;
    let users = file(sources, "auth.htpasswd_file")?;
    let mode = match (mode, users) {
        (Mode::None, None) => AuthMode::None,
        (Mode::HuggingFace, None) => AuthMode::HuggingFace,
        (Mode::None | Mode::HuggingFace, Some((place, _))) => {
            let why = "auth.mode is not htpasswd, so these users would not count; set it, or leave the file out";
            return Err(ConfigError::new(place, why));
        }
        (Mode::Htpasswd, Some((_, users))) => AuthMode::Htpasswd(users),
        (Mode::Htpasswd, None) => {
            let place = sources.find("auth.mode")?.map(|(place, _)| place);
            let place = place.unwrap_or(Place::Default("auth.mode"));
            let why = "auth.htpasswd_file is missing: the mode htpasswd wants a file of users (htpasswd -B)";
            return Err(ConfigError::new(place, why));
        }
    };
    Ok(Auth {
        mode,
        ttl: time(sources, "auth.ttl", SHORTEST)?,
    })
}

fn globs(sources: &Sources, path: &'static str) -> Result<Vec<crate::auth::Glob>, ConfigError> {
    let globs: Option<Globs> = sources.get(path, |_| Ok(()))?;
    Ok(globs.map_or_else(Vec::new, |Globs(globs)| globs))
}

/// The TLS files: both, or none.
pub fn tls(sources: &Sources) -> Result<Option<TlsFiles>, ConfigError> {
    let (cert, key) = (file(sources, "tls.cert")?, file(sources, "tls.key")?);
    match (cert, key) {
        (Some((_, cert)), Some((_, key))) => Ok(Some(TlsFiles { cert, key })),
        (None, None) => Ok(None),
        (Some((place, _)), None) => Err(ConfigError::new(
            place,
            "tls.key is missing: both are needed",
        )),
        (None, Some((place, _))) => Err(ConfigError::new(
            place,
            "tls.cert is missing: both are needed",
        )),
    }
}

/// A path, and where it is set.
fn file(sources: &Sources, path: &'static str) -> Result<Option<(Place, PathBuf)>, ConfigError> {
    let Some((place, text)) = sources.find(path)? else {
        return Ok(None);
    };
    match sources.environment().path(text) {
        Ok(file) => Ok(Some((place, file))),
        Err(error) => Err(ConfigError::new(place, error.to_string())),
    }
}

/// The data directory: as set, else `hf-oci` in the user's data folder.
pub fn data_dir(sources: &Sources) -> Result<PathBuf, ConfigError> {
    const PATH: &str = "data_dir";
    if let Some((_, path)) = file(sources, PATH)? {
        return Ok(path);
    }
    let home = sources.environment().data_home();
    home.map(|home| home.join("hf-oci")).ok_or_else(|| {
        let why = "this user has no home folder; set --data-dir or HF_OCI_DATA_DIR";
        ConfigError::new(Place::Default(PATH), why)
    })
}

/// How much room the cache may take.
pub fn limits(sources: &Sources) -> Result<Limits, ConfigError> {
    Ok(Limits {
        max_size: sources
            .get("cache.max_size", |_: &Size| Ok(()))?
            .map(|s| s.0),
        min_free: required(sources, "cache.min_free", |_: &Share| Ok(()))?.0,
    })
}
