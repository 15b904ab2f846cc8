//! Taking a bundle in: every byte is hostile until the whole of it has been looked at.
//!
//! Blobs are hashed while they are written to staging, and synced. When the archive has ended, and only then, the closure of its images is
//! checked, the blobs are moved into their places, and `index.json` learns of the images. Whatever fails before leaves nothing behind.
//!
//! What is imported is never evicted room for: a bundle that is refused later must not have cost an image.

mod input;
mod publish;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::TryLockError;
use std::time::SystemTime;

use super::budget::{Bytes, Limit, Limits, Reservation};
use super::{Lease, Staging, Store, StoreError, blobs, pump, staging};
use crate::bundle::{
    Archive, ArchiveError, Checked, Contents, Entry, List, MAX_DOCUMENT, OCI_LAYOUT, Part, Refusal,
    check,
};
use crate::layer::Sink;
use crate::oci::Digest;
use input::{Input, Watch, content, skip};

/// The most bytes of documents that are made because the images have one platform only.
const MAX_MADE: u64 = 64 << 20;

/// How a bundle is taken in.
#[derive(Debug, Clone, Copy)]
pub struct ImportOptions {
    /// Whether what an earlier import has verified is not written again, and what this one has verified stays if it is cut off.
    pub resume: bool,
    /// Whether everybody may read what the bundle tells nothing of.
    pub public: bool,
    /// How much room the cache may take.
    pub limits: Limits,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The images, as `NAME:TAG`, in the order of the bundle.
    pub images: Vec<String>,
    /// Blobs that were written.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that were here already.
    pub present: u64,
}

/// Why a bundle was not taken in. Nothing of it is visible then.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is no archive of a bundle, or not the whole of one.
    #[error("the bundle is refused: {0}")]
    Archive(#[from] ArchiveError),
    /// Its content is not what it should be.
    #[error("the bundle is refused: {0}")]
    Content(#[from] Refusal),
    /// There is no room for it.
    #[error(
        "there is no room for this bundle: {needed} are needed, {available} can be had under {limit}; {}", .limit.way_out()
    )]
    NoRoom {
        /// Bytes that are needed.
        needed: Bytes,
        /// Bytes that there are.
        available: Bytes,
        /// What stands in the way.
        limit: Limit,
    },
    /// Nobody wanted to go on.
    #[error("the import was given up")]
    GivenUp,
    /// One is at work already.
    #[error("another bundle is being imported; try again when that is done")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<std::io::Error> for ImportError {
    fn from(error: std::io::Error) -> Self {
        StoreError::io("importing")(error).into()
    }
}

/// Where a blob of the bundle is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Staged,
    /// In its place, as it was before; `proven` if the bundle has its bytes, and not only its name.
    Here {
        proven: bool,
    },
}

/// A bundle on its way in. Dropping it gives up what is staged, unless that is to be kept.
struct Import<'a> {
    store: &'a Store,
    options: ImportOptions,
    blobs: HashMap<Digest, (u64, Place)>,
    leases: Vec<Lease>,
    reservations: Vec<Reservation>,
    /// What was never looked through to its end may be gone on with.
    keep: bool,
}

