//! What a former bundle has, told by itself or by its list.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use crate::bundle::{Archive, Entry, List, Part};
use crate::cli::Failure;

/// The blobs of former bundles; `None` if there are none.
pub(super) fn read(files: &[PathBuf]) -> Result<Option<List>, Failure> {
    let mut all = List::default();
    for path in files {
        all.0.extend(one(path)?.0);
    }
    Ok((!files.is_empty()).then_some(all))
}

fn one(path: &Path) -> Result<List, Failure> {
    let fail = || Failure::new(format!("cannot tell what {} has", path.display()));
    let mut file = File::open(path).map_err(|error| fail().from(error))?;
    let mut head = Vec::new();
    (&mut file)
        .take(32)
        .read_to_end(&mut head)
        .and_then(|_| file.rewind())
        .map_err(|error| fail().from(error))?;
    if List::begins(&head) {
        return List::parse(BufReader::new(file)).map_err(|error| fail().from(error));
    }
    let mut list = List::default();
    let mut archive = Archive::new(file);
    let read = loop {
        match archive.next_entry() {
            Ok(Some(Entry { part, size })) => {
                if let Part::Blob(digest) = part {
                    list.0.insert(digest, size);
                }
                if let Err(error) = archive.skip() {
                    break Err(error);
                }
            }
            Ok(None) => break Ok(list),
            Err(error) => break Err(error),
        }
    };
    read.map_err(|error| {
        fail()
            .from(error)
            .next("--since takes a whole bundle, or the list that hf-oci export --list wrote")
    })
}
