//! The end of an import: what was checked becomes visible.

use std::time::SystemTime;

use super::super::{Reference, Store, Stored, layout, rebuild};
use super::{Import, ImportError, Imported, Place, StoreError, blobs};
use crate::bundle::Checked;
use crate::oci::Digest;
use crate::repo::Visibility;

impl Import<'_> {
    /// Blobs, `index.json`, sled: in this order, so that a crash leaves nothing wrong.
    pub(super) fn publish(
        &mut self,
        images: &[Checked],
        now: SystemTime,
    ) -> Result<Imported, ImportError> {
        let mut done = Imported {
            images: Vec::new(),
            blobs: 0,
            bytes: 0,
            present: 0,
        };
        let blobs: Vec<(Digest, u64, Place)> =
            self.blobs.iter().map(|(d, (s, p))| (*d, *s, *p)).collect();
        for (digest, size, place) in blobs {
            if place != Place::Staged {
                done.present += 1;
                continue;
            }
            self.whole(&digest, size)?.publish(&digest)?;
            self.blobs
                .insert(digest, (size, Place::Here { proven: true }));
            done.blobs += 1;
            done.bytes += size;
        }
        self.put_made(images)?;
        self.store.list(images, self.options.public, now)?;
        done.images = images.iter().map(title).collect();
        Ok(done)
    }

    /// Publishes the documents that the bundle lacks.
    fn put_made(&mut self, images: &[Checked]) -> Result<(), StoreError> {
        let store = self.store;
        for document in images.iter().flat_map(|image| &image.made) {
            let digest = &document.descriptor.digest;
            self.leases.push(store.lease(digest));
            let moving = store.room.moving();
            if blobs::put(&store.root, digest, &document.bytes)? {
                store.room.added(document.descriptor.size);
            }
            drop(moving);
        }
        blobs::sync_folder(&store.root)
    }
}

fn title(image: &Checked) -> String {
    format!("{}:{}", image.name, image.tag)
}

impl Store {
    /// Lists images whose blobs are published and leased.
    fn list(&self, images: &[Checked], public: bool, now: SystemTime) -> Result<(), StoreError> {
        let writing = self.lock_writing();
        let mut references = Vec::new();
        for image in images {
            let (index, size) = image.index;
            let reference = Reference {
                name: image.name.to_string(),
                tag: image.tag.to_string(),
                repo: image.repo.clone(),
                commit: image.commit,
                layout: image.layout,
                selection: image.selection.clone(),
                index,
                size,
                time: now,
                pinned: false,
                imported: self.lock_layout().is_imported(&index, true),
            };
            // One at a time in memory: of the documents only their descriptors are wanted.
            let Some(read) = rebuild::image(&self.root, &reference)? else {
                let why = format!("{} was lost while it was imported", title(image));
                return Err(StoreError::Index(why));
            };
            self.indexed(|index| {
                index.put_image(
                    &read,
                    Stored {
                        index: reference.index,
                        size,
                    },
                )
            })?;
            self.usage.touch(&index, now);
            references.push(reference);
        }
        self.write_layout(&writing, |layout| {
            for (reference, image) in references.into_iter().zip(images) {
                let told = image.visibility.or(public.then_some(Visibility::Public));
                learn(layout, image, told);
                layout.set(reference);
            }
        })?;
        self.hot.changed();
        self.stamp(&writing)
    }
}

/// What a bundle says of who may read a repository counts where it closes it, or where nothing is known of it.
fn learn(layout: &mut layout::Layout, image: &Checked, told: Option<Visibility>) {
    let repo = image.name.repo();
    let here = layout.facts.canonical(repo).is_some();
    let told = match (layout.facts.visibility(repo), told) {
        // What is here, and of which nothing is known, is private.
        (None, _) if here => None,
        (None, told) => told,
        (Some(known), told) => Some(told.map_or(known, |told| told.max(known))),
    };
    if let Some(told) = told {
        layout.facts.note(repo, told);
    }
}
