//! What a local folder is: repositories, or a cache of the Hub's clients.

use std::io;
use std::path::{Path, PathBuf};

use super::beneath::{self, Item};
use super::cache;

/// What a client writes into its cache before anything else.
const FIRST: [&str; 2] = ["version.txt", "CACHEDIR.TAG"];

/// What lies in a local folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalKind {
    /// Repositories, as `ORG/NAME`, `datasets/ORG/NAME` and `spaces/ORG/NAME`.
    Folder,
    /// A cache of the Hub's clients: `models--ORG--NAME` and so on.
    Cache,
}

impl LocalKind {
    /// Looks at a folder: what it is, and where that is.
    ///
    /// It is a cache if it has a folder of the form `models--ORG--NAME`, or is called `hub`. It is the home of one, which is its folder
    /// `hub`, if that has such a folder or nothing, if it is called `huggingface`, or if it has what a client puts beside: a file
    /// `token`, a folder `xet`. A cache may be empty still, and must not be taken for a folder that everybody may read. Blocks.
    pub fn of(path: &Path) -> io::Result<(Self, PathBuf)> {
        let top = beneath::top(path)?;
        let names = beneath::names(&top)?.text;
        let called = |name| path.file_name().is_some_and(|is| is == name);
        if names.iter().any(|name| cache::is_repository(name)) || called("hub") {
            return Ok((Self::Cache, path.to_owned()));
        }
        let hub = path.join("hub");
        let beside = matches!(beneath::item(&top, "token")?, Some(Item::File(_)))
            || matches!(beneath::item(&top, "xet")?, Some(Item::Folder(_)));
        Ok(match called("huggingface") || beside || is_cache(&hub)? {
            true => (Self::Cache, hub),
            false => (Self::Folder, path.to_owned()),
        })
    }
}

/// Whether a folder `hub` is a cache: it has repositories of one, or nothing but what a client writes first. It may be a link to where
/// there is more room: that is its owner's word, as the path above it is.
fn is_cache(hub: &Path) -> io::Result<bool> {
    let names = match beneath::top(hub) {
        Ok(hub) => beneath::names(&hub)?,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(false),
                _ => Err(error),
            };
        }
    };
    let first = |name: &String| name.starts_with('.') || FIRST.contains(&name.as_str());
    let repositories = names.text.iter().any(|name| cache::is_repository(name));
    Ok(repositories || (names.other.is_none() && names.text.iter().all(first)))
}
