//! From the listing of a commit to an image: which files, in which layers, under which config, manifests and index.
//!
//! Pure: the same snapshot gives the same bytes on any machine at any time.

mod card;
mod document;
mod gguf;
mod layers;
mod name;
mod pattern;
mod select;
mod selection;

pub use card::{CARD, MAX_CARD, license};
pub use document::{Document, LayerRecord, RECIPE, Subject, documents, documents_labelled};
pub use gguf::{GgufError, Quantisation, QuantisationError};
pub use layers::{Layout, recipe, split};
pub use name::{ImageName, NameError, encode_component};
pub use pattern::{Pattern, PatternError};
pub use select::{SelectError, Selected, quantisations, select};
pub use selection::{Filter, FilterError, LeftOut, Selection};
