//! What tells images apart.

use crate::image::{ImageName, Layout, Selection};
use crate::oci::Digest;
use crate::repo::Commit;

/// An image as names refer to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageKey {
    /// The name that it was asked by; a selection is part of it.
    pub name: ImageName,
    /// How it was cut into layers.
    pub layout: Layout,
    /// What it is restricted to beyond the name's path.
    pub selection: Selection,
    /// The commit.
    pub commit: Commit,
}

impl ImageKey {
    /// The key as one text, for whatever is filed by it.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\0{}\0{}", self.name, self.layout, self.commit);
        if !self.selection.is_all() {
            text.push_str(&format!("\0{}", self.selection));
        }
        text
    }

    /// What the room for the image's documents is reserved by.
    pub fn documents(&self) -> Digest {
        Digest::of(format!("documents\0{}", self.text()).as_bytes())
    }
}
