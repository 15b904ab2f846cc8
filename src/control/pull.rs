//! Filling an image because somebody asks for it ahead of need, and telling how far that is.
//!
//! The fill is detached from whoever asked: when nobody listens any more it goes on, and who asks for the same image joins it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Event;
use crate::error::{Error, Kind};
use crate::fill::{Flight, Found, Images, LayerProgress, Outcome, Ready, with_store};
use crate::image::ImageName;
use crate::oci::{Digest, Index, Manifest, Tag};
use crate::store::{Store, StoreError};

/// The time between two events of one image.
const TICK: Duration = Duration::from_millis(500);

/// Annotation of an index: the commit.
const REVISION: &str = "org.opencontainers.image.revision";

/// An image that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its tag; `None` is the default branch, or whatever has the digest.
    pub tag: Option<String>,
    /// The digest that its index must have.
    pub digest: Option<Digest>,
}

/// How far a fill is. Numbers only grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FillingLine {
    /// The image, as it was asked for.
    pub image: String,
    /// Its commit.
    pub commit: String,
    /// Milliseconds since the fill began, whoever began it.
    pub elapsed_ms: u64,
    /// Bytes of its files; what was wrong and is fetched again counts again in `bytes`.
    #[serde(flatten)]
    pub all: Counts,
    /// The same for each layer, the lowest first.
    pub layers: Vec<LayerCounts>,
}

/// Bytes and files, done and in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Bytes that were downloaded, hashed and written.
    pub bytes: u64,
    /// Bytes that were there already.
    pub reused: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Files that are verified, or were there already.
    pub files: u64,
    /// Files in all.
    pub total_files: u64,
}

impl Counts {
    /// Bytes that are there, as far as they count for the whole.
    pub fn there(&self) -> u64 {
        (self.bytes + self.reused).min(self.total_bytes)
    }
}

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerCounts {
    /// Bytes and files.
    #[serde(flatten)]
    pub counts: Counts,
    /// Digest of its blob, once it is published.
    pub digest: Option<String>,
    /// Length of that.
    pub size: Option<u64>,
}

/// An image that is cached now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledLine {
    /// The image, as it was asked for.
    pub image: String,
    /// Its commit, if that can be told.
    pub commit: Option<String>,
    /// Digest of its index.
    pub index: String,
    /// Bytes of its layers.
    pub size: u64,
    /// How many there are.
    pub layers: u64,
    /// `hit`, `revalidated`: it was there; `miss`, `joined`: it was filled; `stale`: the upstream did not answer, and this is the last
    /// known one. Nothing where another server does not say it.
    pub outcome: Option<String>,
    /// Bytes that were downloaded for it, as far as that is known.
    pub bytes: Option<u64>,
    /// Milliseconds that it took.
    pub elapsed_ms: u64,
}

/// Why an image is not cached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedLine {
    /// The image, as it was asked for.
    pub image: String,
    /// What sort of failure it is.
    pub why: Why,
    /// A sentence for a person.
    pub message: String,
    /// Seconds after which it may be tried again, if that was told.
    pub retry_after: Option<u64>,
}

/// Sorts of failures, as scripts tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// There is no such repository, revision, file or digest.
    NotFound,
    /// There is, but not for these credentials, or no image can hold it.
    Refused,
    /// The upstream, or the server, is in trouble; trying again may do.
    Upstream,
    /// The cache has no room for it.
    NoRoom,
    /// Something else is wrong on this side.
    Other,
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// Sees to it that an image is cached, and tells how far that is; the last event is final. Ends early if nobody listens any more; what has
/// begun goes on then.
pub async fn pull(
    images: Arc<Images>,
    store: Arc<Store>,
    wanted: Wanted,
    tell: mpsc::Sender<Event>,
) {
    let pulling = Pulling {
        images,
        store,
        image: wanted.to_string(),
        started: Instant::now(),
        tell: tell.clone(),
    };
    let ended = tokio::select! {
        ended = pulling.run(&wanted) => ended,
        () = tell.closed() => return,
    };
    let last = ended.unwrap_or_else(|error| failed(&pulling.image, &error));
    // Nobody may listen any more.
    let _ = tell.send(last).await;
}

struct Pulling {
    images: Arc<Images>,
    store: Arc<Store>,
    image: String,
    started: Instant,
    tell: mpsc::Sender<Event>,
}

impl Pulling {
    async fn run(&self, wanted: &Wanted) -> Result<Event, Error> {
        let invalid = |error: String| Error::new(Kind::NameInvalid, error);
        let name = ImageName::parse(&wanted.name).map_err(|e| invalid(e.to_string()))?;
        if let Some(digest) = wanted.digest
            && let Some(ready) = self.by_digest(&name, digest).await?
        {
            return self.pulled(ready, Outcome::Hit, Some(0)).await;
        }
        let tag = wanted.tag.as_deref().unwrap_or("latest");
        let tag: Tag = tag.parse().map_err(|e| invalid(format!("{e}")))?;
        let asker = self.images.own();
        let found = self.waiting(self.images.find(&asker, &name, &tag)).await?;
        let (ready, outcome, bytes) = match found {
            Found::Ready(ready, outcome) => (ready, outcome, 0),
            Found::Filling(flight, outcome) => {
                let ready = self.filling(flight.clone()).await?;
                (ready, outcome, flight.progress().bytes())
            }
        };
        if let Some(digest) = wanted.digest.filter(|digest| *digest != ready.index) {
            return Err(Error::new(
                Kind::ManifestUnknown,
                format!(
                    "{name}:{tag} is {} now, and {digest} is not cached; ask for its commit instead",
                    ready.index
                ),
            ));
        }
        self.pulled(ready, outcome, Some(bytes)).await
    }

