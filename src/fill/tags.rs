//! The tags of a repository: branches, tags, and the quantisations of the default branch's listing, which are remembered for its commit.

use std::sync::Arc;

use moka::future::Cache;

use super::resolve::Head;
use super::{Asker, Images};
use crate::error::{Error, Kind};
use crate::hub::UpstreamError;
use crate::image::{ImageName, Quantisation, quantisations};
use crate::oci::spell_tag;
use crate::repo::{Commit, RepoKind};

/// The most listings of which it is remembered.
const CAPACITY: u64 = 1000;

type List = Arc<Vec<Quantisation>>;

/// By the name and the commit.
pub(super) type Known = Cache<(ImageName, Commit), List>;

pub(super) fn known() -> Known {
    Cache::new(CAPACITY)
}

impl Images {
    /// The tags of a repository: the upstream's branches and tags, spelled as tags, and the GGUF quantisations of the default branch,
    /// sorted by bytes, each once. If the upstream does not answer, the tags of what is cached.
    pub async fn tags(&self, asker: &Asker, name: &ImageName) -> Result<Vec<String>, Error> {
        self.admit_all(asker, name).await?;
        match asker.upstream.refs(name.repo()).await {
            Ok(refs) => {
                let names = refs.branches.iter().chain(&refs.tags);
                let mut tags: Vec<String> = names
                    .filter_map(|(name, _)| spell_tag(name))
                    .map(|tag| tag.to_string())
                    .collect();
                let quantisations = self.quantisations(asker, name).await;
                tags.extend(quantisations.iter().map(ToString::to_string));
                tags.sort_unstable();
                tags.dedup();
                Ok(tags)
            }
            Err(error) => {
                let known = self.shared.store.known_tags(name.repo());
                match (&error, known.is_empty()) {
                    (UpstreamError::Offline, false) => Ok(known),
                    (UpstreamError::Offline, true) => Err(Error::new(
                        Kind::NameUnknown,
                        format!("the server is offline and has nothing of {}", name.repo()),
                    )),
                    (_, false) if error.is_outage() => {
                        tracing::warn!(%name, %error, outcome = "stale", "listing the cached tags");
                        Ok(known)
                    }
                    _ => Err(error.into()),
                }
            }
        }
    }

    /// The quantisations of a name's default branch that are tags. Only models have some. None if the upstream does not list the files:
    /// the other tags are worth telling without them.
    async fn quantisations(&self, asker: &Asker, name: &ImageName) -> List {
        if name.repo().kind() != RepoKind::Model {
            return List::default();
        }
        let listed = self.list_quantisations(asker, name).await;
        listed.unwrap_or_else(|error| {
            tracing::warn!(%name, %error, "the quantisations could not be listed");
            List::default()
        })
    }

    async fn list_quantisations(&self, asker: &Asker, name: &ImageName) -> Result<List, Error> {
        let latest = "latest".parse();
        let latest = latest.map_err(|_| Error::new(Kind::Internal, "latest is no tag"))?;
        let (head, _) = self.heads.head(asker, name, &latest).await?;
        let list = self.read_quantisations(asker, name, &head);
        let list = self
            .quantisations
            .try_get_with((name.clone(), head.commit), list);
        list.await.map_err(|error| (*error).clone())
    }

    async fn read_quantisations(
        &self,
        asker: &Asker,
        name: &ImageName,
        head: &Head,
    ) -> Result<List, Error> {
        let snapshot = asker.upstream.snapshot(&head.repo, head.commit).await?;
        let image = self.shared.key(name, None, head.commit);
        let read = tokio::task::spawn_blocking(move || {
            quantisations(&snapshot, image.name.path(), &image.selection)
        });
        let lost = |_| Error::new(Kind::Internal, "reading a listing was lost");
        Ok(Arc::new(read.await.map_err(lost)?))
    }
}
