//! The types of the OCI image and distribution specifications that a registry of images needs.
//!
//! Pure: text and bytes in, values out. A value of one of these types is valid; a text that is not is an error with its reason.

mod digest;
mod manifest;
mod reference;

pub use digest::{Digest, DigestError};
pub(crate) use digest::{hex, unhex};
pub use manifest::{
    Config, ConfigDetail, Descriptor, History, Index, MEDIA_CONFIG, MEDIA_INDEX, MEDIA_LAYER,
    MEDIA_MANIFEST, Manifest, Platform, RootFs,
};
pub use reference::{Reference, ReferenceError, Tag, spell_tag};