    /// The image of a digest, if all of it is here under this name.
    async fn by_digest(&self, name: &ImageName, digest: Digest) -> Result<Option<Ready>, Error> {
        let name = name.clone();
        let look = move |store: &Store| {
            let known = store.reference_of(&name, &digest);
            let key = known.and_then(|reference| reference.key());
            let stored = key.map_or(Ok(None), |key| store.image(&key))?;
            Ok(stored.filter(|stored| stored.index == digest))
        };
        Ok(with_store(&self.store, look).await?.map(Ready::from))
    }

    /// Waits for an answer, and tells that it is waited for.
    async fn waiting<T>(&self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                () = tokio::time::sleep(TICK) => self.news(Event::Waiting {
                    image: self.image.clone(),
                    elapsed_ms: ms(self.started),
                }),
            }
        }
    }

    /// Waits for the end of a fill, and tells how far it is.
    async fn filling(&self, flight: Flight) -> Result<Ready, Error> {
        let mut flight = flight;
        loop {
            let seen = flight.clone();
            tokio::select! {
                ended = flight.done() => {
                    // However short it was, its layers are told.
                    if ended.is_ok() && !seen.progress().layers().is_empty() {
                        let _ = self.tell.send(self.snapshot(&seen)).await;
                    }
                    return ended.map_err(|error| (*error).clone());
                }
                () = tokio::time::sleep(TICK) => self.news(self.snapshot(&seen)),
            }
        }
    }

    /// Tells what is old news a moment later: if there is no room for it, it is left out.
    fn news(&self, event: Event) {
        let _ = self.tell.try_send(event);
    }

    fn snapshot(&self, flight: &Flight) -> Event {
        let progress = flight.progress();
        if progress.layers().is_empty() {
            // It waits for its turn, or for the listing.
            return Event::Waiting {
                image: self.image.clone(),
                elapsed_ms: ms(self.started),
            };
        }
        Event::Filling(Box::new(FillingLine {
            image: self.image.clone(),
            commit: progress.commit().to_string(),
            elapsed_ms: ms(progress.started()),
            all: Counts {
                bytes: progress.bytes(),
                reused: progress.reused(),
                total_bytes: progress.total_bytes(),
                files: progress.files(),
                total_files: progress.total_files(),
            },
            layers: progress.layers().iter().map(|l| counts(l)).collect(),
        }))
    }

    async fn pulled(
        &self,
        ready: Ready,
        outcome: Outcome,
        bytes: Option<u64>,
    ) -> Result<Event, Error> {
        let read = move |store: &Store| described(store, &ready.index);
        let (commit, size, layers) = with_store(&self.store, read).await?.unwrap_or((None, 0, 0));
        Ok(Event::Pulled(Box::new(PulledLine {
            image: self.image.clone(),
            commit,
            index: ready.index.to_string(),
            size,
            layers,
            outcome: Some(outcome.as_str().to_owned()),
            bytes,
            elapsed_ms: ms(self.started),
        })))
    }
}

/// The commit, the bytes and the number of layers that the documents of an image tell.
fn described(
    store: &Store,
    index: &Digest,
) -> Result<Option<(Option<String>, u64, u64)>, StoreError> {
    let Some(bytes) = store.read_blob(index)? else {
        return Ok(None);
    };
    let Ok(index) = serde_json::from_slice::<Index>(&bytes) else {
        return Ok(None);
    };
    let commit = index.annotations.get(REVISION).cloned();
    let first = index.manifests.first().map(|m| m.digest);
    let manifest = first.map_or(Ok(None), |digest| store.read_blob(&digest))?;
    let manifest = manifest.and_then(|bytes| serde_json::from_slice::<Manifest>(&bytes).ok());
    let layers = manifest.map_or_else(Vec::new, |manifest| manifest.layers);
    let size = layers.iter().map(|layer| layer.size).sum();
    Ok(Some((commit, size, layers.len() as u64)))
}

fn counts(layer: &LayerProgress) -> LayerCounts {
    let blob = layer.blob();
    LayerCounts {
        counts: Counts {
            bytes: layer.bytes(),
            reused: layer.reused(),
            total_bytes: layer.total_bytes(),
            files: layer.files(),
            total_files: layer.total_files(),
        },
        digest: blob.map(|(digest, _)| digest.to_string()),
        size: blob.map(|(_, size)| size),
    }
}

fn ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn failed(image: &str, error: &Error) -> Event {
    let why = match error.kind {
        Kind::NameInvalid
        | Kind::TagInvalid
        | Kind::DigestInvalid
        | Kind::NameUnknown
        | Kind::ManifestUnknown
        | Kind::BlobUnknown
        | Kind::Offline => Why::NotFound,
        Kind::Unauthorized
        | Kind::Denied
        | Kind::TokenRefused
        | Kind::ManifestInvalid
        | Kind::Unsupported => Why::Refused,
        Kind::TooManyRequests(_) | Kind::BadGateway | Kind::GatewayTimeout | Kind::Unavailable => {
            Why::Upstream
        }
        Kind::InsufficientStorage => Why::NoRoom,
        Kind::Internal => Why::Other,
    };
    let retry_after = match error.kind {
        Kind::TooManyRequests(after) => after.map(|after| after.as_secs()),
        _ => None,
    };
    Event::NotPulled(FailedLine {
        image: image.to_owned(),
        why,
        message: error.message.clone(),
        retry_after,
    })
}
