//! Opening the index, and making it anew from the layout when it is missing, damaged or of another `index.json`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::index::Index;
use super::layout::{Layout, Reference};
use super::{ImageKey, NewImage, StoreError, Stored, blobs, finished};
use crate::image::{Document, LayerRecord, RECIPE};
use crate::oci::{Config, Descriptor, Digest, Index as ImageIndex, Manifest};
use crate::repo::RepoId;

/// Opens the index of `layout`. Whatever is wrong with the old one costs a rebuild, nothing else.
pub(super) fn open(root: &Path, layout: &Layout) -> Result<Index, StoreError> {
    let folder = root.join("index");
    if folder.exists() {
        // sled is known to panic on some damages.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let index = Index::open(&folder)?;
            Ok::<_, StoreError>(index.is_of(layout.digest())?.then_some(index))
        }));
        match opened {
            Ok(Ok(Some(index))) => {
                finished::recall(root, &index)?;
                return Ok(index);
            }
            Ok(Ok(None)) => tracing::info!("the index is not of this index.json: rebuilding it"),
            Ok(Err(error)) => tracing::warn!(%error, "the index is damaged: rebuilding it"),
            Err(_) => tracing::warn!("the index is damaged: rebuilding it"),
        }
    }
    anew(root, layout)
}

/// Makes the index of `layout` anew; whatever stands in its place must be closed, and is set aside.
pub(super) fn anew(root: &Path, layout: &Layout) -> Result<Index, StoreError> {
    let folder = root.join("index");
    if folder.exists() {
        set_aside(root, &folder)?;
    }
    rebuild(root, &folder, layout)
}

/// Keeps one damaged index for whoever wants to look at it.
fn set_aside(root: &Path, folder: &Path) -> Result<(), StoreError> {
    let aside = root.join("index.old");
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(StoreError::io("removing index.old"))?;
    }
    fs::rename(folder, &aside).map_err(StoreError::io("moving index aside"))
}

fn rebuild(root: &Path, folder: &Path, layout: &Layout) -> Result<Index, StoreError> {
    let index = Index::open(folder)?;
    let mut images = 0_u64;
    let mut references: Vec<&Reference> = layout.references().collect();
    // Of several images of one key the last one counts: what was made here, and the newest of that.
    references.sort_by_key(|r| (!r.imported, r.time));
    for reference in references {
        match image(root, reference)? {
            Some(image) => {
                let stored = Stored {
                    index: reference.index,
                    size: reference.size,
                };
                let trusted = image.layers.iter().filter(|_| !reference.imported);
                for layer in trusted {
                    if let Some(recipe) = recipe(&layer.descriptor) {
                        index.put_layer(&recipe, layer)?;
                    }
                }
                index.put_image(&image, stored)?;
                images += 1;
            }
            None => tracing::warn!(
                name = reference.name,
                tag = reference.tag,
                "an image of index.json is incomplete; it is filled again when asked for"
            ),
        }
    }
    finished::recall(root, &index)?;
    if let Some(digest) = layout.digest() {
        index.stamp(&digest)?;
    }
    if images > 0 {
        tracing::info!(images, "the index is rebuilt");
    }
    Ok(index)
}

/// Reads an image back from its documents; `None` if one is missing or not what its digest says.
pub(super) fn image(root: &Path, reference: &Reference) -> Result<Option<NewImage>, StoreError> {
    let Some(key) = reference.key() else {
        return Ok(None);
    };
    let mut read = |digest| document(root, digest);
    image_from(&mut read, key, &reference.repo, reference.index)
}

/// The same, from documents that `read` gives.
pub(super) fn image_from<E>(
    read: &mut dyn FnMut(Digest) -> Result<Option<Document>, E>,
    key: ImageKey,
    repo: &RepoId,
    index: Digest,
) -> Result<Option<NewImage>, E> {
    let mut documents = Vec::new();
    let mut layers = Vec::new();
    let Some(top) = read(index)? else {
        return Ok(None);
    };
    let Ok(index) = serde_json::from_slice::<ImageIndex>(&top.bytes) else {
        return Ok(None);
    };
    for descriptor in &index.manifests {
        let Some(bytes) = read(descriptor.digest)? else {
            return Ok(None);
        };
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes.bytes) else {
            return Ok(None);
        };
        let Some(config) = read(manifest.config.digest)? else {
            return Ok(None);
        };
        let Ok(parsed) = serde_json::from_slice::<Config>(&config.bytes) else {
            return Ok(None);
        };
        layers = records(&manifest, &parsed);
        documents.push(described(config, &manifest.config.media_type));
        documents.push(described(bytes, &descriptor.media_type));
    }
    documents.push(described(top, crate::oci::MEDIA_INDEX));
    Ok(Some(NewImage {
        key,
        repo: repo.clone(),
        layers,
        documents,
    }))
}

fn records(manifest: &Manifest, config: &Config) -> Vec<LayerRecord> {
    let diff_ids = config.rootfs.diff_ids.iter();
    manifest
        .layers
        .iter()
        .zip(diff_ids)
        .map(|(descriptor, diff_id)| LayerRecord {
            descriptor: descriptor.clone(),
            diff_id: *diff_id,
        })
        .collect()
}

/// What a layer was made of.
pub(super) fn recipe(descriptor: &Descriptor) -> Option<Digest> {
    descriptor.annotations.get(RECIPE)?.parse().ok()
}

fn document(root: &Path, digest: Digest) -> Result<Option<Document>, StoreError> {
    let read = blobs::read(root, &digest).unwrap_or_else(|error| {
        tracing::warn!(%error, "a document cannot be read");
        None
    });
    Ok(read
        .filter(|bytes| Digest::of(bytes) == digest)
        .map(|bytes| named(digest, bytes)))
}

/// A document of which its media type is told later.
pub(super) fn named(digest: Digest, bytes: Vec<u8>) -> Document {
    Document {
        descriptor: Descriptor {
            media_type: String::new(),
            digest,
            size: bytes.len() as u64,
            platform: None,
            annotations: std::collections::BTreeMap::new(),
        },
        bytes,
    }
}

fn described(mut document: Document, media_type: &str) -> Document {
    document.descriptor.media_type = media_type.to_owned();
    document
}
