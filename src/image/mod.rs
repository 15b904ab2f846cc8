//! From the listing of a commit to an image: which files, in which layers, under which config, manifests and index.
//!
//! Pure: the same snapshot gives the same bytes on any machine at any time.

mod card;
mod document;
mod layers;
mod name;
mod select;

pub use card::{CARD, MAX_CARD, license};
pub use document::{Document, LayerRecord, RECIPE, Subject, documents, documents_labelled};
pub use layers::{Layout, recipe, split};
pub use name::{ImageName, NameError, encode_component};
pub use select::{SelectError, Selected, select};
