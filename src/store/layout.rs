//! `oci-layout` and `index.json`: which images there are, under which references.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::facts::Facts;
use super::{ImageKey, StoreError, blobs};
use crate::bundle::{COMMIT, LAYOUT, PINNED, REF_NAME, REPOSITORY, SELECTION, TIME, VISIBILITY};
use crate::image::{ImageName, Layout as LayerLayout, Selection};
use crate::oci::{Descriptor, Digest, MEDIA_INDEX};
use crate::repo::{Commit, RepoId, Visibility};

const OCI_LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// Annotation of an entry that came with a bundle.
const IMPORTED: &str = "io.hf-oci.imported";

/// A name and tag, and the image they mean.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The name.
    pub name: String,
    /// The tag.
    pub tag: String,
    /// The repository in its canonical spelling.
    pub repo: RepoId,
    /// The commit.
    pub commit: Commit,
    /// How the image was cut into layers.
    pub layout: LayerLayout,
    /// What the image is restricted to beyond the name's path.
    pub selection: Selection,
    /// Digest of the image's index.
    pub index: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// When the reference came to mean this image.
    pub time: SystemTime,
    /// Whether what it means is never evicted.
    pub pinned: bool,
    /// Whether the image came with a bundle: nobody has held its layers against what they are said to be made of, so no other image may
    /// be made of them.
    pub imported: bool,
}

/// What `index.json` says. Entries that other tools put there are kept as they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    references: BTreeMap<(String, String), Reference>,
    foreign: Vec<Value>,
    pub(super) facts: Facts,
    digest: Option<Digest>,
}

/// Makes the folders, durably, or finds that they are there.
pub(super) fn make_folders(root: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(root.join("blobs/sha256"))
        .map_err(StoreError::io(format!("making {}", root.display())))?;
    fs::create_dir_all(root.join("staging")).map_err(StoreError::io("making staging"))?;
    blobs::sync(root, "blobs")?;
    blobs::sync(root, ".")
}

/// Writes the marker of an OCI layout, or finds that it is there and of a version that is known.
pub(super) fn mark(root: &Path) -> Result<(), StoreError> {
    let marker = root.join("oci-layout");
    match fs::read_to_string(&marker) {
        Ok(text) => {
            let version = serde_json::from_str::<Value>(&text)
                .ok()
                .and_then(|v| v["imageLayoutVersion"].as_str().map(str::to_owned));
            match version.as_deref() {
                Some(v) if v.starts_with("1.") => Ok(()),
                _ => Err(StoreError::Foreign(
                    root.to_owned(),
                    "its oci-layout is not of version 1".to_owned(),
                )),
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            blobs::replace(root, "oci-layout", OCI_LAYOUT.as_bytes())
        }
        Err(error) => Err(StoreError::io("reading oci-layout")(error)),
    }
}

/// An `index.json`, its entries as they stand there.
#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    manifests: Option<Vec<&'a RawValue>>,
}

impl Layout {
    /// Reads `index.json`; a missing one is empty, a damaged one an error: it is the truth, and nothing may overwrite it.
    pub(super) fn read(root: &Path) -> Result<Self, StoreError> {
        let bytes = match fs::read(root.join("index.json")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(StoreError::io("reading index.json")(error)),
        };
        Self::parse(&bytes).map_err(|why| StoreError::Foreign(root.to_owned(), why))
    }

