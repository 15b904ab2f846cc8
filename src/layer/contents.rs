//! Reading back which files a finished layer holds, from its table of contents alone.

use std::io::Read;

use serde::Deserialize;

use super::member::FOOTER;
use super::toc;
use crate::oci::Digest;

/// Bytes at the end of a blob that say where its table of contents begins.
pub const FOOTER_LEN: u64 = FOOTER;

/// The longest table of contents that is read.
const MAX_TOC: u64 = 128 << 20;

/// A file of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its path, as the table of contents has it: of a layer that others made, anything.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
}

#[derive(Deserialize)]
struct Toc {
    entries: Vec<TocEntry>,
}

#[derive(Deserialize)]
struct TocEntry {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    size: u64,
}

/// Where the table of contents begins, as the last [`FOOTER_LEN`] bytes of a blob tell; `None` if they are no footer.
pub fn toc_offset(footer: &[u8]) -> Option<u64> {
    let told = footer.get(16..38)?;
    let hex = std::str::from_utf8(told).ok()?.strip_suffix("STARGZ")?;
    u64::from_str_radix(hex, 16).ok()
}

/// The regular files of a layer, in the order of its table of contents. `archive` are the blob's bytes from the table's member on;
/// `None` if they do not hold the table of this digest.
pub fn contents(archive: &[u8], toc: &Digest) -> Option<Vec<Content>> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let entry = archive.entries().ok()?.next()?.ok()?;
    if entry.path_bytes() != toc::NAME.as_bytes() || entry.size() > MAX_TOC {
        return None;
    }
    let mut json = Vec::new();
    entry.take(MAX_TOC).read_to_end(&mut json).ok()?;
    if Digest::of(&json) != *toc {
        return None;
    }
    let parsed: Toc = serde_json::from_slice(&json).ok()?;
    let files = parsed.entries.into_iter().filter(|e| e.kind == "reg");
    let content = |entry: TocEntry| Content {
        path: entry.name,
        size: entry.size,
    };
    Some(files.map(content).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Plan, Sealer, Sink};
    use super::*;
    use crate::repo::{ContentId, Entry, FilePath};

    struct Blob(Vec<u8>);

    impl Sink for Blob {
        type Error = std::convert::Infallible;

        fn write(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), Self::Error> {
            assert_eq!(self.0.len() as u64, offset);
            parts.iter().for_each(|part| self.0.extend_from_slice(part));
            Ok(())
        }
    }

    /// A layer of an empty file and one in a folder, and the digest of its table of contents.
    fn layer() -> (Vec<u8>, Digest) {
        let data = b"hello";
        let git = |bytes: &[u8]| {
            use sha1::Digest as _;
            let head = format!("blob {}\0", bytes.len());
            let hash = sha1::Sha1::new().chain_update(head).chain_update(bytes);
            ContentId::Git(hash.finalize().into())
        };
        let entry = |path: &str, bytes: &[u8]| Entry {
            path: FilePath::new(path).expect("a path"),
            size: bytes.len() as u64,
            content: git(bytes),
        };
        let plan = Arc::new(Plan::new(vec![entry("a", b""), entry("d/b", data)]));
        let mut blob = Blob(Vec::new());
        let mut sealer = Sealer::new(Arc::clone(&plan));
        for chunk in plan.chunks() {
            sealer.chunk(chunk, data, &mut blob).expect("right bytes");
        }
        let sealed = sealer.finish(&mut blob).expect("sealed");
        (blob.0, sealed.toc)
    }

    #[test]
    fn the_files_of_a_sealed_layer_are_read_back_from_its_end() {
        let (blob, toc) = layer();
        let footer = &blob[blob.len() - FOOTER_LEN as usize..];
        let from = toc_offset(footer).expect("a footer") as usize;
        let files = contents(&blob[from..], &toc).expect("a table");
        let files: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.size)).collect();
        assert_eq!(files, [("a", 0), ("d/b", 5)]);
    }

    #[test]
    fn a_table_of_another_digest_or_no_table_at_all_tells_nothing() {
        let (blob, toc) = layer();
        let footer = &blob[blob.len() - FOOTER_LEN as usize..];
        let from = toc_offset(footer).expect("a footer") as usize;
        assert_eq!(contents(&blob[from..], &Digest::of(b"another")), None);
        assert_eq!(contents(&blob[from + 1..], &toc), None);
        assert_eq!(contents(b"", &toc), None);
        for bad in [&b""[..], &[0; 51], &blob[..51]] {
            assert_eq!(toc_offset(bad), None);
        }
    }
}
