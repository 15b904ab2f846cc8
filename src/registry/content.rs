//! What the handlers need of the rest of the program, in one narrow seam: images by tag, and what is stored by digest.
//!
//! What the store remembers is taken at once. All its other calls block on files; here, and only here, they are moved off the runtime's
//! threads.

use std::fs::File;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::error::{Error, Kind};
use crate::fill::{Asker, Flight, Found, Images, Outcome, Ready};
use crate::image::ImageName;
use crate::oci::{Digest, MEDIA_LAYER, Tag};
use crate::repo::RepoId;
use crate::store::{Lease, Member, Opened, Store, StoreError};

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
    pub file: Arc<File>,
    /// Its length.
    pub size: u64,
    /// Keeps it from being deleted.
    pub lease: Option<Lease>,
}

/// A manifest or index.
pub struct Document {
    /// What it is, to its repository.
    pub member: Arc<Member>,
    /// All of it.
    pub bytes: Bytes,
}

/// What a registry serves.
pub trait Content: Send + Sync + 'static {
    /// See [`Images::find`]. Without an asker the server itself asks.
    fn find<'a>(
        &'a self,
        asker: Option<&'a Asker>,
        name: &'a ImageName,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<(Image, Outcome), Error>>;

    /// See [`Images::tags`]; as above.
    fn tags<'a>(
        &'a self,
        asker: Option<&'a Asker>,
        name: &'a ImageName,
    ) -> BoxFuture<'a, Result<Vec<String>, Error>>;

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
    fn asker(&self, asker: Option<&Asker>) -> Asker {
        asker.cloned().unwrap_or_else(|| self.images.own())
    }

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
        asker: Option<&'a Asker>,
        name: &'a ImageName,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<(Image, Outcome), Error>> {
        Box::pin(async move {
            let asker = self.asker(asker);
            Ok(match self.images.find(&asker, name, tag).await? {
                Found::Ready(ready, outcome) => (Image::Ready(ready), outcome),
                Found::Filling(flight, outcome) => {
                    let again = (outcome == Outcome::Joined).then(|| {
                        let images = Arc::clone(&self.images);
                        let (name, tag) = (name.clone(), tag.clone());
                        async move { images.find(&asker, &name, &tag).await }
                    });
                    (Image::Filling(Box::pin(filled(flight, again))), outcome)
                }
            })
        })
    }

    fn tags<'a>(
        &'a self,
        asker: Option<&'a Asker>,
        name: &'a ImageName,
    ) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        Box::pin(async move { self.images.tags(&self.asker(asker), name).await })
    }

    fn catalog(&self) -> BoxFuture<'_, Result<Vec<String>, Error>> {
        Box::pin(self.blocking(|store| store.catalog().map_err(internal)))
    }

    fn blob(&self, repo: RepoId, digest: Digest) -> BoxFuture<'_, Result<Option<Blob>, Error>> {
        if let Some(member) = self.store.known_member(&repo, &digest)
            && let Some(opened) = self.store.known_blob(&digest, member.size)
        {
            let blob = blob(&self.store, &digest, &member, opened).map(Some);
            return Box::pin(std::future::ready(blob));
        }
        Box::pin(self.blocking(move |store| {
            let Some(member) = store.member(&repo, &digest).map_err(internal)? else {
                return Ok(None);
            };
            let Some(opened) = store.open_blob(&digest).map_err(internal)? else {
                return Ok(None);
            };
            blob(store, &digest, &member, opened).map(Some)
        }))
    }

    fn document(
        &self,
        repo: RepoId,
        digest: Digest,
    ) -> BoxFuture<'_, Result<Option<Document>, Error>> {
        if let Some(member) = self.store.known_member(&repo, &digest)
            && let Some(bytes) = self.store.known_document(&digest)
        {
            let known = Some(Document { member, bytes });
            return Box::pin(std::future::ready(Ok(known)));
        }
        Box::pin(self.blocking(move |store| {
            let Some(member) = store.member(&repo, &digest).map_err(internal)? else {
                return Ok(None);
            };
            let bytes = store.read_blob(&digest).map_err(internal)?;
            Ok(bytes.map(|bytes| Document { member, bytes }))
        }))
    }

    fn index(&self, digest: Digest) -> BoxFuture<'static, Result<Bytes, Error>> {
        if let Some(bytes) = self.store.known_document(&digest) {
            return Box::pin(std::future::ready(Ok(bytes)));
        }
        let read = blocking(self.store.clone(), move |store| {
            match store.read_blob(&digest).map_err(internal)? {
                Some(bytes) => Ok(bytes),
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

/// The end of a fill. One that was joined, and that failed because of the credentials it was begun with, is looked for `again` with the
/// credentials of whoever joined.
async fn filled(
    mut flight: Flight,
    again: Option<impl Future<Output = Result<Found, Error>>>,
) -> Result<Ready, Error> {
    let error = match flight.done().await {
        Ok(ready) => return Ok(ready),
        Err(error) => (*error).clone(),
    };
    let closed = matches!(
        error.kind,
        Kind::NameUnknown | Kind::Denied | Kind::TokenRefused
    );
    match again.filter(|_| closed) {
        None => Err(error),
        Some(again) => match again.await? {
            Found::Ready(ready, _) => Ok(ready),
            Found::Filling(mut flight, _) => flight.done().await.map_err(|e| (*e).clone()),
        },
    }
}

/// A blob that its repository knows as `member`: its use is noted, if it is one that counts.
fn blob(store: &Store, digest: &Digest, member: &Member, opened: Opened) -> Result<Blob, Error> {
    let Opened { file, size, lease } = opened;
    if member.media_type == MEDIA_LAYER {
        store.touch(digest, SystemTime::now());
    }
    if size != member.size {
        return Err(damaged(digest, member, size));
    }
    let lease = Some(lease);
    Ok(Blob { file, size, lease })
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