    /// Understands the bytes of `index.json`, or tells why not.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let damaged =
            |e: serde_json::Error| format!("its index.json is damaged ({e}); restore or remove it");
        // Entry by entry: as one tree, a long list would take ten times its length of memory.
        let list: List = serde_json::from_slice(bytes).map_err(damaged)?;
        let manifests = list.manifests.ok_or("its index.json lists no manifests")?;
        let mut layout = Self {
            digest: Some(Digest::of(bytes)),
            ..Self::default()
        };
        for entry in manifests {
            match serde_json::from_str(entry.get()).ok().and_then(reference) {
                Some((reference, visibility)) => {
                    if let Some(repo) = reference.asked() {
                        layout.facts.read(&repo, &reference.repo, visibility);
                    }
                    layout.insert(reference);
                }
                None => layout
                    .foreign
                    .push(serde_json::from_str(entry.get()).map_err(damaged)?),
            }
        }
        Ok(layout)
    }

    /// Digest of the `index.json` that was read or last written.
    pub(super) const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Notes which bytes `index.json` has now.
    pub(super) fn written(&mut self, bytes: &[u8]) {
        self.digest = Some(Digest::of(bytes));
    }

    pub(super) fn references(&self) -> impl Iterator<Item = &Reference> {
        self.references.values()
    }

    pub(super) fn find(&self, name: &str, tag: &str) -> Option<&Reference> {
        self.references.get(&(name.to_owned(), tag.to_owned()))
    }

    /// The tag under which `tag` of `name` is noted: for a quantisation, however its letters are spelled, the one that is in lower case.
    pub(super) fn spelled(&self, name: &str, tag: &str) -> String {
        let lower = tag.to_ascii_lowercase();
        let is_one = |r: &Reference| r.selection.quantisation().is_some();
        let quantised = || self.find(name, &lower).is_some_and(is_one);
        match self.find(name, tag).is_none() && quantised() {
            true => lower,
            false => tag.to_owned(),
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .references
            .keys()
            .map(|(name, _)| name.clone())
            .collect();
        names.dedup();
        names
    }

    pub(super) fn tags(&self, repo: &RepoId) -> Vec<String> {
        let mut tags: Vec<String> = self.of(repo).map(|r| r.tag.clone()).collect();
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    pub(super) fn commits(&self, repo: &RepoId) -> Vec<Commit> {
        let mut commits: Vec<Commit> = self.of(repo).map(|r| r.commit).collect();
        commits.sort_unstable();
        commits.dedup();
        commits
    }

    fn of<'a>(&'a self, repo: &RepoId) -> impl Iterator<Item = &'a Reference> {
        // By name, not by the canonical id: the Hub may call the repository otherwise by now.
        let name = ImageName::spell(repo, "");
        self.references().filter(move |r| {
            let rest = r.name.strip_prefix(&name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Whether an image came with a bundle. One that nothing means may have.
    pub(super) fn is_imported(&self, index: &Digest) -> bool {
        let mut same = self.references().filter(|r| r.index == *index).peekable();
        same.peek().is_none() || same.any(|r| r.imported)
    }

    /// The references to images of a key.
    pub(super) fn of_key<'a>(&'a self, key: &'a ImageKey) -> impl Iterator<Item = &'a Reference> {
        let first = (key.name.to_string(), String::new());
        let of_name = self.references.range(first..).map(|(_, r)| r);
        of_name
            .take_while(|r| r.name == key.name.as_str())
            .filter(|r| (r.layout, r.commit) == (key.layout, key.commit))
            .filter(|r| r.selection == key.selection)
    }

    /// Descriptors of other tools.
    pub(super) fn foreign(&self) -> &[Value] {
        &self.foreign
    }

    /// Pins a reference, or ends that; tells whether there is such a reference. A commit that is only known by its tags gets a
    /// reference of its own.
    pub(super) fn pin(&mut self, name: &str, tag: &str, pinned: bool) -> bool {
        if pinned && self.find(name, tag).is_none() {
            let commit = tag.parse::<Commit>().ok();
            let plain = |r: &Reference| r.selection.quantisation().is_none();
            let same = |r: &&Reference| r.name == name && Some(r.commit) == commit && plain(r);
            let same = self.references().find(same).cloned();
            if let Some(mut same) = same {
                same.tag = tag.to_owned();
                self.insert(same);
            }
        }
        let key = (name.to_owned(), tag.to_owned());
        match self.references.get_mut(&key) {
            Some(reference) => reference.pinned = pinned,
            None => return false,
        }
        true
    }

    /// Forgets a reference, and with the last one of a repository what is known of that.
    pub(super) fn remove(&mut self, reference: &Reference) {
        let key = (reference.name.clone(), reference.tag.clone());
        self.references.remove(&key);
        if let Some(repo) = reference.asked()
            && self.of(&repo).next().is_none()
        {
            self.facts.removed(&repo);
        }
    }

    /// Points a reference at an image. The image that it meant before stays listed, under its commit; a pin stays with the reference.
    ///
    /// Where the commit already means another image (of another layout or selection), or a quantisation is not all of it, what tells them
    /// apart stands behind it.
    pub(super) fn set(&mut self, mut reference: Reference) {
        let old = self.find(&reference.name, &reference.tag).cloned();
        reference.pinned |= old.as_ref().is_some_and(|old| old.pinned);
        if let Some(old) = old.filter(|old| old.index != reference.index) {
            let index = old.index.hex();
            let kept = match old.selection.quantisation() {
                Some(quantisation) => format!("{}-{quantisation}", old.commit),
                None => old.commit.to_string(),
            };
            let taken = |tag: &str| {
                let by = self.find(&old.name, tag);
                let here = tag == reference.tag;
                here || by.is_some_and(|by| by.index != old.index)
            };
            let tag = match taken(&kept) {
                true => format!("{kept}-{}", &index[..12]),
                false => kept,
            };
            if self.find(&old.name, &tag).is_none() {
                let pinned = false;
                self.insert(Reference { tag, pinned, ..old });
            }
        }
        self.insert(reference);
    }

    fn insert(&mut self, reference: Reference) {
        if let Some(repo) = reference.asked() {
            self.facts.published(&repo, &reference.repo);
        }
        let key = (reference.name.clone(), reference.tag.clone());
        self.references.insert(key, reference);
    }

    /// The bytes of `index.json`.
    pub(super) fn render(&self) -> Vec<u8> {
        let manifests: Vec<Value> = self
            .references()
            .map(|r| descriptor(r, r.asked().and_then(|repo| self.facts.visibility(&repo))))
            .map(|d| serde_json::to_value(d).unwrap_or(Value::Null))
            .chain(self.foreign.iter().cloned())
            .collect();
        let value = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_INDEX,
            "manifests": manifests,
        });
        value.to_string().into_bytes()
    }
}

/// Replaces `index.json`.
pub(super) fn write(root: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    blobs::replace(root, "index.json", bytes)?;
    blobs::sync(root, ".")
}

fn descriptor(reference: &Reference, visibility: Option<Visibility>) -> Descriptor {
    let visibility = visibility.map(|v| (VISIBILITY, v.to_string()));
    let selection = match reference.selection.is_all() {
        true => None,
        false => Some((SELECTION, reference.selection.to_string())),
    };
    let annotations = [
        (REF_NAME, format!("{}:{}", reference.name, reference.tag)),
        (REPOSITORY, reference.repo.to_string()),
        (COMMIT, reference.commit.to_string()),
        (LAYOUT, reference.layout.to_string()),
        (
            TIME,
            humantime::format_rfc3339_seconds(reference.time).to_string(),
        ),
    ];
    Descriptor {
        media_type: MEDIA_INDEX.to_owned(),
        digest: reference.index,
        size: reference.size,
        platform: None,
        annotations: annotations
            .into_iter()
            .chain(visibility)
            .chain(selection)
            .chain(reference.pinned.then(|| (PINNED, "true".to_owned())))
            .chain(reference.imported.then(|| (IMPORTED, "true".to_owned())))
            .map(|(k, v)| (k.to_owned(), v))
            .collect(),
    }
}

impl Reference {
    /// The repository as the name spells it.
    fn asked(&self) -> Option<RepoId> {
        Some(ImageName::parse(&self.name).ok()?.repo().clone())
    }
}

/// The reference that a descriptor of ours stands for, and who may read it if that is told; `None` for any other descriptor.
fn reference(descriptor: Descriptor) -> Option<(Reference, Option<Visibility>)> {
    let text = |key: &str| descriptor.annotations.get(key).map(String::as_str);
    let (name, tag) = text(REF_NAME)?.rsplit_once(':')?;
    let visibility = text(VISIBILITY).and_then(|word| word.parse().ok());
    let reference = Reference {
        name: name.to_owned(),
        tag: tag.to_owned(),
        repo: text(REPOSITORY)?.parse().ok()?,
        commit: text(COMMIT)?.parse().ok()?,
        layout: text(LAYOUT)?.parse().ok()?,
        selection: text(SELECTION).unwrap_or_default().parse().ok()?,
        index: descriptor.digest,
        size: descriptor.size,
        time: humantime::parse_rfc3339(text(TIME)?).ok()?,
        pinned: text(PINNED) == Some("true"),
        imported: text(IMPORTED) == Some("true"),
    };
    Some((reference, visibility))
}
