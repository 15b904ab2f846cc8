//! A server elsewhere: its registry is asked for the manifest, which it gives when the image is cached.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};

use super::show::Show;
use crate::cli::Failure;
use crate::control::{Event, FailedLine, PulledLine, Wanted, Why};
use crate::hub;
use crate::oci::{Digest, Index, MEDIA_INDEX, MEDIA_MANIFEST, Manifest};

/// The longest document that is taken.
const MAX_DOCUMENT: usize = 4 << 20;

/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(10);

/// The time between two events.
const TICK: Duration = Duration::from_secs(1);

/// Annotation of an index: the commit.
const REVISION: &str = "org.opencontainers.image.revision";

/// A server elsewhere.
pub(super) struct Remote {
    server: Url,
    client: Client,
    login: Option<HeaderValue>,
}

impl Remote {
    /// A server by its address, asked with `user` (NAME:PASSWORD) or with what Docker's configuration has for it.
    pub(super) async fn new(server: Url, user: Option<String>) -> Result<Self, Failure> {
        let plain = matches!(server.scheme(), "http" | "https")
            && server.host_str().is_some()
            && server.username().is_empty()
            && server.password().is_none();
        if !plain || !matches!(server.path(), "" | "/") || server.query().is_some() {
            let what =
                "--server: this is not the address of a server, such as http://127.0.0.1:5000";
            return Err(Failure::new(what).code(2));
        }
        let login = match user {
            Some(user) if user.contains(':') => Some(basic(&user)?),
            Some(_) => return Err(Failure::new("--user: NAME:PASSWORD is wanted").code(2)),
            None => configured(&server).await?,
        };
        let client = hub::plain_client(CONNECT)
            .map_err(|error| Failure::new("cannot reach the server").from(error))?;
        Ok(Self {
            server,
            client,
            login,
        })
    }

    /// Asks for an image until it is cached there. Dropping the future leaves the server to it.
    pub(super) async fn pull(&self, wanted: &Wanted, show: &Arc<Show>) -> Result<(), FailedLine> {
        let started = Instant::now();
        let image = wanted.to_string();
        let mut work = std::pin::pin!(self.ask(wanted, started));
        let ended = loop {
            tokio::select! {
                ended = &mut work => break ended,
                () = tokio::time::sleep(TICK) => show.event(&Event::Waiting {
                    image: image.clone(),
                    elapsed_ms: ms(started),
                }),
            }
        };
        match ended {
            Ok(pulled) => {
                show.event(&Event::Pulled(Box::new(pulled)));
                Ok(())
            }
            Err(failed) => {
                let failed = failed.of(&image);
                show.event(&Event::NotPulled(failed.clone()));
                Err(failed)
            }
        }
    }

    async fn ask(&self, wanted: &Wanted, started: Instant) -> Result<PulledLine, Failed> {
        let (digest, index) = self.index(wanted).await?;
        let first = index.manifests.first();
        let manifest = match first {
            Some(first) => Some(self.manifest(&wanted.name, &first.digest).await?),
            None => None,
        };
        let layers = manifest.map_or_else(Vec::new, |manifest| manifest.layers);
        Ok(PulledLine {
            image: wanted.to_string(),
            commit: index.annotations.get(REVISION).cloned(),
            index: digest.to_string(),
            size: layers.iter().map(|layer| layer.size).sum(),
            layers: layers.len() as u64,
            outcome: None,
            bytes: None,
            elapsed_ms: ms(started),
        })
    }

    /// The index of an image, when it is cached.
    async fn index(&self, wanted: &Wanted) -> Result<(Digest, Index), Failed> {
        if let Some(digest) = wanted.digest {
            let by_digest = self.document(&wanted.name, &digest.to_string()).await;
            match by_digest {
                Err(failed) if failed.why == Why::NotFound => {}
                found => return parsed(&found?).map(|index| (digest, index)),
            }
        }
        let tag = wanted.tag.as_deref().unwrap_or("latest");
        let bytes = self.document(&wanted.name, tag).await?;
        let is = Digest::of(&bytes);
        if let Some(digest) = wanted.digest.filter(|digest| *digest != is) {
            let message = format!(
                "{}:{tag} is {is} now, and {digest} is not cached there; ask for its commit instead",
                wanted.name
            );
            return Err(Failed::new(Why::NotFound, message));
        }
        parsed(&bytes).map(|index| (is, index))
    }

    async fn manifest(&self, name: &str, digest: &Digest) -> Result<Manifest, Failed> {
        let bytes = self.document(name, &digest.to_string()).await?;
        match Digest::of(&bytes) == *digest {
            true => parsed(&bytes),
            false => Err(broken("it gave another manifest than was asked for")),
        }
    }

