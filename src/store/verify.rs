//! Verification: every blob is hashed again, and what is wrong is moved aside, so that it is fetched again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};

use fused_sha256::Sha256;

use super::{Reference, Store, StoreError, blobs};
use crate::oci::Digest;

/// Bytes read at once.
const STEP: usize = 1 << 20;

/// Bytes of a blob after which the watcher is asked whether to go on.
const ASKED: u64 = 64 << 20;

/// What is wrong with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its bytes are not those of its digest.
    Bad,
    /// It cannot be read.
    Unreadable,
    /// It is not there.
    Missing,
}

impl Fault {
    /// The label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Unreadable => "unreadable",
            Self::Missing => "missing",
        }
    }
}

/// A blob that is not what it should be.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Which one.
    pub digest: Digest,
    /// What is wrong with it.
    pub fault: Fault,
    /// Its length: of the file, or as its image tells it.
    pub size: u64,
    /// The references whose images have it.
    pub references: Vec<Reference>,
}

/// What a verification tells while it is at work. Each gives whether to go on.
pub trait Watcher {
    /// This much of this many bytes is hashed.
    fn progress(&mut self, done: u64, total: u64) -> bool;
    /// A blob is wrong.
    fn found(&mut self, finding: &Finding) -> bool;
}

/// How a verification ended.
#[derive(Debug, Default)]
pub struct Verified {
    /// Blobs that were hashed.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Whether it came to its end.
    pub whole: bool,
}

impl Verified {
    /// The references whose images are not whole, each image once.
    pub fn damaged(&self) -> Vec<Reference> {
        let mut images = BTreeMap::new();
        for reference in self.findings.iter().flat_map(|f| &f.references) {
            let key = (reference.name.clone(), reference.commit.to_string());
            images.entry(key).or_insert_with(|| reference.clone());
        }
        images.into_values().collect()
    }
}

impl Store {
    /// Hashes every published blob, and looks for those that images lack. With `repair`, what is wrong is moved to `quarantine` in the
    /// data directory: the images that had it are not whole any more, and are filled again when they are asked for.
    pub fn verify(&self, repair: bool, watcher: &mut dyn Watcher) -> Result<Verified, StoreError> {
        let mut verified = Verified::default();
        let owners = self.owners()?;
        let all = blobs::list(&self.root)?;
        let total = all.iter().map(|(_, size)| size).sum();
        let mut buffer = vec![0; STEP];
        for (digest, size) in all {
            let done = verified.bytes;
            let mut go_on = |hashed| watcher.progress(done + hashed, total);
            let fault = match self.check(&digest, &mut buffer, &mut go_on)? {
                Checked::Done(fault) => fault,
                // It was evicted meanwhile.
                Checked::Gone => continue,
                Checked::GivenUp => return Ok(verified),
            };
            verified.blobs += 1;
            verified.bytes += size;
            if let Some(fault) = fault {
                let finding = Finding {
                    digest,
                    fault,
                    size,
                    references: owners.get(&digest).cloned().unwrap_or_default(),
                };
                if repair {
                    self.quarantine(&finding)?;
                }
                let go_on = watcher.found(&finding);
                verified.findings.push(finding);
                if !go_on {
                    return Ok(verified);
                }
            }
            if !watcher.progress(verified.bytes, total) {
                return Ok(verified);
            }
        }
        self.look_for_missing(&mut verified, watcher)?;
        verified.whole = true;
        Ok(verified)
    }

