//! The gate as it is set up: who is let in, and what the start-up says of it.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Failure;
use super::origin::Origin;
use crate::auth::{Gate, GateSettings, Mode, Site};
use crate::config::{AuthMode, Origin as Setup, Settings};
use crate::store::Store;

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
    let token = settings.upstream.has_token();
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
    let mut hubs = settings.upstream.origins.iter().filter_map(Setup::endpoint);
    let asked = hubs.next().filter(|hub| hub.is_exposed());
    if let (AuthMode::HuggingFace, Some(hub)) = (&settings.auth.mode, asked) {
        tracing::warn!(
            "the Hub tokens of those who log in are sent to {hub} unencrypted; give the upstream an address with https"
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
