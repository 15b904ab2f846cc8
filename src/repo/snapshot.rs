//! The files of a commit, checked: whatever a [`Snapshot`] holds can be unpacked on Linux without surprise.

use std::fmt;

use super::ContentId;

/// A file's path inside a repository, safe to unpack.
///
/// Relative, `/`-separated, at most 4,095 bytes, each component 1 to 255 bytes, no `.` or `..`, no control characters, no component that
/// begins with `.wh.` (a deletion to every unpacker), and not one of the three names that eStargz reserves at the root.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(Box<str>);

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub path: FilePath,
    /// Its length in bytes.
    pub size: u64,
    /// What its bytes must hash to.
    pub content: ContentId,
}

/// The files of a commit, ascending by the bytes of their paths; no path is twice, and none is a folder of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(Vec<Entry>);

/// Content that no image can hold; names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// The path breaks a rule of [`FilePath`].
    #[error("the file {path:?} cannot be put into an image: {why}")]
    Path {
        /// The path, clipped.
        path: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// The path is listed twice.
    #[error("the file {0:?} is listed twice")]
    Twice(String),
    /// One path is a file and a folder at once.
    #[error("{0:?} is a file and, for {1:?}, a folder")]
    Clash(String, String),
    /// The file's size does not fit the format.
    #[error("with the file {path:?} there are {size} bytes, more than an image can hold")]
    Size {
        /// The path.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
}

/// The largest file that is taken: 1 TiB, twice the Hub's own limit.
pub const MAX_FILE: u64 = 1 << 40;

/// The largest sum of the files' sizes that is taken: 64 TiB. Far below any overflow of an offset, and what lists every chunk stays small.
const MAX_TOTAL: u64 = 64 << 40;

/// The most components of a path: each folder is an entry of its own, with its whole name.
const MAX_DEPTH: usize = 64;

impl FilePath {
    /// Checks `path`.
    pub fn new(path: &str) -> Result<Self, ContentError> {
        check_path(path).map_err(|why| ContentError::Path {
            path: path.chars().take(200).collect(),
            why,
        })?;
        Ok(Self(path.into()))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("the path is empty");
    }
    if path.len() > 4095 {
        return Err("the path is longer than 4,095 bytes");
    }
    if path.starts_with('/') {
        return Err("the path is absolute");
    }
    if path.chars().any(char::is_control) {
        return Err("the path has a control character");
    }
    if path.split('/').count() > MAX_DEPTH {
        return Err("the path has more than 64 components");
    }
    let first = path.split('/').next().unwrap_or(path);
    if matches!(
        first,
        "stargz.index.json" | ".prefetch.landmark" | ".no.prefetch.landmark"
    ) {
        return Err("the name is reserved by the eStargz format");
    }
    path.split('/').try_for_each(check_component)
}

fn check_component(component: &str) -> Result<(), &'static str> {
    match component {
        "" => Err("the path has an empty component"),
        "." | ".." => Err("the path has a '.' or '..' component"),
        _ if component.len() > 255 => Err("a component is longer than 255 bytes"),
        _ if component.starts_with(".wh.") => {
            Err("names that begin with '.wh.' mean deletions in an image")
        }
        _ => Ok(()),
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Snapshot {
    /// Orders and checks `files`.
    pub fn new(mut files: Vec<Entry>) -> Result<Self, ContentError> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        if let Some(file) = files.iter().find(|f| f.size > MAX_FILE) {
            return Err(ContentError::Size {
                path: file.path.to_string(),
                size: file.size,
            });
        }
        let total = files.iter().map(|f| f.size).sum::<u64>();
        if let Some(file) = files.last().filter(|_| total > MAX_TOTAL) {
            return Err(ContentError::Size {
                path: file.path.to_string(),
                size: total,
            });
        }
        for pair in files.windows(2) {
            if pair[0].path == pair[1].path {
                return Err(ContentError::Twice(pair[0].path.to_string()));
            }
        }
        for file in &files {
            let path = file.path.as_str();
            for (end, _) in path.match_indices('/') {
                let folder = &path[..end];
                if files
                    .binary_search_by(|f| f.path.as_str().cmp(folder))
                    .is_ok()
                {
                    return Err(ContentError::Clash(folder.to_owned(), path.to_owned()));
                }
            }
        }
        Ok(Self(files))
    }

    /// The files, ascending by the bytes of their paths.
    pub fn files(&self) -> &[Entry] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            path: FilePath::new(path).expect(path),
            size: 1,
            content: ContentId::Git([0; 20]),
        }
    }

    #[test]
    fn hostile_paths_are_refused_with_their_reason() {
        let long = "x".repeat(256);
        for path in [
            "",
            "/x",
            "../x",
            "a/../x",
            "a//b",
            "a/",
            ".",
            "./a",
            ".wh.x",
            "a/.wh..wh..opq",
            "a\0b",
            "a\nb",
            "stargz.index.json",
            &long,
        ] {
            assert!(FilePath::new(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn names_with_spaces_signs_and_other_alphabets_are_kept() {
        for path in [
            "a b",
            "x#y?z%20",
            "ÿé/日本.txt",
            "..a",
            "a..b/...",
            "sub/stargz.index.json",
            "wh.x",
        ] {
            assert!(FilePath::new(path).is_ok(), "{path:?}");
        }
    }

    #[test]
    fn a_file_beside_a_folder_of_its_name_is_a_clash() {
        let files = vec![entry("a"), entry("a-b"), entry("a/b")];
        assert_eq!(
            Snapshot::new(files),
            Err(ContentError::Clash("a".into(), "a/b".into()))
        );
    }

    #[test]
    fn a_path_listed_twice_is_refused() {
        assert_eq!(
            Snapshot::new(vec![entry("a"), entry("a")]),
            Err(ContentError::Twice("a".into()))
        );
    }

    #[test]
    fn files_are_ordered_by_the_bytes_of_their_paths() {
        let snapshot =
            Snapshot::new(vec![entry("é"), entry("a/b"), entry("a-b"), entry("Z")]).expect("valid");
        let order: Vec<_> = snapshot.files().iter().map(|f| f.path.as_str()).collect();
        assert_eq!(order, ["Z", "a-b", "a/b", "é"]);
    }
}
