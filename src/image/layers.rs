//! How files become layers, and what a layer is made of.

use std::fmt;
use std::str::FromStr;

use fused_sha256::Sha256;

use crate::layer::FORMAT;
use crate::oci::Digest;
use crate::repo::{ContentId, Entry};

/// A file of this many bytes or more is large and gets a layer of its own.
const LARGE: u64 = 256 << 20;

/// The most bytes of small files that share a layer.
const BUCKET: u64 = 4 << 30;

/// The most layers of large files.
const MAX_LARGE: usize = 96;

/// An image stays under 100 layers: clients do not stack many more.
const MAX_LAYERS: usize = 99;

/// How a repository is cut into layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Large files in layers of their own, in path order; then the others.
    #[default]
    Split,
    /// Everything in one layer.
    Single,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Split => "split",
            Self::Single => "single",
        })
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "split" => Ok(Self::Split),
            "single" => Ok(Self::Single),
            _ => Err(format!(
                "'{text}' is no layout: 'split' or 'single' is wanted"
            )),
        }
    }
}

/// Cuts `files` (ascending by path) into layers, the lowest first. Each layer's files are ascending by path; none is empty.
pub fn split(files: Vec<Entry>, layout: Layout) -> Vec<Vec<Entry>> {
    if layout == Layout::Single {
        return vec![files];
    }
    let (large, small): (Vec<_>, Vec<_>) = files.into_iter().partition(|f| f.size >= LARGE);
    let mut layers: Vec<Vec<Entry>> = if large.is_empty() {
        Vec::new()
    } else {
        let run = large.len().div_ceil(MAX_LARGE);
        large.chunks(run).map(<[Entry]>::to_vec).collect()
    };
    let room = MAX_LAYERS - layers.len();
    layers.extend(buckets(small, room as u64));
    layers
}

/// Deals small files into as many layers as a power of two needs, at most `room` of them.
fn buckets(files: Vec<Entry>, room: u64) -> Vec<Vec<Entry>> {
    let total: u64 = files.iter().map(|f| f.size).sum();
    let mut count = 1;
    while total > count * BUCKET && 2 * count <= room {
        count *= 2;
    }
    let mut out = vec![Vec::new(); count as usize];
    for file in files {
        let [a, b, c, d, e, f, g, h, ..] = *Digest::of(file.path.as_str().as_bytes()).as_bytes();
        let bucket = u64::from_be_bytes([a, b, c, d, e, f, g, h]) % count;
        out[bucket as usize].push(file);
    }
    out.retain(|bucket| !bucket.is_empty());
    out
}

/// What a layer is made of: the SHA-256 over the format's number and the ordered (path, size, content id) list.
pub fn recipe(files: &[Entry]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(b"hf-oci layer\0");
    hash.update(&FORMAT.to_be_bytes());
    for file in files {
        let path = file.path.as_str().as_bytes();
        hash.update(&(path.len() as u64).to_be_bytes());
        hash.update(path);
        hash.update(&file.size.to_be_bytes());
        match &file.content {
            ContentId::Git(id) => {
                hash.update(&[0]);
                hash.update(id);
            }
            ContentId::Sha256(digest) => {
                hash.update(&[1]);
                hash.update(digest.as_bytes());
            }
        }
    }
    Digest::from_bytes(hash.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::FilePath;

    fn entry(path: &str, size: u64) -> Entry {
        Entry {
            path: FilePath::new(path).expect("a path"),
            size,
            content: ContentId::Git([0; 20]),
        }
    }

    fn paths(layers: &[Vec<Entry>]) -> Vec<Vec<&str>> {
        layers
            .iter()
            .map(|l| l.iter().map(|f| f.path.as_str()).collect())
            .collect()
    }

    #[test]
    fn large_files_come_first_and_small_ones_share_the_last_layer() {
        let files = vec![
            entry("a", 1),
            entry("b", LARGE),
            entry("c", LARGE - 1),
            entry("d", LARGE + 1),
        ];
        assert_eq!(
            paths(&split(files, Layout::Split)),
            [vec!["b"], vec!["d"], vec!["a", "c"]]
        );
    }

    #[test]
    fn the_single_layout_is_one_layer() {
        let files = vec![entry("a", 1), entry("b", LARGE)];
        assert_eq!(paths(&split(files, Layout::Single)), [["a", "b"]]);
    }

    #[test]
    fn more_than_96_large_files_share_layers_in_runs() {
        let files: Vec<_> = (0..100).map(|i| entry(&format!("{i:03}"), LARGE)).collect();
        let layers = split(files, Layout::Split);
        assert_eq!(layers.len(), 50);
        assert!(layers.iter().all(|l| l.len() == 2));
    }

    #[test]
    fn many_small_files_go_into_buckets_and_no_image_passes_99_layers() {
        let file = |i: usize| entry(&format!("{i:05}"), LARGE - 1);
        let files: Vec<_> = (0..40).map(file).collect();
        assert_eq!(split(files, Layout::Split).len(), 4);
        let files: Vec<_> = (0..2_000).map(file).collect();
        let layers = split(files, Layout::Split);
        assert_eq!(layers.len(), 64);
        assert_eq!(layers.iter().map(Vec::len).sum::<usize>(), 2_000);
        let mut files: Vec<_> = (0..2_000).map(file).collect();
        files.extend((0..96).map(|i| entry(&format!("large{i:02}"), LARGE)));
        assert_eq!(split(files, Layout::Split).len(), 98);
    }

    #[test]
    fn a_recipe_tells_paths_sizes_contents_and_their_borders_apart() {
        let other = Entry {
            content: ContentId::Git([1; 20]),
            ..entry("a", 1)
        };
        let recipes = [
            recipe(&[entry("a", 1)]),
            recipe(&[entry("b", 1)]),
            recipe(&[entry("a", 2)]),
            recipe(&[other]),
            recipe(&[entry("a", 1), entry("b", 1)]),
        ];
        let unique: std::collections::BTreeSet<_> = recipes.iter().collect();
        assert_eq!(unique.len(), recipes.len());
    }
}
