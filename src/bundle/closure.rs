//! The closure of an image: all that its index reaches, as this program writes it and in no other way.
//!
//! Each document is written again from what was understood of it, and must be the same bytes. So nothing can be in it that this program
//! does not know, and what a client makes of it is what was looked at here.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::MAX_BLOB;
use super::contents::{Claims, Listed};
use crate::image::{
    Document, ImageName, LayerRecord, Layout, RECIPE, Selection, documents_labelled,
};
use crate::oci::{
    Config, Descriptor, Digest, Index, MEDIA_CONFIG, MEDIA_INDEX, MEDIA_LAYER, MEDIA_MANIFEST,
    Manifest, Tag,
};
use crate::repo::{Commit, RepoId, Visibility};

/// The longest document of an image: four times what the most layers and the longest labels make.
const MAX_DOCUMENT: u64 = 512 << 10;

/// The most bytes of an image's labels.
const MAX_LABELS: usize = 64 << 10;

/// The most platforms of an image.
const MAX_PLATFORMS: usize = 16;

/// The most layers: clients do not stack more.
const MAX_LAYERS: usize = 127;

const REVISION: &str = "org.opencontainers.image.revision";
const SOURCE: &str = "org.opencontainers.image.source";
const TITLE: &str = "org.opencontainers.image.title";
const HUB: &str = "https://huggingface.co/";

/// What is wrong with which part of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {why}")]
pub struct Refusal {
    what: String,
    why: String,
}

impl Refusal {
    /// `what` is a noun, `why` what is to be said of it.
    pub fn new(what: impl Into<String>, why: impl Into<String>) -> Self {
        let (what, why) = (what.into(), why.into());
        Self { what, why }
    }
}

/// An image whose documents are as they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Its name.
    pub name: ImageName,
    /// Its tag.
    pub tag: Tag,
    /// The repository in its canonical spelling.
    pub repo: RepoId,
    /// The commit.
    pub commit: Commit,
    /// How it was cut into layers.
    pub layout: Layout,
    /// What it is restricted to beyond the name's path.
    pub selection: Selection,
    /// Who may read it, if that is told.
    pub visibility: Option<Visibility>,
    /// Digest and length of its index.
    pub index: (Digest, u64),
    /// Every blob that the bundle or the folder must have, with its length.
    pub blobs: BTreeMap<Digest, u64>,
    /// The configs, manifests and indexes among them.
    pub documents: BTreeSet<Digest>,
    /// What the bundle lacks because it is of one platform only, made here.
    pub made: Vec<Document>,
}

/// Where documents come from.
type Read<'a, E> = &'a mut dyn FnMut(&Digest) -> Result<Vec<u8>, E>;

/// Follows an image through its documents. `read` gives the bytes of a digest, which it has held against it, and fails if they are
/// longer than [`super::MAX_DOCUMENT`] or not there.
pub fn check<E: From<Refusal>>(image: &Listed, read: Read<'_, E>) -> Result<Checked, E> {
    let mut walk = Walk {
        read,
        blobs: BTreeMap::new(),
        documents: BTreeSet::new(),
        rows: None,
    };
    let single = image.top.media_type == MEDIA_MANIFEST;
    let labels = match single {
        true => walk.manifest(&image.top)?.annotations,
        false => walk.index(&image.top)?,
    };
    let rows = walk.rows.take().unwrap_or_default();
    let mut index = (image.top.digest, image.top.size);
    let mut made = Vec::new();
    if single {
        made = around(image, &labels, &rows)?;
        if let Some(last) = made.last() {
            index = (last.descriptor.digest, last.descriptor.size);
        }
        made.retain(|document| !walk.blobs.contains_key(&document.descriptor.digest));
    }
    let (claims, name) = subject(image, &labels)?;
    Ok(Checked {
        name,
        tag: match &image.tag {
            Some(tag) => tag.clone(),
            None => claims.commit.to_string().parse().map_err(|_| {
                Refusal::new(image.title(), "has neither a tag nor a commit as its label")
            })?,
        },
        repo: claims.repo,
        commit: claims.commit,
        layout: claims.layout,
        selection: claims.selection,
        visibility: claims.visibility,
        index,
        blobs: walk.blobs,
        documents: walk.documents,
        made,
    })
}