impl Store {
    /// Takes in the bundle that `source` has from where it stands: a file, or anything else that can be read. `tell` hears how many bytes
    /// of how many are read (0 if that is not known) and gives whether to go on. Blocks. `now` is written into `index.json`.
    pub fn import(
        &self,
        source: File,
        options: ImportOptions,
        now: SystemTime,
        tell: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Imported, ImportError> {
        let _one = match self.importing.try_lock() {
            Ok(one) => one,
            // It guards nothing but itself.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(ImportError::Busy),
        };
        let mut import = Import {
            store: self,
            options,
            blobs: HashMap::new(),
            leases: Vec::new(),
            reservations: Vec::new(),
            keep: false,
        };
        if !options.resume {
            import.forget_earlier()?;
        }
        let mut input = Input::new(source)?;
        if input.is_regular() {
            import.look_ahead(&mut input)?;
        }
        let mut far = (0, 0);
        let mut watch = |done, total| {
            far = (done, total);
            tell(done, total)
        };
        let read = import.read(Watch::new(input, &mut watch));
        let images = read.and_then(|contents| import.check(&contents, &mut || tell(far.0, far.1)));
        import.keep = options.resume && images.as_ref().is_err_and(is_cut_off);
        import.publish(&images?, now)
    }
}

/// Whether a later import may do better: what was read so far was as it should be.
fn is_cut_off(error: &ImportError) -> bool {
    match error {
        ImportError::Archive(error) => !matches!(error, ArchiveError::Entry { .. }),
        ImportError::Content(_) => false,
        ImportError::NoRoom { .. }
        | ImportError::GivenUp
        | ImportError::Busy
        | ImportError::Store(_) => true,
    }
}

/// Under which recipe a blob is staged: none that a layer has.
fn key(digest: &Digest) -> Digest {
    Digest::of(format!("import\0{digest}").as_bytes())
}

impl Import<'_> {
    /// Whether an earlier import has verified a blob.
    fn is_staged(&self, digest: &Digest, size: u64) -> bool {
        staging::is_verified(&self.store.root, &key(digest), digest, size)
    }

    /// Gives up what earlier imports have left.
    fn forget_earlier(&self) -> Result<(), StoreError> {
        for (key, _) in self.store.room.idle() {
            if staging::has_verified(&self.store.root, &key) {
                self.store.discard(&key)?;
            }
        }
        Ok(())
    }

    /// Reads the headers of a file, before a byte is written: whether it is a whole archive, and whether there is room for it.
    fn look_ahead(&mut self, input: &mut Input) -> Result<(), ImportError> {
        let begin = input.position()?;
        let mut archive = Archive::new(&mut *input);
        let mut wanted = Vec::new();
        while let Some(Entry { part, size }) = archive.next_entry()? {
            if let Part::Blob(digest) = part
                && !self.is_staged(&digest, size)
                && !blobs::has(&self.store.root, &digest, size)
            {
                wanted.push((key(&digest), size));
            }
            skip(&mut archive)?;
        }
        input.go_to(begin)?;
        self.reserve(&wanted)
    }

    fn reserve(&mut self, wanted: &[(Digest, u64)]) -> Result<(), ImportError> {
        match self.store.room.claim_under(&self.options.limits, wanted)? {
            Ok(reservation) => self.reservations.push(reservation),
            Err(short) => {
                let needed: u64 = wanted.iter().map(|(_, bytes)| bytes).sum();
                return Err(ImportError::NoRoom {
                    needed: Bytes(needed),
                    available: Bytes(needed.saturating_sub(short.bytes)),
                    limit: short.limit,
                });
            }
        }
        Ok(())
    }

    /// Reads the archive to its end: blobs to staging, and what `index.json` says.
    fn read(&mut self, input: Watch<'_>) -> Result<Contents, ImportError> {
        let mut archive = Archive::new(input);
        let (mut layout, mut contents) = (false, None);
        while let Some(Entry { part, size }) = archive.next_entry()? {
            match part {
                Part::Blob(digest) => self.blob(&mut archive, digest, size)?,
                Part::Layout => {
                    layout = is_layout(&content(&mut archive)?);
                    if !layout {
                        let why = "it is not that of an OCI layout of version 1.0.0";
                        return Err(archive.refuse(why).into());
                    }
                }
                Part::Index => {
                    let parsed = Contents::parse(&content(&mut archive)?);
                    contents = Some(parsed.map_err(|why| archive.refuse(why))?);
                }
            }
        }
        match contents {
            Some(contents) if layout => Ok(contents),
            _ => Err(archive
                .refuse("it has no oci-layout or no index.json")
                .into()),
        }
    }

