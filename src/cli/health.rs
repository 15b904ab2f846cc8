//! `hf-oci health`: asks a running server whether it is well; for the health checks of containers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use reqwest::Url;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Failure;
use crate::config::{self, ConfigError, Flags, Listen, Sources, TlsFiles};
use crate::server::certificates;

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
        let (server, tls) = match &self.server {
            Some(url) => (address(url)?, None),
            None => {
                let sources = load(Flags::new())?;
                (config::listen(&sources)?.local(), config::tls(&sources)?)
            }
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{server}/healthz");
        let unwell = || Failure::new(format!("{url} is not well"));
        let next = "is hf-oci serve running there? --server URL asks another address";
        match tokio::time::timeout(TIMEOUT, ask(&server, tls)).await {
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
async fn ask(server: &Listen, tls: Option<TlsFiles>) -> io::Result<u16> {
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
    let Some(TlsFiles { cert, .. }) = tls else {
        return status(server, stream).await;
    };
    let read = tokio::task::spawn_blocking(move || certificates(&cert)).await;
    let own = read.map_err(io::Error::other)?.map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pinned = Pinned {
        own: own[0].clone(),
        provider: Arc::clone(&provider),
    };
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_no_client_auth();
    // The name does not matter: it is the certificate itself that is compared.
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(client))
        .connect(name, stream)
        .await?;
    status(server, stream).await
}

async fn status<S: AsyncRead + AsyncWrite + Unpin>(
    server: &Listen,
    mut stream: S,
) -> io::Result<u16> {
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
        .ok_or_else(|| io::Error::other("its answer is not HTTP"))
}

/// Trusts one certificate: the server's own, as its file has it. So a self-signed one, made for another name, is right too.
#[derive(Debug)]
struct Pinned {
    own: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *shown == self.own {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::General(
                "the server shows another certificate than tls.cert".to_owned(),
            )),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let known = &self.provider.signature_verification_algorithms;
        known.supported_schemes()
    }
}
