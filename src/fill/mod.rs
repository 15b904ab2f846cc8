//! From a reference to an image: freshness, single flight, the download window and its progress.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::{Error, Kind};
use crate::oci::{Digest, ImageName, Tag};

/// Finds images, and fills what is missing. One fill per image, detached from the requests that wait for it.
pub struct Images {}

/// The index document of an image that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Digest of the image index; its bytes are a blob of the store.
    pub index: Digest,
    /// Their length.
    pub size: u64,
}

/// Where an image stands.
pub enum Found {
    /// It is in the store.
    Ready(Ready),
    /// It is being filled; the repository, the revision and the access are already known to be good.
    Filling(Flight),
}

/// A fill under way, as one of those who wait sees it. Dropping it changes nothing.
#[derive(Clone)]
pub struct Flight {
    done: watch::Receiver<Option<Result<Ready, Arc<Error>>>>,
}

impl Flight {
    /// Waits for the end of the fill. May be cancelled and called again.
    pub async fn done(&mut self) -> Result<Ready, Arc<Error>> {
        match self.done.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_else(|| Err(lost())),
            Err(_) => Err(lost()),
        }
    }
}

fn lost() -> Arc<Error> {
    Arc::new(Error::new(
        Kind::Unavailable,
        "the server is stopping; ask again",
    ))
}

impl Images {
    /// Which image `name` and `tag` mean now, and where it stands. Starts the fill if nobody has.
    ///
    /// Real failures (unknown repository or revision, gated content, a selection that matches nothing) come from here or, as far as they
    /// need the listing, from [`Flight::done`] within the first moments.
    pub async fn find(&self, _name: &ImageName, _tag: &Tag) -> Result<Found, Error> {
        Err(Error::new(Kind::Internal, "not built"))
    }

    /// The tags of a repository: the upstream's branches and tags, spelled as tags, sorted by bytes, each once.
    pub async fn tags(&self, _name: &ImageName) -> Result<Vec<String>, Error> {
        Err(Error::new(Kind::Internal, "not built"))
    }
}
