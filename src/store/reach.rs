//! What is reachable: from which blobs each image of `index.json` is made, and which blobs nothing needs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde_json::Value;

use super::index::Sizes;
use super::layout::Reference;
use super::usage::{Moment, moment};
use super::{ImageKey, Store, StoreError, Stored, Writing, blobs, orders, rebuild};
use crate::image::ImageName;
use crate::oci::Digest;

/// How deep indexes may lie in each other.
pub(super) const DEPTH: usize = 4;

/// An image, and all names that mean it.
#[derive(Debug)]
pub(super) struct Cached {
    pub(super) index: Digest,
    pub(super) references: Vec<Reference>,
    /// All its blobs, and its index, each once.
    pub(super) blobs: Sizes,
    /// When it, or a layer of it, was last used.
    pub(super) used: Moment,
}

impl Cached {
    pub(super) fn pinned(&self) -> bool {
        self.references.iter().any(|r| r.pinned)
    }
}

/// What fills that are noted, but perhaps not yet at work, go on with.
#[derive(Debug, Default)]
pub(super) struct Noted {
    pub(super) recipes: HashSet<Digest>,
    pub(super) blobs: HashSet<Digest>,
}

impl Reference {
    /// The key of the image that it means; `None` if its name is none.
    pub fn key(&self) -> Option<ImageKey> {
        Some(ImageKey {
            name: ImageName::parse(&self.name).ok()?,
            layout: self.layout,
            selection: self.selection.clone(),
            commit: self.commit,
        })
    }
}

impl Store {
    /// The images of `index.json`.
    pub(super) fn cached(&self, _: &Writing<'_>) -> Result<Vec<Cached>, StoreError> {
        let mut all: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
        for reference in self.lock_layout().references() {
            all.entry(reference.index)
                .or_default()
                .push(reference.clone());
        }
        all.into_iter()
            .map(|(index, references)| {
                let blobs = self.blobs_of(index, &references)?;
                let used = blobs.iter().filter_map(|(d, _)| self.usage.last(d)).max();
                let told = || references.iter().map(|r| moment(r.time)).max();
                Ok(Cached {
                    used: used.or_else(told).unwrap_or(0),
                    index,
                    references,
                    blobs,
                })
            })
            .collect()
    }

    /// The image that a reference means, if all of its blobs are here. Its documents are read, if the index has another one in its place.
    pub fn image_of(&self, reference: &Reference) -> Result<Option<Stored>, StoreError> {
        let (index, size) = (reference.index, reference.size);
        if rebuild::image(&self.root, reference)?.is_none() {
            return Ok(None);
        }
        let blobs = self.blobs_of(index, std::slice::from_ref(reference))?;
        let whole = |(digest, size): &(Digest, u64)| blobs::has(&self.root, digest, *size);
        let whole = blobs.iter().all(whole) && blobs::has(&self.root, &index, size);
        Ok(whole.then_some(Stored { index, size }))
    }

    /// As the sled index knows it, else as its documents tell.
    pub(super) fn blobs_of(
        &self,
        index: Digest,
        references: &[Reference],
    ) -> Result<Sizes, StoreError> {
        for key in references.iter().filter_map(Reference::key) {
            if let Some(mut blobs) = self.indexed(|index| index.blobs(&key))?
                && blobs.iter().any(|(digest, _)| *digest == index)
            {
                blobs.sort_unstable();
                blobs.dedup();
                return Ok(blobs);
            }
        }
        let mut found = HashMap::new();
        reach(&self.root, index, DEPTH, &mut found);
        Ok(found.into_iter().collect())
    }

    /// All that other tools' entries of `index.json` reach.
    pub(super) fn foreign(&self, _: &Writing<'_>) -> HashSet<Digest> {
        let tops: Vec<Digest> = self
            .lock_layout()
            .foreign()
            .iter()
            .filter_map(digest_of)
            .collect();
        let mut found = HashMap::new();
        for top in tops {
            reach(&self.root, top, DEPTH, &mut found);
        }
        found.into_keys().collect()
    }

    /// What the noted fills have so far.
    pub(super) fn noted(&self) -> Result<Noted, StoreError> {
        let mut noted = Noted::default();
        for order in orders::all(&self.root)? {
            for recipe in order.recipes {
                if let Some(layer) = self.indexed(|index| index.layer(&recipe))? {
                    noted.blobs.insert(layer.descriptor.digest);
                }
                noted.recipes.insert(recipe);
            }
        }
        Ok(noted)
    }

    /// The blobs that nothing reaches and nobody uses.
    pub(super) fn loose(
        &self,
        cached: &[Cached],
        foreign: &HashSet<Digest>,
        noted: &Noted,
    ) -> Result<Sizes, StoreError> {
        let reached: HashSet<&Digest> = cached
            .iter()
            .flat_map(|image| image.blobs.iter().map(|(digest, _)| digest))
            .chain(foreign)
            .chain(&noted.blobs)
            .collect();
        let mut loose = blobs::list(&self.root)?;
        loose.retain(|(digest, _)| !reached.contains(digest) && !self.leases.is_leased(digest));
        Ok(loose)
    }
}

pub(super) fn digest_of(descriptor: &Value) -> Option<Digest> {
    descriptor["digest"].as_str()?.parse().ok()
}

/// Adds a blob and all that it refers to: of any image, index or artifact, as far as its documents are there. Sizes are as they are told.
pub(super) fn reach(root: &Path, top: Digest, depth: usize, found: &mut HashMap<Digest, u64>) {
    let document = blobs::read(root, &top).ok().flatten();
    let told = document.as_ref().map_or(0, |bytes| bytes.len() as u64);
    found.entry(top).or_insert(told);
    let parsed = document.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let Some(parsed) = parsed.filter(|value| value["schemaVersion"] == 2) else {
        return;
    };
    let list = |key: &str| parsed[key].as_array().map_or(&[][..], Vec::as_slice);
    let leaves = list("layers").iter().chain(list("blobs"));
    for leaf in leaves.chain([&parsed["config"]]) {
        if let Some(digest) = digest_of(leaf) {
            found.insert(digest, leaf["size"].as_u64().unwrap_or(0));
        }
    }
    for inner in list("manifests").iter().chain([&parsed["subject"]]) {
        if let Some(digest) = digest_of(inner)
            && depth > 0
            && !found.contains_key(&digest)
        {
            reach(root, digest, depth - 1, found);
        }
    }
}
