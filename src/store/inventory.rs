//! What is cached: read from the folder, changing nothing, with the server's lock or without it.
//!
//! Lengths are those of the files. What several images have is counted once in every sum, and told apart from what one alone has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::budget::Disk;
use super::index::Index;
use super::layout::Layout;
use super::reach::{DEPTH, digest_of, reach};
use super::usage::Moment;
use super::{Limits, Reference, Store, StoreError, blobs, finished, lock_folder, orders, staging};
use crate::image::{ImageName, LayerRecord};
use crate::layer::{Content, FOOTER_LEN, contents, toc_offset};
use crate::oci::{Descriptor, Digest, Index as ImageIndex, Manifest};
use crate::repo::Visibility;

/// The longest table of contents that is read, with its frame.
const MAX_TOC: u64 = 160 << 20;

/// Annotation of a layer: the digest of its table of contents.
const TOC: &str = "containerd.io/snapshot/stargz/toc.digest";

/// When blobs were last used.
pub type Uses = HashMap<Digest, Moment>;

/// Tells the blobs of an image.
type BlobsOf<'a> = dyn Fn(Digest, &[Reference]) -> Result<Vec<Digest>, StoreError> + 'a;

/// All that a data folder holds.
#[derive(Debug)]
pub struct Inventory {
    root: PathBuf,
    /// The images, by the digests of their indexes.
    pub images: Vec<HeldImage>,
    /// Every blob that is there, with its length.
    pub blobs: HashMap<Digest, u64>,
    /// In how many images each blob is.
    owners: HashMap<Digest, usize>,
    /// What other tools' entries of `index.json` reach.
    foreign: HashSet<Digest>,
    /// Finished layers of fills that are under way.
    finished: HashSet<Digest>,
    /// What is not published.
    pub unfinished: Unfinished,
    /// Bytes of the index, and of one that was set aside.
    pub index: u64,
    /// Bytes of bad blobs that were set aside.
    pub quarantine: u64,
}

/// An image that is cached.
#[derive(Debug)]
pub struct HeldImage {
    /// Digest of its index.
    pub index: Digest,
    /// All names and tags that mean it.
    pub references: Vec<Reference>,
    /// Who may read its repository, when that was last known.
    pub visibility: Option<Visibility>,
    /// Its blobs, each once.
    pub blobs: Vec<Digest>,
    /// Bytes of those that are there.
    pub size: u64,
    /// Bytes of those that nothing else has: what its removal frees.
    pub unique: u64,
    /// Blobs that are not there.
    pub missing: u64,
    /// When it was last asked for, or a layer read that only it has; `None` if that is not known.
    pub used: Option<SystemTime>,
}

/// Fills that are not done.
#[derive(Debug, Default)]
pub struct Unfinished {
    /// Fills that the next process goes on with, or that are under way.
    pub fills: u64,
    /// Layers, at their full length from the start.
    pub layers: u64,
    /// Bytes of those.
    pub layer_bytes: u64,
    /// Bytes of all that is in staging.
    pub bytes: u64,
    /// Bytes of layers that those fills go on with; the rest is given up when room is needed.
    pub resumable: u64,
}

/// A sum over some blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The blobs of a folder, each in one of these sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// What one image has.
    pub unique: Sum,
    /// What several images have.
    pub shared: Sum,
    /// What no image has, but entries of other tools.
    pub foreign: Sum,
    /// Finished layers of fills that are not done.
    pub unfinished: Sum,
    /// What nothing reaches.
    pub loose: Sum,
}

/// A layer of an image.
#[derive(Debug)]
pub struct HeldLayer {
    /// As the manifest has it.
    pub descriptor: Descriptor,
    /// Whether its blob is there.
    pub there: bool,
    /// Its files; `None` if its table of contents cannot be read.
    pub files: Option<Vec<Content>>,
}

/// An image's documents.
#[derive(Debug)]
pub struct Documents {
    /// The index.
    pub index: ImageIndex,
    /// The layers of its first manifest, which all share.
    pub layers: Vec<HeldLayer>,
}

/// The disk of a data folder, and what of it is to stay free, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct DiskRoom {
    /// The whole of it.
    pub size: u64,
    /// What is free.
    pub free: u64,
    /// What is to stay free.
    pub keep: u64,
}

impl DiskRoom {
    /// Looks at the disk of `root`.
    pub fn of(root: &Path, limits: &Limits) -> Result<Self, StoreError> {
        let disk = Disk::of(root)?;
        Ok(Self {
            size: disk.size,
            free: disk.free,
            keep: disk.keep(limits.min_free),
        })
    }
}

impl Store {
    /// A reference of `name` whose image has this index.
    pub fn reference_of(&self, name: &ImageName, index: &Digest) -> Option<Reference> {
        let layout = self.lock_layout();
        let mut same = layout.references().filter(|r| r.name == name.as_str());
        same.find(|r| r.index == *index).cloned()
    }

