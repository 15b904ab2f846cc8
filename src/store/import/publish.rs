//! The end of an import: what was checked becomes visible.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use super::super::{ImageKey, NewImage, Reference, Store, Stored, Writing, layout, lock, rebuild};
use super::{Import, ImportError, Imported, Place, StoreError, blobs};
use crate::bundle::{Checked, Refusal};
use crate::image::Document;
use crate::oci::Digest;
use crate::repo::Visibility;

/// The most references that a refusal lists.
const SHOWN: usize = 8;

/// Images of a bundle, each once, as the sled index is to know them.
type Read = HashMap<(ImageKey, Digest), NewImage>;

impl Import<'_> {
    /// Blobs, `index.json`, sled: in this order, so that a crash leaves nothing wrong. All that can be refused is refused before the first
    /// blob moves. Where it fails later, what was moved is left for the next collection.
    pub(super) fn publish(
        &mut self,
        images: &[Checked],
        now: SystemTime,
    ) -> Result<Imported, ImportError> {
        self.store.refuse_clashes(images)?;
        let read = self.read_images(images)?;
        let mut moved = Vec::new();
        let put = self
            .put_blobs(&mut moved)
            .and_then(|()| self.put_made(images, &mut moved))
            .map_err(ImportError::from);
        let public = self.options.public;
        let listed = put.and_then(|()| self.store.list(images, &read, public, now));
        if listed.is_err() {
            lock(&self.store.left).extend(moved.iter().map(|(digest, _)| *digest));
        }
        listed?;
        // What was made here is of no bundle.
        let of_bundle = moved.iter().filter(|(d, _)| self.blobs.contains_key(d));
        let written: Vec<u64> = of_bundle.map(|(_, size)| *size).collect();
        Ok(Imported {
            images: images.iter().map(title).collect(),
            blobs: written.len() as u64,
            bytes: written.iter().sum(),
            present: (self.blobs.len() - written.len()) as u64,
        })
    }

    /// Reads every image as a rebuild of the index would, from where its documents are now. Their bytes are not kept.
    fn read_images(&self, images: &[Checked]) -> Result<Read, ImportError> {
        let mut all = Read::new();
        for image in images {
            let (key, index) = (image_key(image), image.index.0);
            if all.contains_key(&(key.clone(), index)) {
                continue;
            }
            let mut document = |digest: Digest| -> Result<Option<Document>, ImportError> {
                let made = image.made.iter().find(|d| d.descriptor.digest == digest);
                Ok(Some(match made {
                    Some(made) => rebuild::named(digest, made.bytes.clone()),
                    None => rebuild::named(digest, self.document(&digest)?),
                }))
            };
            let read = rebuild::image_from(&mut document, key.clone(), &image.repo, index)?;
            let Some(mut read) = read else {
                let why = "cannot be read back from its documents";
                return Err(Refusal::new(title(image), why).into());
            };
            read.documents.iter_mut().for_each(|d| d.bytes = Vec::new());
            for layer in &mut read.layers {
                layer.descriptor.annotations.clear();
            }
            all.insert((key, index), read);
        }
        Ok(all)
    }

    /// Moves what is staged into its place; notes what was moved.
    fn put_blobs(&mut self, moved: &mut Vec<(Digest, u64)>) -> Result<(), StoreError> {
        let staged = |(digest, (size, place)): (&Digest, &(u64, Place))| {
            (*place == Place::Staged).then_some((*digest, *size))
        };
        let staged: Vec<(Digest, u64)> = self.blobs.iter().filter_map(staged).collect();
        for (digest, size) in staged {
            self.whole(&digest, size)?.publish(&digest)?;
            let here = Place::Here { proven: true };
            self.blobs.insert(digest, (size, here));
            moved.push((digest, size));
        }
        Ok(())
    }

    /// Publishes the documents that the bundle lacks; notes which were not there.
    fn put_made(
        &mut self,
        images: &[Checked],
        moved: &mut Vec<(Digest, u64)>,
    ) -> Result<(), StoreError> {
        let store = self.store;
        for document in images.iter().flat_map(|image| &image.made) {
            let (digest, size) = (document.descriptor.digest, document.descriptor.size);
            self.leases.push(store.lease(&digest));
            let moving = store.room.moving();
            if blobs::put(&store.root, &digest, &document.bytes)? {
                store.room.added(size);
                moved.push((digest, size));
            }
            drop(moving);
        }
        blobs::sync_folder(&store.root)
    }
}

