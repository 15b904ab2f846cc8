//! Pushing images to registries elsewhere, by the distribution specification.
//!
//! An image goes from the inside out: its blobs, its manifests, its index under the tag. Before anything is sent the registry is asked
//! whether it has it; what another repository of the registry got in the same run is mounted from there. So a run that is repeated moves
//! nothing, and one that was cut off goes on with the blob at which it was.
//!
//! The crate `oci-client` (0.18) was looked at for this. It asks for a token of the target repository only, so that registries with tokens
//! refuse its mounts; it gives up the upload that a registry offers in place of a mount; it has no retries, leaves redirects to its HTTP
//! library, and comes with `oci-spec`, `chrono`, `regex` and what they need. What is needed here is four requests on the HTTP client that is
//! there already.

mod body;
mod challenge;
mod destination;
mod error;
mod http;
mod login;
mod retry;
mod upload;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{self, StreamExt};

pub use destination::Destination;
pub use error::{PushError, Why};
pub use login::Login;
pub use retry::Retries;

use crate::oci::{Digest, MEDIA_INDEX, MEDIA_MANIFEST};

/// Blobs of an image on the way at once. Each takes about 8 MiB of memory.
const AT_ONCE: usize = 4;

/// An image that is to be pushed.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name, which is put behind the destination's prefix.
    pub name: String,
    /// Its tag.
    pub tag: String,
    /// The bytes of its index.
    pub index: Vec<u8>,
    /// The bytes of its manifests.
    pub manifests: Vec<Vec<u8>>,
    /// Its configs and layers.
    pub blobs: BTreeMap<Digest, Blob>,
}

/// A blob in a file.
#[derive(Debug, Clone)]
pub struct Blob {
    /// Its digest, against which it is held on its way out.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// How a registry came to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was sent.
    Pushed,
    /// The registry took it from another repository of its own.
    Mounted,
    /// It was there.
    Present,
}

/// What became of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Where it is now: HOST/NAME:TAG.
    pub to: String,
    /// The digest of its index, the same as here.
    pub index: Digest,
    /// Blobs that were sent.
    pub pushed: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Blobs that were mounted.
    pub mounted: u64,
    /// Blobs that were there.
    pub present: u64,
    /// Manifests and indexes that were written; 0 if all were there and the tag meant this image.
    pub manifests: u64,
}

/// Pushes images to one destination, one after the other.
pub struct Pusher {
    destination: Destination,
    registry: http::Registry,
    /// Which repository got a blob in this run.
    got: Mutex<HashMap<Digest, String>>,
    sent: Arc<AtomicU64>,
}

impl Pusher {
    /// A pusher that logs in with `login` if the registry wants it, and speaks HTTP without TLS if `plain`.
    pub fn new(
        destination: Destination,
        login: Option<Login>,
        plain: bool,
        retries: Retries,
    ) -> Result<Self, PushError> {
        Ok(Self {
            registry: http::Registry::new(&destination, login, plain, retries)?,
            destination,
            got: Mutex::default(),
            sent: Arc::default(),
        })
    }

    /// Bytes of blobs that were sent, of those on their way too.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Pushes an image, and tells of each blob. Dropping the future ends it; the registry then has some of the blobs, and the tag means
    /// what it meant before.
    pub async fn image(
        &self,
        image: &Image,
        tell: &(dyn Fn(&Blob, How) + Sync),
    ) -> Result<Copied, PushError> {
        let repository = self.destination.repository(&image.name)?;
        let mut copied = Copied {
            to: format!("{}/{repository}:{}", self.destination.host(), image.tag),
            index: Digest::of(&image.index),
            pushed: 0,
            bytes: 0,
            mounted: 0,
            present: 0,
            manifests: 0,
        };
        let each = stream::iter(image.blobs.values());
        let repository = repository.as_str();
        let each = each.map(|blob| async move { (blob, self.blob(repository, blob).await) });
        let mut each = std::pin::pin!(each.buffer_unordered(AT_ONCE));
        while let Some((blob, how)) = each.next().await {
            let how = how?;
            match how {
                How::Pushed => {
                    copied.pushed += 1;
                    copied.bytes += blob.size;
                }
                How::Mounted => copied.mounted += 1,
                How::Present => copied.present += 1,
            }
            tell(blob, how);
        }
        for manifest in &image.manifests {
            let digest = Digest::of(manifest).to_string();
            let write = self
                .registry
                .manifest(repository, &digest, MEDIA_MANIFEST, manifest);
            copied.manifests += u64::from(write.await?);
        }
        let write = self
            .registry
            .manifest(repository, &image.tag, MEDIA_INDEX, &image.index);
        copied.manifests += u64::from(write.await?);
        Ok(copied)
    }

    async fn blob(&self, repository: &str, blob: &Blob) -> Result<How, PushError> {
        let from = self.got().get(&blob.digest).cloned();
        let from = from.filter(|from| from != repository);
        let how = self
            .registry
            .blob(repository, blob, from.as_deref(), &self.sent)
            .await?;
        self.got()
            .entry(blob.digest)
            .or_insert_with(|| repository.to_owned());
        Ok(how)
    }

    fn got(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, String>> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
