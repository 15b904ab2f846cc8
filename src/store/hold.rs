//! Holding images: while somebody copies them away, nothing of them is deleted.

use std::collections::BTreeMap;

use super::{Lease, Reference, Store, StoreError, blobs};
use crate::bundle::{Claims, Listed};
use crate::image::ImageName;
use crate::oci::{Descriptor, MEDIA_INDEX};
use crate::repo::Commit;

/// Images of which no blob is deleted until this is dropped.
#[derive(Debug)]
pub struct Held {
    /// What they are, in the order in which they were asked for.
    pub images: Vec<Listed>,
    _leases: Vec<Lease>,
}

/// Whether images could be held.
#[derive(Debug)]
pub enum Hold {
    /// They are.
    Held(Held),
    /// This one, a name and a tag, is not here.
    Unknown(String, String),
    /// This one lacks some of its blobs.
    Incomplete(String, String),
}

impl Store {
    /// Leases all blobs of some images, each a name and a tag.
    pub fn hold(&self, wanted: &[(String, String)]) -> Result<Hold, StoreError> {
        let mut held = Held {
            images: Vec::new(),
            _leases: Vec::new(),
        };
        for (name, tag) in wanted {
            // Nothing is decided to be deleted meanwhile.
            let writing = self.lock_writing();
            let found = self.meant(name, tag);
            let Some((reference, listed)) = found else {
                return Ok(Hold::Unknown(name.clone(), tag.clone()));
            };
            let all = self.blobs_of(reference.index, std::slice::from_ref(&reference))?;
            let leases = all.iter().map(|(digest, _)| self.lease(digest));
            held._leases.extend(leases);
            drop(writing);
            let there = |(digest, size)| blobs::has(&self.root, digest, size);
            if !all.iter().all(|(digest, size)| there((digest, *size))) {
                return Ok(Hold::Incomplete(name.clone(), tag.clone()));
            }
            if !held.images.contains(&listed) {
                held.images.push(listed);
            }
        }
        Ok(Hold::Held(held))
    }

    /// What a name and a tag mean; a tag may be a commit that is only known by others.
    fn meant(&self, name: &str, tag: &str) -> Option<(Reference, Listed)> {
        let parsed = ImageName::parse(name).ok()?;
        let layout = self.lock_layout();
        let tag = layout.spelled(name, tag);
        let commit = tag.parse::<Commit>().ok();
        // A quantisation is not all of a commit.
        let plain = |r: &Reference| r.selection.quantisation().is_none();
        let same = |r: &&Reference| r.name == name && Some(r.commit) == commit && plain(r);
        let reference = layout
            .find(name, &tag)
            .or_else(|| layout.references().find(same))?;
        let listed = Listed {
            tag: Some(tag.parse().ok()?),
            top: Descriptor {
                media_type: MEDIA_INDEX.to_owned(),
                digest: reference.index,
                size: reference.size,
                platform: None,
                annotations: BTreeMap::new(),
            },
            claims: Some(Claims {
                repo: reference.repo.clone(),
                commit: reference.commit,
                layout: reference.layout,
                selection: reference.selection.clone(),
                visibility: layout.facts.visibility(parsed.repo()),
            }),
            name: Some(parsed),
        };
        Some((reference.clone(), listed))
    }
}
