//! What goes out and comes in: images are held while a client copies them away, and bundles are imported.

use std::fs::File;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Event, SHOWN, unknown};
use crate::store::{Held, Hold, ImportOptions, Store};

/// What is asked of a running server only: without one, the store does it for whoever has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Transfer {
    /// Let nothing of some images be deleted while the connection is open, and tell what they are.
    Hold {
        /// Names and tags.
        images: Vec<(String, String)>,
    },
    /// Take in the bundle in the file that comes beside the request.
    Import {
        /// As [`ImportOptions::resume`].
        resume: bool,
        /// As [`ImportOptions::public`].
        public: bool,
    },
}

/// Holds images, and tells what they are or why they are not held.
pub(super) fn hold(
    store: &Store,
    images: &[(String, String)],
    tell: &mut dyn FnMut(Event) -> bool,
) -> Option<Held> {
    let end = match store.hold(images) {
        Ok(Hold::Held(held)) => {
            for image in &held.images {
                let descriptor = image.descriptor();
                tell(Event::Holding { descriptor });
            }
            return tell(Event::Held).then_some(held);
        }
        Ok(Hold::Unknown(name, tag)) => unknown(store, &name, Some(&tag)),
        Ok(Hold::Incomplete(name, tag)) => Event::Failed {
            message: format!("{name}:{tag} lacks some of its blobs; pull it again"),
        },
        Err(error) => Event::Failed {
            message: error.to_string(),
        },
    };
    tell(end);
    None
}

/// Imports a bundle, and tells what becomes of it. Blocks.
pub fn import_here(
    store: &Store,
    file: File,
    options: ImportOptions,
    tell: &mut dyn FnMut(Event) -> bool,
) {
    let mut watch = |done, total| tell(Event::Progress { done, total });
    let imported = store.import(file, options, SystemTime::now(), &mut watch);
    tell(match imported {
        Ok(mut imported) => {
            let count = imported.images.len() as u64;
            imported.images.truncate(SHOWN);
            Event::Imported {
                images: imported.images,
                count,
                blobs: imported.blobs,
                bytes: imported.bytes,
                present: imported.present,
            }
        }
        Err(error) => Event::Failed {
            message: error.to_string(),
        },
    });
}
