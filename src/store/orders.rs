//! Orders: the fills under way, noted in staging, so that the next process goes on with them.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ImageKey, StoreError, blobs};
use crate::image::ImageName;
use crate::oci::{Digest, Tag};
use crate::repo::RepoId;

/// What the name of an order begins with.
pub(super) const PREFIX: &str = "order-";

/// A fill that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Which image.
    pub key: ImageKey,
    /// The repository in its canonical spelling.
    pub repo: RepoId,
    /// The tag under which the image is published.
    pub tag: Tag,
    /// The recipes of its layers, as soon as they are known: what is there of them is kept for this fill.
    pub recipes: Vec<Digest>,
}

#[derive(Serialize, Deserialize)]
struct OrderFile {
    name: String,
    layout: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    selection: String,
    commit: String,
    repo: String,
    tag: String,
    #[serde(default)]
    recipes: Vec<Digest>,
}

fn place(key: &ImageKey) -> String {
    let digest = Digest::of(key.text().as_bytes());
    format!("staging/{PREFIX}{}", digest.hex())
}

/// Notes that a fill is under way.
pub(super) fn put(root: &Path, order: &Order) -> Result<(), StoreError> {
    let file = OrderFile {
        name: order.key.name.to_string(),
        layout: order.key.layout.to_string(),
        selection: order.key.selection.to_string(),
        commit: order.key.commit.to_string(),
        repo: order.repo.to_string(),
        tag: order.tag.to_string(),
        recipes: order.recipes.clone(),
    };
    let bytes = serde_json::to_vec(&file).map_err(|e| StoreError::Index(e.to_string()))?;
    blobs::replace(root, &place(&order.key), &bytes)
}

/// Forgets a fill.
pub(super) fn remove(root: &Path, key: &ImageKey) -> Result<(), StoreError> {
    match fs::remove_file(root.join(place(key))) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(StoreError::io("removing an order")(error))
        }
        _ => Ok(()),
    }
}

/// The fills that an earlier process left under way. What cannot be read is removed.
pub(super) fn all(root: &Path) -> Result<Vec<Order>, StoreError> {
    let mut orders = Vec::new();
    for entry in fs::read_dir(root.join("staging")).map_err(StoreError::io("listing staging"))? {
        let entry = entry.map_err(StoreError::io("listing staging"))?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        match fs::read(entry.path()).ok().as_deref().and_then(parse) {
            Some(order) => orders.push(order),
            None => {
                tracing::warn!("an unreadable order of a fill is removed");
                fs::remove_file(entry.path()).map_err(StoreError::io("removing an order"))?;
            }
        }
    }
    Ok(orders)
}

pub(super) fn parse(bytes: &[u8]) -> Option<Order> {
    let file: OrderFile = serde_json::from_slice(bytes).ok()?;
    Some(Order {
        key: ImageKey {
            name: ImageName::parse(&file.name).ok()?,
            layout: file.layout.parse().ok()?,
            selection: file.selection.parse().ok()?,
            commit: file.commit.parse().ok()?,
        },
        repo: file.repo.parse().ok()?,
        tag: file.tag.parse().ok()?,
        recipes: file.recipes,
    })
}
