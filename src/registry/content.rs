//! What the handlers need of the rest of the program, in one narrow seam: images by tag, and what is stored by digest.
//!
//! All store calls block on files; here, and only here, they are moved off the runtime's threads.

use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::error::{Error, Kind};
use crate::fill::{Found, Images, Outcome, Ready};
use crate::image::ImageName;
use crate::oci::{Digest, MEDIA_LAYER, Tag};
use crate::repo::RepoId;
use crate::store::{Lease, Member, Store, StoreError};

/// Where an image stands.
pub enum Image {
    /// It is in the store.
    Ready(Ready),
    /// It is being filled. Dropping the future changes nothing.
    Filling(BoxFuture<'static, Result<Ready, Error>>),
}

/// A blob, opened.
pub struct Blob {
    /// The file.
    pub file: File,
    /// Its length.
    pub size: u64,
    /// Keeps it from being deleted.
    pub lease: Option<Lease>,
}

/// A manifest or index.
pub struct Document {
    /// What it is.
    pub media_type: String,
    /// All of it.
    pub bytes: Bytes,
}

/// What a registry serves.
pub trait Content: Send + Sync + 'static {
    /// See [`Images::find`].
    fn find<'a>(
        &'a self,
        name: &'a ImageName,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<(Image, Outcome), Error>>;

    /// See [`Images::tags`].
    fn tags<'a>(&'a self, name: &'a ImageName) -> BoxFuture<'a, Result<Vec<String>, Error>>;

    /// See [`Store::catalog`].
    fn catalog(&self) -> BoxFuture<'_, Result<Vec<String>, Error>>;

    /// Opens a blob of `repo`; `None` if the repository has no such digest, or it is not there (any more).
    fn blob(&self, repo: RepoId, digest: Digest) -> BoxFuture<'_, Result<Option<Blob>, Error>>;

    /// Reads a small blob of `repo`; `None` as above.
    fn document(
        &self,
        repo: RepoId,
        digest: Digest,
    ) -> BoxFuture<'_, Result<Option<Document>, Error>>;

    /// Reads the index of an image that was found. Lives on its own, so that a body may wait for it.
    fn index(&self, digest: Digest) -> BoxFuture<'static, Result<Bytes, Error>>;
}

/// The cache of this server.
pub struct Cache {
    /// The images.
    pub images: Arc<Images>,
    /// The data directory.
    pub store: Arc<Store>,
}

impl Cache {
    async fn blocking<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, Error> + Send + 'static,
    {
        blocking(self.store.clone(), work).await
    }
}

impl Content for Cache {
    fn find<'a>(
        &'a self,
        name: &'a ImageName,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<(Image, Outcome), Error>> {
        Box::pin(async move {
            Ok(match self.images.find(name, tag).await? {
                Found::Ready(ready, outcome) => (Image::Ready(ready), outcome),
                Found::Filling(mut flight, outcome) => {
                    let done = async move { flight.done().await.map_err(|e| (*e).clone()) };
                    (Image::Filling(Box::pin(done)), outcome)
                }
            })
        })
    }

    fn tags<'a>(&'a self, name: &'a ImageName) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        Box::pin(self.images.tags(name))
    }

    fn catalog(&self) -> BoxFuture<'_, Result<Vec<String>, Error>> {
        Box::pin(self.blocking(|store| store.catalog().map_err(internal)))
    }

    fn blob(&self, repo: RepoId, digest: Digest) -> BoxFuture<'_, Result<Option<Blob>, Error>> {
        Box::pin(self.blocking(move |store| {
            let Some(member) = store.member(&repo, &digest).map_err(internal)? else {
                return Ok(None);
            };
            let Some((file, size, lease)) = store.open_blob(&digest).map_err(internal)? else {
                return Ok(None);
            };
            if member.media_type == MEDIA_LAYER {
                store.touch(&digest, SystemTime::now());
            }
            if size != member.size {
                return Err(damaged(&digest, &member, size));
            }
            let lease = Some(lease);
            Ok(Some(Blob { file, size, lease }))
        }))
    }

    fn document(
        &self,
        repo: RepoId,
        digest: Digest,
    ) -> BoxFuture<'_, Result<Option<Document>, Error>> {
        Box::pin(self.blocking(move |store| {
            let Some(member) = store.member(&repo, &digest).map_err(internal)? else {
                return Ok(None);
            };
            let bytes = store.read_blob(&digest).map_err(internal)?;
            Ok(bytes.map(|bytes| Document {
                media_type: member.media_type,
                bytes: bytes.into(),
            }))
        }))
    }

    fn index(&self, digest: Digest) -> BoxFuture<'static, Result<Bytes, Error>> {
        let read = blocking(self.store.clone(), move |store| {
            match store.read_blob(&digest).map_err(internal)? {
                Some(bytes) => Ok(bytes.into()),
                // It was there a moment ago.
                None => Err(Error::new(
                    Kind::Unavailable,
                    "the image was removed from the cache while it was asked for; ask again",
                )),
            }
        });
        Box::pin(read)
    }
}

async fn blocking<T, F>(store: Arc<Store>, work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: FnOnce(&Store) -> Result<T, Error> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(move || work(&store)).await;
    done.unwrap_or_else(|error| Err(Error::new(Kind::Internal, error.to_string())))
}

fn internal(error: StoreError) -> Error {
    Error::new(Kind::Internal, error.to_string())
}

fn damaged(digest: &Digest, member: &Member, size: u64) -> Error {
    Error::new(
        Kind::Internal,
        format!(
            "the blob {digest} should have {} bytes and has {size}",
            member.size
        ),
    )
}
