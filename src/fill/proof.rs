//! Proof of possession: that a repository has the large files that its listing names, before layers of others are served under its name.
//!
//! A layer is known by its recipe, which says what its files are, not where they came from. Where not all may read the same, a listing
//! that names the files of a private repository would open them to whoever wrote the listing.

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::layer::Job;
use crate::error::Error;
use crate::oci::Digest;
use crate::repo::{ContentId, Entry};
use crate::store::{Store, StoreError};

/// Files that are tried at once.
const AT_ONCE: usize = 4;

/// Reads a byte of each large file of a layer of which something is here already, as `published` or in staging. Asks nobody if the layer
/// is that of an image of the same repository or of a public one.
pub(super) async fn prove(
    job: &Job,
    files: &[Entry],
    published: Option<Digest>,
) -> Result<(), Error> {
    if !job.shared.settings.proof {
        return Ok(());
    }
    let repo = job.asked.clone();
    let known = move |store: &Store| match published {
        Some(digest) => store.is_open_to(&repo, &digest),
        None => Ok::<_, StoreError>(false),
    };
    if job.shared.with_store(known).await? {
        return Ok(());
    }
    let large = files.iter().filter(|file| is_large(file));
    let tried = large.map(|file| {
        let file = job.source.file(file);
        async move { job.shared.upstream.prove(&file).await }
    });
    let tried: Vec<_> = tried.collect();
    stream::iter(tried)
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    Ok(())
}

/// Git has what it lists; a file of LFS is only pointed at.
fn is_large(file: &Entry) -> bool {
    file.size > 0 && matches!(file.content, ContentId::Sha256(_))
}