    /// A manifest or index. Of an image that is being filled there the answer comes when it is.
    async fn document(&self, name: &str, reference: &str) -> Result<Vec<u8>, Failed> {
        let mut url = self.server.clone();
        url.set_path(&format!("/v2/{name}/manifests/{reference}"));
        let accept = format!("{MEDIA_INDEX}, {MEDIA_MANIFEST}");
        let mut request = self.client.get(url).header(ACCEPT, accept);
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, login.clone());
        }
        let answer = request.send().await.map_err(|error| {
            let message = format!("{} does not answer: {}", self.server, cause(&error));
            Failed::new(Why::Upstream, message)
        })?;
        let status = answer.status();
        let after = answer.headers().get(RETRY_AFTER);
        let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
        let cut = |_| broken("it broke off while the image was being filled; its log says why");
        let bytes = whole(answer).await.map_err(cut)?;
        match status {
            StatusCode::OK => Ok(bytes),
            status => Err(self.refused(status, &bytes, after)),
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8], retry_after: Option<u64>) -> Failed {
        let told = serde_json::from_slice::<serde_json::Value>(body).ok();
        let told = told.and_then(|v| Some(v["errors"][0]["message"].as_str()?.to_owned()));
        let told = told.map_or_else(
            || format!("it answers {status}"),
            |told| format!("{told} ({status})"),
        );
        let why = match status.as_u16() {
            404 | 400 => Why::NotFound,
            401 | 403 | 422 => Why::Refused,
            429 | 502..=504 => Why::Upstream,
            507 => Why::NoRoom,
            _ => Why::Other,
        };
        let hint = match (status.as_u16(), &self.login) {
            (401, None) => "; log in with docker login, or give --user NAME:PASSWORD",
            _ => "",
        };
        Failed {
            why,
            message: format!("{told}{hint}"),
            retry_after,
        }
    }
}

/// Why the server did not do it.
#[derive(Debug)]
struct Failed {
    why: Why,
    message: String,
    retry_after: Option<u64>,
}

impl Failed {
    const fn new(why: Why, message: String) -> Self {
        Self {
            why,
            message,
            retry_after: None,
        }
    }

    fn of(self, image: &str) -> FailedLine {
        FailedLine {
            image: image.to_owned(),
            why: self.why,
            message: self.message,
            retry_after: self.retry_after,
        }
    }
}

fn broken(how: &str) -> Failed {
    Failed::new(Why::Upstream, format!("the server is in trouble: {how}"))
}

fn parsed<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Failed> {
    serde_json::from_slice(bytes).map_err(|_| broken("its answer is no image"))
}

/// The body, which may come drop by drop for hours.
async fn whole(answer: Response) -> Result<Vec<u8>, ()> {
    let mut answer = answer;
    let mut bytes = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(drop)? {
        if bytes.len() + part.len() > MAX_DOCUMENT {
            return Err(());
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes)
}

/// The innermost reason, which names no address.
fn cause(error: &reqwest::Error) -> String {
    let mut source = std::error::Error::source(error);
    let mut told = "the connection failed".to_owned();
    while let Some(inner) = source {
        told = inner.to_string();
        source = inner.source();
    }
    told
}

/// The header of a login, which no log prints.
fn basic(user: &str) -> Result<HeaderValue, Failure> {
    let header = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(user)));
    let mut header =
        header.map_err(|_| Failure::new("this login cannot be sent by HTTP").code(2))?;
    header.set_sensitive(true);
    Ok(header)
}

/// What Docker's configuration has for a server, if anything.
async fn configured(server: &Url) -> Result<Option<HeaderValue>, Failure> {
    let host = match (server.host_str(), server.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return Ok(None),
    };
    let look = tokio::task::spawn_blocking(move || docker_credential::get_credential(&host));
    let found = look
        .await
        .map_err(|error| Failure::new("reading Docker's configuration was lost").from(error))?;
    match found {
        Ok(DockerCredential::UsernamePassword(name, password)) => {
            basic(&format!("{name}:{password}")).map(Some)
        }
        Ok(DockerCredential::IdentityToken(_)) => {
            let what = "Docker's configuration has an identity token for the server, which hf-oci does not give out";
            Err(Failure::new(what).next("give --user NAME:PASSWORD"))
        }
        Err(
            CredentialRetrievalError::NoCredentialConfigured
            | CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::ConfigReadError,
        ) => Ok(None),
        // What a helper printed may hold a password.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
            tracing::debug!(
                helper,
                "Docker's credential helper has nothing for the server"
            );
            Ok(None)
        }
        Err(error) => Err(Failure::new("cannot read Docker's configuration").from(error)),
    }
}

fn ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
