//! The sled index: what can be looked up fast, and rebuilt from the layout at any time.
//!
//! Keys: `images` NAME NUL LAYOUT NUL COMMIT, and where there is one NUL SELECTION; `layers` RECIPE; `members` REPOSITORY NUL DIGEST; `meta` "index.json" → its digest;
//! `used` DIGEST → milliseconds since 1970 (8 bytes, big-endian). Other values are JSON.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sled::{Batch, Db, IVec, Tree};

use super::usage::Moment;
use super::{ImageKey, Member, NewImage, StoreError, Stored};
use crate::image::LayerRecord;
use crate::oci::{Descriptor, Digest};
use crate::repo::RepoId;

/// Bytes of sled's page cache. Its default is 1 GiB.
const CACHE: u64 = 8 << 20;

const STAMP: &str = "index.json";

/// The trees.
pub(super) struct Index {
    images: Tree,
    layers: Tree,
    members: Tree,
    meta: Tree,
    used: Tree,
    _db: Db,
}

/// Digests of blobs, each with its length in bytes.
pub(super) type Sizes = Vec<(Digest, u64)>;

/// The recipes of layers, by their blobs.
pub(super) type Recipes = HashMap<Digest, Vec<IVec>>;

#[derive(Serialize, Deserialize)]
struct ImageValue {
    index: Digest,
    size: u64,
    layers: Sizes,
    /// The configs and manifests.
    documents: Sizes,
}

impl ImageValue {
    fn blobs(self) -> Sizes {
        let mut blobs = self.layers;
        blobs.extend(self.documents);
        blobs.push((self.index, self.size));
        blobs
    }
}

#[derive(Serialize, Deserialize)]
struct MemberValue {
    media_type: String,
    size: u64,
}

impl From<sled::Error> for StoreError {
    fn from(error: sled::Error) -> Self {
        Self::Index(error.to_string())
    }
}

impl Index {
    /// Opens or makes the index in `folder`. May fail on a damaged one, and may panic: the caller guards.
    pub(super) fn open(folder: &Path) -> Result<Self, StoreError> {
        let db = sled::Config::new()
            .path(folder)
            .cache_capacity(CACHE)
            .open()?;
        Ok(Self {
            images: db.open_tree("images")?,
            layers: db.open_tree("layers")?,
            members: db.open_tree("members")?,
            meta: db.open_tree("meta")?,
            used: db.open_tree("used")?,
            _db: db,
        })
    }

    /// Whether the index is of this `index.json`. Its values are not looked at: one that cannot be read later has the index made anew.
    pub(super) fn is_of(&self, layout: Option<Digest>) -> Result<bool, StoreError> {
        let stamp = self.meta.get(STAMP)?;
        Ok(stamp.as_deref() == layout.as_ref().map(|d| d.as_bytes().as_slice()))
    }

    /// Notes of which `index.json` this is the index.
    pub(super) fn stamp(&self, layout: &Digest) -> Result<(), StoreError> {
        self.meta.insert(STAMP, layout.as_bytes())?;
        Ok(())
    }

    pub(super) fn member(
        &self,
        repo: &RepoId,
        digest: &Digest,
    ) -> Result<Option<Member>, StoreError> {
        let value = self.members.get(member_key(repo, digest))?;
        let value = value.map(|v| parse::<MemberValue>(&v)).transpose()?;
        Ok(value.map(|v| Member {
            media_type: v.media_type,
            size: v.size,
        }))
    }

    pub(super) fn layer(&self, recipe: &Digest) -> Result<Option<LayerRecord>, StoreError> {
        let value = self.layers.get(recipe.as_bytes())?;
        value.map(|v| parse(&v)).transpose()
    }

    /// The layers that recipes are known for.
    pub(super) fn layer_digests(&self) -> Result<HashSet<Digest>, StoreError> {
        let records = self.layers.iter().values();
        records
            .map(|value| Ok(parse::<LayerRecord>(&value?)?.descriptor.digest))
            .collect()
    }

    pub(super) fn put_layer(
        &self,
        recipe: &Digest,
        record: &LayerRecord,
    ) -> Result<(), StoreError> {
        self.layers.insert(recipe.as_bytes(), render(record)?)?;
        Ok(())
    }

    /// The image of a key, with the digests and sizes of all its blobs.
    pub(super) fn image(&self, key: &ImageKey) -> Result<Option<(Stored, Sizes)>, StoreError> {
        let Some(value) = self.images.get(image_key(key))? else {
            return Ok(None);
        };
        let value: ImageValue = parse(&value)?;
        let stored = Stored {
            index: value.index,
            size: value.size,
        };
        Ok(Some((stored, value.blobs())))
    }

