//! The HTTP library set up: TLS by rustls with ring, the system's certificates, and everything off that would act on its own.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::Client;
use reqwest::redirect::Policy;
use rustls::{ClientConfig, RootCertStore};

use super::client::{HubSettings, SetupError};

/// A client of other servers than the Hub, set up the same way: nothing in it acts on its own, and there is no limit to how long an
/// answer may take.
pub fn plain(connect: Duration) -> Result<Client, SetupError> {
    client(&HubSettings {
        connect,
        ..HubSettings::default()
    })
}

pub(super) fn client(settings: &HubSettings) -> Result<Client, SetupError> {
    let failed = |what: &str| SetupError(what.to_owned());
    // The library's own error may repeat a proxy's address with its password.
    Client::builder()
        .tls_backend_preconfigured(tls()?)
        .http1_only()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .user_agent(&settings.user_agent)
        .connect_timeout(settings.connect)
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(settings.connections.max(1))
        .build()
        .map_err(|_| failed("the user agent or a proxy variable cannot be used"))
}

fn tls() -> Result<ClientConfig, SetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| SetupError(e.to_string()))?
        .with_root_certificates(roots())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The system's certificates, or Mozilla's where there are none (a container from scratch). Read once a process.
fn roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::debug!(errors = ?found.errors, "no system certificates; using the built-in ones");
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Arc::new(roots)
    };
    Arc::clone(ROOTS.get_or_init(read))
}