    /// What is wrong with a blob. An error tells of the process or the system, and nothing of the blob.
    fn check(
        &self,
        digest: &Digest,
        buffer: &mut [u8],
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Checked, StoreError> {
        let hashed = match blobs::open(&self.root, digest) {
            Ok(None) => return Ok(Checked::Gone),
            Ok(Some((file, _))) => hash(file, buffer, go_on)
                .map_err(StoreError::io(format!("reading {}", blobs::place(digest)))),
            Err(error) => Err(error),
        };
        match hashed {
            Ok(Some(hashed)) => Ok(Checked::Done((hashed != *digest).then_some(Fault::Bad))),
            Ok(None) => Ok(Checked::GivenUp),
            Err(StoreError::Io { what, source }) if is_of_the_disk(&source) => {
                tracing::error!(%digest, error = %source, "{what}: a blob cannot be read");
                Ok(Checked::Done(Some(Fault::Unreadable)))
            }
            Err(error) => Err(error),
        }
    }

    /// The references of each blob.
    fn owners(&self) -> Result<HashMap<Digest, Vec<Reference>>, StoreError> {
        let writing = self.lock_writing();
        let mut owners: HashMap<Digest, Vec<Reference>> = HashMap::new();
        for image in self.cached(&writing)? {
            for (digest, _) in &image.blobs {
                let references = owners.entry(*digest).or_default();
                references.extend(image.references.iter().cloned());
            }
        }
        Ok(owners)
    }

    fn look_for_missing(
        &self,
        verified: &mut Verified,
        watcher: &mut dyn Watcher,
    ) -> Result<(), StoreError> {
        let known: BTreeSet<Digest> = verified.findings.iter().map(|f| f.digest).collect();
        let mut missing: BTreeMap<Digest, Finding> = BTreeMap::new();
        let writing = self.lock_writing();
        for image in self.cached(&writing)? {
            for (digest, size) in &image.blobs {
                if known.contains(digest) || self.root.join(blobs::place(digest)).exists() {
                    continue;
                }
                let finding = missing.entry(*digest).or_insert_with(|| Finding {
                    digest: *digest,
                    fault: Fault::Missing,
                    size: *size,
                    references: Vec::new(),
                });
                finding.references.extend(image.references.iter().cloned());
            }
        }
        drop(writing);
        for finding in missing.into_values() {
            watcher.found(&finding);
            verified.findings.push(finding);
        }
        Ok(())
    }

    /// Moves a bad blob aside. Whoever reads it now goes on reading it.
    fn quarantine(&self, finding: &Finding) -> Result<(), StoreError> {
        let folder = self.root.join("quarantine");
        fs::create_dir_all(&folder).map_err(StoreError::io("making quarantine"))?;
        let _writing = self.lock_writing();
        let target = folder.join(finding.digest.hex());
        self.hot.gone(&finding.digest);
        if let Some(size) = blobs::move_to(&self.root, &finding.digest, &target)? {
            self.room.removed(size);
            tracing::warn!(digest = %finding.digest, "a bad blob is moved to quarantine");
        }
        Ok(())
    }
}

/// Whether an error tells that the disk has lost a file's bytes. Others pass, such as that of too many open files.
fn is_of_the_disk(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let lost = [
        Errno::IO,
        Errno::BADMSG,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        Errno::UCLEAN,
        #[cfg(any(target_os = "linux", target_os = "android"))]
        Errno::REMOTEIO,
    ];
    Errno::from_io_error(error).is_some_and(|errno| lost.contains(&errno))
}

/// How the hashing of a blob ended.
enum Checked {
    Done(Option<Fault>),
    Gone,
    GivenUp,
}

/// Hashes a file; `None` if it was not to go on.
fn hash(
    mut file: File,
    buffer: &mut [u8],
    go_on: &mut dyn FnMut(u64) -> bool,
) -> io::Result<Option<Digest>> {
    let mut hasher = Sha256::new();
    let (mut done, mut asked) = (0, 0);
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(Some(Digest::from_bytes(hasher.finish()))),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                done += n as u64;
                if done - asked >= ASKED {
                    asked = done;
                    if !go_on(done) {
                        return Ok(None);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn only_what_the_disk_has_lost_is_a_fault_of_a_blob() {
        for lost in [Errno::IO, Errno::BADMSG] {
            assert!(is_of_the_disk(&lost.into()), "{lost}");
        }
        for passing in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS] {
            assert!(!is_of_the_disk(&passing.into()), "{passing}");
        }
    }
}