    /// Learns an image: its members, then itself.
    pub(super) fn put_image(&self, image: &NewImage, stored: Stored) -> Result<(), StoreError> {
        let documents = image.documents.iter().map(|d| &d.descriptor);
        let layers = image.layers.iter().map(|l| &l.descriptor);
        // Under the name that is asked by: the Hub may call the repository otherwise by now.
        self.put_members(image.key.name.repo(), documents.chain(layers))?;
        let sized = |d: &Descriptor| (d.digest, d.size);
        let documents = image.documents.iter().map(|d| sized(&d.descriptor));
        let value = ImageValue {
            index: stored.index,
            size: stored.size,
            layers: image.layers.iter().map(|l| sized(&l.descriptor)).collect(),
            documents: documents.filter(|d| d.0 != stored.index).collect(),
        };
        self.images.insert(image_key(&image.key), render(&value)?)?;
        Ok(())
    }

    /// Every blob of an image: layers, documents, and last its index.
    pub(super) fn blobs(&self, key: &ImageKey) -> Result<Option<Sizes>, StoreError> {
        let value = self.images.get(image_key(key))?;
        let value = value.map(|v| parse::<ImageValue>(&v)).transpose()?;
        Ok(value.map(ImageValue::blobs))
    }

    /// Forgets images, and what their repositories know of digests.
    pub(super) fn forget(
        &self,
        images: &[ImageKey],
        members: &[(RepoId, Digest)],
    ) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for key in images {
            batch.remove(image_key(key));
        }
        self.images.apply_batch(batch)?;
        let mut batch = Batch::default();
        for (repo, digest) in members {
            batch.remove(member_key(repo, digest));
        }
        self.members.apply_batch(batch)?;
        Ok(())
    }

    /// The recipes that gave some of the blobs, by the blob. It looks at all layers.
    pub(super) fn recipes_of(&self, some: &HashSet<&Digest>) -> Result<Recipes, StoreError> {
        let mut recipes = Recipes::new();
        for entry in &self.layers {
            let (recipe, value) = entry?;
            let layer = parse::<LayerRecord>(&value)?.descriptor.digest;
            if some.contains(&layer) {
                recipes.entry(layer).or_default().push(recipe);
            }
        }
        Ok(recipes)
    }

    /// Forgets a blob that is gone: when it was used, and the recipes that gave it, which are `recipes`. It is quick.
    pub(super) fn forget_blob(&self, gone: &Digest, recipes: &[IVec]) -> Result<(), StoreError> {
        for recipe in recipes {
            self.layers.remove(recipe)?;
        }
        self.used.remove(gone.as_bytes())?;
        Ok(())
    }

    /// When blobs were used, as far as it was written down. What cannot be read is left out.
    pub(super) fn uses(&self) -> Result<Vec<(Digest, Moment)>, StoreError> {
        let mut uses = Vec::new();
        for entry in &self.used {
            let (key, value) = entry?;
            if let (Some(digest), Ok(at)) = (digest(&key), value.as_ref().try_into()) {
                uses.push((digest, Moment::from_be_bytes(at)));
            }
        }
        Ok(uses)
    }

    /// Writes down when blobs were used.
    pub(super) fn put_uses(&self, uses: &[(Digest, Moment)]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (digest, at) in uses {
            batch.insert(digest.as_bytes().as_slice(), &at.to_be_bytes());
        }
        self.used.apply_batch(batch)?;
        Ok(())
    }

    fn put_members<'a>(
        &self,
        repo: &RepoId,
        descriptors: impl Iterator<Item = &'a Descriptor>,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for descriptor in descriptors {
            let value = MemberValue {
                media_type: descriptor.media_type.clone(),
                size: descriptor.size,
            };
            batch.insert(member_key(repo, &descriptor.digest), render(&value)?);
        }
        self.members.apply_batch(batch)?;
        Ok(())
    }
}

fn image_key(key: &ImageKey) -> Vec<u8> {
    key.text().into_bytes()
}

fn member_key(repo: &RepoId, digest: &Digest) -> Vec<u8> {
    let mut key = repo.folded().to_string().into_bytes();
    key.push(0);
    key.extend_from_slice(digest.as_bytes());
    key
}

fn digest(key: &[u8]) -> Option<Digest> {
    Some(Digest::from_bytes(key.try_into().ok()?))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Index(e.to_string()))
}

fn render(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|e| StoreError::Index(e.to_string()))
}
