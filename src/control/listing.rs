//! What is cached, told line by line: to a program as JSON, to a person as tables.
//!
//! The names of the fields are promised in docs/storage.md. Bytes are lengths of files; times are RFC 3339 in UTC.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Event, SHOWN};
use crate::layer::Content;
use crate::oci::Digest;
use crate::store::{
    DiskRoom, Documents, HeldImage, HeldLayer, Inventory, Limits, MinFree, Reference, StoreError,
    Sum, Used,
};

/// The most bytes of paths in one line.
const LINE: usize = 64 << 10;

/// An image under one of its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLine {
    /// The name.
    pub name: String,
    /// The tags of this name that mean it, sorted; a commit is its 40 digits. At most a hundred.
    pub tags: Vec<String>,
    /// How many there are.
    pub tag_count: u64,
    /// The repository, as the upstream spells it.
    pub repository: String,
    /// The commit.
    pub commit: String,
    /// Digest of the image's index.
    pub index: String,
    /// How it was cut into layers: `split` or `single`.
    pub layout: String,
    /// Who may read it, when that was last known: `public`, `gated`, `private`, or nothing.
    pub visibility: Option<String>,
    /// Bytes of its blobs.
    pub size: u64,
    /// Bytes that only it has: what its removal frees.
    pub unique: u64,
    /// Bytes that others have too.
    pub shared: u64,
    /// Blobs of it that are not there.
    pub missing: u64,
    /// When it was cached.
    pub cached: String,
    /// When it was last used, if that is known.
    pub used: Option<String>,
    /// Whether one of these tags is pinned.
    pub pinned: bool,
}

/// The sum over the images that were listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedLine {
    /// Images, each once, whatever its names.
    pub images: u64,
    /// Names and tags.
    pub references: u64,
    /// Bytes of their blobs, each once.
    pub size: u64,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerLine {
    /// Its digest.
    pub digest: String,
    /// Length of its blob.
    pub size: u64,
    /// Whether its blob is there.
    pub there: bool,
    /// How many files it holds; nothing if it cannot tell.
    pub file_count: Option<u64>,
    /// References of other images that have it too, at most a hundred.
    pub shared_with: Vec<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its files. They come in lines of their own, and are put here by whoever asked.
    #[serde(default)]
    pub files: Vec<FileLine>,
}

/// A file of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLine {
    /// Its path.
    pub path: String,
    /// Its length.
    pub size: u64,
}

/// An image, looked into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectedLine {
    /// What is told of every image.
    #[serde(flatten)]
    pub image: ImageLine,
    /// All names and tags that mean it, at most a hundred.
    pub references: Vec<String>,
    /// Those that are pinned, at most a hundred.
    pub pins: Vec<String>,
    /// The platforms of its manifests.
    pub platforms: Vec<String>,
    /// Annotations of its index.
    pub annotations: BTreeMap<String, String>,
    /// References of other images that have a blob of it, at most a hundred.
    pub shared_with: Vec<String>,
    /// Its layers, the lowest first. They come in lines of their own, and are put here by whoever asked.
    #[serde(default)]
    pub layers: Vec<LayerLine>,
}

/// How much room is taken, by what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLine {
    /// Images, each once.
    pub images: u64,
    /// Names and tags.
    pub references: u64,
    /// All blobs: the sum of the five that follow.
    pub blobs: SumLine,
    /// Blobs that one image has.
    pub unique: SumLine,
    /// Blobs that several images have.
    pub shared: SumLine,
    /// Blobs of other tools' images.
    pub foreign: SumLine,
    /// Finished layers of fills that are not done.
    pub unfinished: SumLine,
    /// Blobs that nothing reaches; `hf-oci gc` deletes them.
    pub unreachable: SumLine,
    /// What is being filled.
    pub staging: StagingLine,
    /// Bytes of the index.
    pub index: u64,
    /// Bytes of bad blobs that were set aside.
    pub quarantine: u64,
    /// Bytes of all that.
    pub total: u64,
    /// Bytes that fills under way have reserved and not published; 0 without a server.
    pub promised: u64,
    /// Bytes that count for `cache.max_size`: blobs, layers in staging, and what is promised.
    pub counted: u64,
    /// `cache.max_size`, if there is one.
    pub max_size: Option<u64>,
    /// What `cache.min_free` keeps free of this disk.
    pub min_free: u64,
    /// The disk's size.
    pub disk_size: u64,
    /// What of it is free.
    pub disk_free: u64,
}

/// Some blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumLine {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagingLine {
    /// Fills under way, or to be gone on with.
    pub fills: u64,
    /// Their layers, and those of fills that nobody goes on with.
    pub layers: u64,
    /// Bytes of all that: layers have their full length from the start.
    pub bytes: u64,
    /// Bytes of layers that those fills go on with.
    pub resumable: u64,
}