/// All documents of the image of which a manifest is one platform.
fn around(
    image: &Listed,
    labels: &BTreeMap<String, String>,
    layers: &[LayerRecord],
) -> Result<Vec<Document>, Refusal> {
    let made = documents_labelled(labels, layers)
        .map_err(|error| Refusal::new(image.title(), error.to_string()))?;
    // What is longer is not read back.
    if made.iter().any(|d| d.descriptor.size > MAX_DOCUMENT) {
        let why = "would have a document that is longer than one may be; its labels are too long";
        return Err(Refusal::new(image.title(), why));
    }
    let digest = image.top.digest;
    match made.iter().any(|d| d.descriptor.digest == digest) {
        true => Ok(made),
        false => Err(Refusal::new(
            format!("the manifest {digest}"),
            "is of one platform, and not as hf-oci makes it; copy the image with all of its platforms (skopeo copy --all)",
        )),
    }
}

/// What the image is of: its labels must say what the bundle does.
fn subject(
    image: &Listed,
    labels: &BTreeMap<String, String>,
) -> Result<(Claims, ImageName), Refusal> {
    let wrong = |why: &str| Refusal::new(image.title(), why);
    let label = |key: &str| labels.get(key).map_or("", String::as_str);
    let repo: RepoId = label(SOURCE)
        .strip_prefix(HUB)
        .and_then(|repo| repo.parse().ok())
        .ok_or_else(|| wrong("has no label that tells its repository"))?;
    let commit: Commit = label(REVISION)
        .parse()
        .map_err(|_| wrong("has no label that tells its commit"))?;
    let claims = match &image.claims {
        // The repository may be called otherwise since the labels were written: they stay, and the commit is the same.
        Some(claims) if claims.commit != commit => {
            return Err(wrong("is of another commit than its labels tell"));
        }
        Some(claims) => claims.clone(),
        None => Claims {
            repo: repo.clone(),
            commit,
            layout: Layout::default(),
            selection: Selection::told(labels).map_err(|why| wrong(&why))?,
            visibility: None,
        },
    };
    if !claims.selection.fits(labels) {
        return Err(wrong(
            "is restricted to something else than its labels tell",
        ));
    }
    let name = match &image.name {
        Some(name) => name.clone(),
        None => {
            let path = label(TITLE).strip_prefix(&repo.to_string());
            let path = path.unwrap_or_default().trim_start_matches('/');
            ImageName::parse(&ImageName::spell(&repo, path))
                .map_err(|error| wrong(&format!("has no name: {error}")))?
        }
    };
    // A name that other tools gave must be that of the repository: nothing else speaks for it.
    if image.claims.is_none() && *name.repo() != repo.folded() {
        return Err(wrong("is of another repository than its name tells"));
    }
    Ok((claims, name))
}

/// A walk through the documents of one image.
struct Walk<'a, E> {
    read: Read<'a, E>,
    blobs: BTreeMap<Digest, u64>,
    documents: BTreeSet<Digest>,
    /// The layers, which all platforms share.
    rows: Option<Vec<LayerRecord>>,
}

