//! The gate as it is set up: who is let in, and what the start-up says of it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Failure;
use crate::auth::{Gate, GateSettings, Mode, Site};
use crate::config::{AuthMode, Settings};
use crate::hub::{Credentials, HubClient, HubSettings, Offline, Upstream};
use crate::store::Store;

/// Where files come from, asked with the server's own credentials and with those of others.
pub(super) struct Origin {
    pub(super) own: Arc<dyn Upstream>,
    credentials: Arc<dyn Credentials>,
}

impl Origin {
    /// The Hub's client, or nobody.
    pub(super) fn of(settings: &Settings, hub: HubSettings) -> Result<Self, Failure> {
        if settings.offline {
            return Ok(Self {
                own: Arc::new(Offline),
                credentials: Arc::new(Offline),
            });
        }
        let hub = HubClient::new(hub)
            .map_err(|error| Failure::new("cannot reach the upstream").from(error))?;
        let hub = Arc::new(hub);
        Ok(Self {
            own: Arc::clone(&hub) as Arc<dyn Upstream>,
            credentials: hub,
        })
    }
}

impl Origin {
    /// Where files come from, asked without credentials, if the server has some.
    pub(super) fn anonymous(&self, settings: &Settings) -> Option<Arc<dyn Upstream>> {
        let token = settings.upstream.token.as_ref();
        token.map(|_| self.credentials.with_token(None))
    }
}

/// The gate of a server that listens on `address`. The file of users is read away from the runtime's threads.
pub(super) async fn gate(
    settings: &Settings,
    address: SocketAddr,
    origin: &Origin,
    store: &Arc<Store>,
) -> Result<Gate, Failure> {
    let gate = GateSettings {
        mode: mode(settings, address),
        ttl: settings.auth.ttl,
        rules: settings.repositories.clone(),
        site: Site {
            public_url: settings.public_url.clone(),
            tls: settings.tls.is_some(),
        },
    };
    let (own, credentials) = (Arc::clone(&origin.own), Arc::clone(&origin.credentials));
    let store = Arc::clone(store);
    let made = tokio::task::spawn_blocking(move || Gate::new(gate, own, credentials, store)).await;
    let made = made.map_err(|error| Failure::new("setting up logins was lost").from(error))?;
    made.map_err(|error| {
        Failure::new("cannot let anybody in")
            .from(error)
            .next("check auth.htpasswd_file; htpasswd -Bc FILE NAME makes one")
    })
}

fn mode(settings: &Settings, address: SocketAddr) -> Mode {
    match &settings.auth.mode {
        AuthMode::Htpasswd(users) => Mode::Htpasswd(users.clone()),
        AuthMode::HuggingFace => Mode::HuggingFace,
        AuthMode::None if address.ip().is_loopback() || settings.upstream.share_private => {
            Mode::Open
        }
        AuthMode::None => Mode::Public,
    }
}

/// Whether not all who are let in may read the same as the server's own token.
pub(super) fn tells_apart(settings: &Settings, address: SocketAddr) -> bool {
    matches!(mode(settings, address), Mode::Public | Mode::HuggingFace)
}

/// Warns of what its owner may not have meant.
pub(super) fn warn(settings: &Settings, address: SocketAddr) {
    let token = settings.upstream.token.is_some();
    let far = !address.ip().is_loopback();
    match (mode(settings, address), token) {
        (Mode::Open, true) if far => tracing::warn!(
            "auth.mode is none and upstream.share_private is set: whoever reaches {address} can pull everything that the server's Hub token can read, private and gated repositories too"
        ),
        (Mode::Public, true) => tracing::warn!(
            "auth.mode is none: whoever reaches {address} can pull every public repository through this server, onto its disk. What else the server's Hub token can read is refused; upstream.share_private would give it to all of them, auth.mode huggingface or htpasswd asks for logins"
        ),
        (Mode::Public | Mode::Open, _) if far => tracing::warn!(
            "auth.mode is none: whoever reaches {address} can pull every public repository through this server, onto its disk"
        ),
        _ => {}
    }
    if settings.auth.mode == AuthMode::HuggingFace && settings.upstream.url.is_exposed() {
        tracing::warn!(
            "the Hub tokens of those who log in are sent to {} unencrypted; give upstream.url an address with https",
            settings.upstream.url
        );
    }
    let safe = |url: &String| url.starts_with("https:");
    let tls = settings.tls.is_some() || settings.public_url.as_ref().is_some_and(safe);
    if settings.auth.mode != AuthMode::None && far && !tls {
        tracing::warn!(
            "passwords and tokens of those who log in cross the network to {address} unencrypted; set tls.cert and tls.key, or a public_url with https where a gateway in front speaks TLS"
        );
    }
    if matches!(settings.auth.mode, AuthMode::Htpasswd(_)) && token {
        tracing::info!(
            "every user of auth.htpasswd_file can pull everything that the server's Hub token can read"
        );
    }
}