fn title(image: &Checked) -> String {
    format!("{}:{}", image.name, image.tag)
}

fn image_key(image: &Checked) -> ImageKey {
    ImageKey {
        name: image.name.clone(),
        layout: image.layout,
        selection: image.selection.clone(),
        commit: image.commit,
    }
}

impl Store {
    /// A bundle speaks for the tags that it lists, and for no others: all that mean a commit of a name are served one image, so it must be
    /// the one that is here.
    fn refuse_clashes(&self, images: &[Checked]) -> Result<(), Refusal> {
        let mut said: HashMap<ImageKey, &Checked> = HashMap::new();
        let layout = self.lock_layout();
        for image in images {
            let (key, index) = (image_key(image), image.index.0);
            if let Some(before) = said.get(&key).filter(|b| b.index.0 != index) {
                let why = format!(
                    "is {index}, and {} is {}: two images of one commit of one name",
                    title(before),
                    before.index.0
                );
                return Err(Refusal::new(title(image), why));
            }
            let here: Vec<&Reference> = layout.of_key(&key).collect();
            if !here.is_empty() && here.iter().all(|r| r.index != index) {
                return Err(clash(image, &here));
            }
            said.insert(key, image);
        }
        Ok(())
    }

    /// Lists images whose blobs are published and leased. Memory changes when the disk has.
    fn list(
        &self,
        images: &[Checked],
        read: &Read,
        public: bool,
        now: SystemTime,
    ) -> Result<(), ImportError> {
        let writing = self.lock_writing();
        // Another image may have been published meanwhile.
        self.refuse_clashes(images)?;
        let mut next = self.lock_layout().clone();
        for image in images {
            let imported = next.is_imported(&image.index.0);
            let told = image.visibility.or(public.then_some(Visibility::Public));
            learn(&mut next, image, told);
            next.set(reference(image, imported, now));
        }
        // Where one commit has two images here, which one is served stays as it is.
        let one = |key: &ImageKey| {
            let mut indexes = next.of_key(key).map(|r| r.index);
            let first = indexes.next();
            indexes.all(|index| Some(index) == first)
        };
        let mut known: Vec<(&NewImage, Stored)> = Vec::new();
        for image in images {
            let (index, size) = image.index;
            let read = read.get(&(image_key(image), index));
            known.extend(read.map(|read| (read, Stored { index, size })));
        }
        known.retain(|(read, _)| one(&read.key));
        self.replace_layout(&writing, next)?;
        for (read, stored) in known {
            self.indexed(|index| index.put_image(read, stored))?;
            self.usage.touch(&stored.index, now);
        }
        self.hot.changed();
        Ok(self.stamp(&writing)?)
    }

    /// Writes another `index.json`. If that fails, what is in memory and on the disk is what it was.
    fn replace_layout(
        &self,
        writing: &Writing<'_>,
        mut next: layout::Layout,
    ) -> Result<(), StoreError> {
        let bytes = next.render();
        if let Err(error) = layout::write(&self.root, &bytes) {
            // It may be in place, and only its folder not be synced.
            let there = fs::read(self.root.join("index.json")).is_ok_and(|there| there == bytes);
            if there && let Err(error) = self.write_layout(writing, |_| ()) {
                tracing::warn!(%error, "index.json has a bundle that was not imported; the next change takes it out");
            }
            return Err(error);
        }
        next.written(&bytes);
        *self.lock_layout() = next;
        self.behind.store(false, Relaxed);
        Ok(())
    }
}

fn reference(image: &Checked, imported: bool, now: SystemTime) -> Reference {
    let (index, size) = image.index;
    Reference {
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
        imported,
    }
}

/// Says of an image that another one is here in its place.
fn clash(image: &Checked, here: &[&Reference]) -> Refusal {
    let digest = here.first().map(|r| r.index.to_string());
    let names = here.iter().take(SHOWN);
    let names: Vec<String> = names.map(|r| format!("{}:{}", r.name, r.tag)).collect();
    let why = format!(
        "is {} in the bundle, and here {} is another image of the same commit, {}; if the bundle's is to take its place, remove what is here first: {}",
        image.index.0,
        names.join(", "),
        digest.unwrap_or_default(),
        names
            .iter()
            .map(|name| format!("hf-oci rm {name}"))
            .collect::<Vec<_>>()
            .join("; ")
    );
    Refusal::new(title(image), why)
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