impl<E: From<Refusal>> Walk<'_, E> {
    /// Reads an index and its manifests; gives its labels.
    fn index(&mut self, top: &Descriptor) -> Result<BTreeMap<String, String>, E> {
        let index: Index = self.document("index", top)?;
        let wrong = |why: &str| Refusal::new(format!("the index {}", top.digest), why);
        if index.schema_version != 2 || index.media_type != MEDIA_INDEX {
            return Err(wrong("is not an image index of version 2").into());
        }
        if !(1..=MAX_PLATFORMS).contains(&index.manifests.len()) {
            return Err(wrong("has no manifest, or too many").into());
        }
        let mut seen = BTreeSet::new();
        for descriptor in &index.manifests {
            if !seen.insert(descriptor.digest) {
                return Err(wrong("lists a manifest twice").into());
            }
            let plain = descriptor.annotations.is_empty() && descriptor.platform.is_some();
            if descriptor.media_type != MEDIA_MANIFEST || !plain {
                return Err(wrong("lists something that is no manifest of a platform").into());
            }
            let manifest = self.manifest(descriptor)?;
            if manifest.annotations != index.annotations {
                return Err(wrong("says other things of the image than its manifests").into());
            }
        }
        Ok(index.annotations)
    }

    /// Reads a manifest and its config.
    fn manifest(&mut self, top: &Descriptor) -> Result<Manifest, E> {
        let manifest: Manifest = self.document("manifest", top)?;
        let wrong = |why: &str| Refusal::new(format!("the manifest {}", top.digest), why);
        if manifest.schema_version != 2 || manifest.media_type != MEDIA_MANIFEST {
            return Err(wrong("is not an image manifest of version 2").into());
        }
        let labels = manifest.annotations.iter();
        if labels.map(|(k, v)| k.len() + v.len()).sum::<usize>() > MAX_LABELS {
            return Err(wrong("has longer labels than hf-oci makes").into());
        }
        if manifest.config.media_type != MEDIA_CONFIG {
            return Err(wrong("has a config of another media type").into());
        }
        if !(1..=MAX_LAYERS).contains(&manifest.layers.len()) {
            return Err(wrong("has no layer, or too many").into());
        }
        let config: Config = self.document("config", &manifest.config)?;
        let same = top.platform.as_ref().is_none_or(|platform| {
            platform.os == config.os
                && platform.architecture == config.architecture
                && platform.variant == config.variant
        });
        if !same || config.config.labels != manifest.annotations {
            return Err(wrong("and its config say different things").into());
        }
        let diff_ids = &config.rootfs.diff_ids;
        if config.rootfs.kind != "layers" || diff_ids.len() != manifest.layers.len() {
            return Err(wrong("and its config have different layers").into());
        }
        for layer in &manifest.layers {
            self.layer(layer)?;
        }
        let rows = manifest.layers.iter().zip(diff_ids);
        let rows: Vec<LayerRecord> = rows
            .map(|(descriptor, diff_id)| LayerRecord {
                descriptor: descriptor.clone(),
                diff_id: *diff_id,
            })
            .collect();
        match self.rows.replace(rows) {
            Some(before) if Some(&before) != self.rows.as_ref() => {
                Err(wrong("has other layers than that of another platform").into())
            }
            _ => Ok(manifest),
        }
    }

    fn layer(&mut self, layer: &Descriptor) -> Result<(), E> {
        let wrong = |why: &str| Refusal::new(format!("the layer {}", layer.digest), why);
        if layer.media_type != MEDIA_LAYER || layer.platform.is_some() {
            return Err(wrong("is of a media type that hf-oci does not make").into());
        }
        let recipe = layer.annotations.get(RECIPE);
        if recipe.is_none_or(|text| text.parse::<Digest>().is_err()) {
            return Err(wrong("does not tell what it is made of").into());
        }
        if !(1..=MAX_BLOB).contains(&layer.size) {
            return Err(wrong("has a length that no layer has").into());
        }
        self.note(layer)
    }

    /// Reads a document that is written as this program writes it.
    fn document<T: DeserializeOwned + Serialize>(
        &mut self,
        what: &str,
        descriptor: &Descriptor,
    ) -> Result<T, E> {
        let wrong = |why: &str| Refusal::new(format!("the {what} {}", descriptor.digest), why);
        if descriptor.size > MAX_DOCUMENT {
            return Err(wrong("is longer than a document may be").into());
        }
        self.note(descriptor)?;
        self.documents.insert(descriptor.digest);
        let bytes = (self.read)(&descriptor.digest)?;
        if bytes.len() as u64 != descriptor.size {
            return Err(wrong("has another length than is told of it").into());
        }
        let parsed: T = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(&format!("cannot be understood: {error}")))?;
        match serde_json::to_vec(&parsed).is_ok_and(|again| again == bytes) {
            true => Ok(parsed),
            false => Err(wrong("is not written as hf-oci writes it").into()),
        }
    }

    /// A blob is needed, and is so long.
    fn note(&mut self, descriptor: &Descriptor) -> Result<(), E> {
        let known = self.blobs.insert(descriptor.digest, descriptor.size);
        match known.is_none_or(|size| size == descriptor.size) {
            true => Ok(()),
            false => {
                let what = format!("the blob {}", descriptor.digest);
                Err(Refusal::new(what, "has two lengths").into())
            }
        }
    }
}

#[cfg(test)]
mod tests;