    /// What is cached now.
    pub fn inventory(&self) -> Result<Inventory, StoreError> {
        // Nothing is published or taken away meanwhile.
        let _writing = self.lock_writing();
        Inventory::take(
            &self.root,
            &|index, references| {
                let blobs = self.blobs_of(index, references)?;
                Ok(blobs.into_iter().map(|(digest, _)| digest).collect())
            },
            &|digest| self.usage.last(digest),
        )
    }
}

/// When blobs were last used, as the index of a folder has it that no server has; `None` if it cannot be had.
///
/// The folder is locked for as long as that takes, and only by its owner, so that nobody else's files come into it.
pub fn last_uses(root: &Path) -> Option<Uses> {
    use rustix::fs::{Access, access};
    let own = fs::metadata(root).ok()?.uid() == rustix::process::geteuid().as_raw();
    let folder = root.join("index");
    let writable = |path: &Path| access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    if !own || !folder.exists() || !writable(root) || !writable(&folder) {
        return None;
    }
    let _lock = lock_folder(root).ok()?;
    // sled is known to panic on some damages.
    let read = catch_unwind(AssertUnwindSafe(|| Index::open(&folder)?.uses()));
    Some(read.ok()?.ok()?.into_iter().collect())
}

impl Inventory {
    /// Reads what a folder holds. Where a server works on it, what it publishes or removes meanwhile may be told half.
    pub fn read(root: &Path, uses: &Uses) -> Result<Self, StoreError> {
        let reached = |index, _: &[Reference]| {
            let mut found = HashMap::new();
            reach(root, index, DEPTH, &mut found);
            Ok(found.into_keys().collect())
        };
        Self::take(root, &reached, &|digest| uses.get(digest).copied())
    }

    /// `blobs_of` tells the blobs of an image, `used` when one was last used.
    fn take(
        root: &Path,
        blobs_of: &BlobsOf<'_>,
        used: &dyn Fn(&Digest) -> Option<Moment>,
    ) -> Result<Self, StoreError> {
        let layout = Layout::read(root)?;
        let blobs: HashMap<Digest, u64> = blobs::list(root)?.into_iter().collect();
        let mut references: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
        for reference in layout.references() {
            let same = references.entry(reference.index).or_default();
            same.push(reference.clone());
        }
        let mut owners: HashMap<Digest, usize> = HashMap::new();
        let mut images = Vec::new();
        for (index, references) in references {
            let held = held(index, blobs_of(index, &references)?, references, &layout);
            for digest in &held.blobs {
                *owners.entry(*digest).or_default() += 1;
            }
            images.push(held);
        }
        let mut inventory = Self {
            root: root.to_owned(),
            images,
            owners,
            foreign: foreign(root, &layout),
            finished: finished(root)?,
            unfinished: unfinished(root)?,
            index: weight(&root.join("index"))? + weight(&root.join("index.old"))?,
            quarantine: weight(&root.join("quarantine"))?,
            blobs,
        };
        let mut images = std::mem::take(&mut inventory.images);
        for image in &mut images {
            inventory.measure(image, used);
        }
        inventory.images = images;
        Ok(inventory)
    }

    fn measure(&self, image: &mut HeldImage, used: &dyn Fn(&Digest) -> Option<Moment>) {
        let mut last = used(&image.index);
        for digest in &image.blobs {
            let Some(size) = self.blobs.get(digest) else {
                image.missing += 1;
                continue;
            };
            image.size += size;
            if self.is_unique(digest) {
                image.unique += size;
                last = last.max(used(digest));
            }
        }
        image.used = last.map(|ms| UNIX_EPOCH + Duration::from_millis(ms));
    }

    /// Whether one image has a blob, and nothing else.
    fn is_unique(&self, digest: &Digest) -> bool {
        self.owners.get(digest) == Some(&1) && !self.foreign.contains(digest)
    }

