//! Bundles: OCI archives, which are tars that hold an OCI image layout, in the one form that `hf-oci export` writes, and in the forms of
//! others that `hf-oci import` takes.
//!
//! ```text
//! oci-layout  index.json  blobs/sha256/HEX …     in this order, blobs ascending; no folder, no time, no owner
//! ```
//!
//! The same images give the same bytes anywhere. `index.json` names the images as that of a data folder does, without what is of one site
//! only (times and pins), and has a seal: the digest of itself without it. What an incremental bundle leaves out is known by a digest too.
//!
//! Everything that is read is hostile. [`Archive`] gives only entries that a bundle may have; [`Contents`] and [`check`] take only
//! documents that are written as this program writes them. Pure: bytes in, values out.

mod archive;
mod closure;
mod contents;
mod header;
mod list;
mod shape;

pub use archive::{Archive, ArchiveError, Entry, Part};
pub use closure::{Checked, Refusal, check};
pub use contents::{
    COMMIT, Claims, Contents, LAYOUT, Listed, PINNED, REF_NAME, REPOSITORY, SELECTION, TIME,
    VISIBILITY,
};
pub use list::{List, ListError};
pub use shape::{Piece, Shape, Source};

/// The largest document that a bundle may hold.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// The largest blob: more than the Hub keeps in one file.
pub const MAX_BLOB: u64 = 1 << 42;

/// The most blobs.
pub const MAX_BLOBS: usize = 1 << 18;

/// The most images, each by one name.
pub const MAX_IMAGES: usize = 4096;

/// The `oci-layout` that is written.
pub const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Reads bytes as a bundle, to its end, with all that an import looks at. For fuzzing.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    use std::collections::HashMap;
    use std::io::Read;
    let mut archive = Archive::new(bytes);
    let (mut blobs, mut index) = (HashMap::new(), None);
    loop {
        match archive.next_entry() {
            Ok(Some(Entry { part, size })) => {
                let mut content = Vec::new();
                if archive.read_to_end(&mut content).is_err() {
                    return;
                }
                assert_eq!(content.len() as u64, size);
                match part {
                    Part::Blob(digest) => drop(blobs.insert(digest, content)),
                    Part::Index => index = Some(content),
                    Part::Layout => {}
                }
            }
            Ok(None) => break,
            Err(_) => return,
        }
    }
    let Some(Ok(contents)) = index.map(|bytes| Contents::parse(&bytes)) else {
        return;
    };
    for image in &contents.images {
        let mut read = |digest: &crate::oci::Digest| -> Result<Vec<u8>, Refusal> {
            let blob = blobs.get(digest);
            blob.cloned()
                .ok_or_else(|| Refusal::new(digest.to_string(), "is missing"))
        };
        let _ = check(image, &mut read);
    }
}
