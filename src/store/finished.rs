//! Finished layers of unfinished images: what sled knows of them may be lost, and nothing in `index.json` tells of them yet.
//!
//! `staging/done-RECIPE` says which blob a recipe gave. It is written before the blob is published, and removed when an image has it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::index::Index;
use super::{StoreError, blobs};
use crate::image::LayerRecord;
use crate::oci::Digest;

/// How the files are called that tell of finished layers.
pub(super) const PREFIX: &str = "done-";

fn place(recipe: &Digest) -> String {
    format!("staging/{PREFIX}{}", recipe.hex())
}

/// Notes which blob a recipe gives. Without the note a crash may cost the layer, nothing else.
pub(super) fn note(root: &Path, recipe: &Digest, record: &LayerRecord) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(record).map_err(|e| StoreError::Index(e.to_string()))?;
    blobs::replace(root, &place(recipe), &bytes)
}

/// Forgets a note, if there is one.
pub(super) fn forget(root: &Path, recipe: &Digest) {
    match fs::remove_file(root.join(place(recipe))) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(%error, "the note of a layer could not be removed; the next start tries again");
        }
        _ => {}
    }
}

/// Tells the index of the noted layers that are there, and removes the other notes.
pub(super) fn recall(root: &Path, index: &Index) -> Result<(), StoreError> {
    for entry in fs::read_dir(root.join("staging")).map_err(StoreError::io("listing staging"))? {
        let entry = entry.map_err(StoreError::io("listing staging"))?;
        let name = entry.file_name();
        let Some(hex) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let read = fs::read(entry.path()).ok();
        let record = read.and_then(|bytes| serde_json::from_slice::<LayerRecord>(&bytes).ok());
        let there = record
            .filter(|record| blobs::has(root, &record.descriptor.digest, record.descriptor.size));
        match (Digest::from_hex(hex), there) {
            (Ok(recipe), Some(record)) => index.put_layer(&recipe, &record)?,
            _ => fs::remove_file(entry.path()).map_err(StoreError::io("removing a note"))?,
        }
    }
    Ok(())
}