    /// The blobs that are there, each in one sum.
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for (digest, size) in &self.blobs {
            let sum = match self.owners.get(digest) {
                Some(1) => &mut sums.unique,
                Some(_) => &mut sums.shared,
                None if self.foreign.contains(digest) => &mut sums.foreign,
                None if self.finished.contains(digest) => &mut sums.unfinished,
                None => &mut sums.loose,
            };
            sum.blobs += 1;
            sum.bytes += size;
        }
        sums
    }

    /// The other images that have a blob of `image`, by the digests of their indexes.
    pub fn sharing<'a>(
        &'a self,
        image: &'a HeldImage,
        blob: &'a Digest,
    ) -> impl Iterator<Item = &'a HeldImage> {
        let others = self
            .images
            .iter()
            .filter(|other| other.index != image.index);
        others.filter(move |other| other.blobs.binary_search(blob).is_ok())
    }

    /// The documents of an image, and the files of its layers; `None` if a document is not there or not what it should be.
    pub fn open(&self, image: &HeldImage) -> Result<Option<Documents>, StoreError> {
        let Some(index) = self.document::<ImageIndex>(&image.index)? else {
            return Ok(None);
        };
        let Some(first) = index.manifests.first() else {
            return Ok(None);
        };
        let Some(manifest) = self.document::<Manifest>(&first.digest)? else {
            return Ok(None);
        };
        let layers = manifest.layers.into_iter().map(|descriptor| {
            Ok(HeldLayer {
                there: self.blobs.contains_key(&descriptor.digest),
                files: self.files(&descriptor)?,
                descriptor,
            })
        });
        let layers = layers.collect::<Result<_, StoreError>>()?;
        Ok(Some(Documents { index, layers }))
    }

    fn document<T: serde::de::DeserializeOwned>(
        &self,
        digest: &Digest,
    ) -> Result<Option<T>, StoreError> {
        let bytes = blobs::read(&self.root, digest)?;
        let bytes = bytes.filter(|bytes| Digest::of(bytes) == *digest);
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// The files of a layer, if its table of contents is there and is the one that its descriptor names.
    fn files(&self, layer: &Descriptor) -> Result<Option<Vec<Content>>, StoreError> {
        let toc = layer
            .annotations
            .get(TOC)
            .and_then(|text| text.parse().ok());
        let Some(toc) = toc else { return Ok(None) };
        let Some((file, size)) = blobs::open(&self.root, &layer.digest)? else {
            return Ok(None);
        };
        let Some(archive) = read_toc(&file, size) else {
            return Ok(None);
        };
        Ok(contents(&archive, &toc))
    }
}

/// The bytes of a layer's table of contents, as its footer says where they are.
fn read_toc(file: &File, size: u64) -> Option<Vec<u8>> {
    let end = size.checked_sub(FOOTER_LEN)?;
    let mut footer = [0; FOOTER_LEN as usize];
    file.read_exact_at(&mut footer, end).ok()?;
    let from = toc_offset(&footer)?;
    let len = end.checked_sub(from).filter(|len| *len <= MAX_TOC)?;
    let mut archive = vec![0; usize::try_from(len).ok()?];
    file.read_exact_at(&mut archive, from).ok()?;
    Some(archive)
}

fn held(
    index: Digest,
    mut blobs: Vec<Digest>,
    references: Vec<Reference>,
    layout: &Layout,
) -> HeldImage {
    blobs.sort_unstable();
    blobs.dedup();
    let keys = references.iter().filter_map(Reference::key);
    let mut known = keys.map(|key| layout.facts.visibility(key.name.repo()));
    // Where names differ, the most closed one counts, and what is not known is not open.
    let first = known.next().flatten();
    let visibility = known.fold(first, |a, b| Some(a?.max(b?)));
    HeldImage {
        index,
        references,
        visibility,
        blobs,
        size: 0,
        unique: 0,
        missing: 0,
        used: None,
    }
}

fn foreign(root: &Path, layout: &Layout) -> HashSet<Digest> {
    let mut found = HashMap::new();
    for top in layout.foreign().iter().filter_map(digest_of) {
        reach(root, top, DEPTH, &mut found);
    }
    found.into_keys().collect()
}

/// The entries of a folder that have a name, with their sizes; none if the folder is not there.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let what = || StoreError::io(format!("listing {}", folder.display()));
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(what()(error)),
    };
    let mut all = Vec::new();
    for entry in listed {
        let entry = entry.map_err(what())?;
        all.push((
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        ));
    }
    Ok(all)
}

/// The layers that unfinished fills have finished.
fn finished(root: &Path) -> Result<HashSet<Digest>, StoreError> {
    let notes = entries(&root.join("staging"))?.into_iter();
    let notes = notes.filter(|(name, _)| name.starts_with(finished::PREFIX));
    let read = notes.filter_map(|(_, path)| fs::read(path).ok());
    let records = read.filter_map(|bytes| serde_json::from_slice::<LayerRecord>(&bytes).ok());
    Ok(records.map(|record| record.descriptor.digest).collect())
}

fn unfinished(root: &Path) -> Result<Unfinished, StoreError> {
    let mut told = Unfinished::default();
    let mut wanted = HashSet::new();
    for (name, path) in entries(&root.join("staging"))? {
        if name.starts_with(orders::PREFIX)
            && let Some(order) = fs::read(&path).ok().and_then(|b| orders::parse(&b))
        {
            told.fills += 1;
            wanted.extend(order.recipes);
        }
        told.bytes += weight(&path)?;
    }
    for (recipe, size) in staging::layers(root)? {
        told.layers += 1;
        told.layer_bytes += size;
        told.resumable += if wanted.contains(&recipe) { size } else { 0 };
    }
    Ok(told)
}

/// Bytes of a file, or of all files below a folder; nothing for what is not there or vanishes meanwhile.
fn weight(path: &Path) -> Result<u64, StoreError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(0);
    };
    if !found.is_dir() {
        return Ok(if found.is_file() { found.len() } else { 0 });
    }
    let inside = entries(path)?.into_iter();
    inside.map(|(_, path)| weight(&path)).sum()
}
