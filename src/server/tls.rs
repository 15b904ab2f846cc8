//! The certificate of a TLS listener, read anew when its files change.
//!
//! A pair that cannot be used never replaces one that can: the log says why, and the old one goes on. Connections that are open keep
//! the certificate they began with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::Shutdown;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why a pair of files is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read, or holds nothing of its kind in PEM.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The two do not belong together, or are of a kind that cannot be used.
    #[error("the certificate and the key cannot be used: {0}")]
    Pair(#[from] rustls::Error),
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
}

/// What tells that a file is another one.
type Stamp = Option<(SystemTime, u64)>;

impl Tls {
    /// Reads a pair of PEM files: the certificate with its chain, and its key. Blocks on files.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            current: RwLock::new(Arc::new(read(cert, key)?)),
        })
    }

    /// What takes a new connection with the certificate of this moment.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current))
    }

    /// Looks at the files until the shutdown begins, and takes a new pair when it is good.
    pub async fn watch(self: Arc<Self>, shutdown: Shutdown) {
        let mut seen = self.look().await;
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = self.look().await;
            if now != seen {
                seen = now;
                self.renew().await;
            }
        }
    }

    async fn look(&self) -> [Stamp; 2] {
        let (cert, key) = (self.cert.clone(), self.key.clone());
        let looked = tokio::task::spawn_blocking(move || [stamp(&cert), stamp(&key)]).await;
        looked.unwrap_or_default()
    }

    async fn renew(&self) {
        let (cert, key) = (self.cert.clone(), self.key.clone());
        match tokio::task::spawn_blocking(move || read(&cert, &key)).await {
            Ok(Ok(config)) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!("new connections get the new certificate");
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the new certificate cannot be used; the old one stays");
            }
            Err(error) => tracing::warn!(%error, "the new certificate was not read"),
        }
    }
}

fn stamp(path: &Path) -> Stamp {
    let data = std::fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

fn read(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let chain = certificates(cert)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
        path: key.to_owned(),
        why: format!("no private key in PEM ({error})"),
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates of a PEM file, at least one. Blocks on the file.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |why: String| TlsError::File {
        path: path.to_owned(),
        why,
    };
    let all = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fail(format!("no certificates in PEM ({error})")))?;
    match all.is_empty() {
        true => Err(fail("no certificate in PEM".to_owned())),
        false => Ok(all),
    }
}

/// The error of a handshake that took too long.
pub(super) fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long")
}