    /// Takes a blob. One that is known is read all the same: only who has its bytes may give them to an image.
    fn blob(
        &mut self,
        archive: &mut Archive<Watch<'_>>,
        digest: Digest,
        size: u64,
    ) -> Result<(), ImportError> {
        self.leases.push(self.store.lease(&digest));
        let here = blobs::has(&self.store.root, &digest, size);
        if !here {
            self.reserve(&[(key(&digest), size)])?;
        }
        if here || self.is_staged(&digest, size) {
            let hashed = pump::<std::io::Error>(archive, size, &mut |_| Ok(()));
            self.hashed(archive, &digest, hashed.map_err(|e| archive.failed(e))?)?;
        } else {
            self.write(archive, &digest, size)?;
        }
        let place = match here {
            true => Place::Here { proven: true },
            false => Place::Staged,
        };
        self.blobs.insert(digest, (size, place));
        Ok(())
    }

    fn hashed(
        &self,
        archive: &Archive<Watch<'_>>,
        digest: &Digest,
        hashed: Digest,
    ) -> Result<(), ArchiveError> {
        match hashed == *digest {
            true => Ok(()),
            false => Err(archive.refuse(format!("its bytes are those of {hashed}"))),
        }
    }

    /// Writes a blob to staging while it is hashed. It is given up if its bytes are not those of its digest.
    fn write(
        &mut self,
        archive: &mut Archive<Watch<'_>>,
        digest: &Digest,
        size: u64,
    ) -> Result<(), ImportError> {
        let mut staging = self.store.stage(&key(digest), size)?;
        staging.take_back()?;
        let mut at = 0;
        let mut failed = None;
        let hashed = pump::<std::io::Error>(archive, size, &mut |piece| {
            let wrote = staging.write(at, &[piece]);
            at += piece.len() as u64;
            wrote.map_err(|error| {
                failed = Some(error);
                std::io::Error::other("staging")
            })
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        self.hashed(archive, digest, hashed.map_err(|e| archive.failed(e))?)?;
        staging.verified(digest)?;
        Ok(())
    }

    /// The staging of a blob of which every byte was verified.
    fn whole(&self, digest: &Digest, size: u64) -> Result<Staging, StoreError> {
        let lost = || {
            let why = std::io::Error::other("it was lost while it was imported; import it again");
            StoreError::io(format!("publishing the blob {digest}"))(why)
        };
        if !self.is_staged(digest, size) {
            return Err(lost());
        }
        let staging = self.store.stage(&key(digest), size)?;
        match staging.is_found() {
            true => Ok(staging),
            false => Err(lost()),
        }
    }

    /// Follows every image through its documents, and holds what it needs against what the bundle has.
    fn check(
        &mut self,
        contents: &Contents,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Checked>, ImportError> {
        let images = self.follow(contents, go_on)?;
        let mut needed: BTreeMap<Digest, u64> = BTreeMap::new();
        for checked in &images {
            for (digest, size) in &checked.blobs {
                if *needed.entry(*digest).or_insert(*size) != *size {
                    return Err(about(digest, "has two lengths").into());
                }
            }
        }
        for (digest, (size, _)) in &self.blobs {
            match needed.get(digest) {
                None => return Err(about(digest, "belongs to no image of its index.json").into()),
                Some(told) if told != size => {
                    return Err(about(digest, "has another length than is told of it").into());
                }
                Some(_) => {}
            }
        }
        needed.retain(|digest, _| !self.blobs.contains_key(digest));
        self.check_omitted(contents, &List(needed))?;
        self.check_proven(&images)?;
        Ok(images)
    }

    /// Follows every image through its documents. What is made of them stays within bounds, and a name means one image.
    fn follow(
        &self,
        contents: &Contents,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Checked>, ImportError> {
        let (mut images, mut made) = (Vec::new(), 0);
        let (mut titles, mut tops) = (HashMap::new(), HashSet::new());
        for image in &contents.images {
            if !go_on() {
                return Err(ImportError::GivenUp);
            }
            let mut checked = check(image, &mut |digest: &Digest| self.document(digest))?;
            let title = (checked.name.clone(), checked.tag.clone());
            let index = checked.index.0;
            if *titles.entry(title).or_insert(index) != index {
                let title = format!("{}:{}", checked.name, checked.tag);
                return Err(Refusal::new(title, "is the name of two images of the bundle").into());
            }
            // Another tag of the same needs nothing besides.
            if !tops.insert((image.top.digest, checked.name.clone(), checked.layout)) {
                checked.made.clear();
            }
            made += checked.made.iter().map(|d| d.descriptor.size).sum::<u64>();
            if made > MAX_MADE {
                let why = "has too many images of one platform; copy them with all of their platforms (skopeo copy --all), or fewer at once";
                return Err(Refusal::new("the bundle", why).into());
            }
            images.push(checked);
        }
        Ok(images)
    }

    /// What the bundle has not must be what it says that it leaves out, and must be here.
    fn check_omitted(&mut self, contents: &Contents, omitted: &List) -> Result<(), ImportError> {
        for (digest, size) in &omitted.0 {
            self.leases.push(self.store.lease(digest));
            if contents.omits.is_none() {
                return Err(about(digest, "is missing").into());
            }
            if !blobs::has(&self.store.root, digest, *size) {
                let why = "is left out, for the bundle holds only what a former one lacks, and is not here; import the former one first";
                return Err(about(digest, why).into());
            }
            self.blobs
                .insert(*digest, (*size, Place::Here { proven: false }));
        }
        let told = (!omitted.0.is_empty()).then(|| omitted.digest());
        match contents.omits == told {
            true => Ok(()),
            false => Err(Refusal::new("the bundle", "lacks other blobs than it says").into()),
        }
    }

    /// A blob that the bundle only names must be open to who may read the image already: else naming it would open it to them.
    fn check_proven(&self, images: &[Checked]) -> Result<(), ImportError> {
        for image in images {
            let named = |digest: &&Digest| {
                let place = self.blobs.get(digest).map(|(_, place)| *place);
                place == Some(Place::Here { proven: false })
            };
            for digest in image.blobs.keys().filter(named) {
                if !self.store.is_open_to(image.name.repo(), digest)? {
                    let why = "is here, but belongs to other repositories that not everybody may read; export without --since";
                    return Err(about(digest, why).into());
                }
            }
        }
        Ok(())
    }

    /// A document of the bundle, or of those that were here, held against its digest.
    fn document(&self, digest: &Digest) -> Result<Vec<u8>, ImportError> {
        let path = match self.blobs.get(digest) {
            Some((_, Place::Staged)) => self.staged(digest),
            _ => self.store.root.join(blobs::place(digest)),
        };
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(about(digest, "is missing").into());
            }
            file => file.map_err(StoreError::io("opening a document"))?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT + 1)
            .read_to_end(&mut bytes)
            .map_err(StoreError::io("reading a document"))?;
        match bytes.len() as u64 <= MAX_DOCUMENT && Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(about(digest, "is no document, or damaged here").into()),
        }
    }

    fn staged(&self, digest: &Digest) -> PathBuf {
        staging::folder(&self.store.root, &key(digest)).join("layer")
    }
}

impl Drop for Import<'_> {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for (digest, (_, place)) in &self.blobs {
            if *place == Place::Staged
                && let Err(error) = self.store.discard(&key(digest))
            {
                tracing::warn!(%error, "the staging of a refused bundle could not be removed");
            }
        }
    }
}

fn about(digest: &Digest, why: &str) -> Refusal {
    Refusal::new(format!("the blob {digest}"), why)
}

/// Whether the bytes are those of an `oci-layout` that is known.
fn is_layout(bytes: &[u8]) -> bool {
    let parsed = |bytes| serde_json::from_slice::<serde_json::Value>(bytes).ok();
    parsed(bytes).is_some() && parsed(bytes) == parsed(OCI_LAYOUT.as_bytes())
}

#[cfg(test)]
mod tests;