impl From<Sum> for SumLine {
    fn from(sum: Sum) -> Self {
        Self {
            count: sum.blobs,
            bytes: sum.bytes,
        }
    }
}

/// What is cached, whatever reads it.
pub struct Listing<'a> {
    /// What the folder holds.
    pub inventory: &'a Inventory,
    /// Its limits.
    pub limits: &'a Limits,
    /// How a running server counts it.
    pub used: Option<Used>,
}

impl Listing<'_> {
    /// Tells of each image under each of its names, or under `name` and the names of its paths; gives the final event.
    pub fn list(&self, name: Option<&str>, tell: &mut dyn FnMut(Event) -> bool) -> Event {
        let asked = |reference: &Reference| {
            name.is_none_or(|name| {
                let rest = reference.name.strip_prefix(name);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        };
        let mut lines = Vec::new();
        let (mut images, mut references, mut blobs) = (0, 0, Vec::new());
        for image in &self.inventory.images {
            let mut names: BTreeMap<&str, Vec<&Reference>> = BTreeMap::new();
            for reference in image.references.iter().filter(|r| asked(r)) {
                names.entry(&reference.name).or_default().push(reference);
                references += 1;
            }
            if !names.is_empty() {
                images += 1;
                blobs.extend(&image.blobs);
            }
            lines.extend(names.into_values().map(|same| line(image, &same)));
        }
        lines.sort_by(|a, b| (&a.name, &a.cached, &a.index).cmp(&(&b.name, &b.cached, &b.index)));
        if let Some(name) = name.filter(|_| lines.is_empty()) {
            return Event::Unknown {
                image: name.to_owned(),
                tags: Vec::new(),
            };
        }
        for line in lines {
            if !tell(Event::Image(Box::new(line))) {
                break;
            }
        }
        blobs.sort_unstable();
        blobs.dedup();
        let sizes = blobs.iter().filter_map(|b| self.inventory.blobs.get(b));
        Event::Listed(ListedLine {
            images,
            references,
            size: sizes.sum(),
        })
    }

    /// Tells of the layers of an image and of their files; gives the final event.
    pub fn inspect(
        &self,
        name: &str,
        tag: &str,
        digest: Option<&Digest>,
        tell: &mut dyn FnMut(Event) -> bool,
    ) -> Result<Event, StoreError> {
        let Some(image) = self.find(name, tag, digest) else {
            return Ok(self.unknown(name, tag, digest));
        };
        let Some(documents) = self.inventory.open(image)? else {
            let message = format!(
                "{name}:{tag} is cached, but its documents are not whole; hf-oci verify --repair looks after that"
            );
            return Ok(Event::Failed { message });
        };
        let same: Vec<&Reference> = image.references.iter().filter(|r| r.name == name).collect();
        let inspected = self.inspected(image, &same, &documents);
        for layer in &documents.layers {
            if !self.layer(image, layer, tell) {
                break;
            }
        }
        Ok(Event::Inspected(Box::new(inspected)))
    }

    /// The image that is meant.
    fn find(&self, name: &str, tag: &str, digest: Option<&Digest>) -> Option<&HeldImage> {
        let fits = |image: &HeldImage| digest.is_none_or(|digest| *digest == image.index);
        let means = |r: &&Reference| r.name == name && r.tag == tag;
        // A commit is known by its tags too; and a digest alone is enough.
        let is =
            |r: &&Reference| r.name == name && (digest.is_some() || r.commit.to_string() == tag);
        let images = || self.inventory.images.iter().filter(|image| fits(image));
        let exact = images().find(|image| image.references.iter().any(|r| means(&r)));
        exact.or_else(|| images().find(|image| image.references.iter().any(|r| is(&r))))
    }

    fn unknown(&self, name: &str, tag: &str, digest: Option<&Digest>) -> Event {
        let all = self.inventory.images.iter().flat_map(|i| &i.references);
        let mut tags: Vec<String> = all
            .filter(|r| r.name == name)
            .map(|r| r.tag.clone())
            .collect();
        tags.sort_unstable();
        tags.dedup();
        tags.truncate(SHOWN);
        let image = match digest {
            Some(digest) => format!("{name}@{digest}"),
            None => format!("{name}:{tag}"),
        };
        Event::Unknown { image, tags }
    }

    fn inspected(
        &self,
        image: &HeldImage,
        same: &[&Reference],
        opened: &Documents,
    ) -> InspectedLine {
        let platforms = opened
            .index
            .manifests
            .iter()
            .filter_map(|m| m.platform.as_ref());
        let platforms = platforms.map(|p| match &p.variant {
            Some(variant) => format!("{}/{}/{variant}", p.os, p.architecture),
            None => format!("{}/{}", p.os, p.architecture),
        });
        let others = image
            .blobs
            .iter()
            .flat_map(|b| self.inventory.sharing(image, b));
        let pins = image.references.iter().filter(|r| r.pinned);
        InspectedLine {
            image: line(image, same),
            references: names(image.references.iter()),
            pins: names(pins),
            platforms: platforms.collect(),
            annotations: opened.index.annotations.clone(),
            shared_with: names(others.flat_map(|other| &other.references)),
            layers: Vec::new(),
        }
    }

    /// Tells of a layer and its files; gives whether anybody still listens.
    fn layer(
        &self,
        image: &HeldImage,
        layer: &HeldLayer,
        tell: &mut dyn FnMut(Event) -> bool,
    ) -> bool {
        let digest = layer.descriptor.digest;
        let others = self.inventory.sharing(image, &digest);
        let head = LayerLine {
            digest: digest.to_string(),
            size: layer.descriptor.size,
            there: layer.there,
            file_count: layer.files.as_ref().map(|files| files.len() as u64),
            shared_with: names(others.flat_map(|other| &other.references)),
            annotations: layer.descriptor.annotations.clone(),
            files: Vec::new(),
        };
        if !tell(Event::Layer(Box::new(head))) {
            return false;
        }
        let (mut files, mut bytes) = (Vec::new(), 0);
        for Content { path, size } in layer.files.iter().flatten() {
            bytes += path.len();
            files.push(FileLine {
                path: path.clone(),
                size: *size,
            });
            if bytes >= LINE || files.len() >= LINE / 64 {
                bytes = 0;
                let files = std::mem::take(&mut files);
                if !tell(Event::Files { files }) {
                    return false;
                }
            }
        }
        files.is_empty() || tell(Event::Files { files })
    }

    /// How much room is taken; the final event.
    pub fn usage(&self, root: &Path) -> Result<Event, StoreError> {
        let held = self.inventory;
        let sums = held.sums();
        let parts = [
            sums.unique,
            sums.shared,
            sums.foreign,
            sums.unfinished,
            sums.loose,
        ];
        let blobs = Sum {
            blobs: parts.iter().map(|sum| sum.blobs).sum(),
            bytes: parts.iter().map(|sum| sum.bytes).sum(),
        };
        let disk = DiskRoom::of(root, self.limits)?;
        let staging = &held.unfinished;
        Ok(Event::Usage(Box::new(UsageLine {
            images: held.images.len() as u64,
            references: held.images.iter().map(|i| i.references.len() as u64).sum(),
            blobs: blobs.into(),
            unique: sums.unique.into(),
            shared: sums.shared.into(),
            foreign: sums.foreign.into(),
            unfinished: sums.unfinished.into(),
            unreachable: sums.loose.into(),
            staging: StagingLine {
                fills: staging.fills,
                layers: staging.layers,
                bytes: staging.bytes,
                resumable: staging.resumable,
            },
            index: held.index,
            quarantine: held.quarantine,
            total: blobs.bytes + staging.bytes + held.index + held.quarantine,
            promised: self.used.map_or(0, |used| used.reserved),
            counted: match self.used {
                Some(used) => used.total(),
                None => blobs.bytes + staging.layer_bytes,
            },
            max_size: self.limits.max_size,
            min_free: match self.limits.min_free {
                MinFree::Bytes(bytes) => bytes,
                MinFree::Percent(_) => disk.keep,
            },
            disk_size: disk.size,
            disk_free: disk.free,
        })))
    }
}

/// What is told of an image under the name that all of `same` have.
fn line(image: &HeldImage, same: &[&Reference]) -> ImageLine {
    let mut tags: Vec<String> = same.iter().map(|r| r.tag.clone()).collect();
    tags.sort_unstable();
    let tag_count = tags.len() as u64;
    tags.truncate(SHOWN);
    let text = |of: &dyn Fn(&Reference) -> String| same.first().map_or_else(String::new, |r| of(r));
    let since = same.iter().map(|r| r.time).min();
    ImageLine {
        name: text(&|r| r.name.clone()),
        tags,
        tag_count,
        repository: text(&|r| r.repo.to_string()),
        commit: text(&|r| r.commit.to_string()),
        index: image.index.to_string(),
        layout: text(&|r| r.layout.to_string()),
        visibility: image.visibility.map(|v| v.to_string()),
        size: image.size,
        unique: image.unique,
        shared: image.size - image.unique,
        missing: image.missing,
        cached: since.map_or_else(String::new, spelled),
        used: image.used.map(spelled),
        pinned: same.iter().any(|r| r.pinned),
    }
}

fn spelled(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// References as text, each once, sorted; at most so many as are shown.
fn names<'a>(references: impl Iterator<Item = &'a Reference>) -> Vec<String> {
    let mut all: Vec<String> = references.map(super::spelled).collect();
    all.sort_unstable();
    all.dedup();
    all.truncate(SHOWN);
    all
}
