//! The list of a bundle: which blobs its images have. It stands for a former bundle that is not at hand any more.
//!
//! ```text
//! # hf-oci bundle
//! sha256:HEX SIZE
//! ```
//!
//! One line a blob, ascending; of an incremental bundle also those that it leaves out.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use super::MAX_BLOBS;
use crate::oci::Digest;

/// The first line.
const HEAD: &str = "# hf-oci bundle";

/// The longest line.
const MAX_LINE: u64 = 200;

/// The blobs that the images of a bundle have, with their lengths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List(pub BTreeMap<Digest, u64>);

/// Why a text is no list.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is something else.
    #[error("line {0} is not of a list of blobs")]
    Line(usize),
}

impl List {
    /// Whether a file that begins so is a list.
    pub fn begins(bytes: &[u8]) -> bool {
        bytes.starts_with(HEAD.as_bytes())
    }

    /// Reads a list.
    pub fn parse(mut input: impl BufRead) -> Result<Self, ListError> {
        let mut list = Self::default();
        let mut line = String::new();
        for number in 1.. {
            line.clear();
            if (&mut input).take(MAX_LINE).read_line(&mut line)? == 0 {
                match number {
                    1 => return Err(ListError::Line(1)),
                    _ => break,
                }
            }
            let text = line.trim_end();
            if number == 1 || text.is_empty() {
                match text == HEAD || number > 1 {
                    true => continue,
                    false => return Err(ListError::Line(number)),
                }
            }
            let blob = text.split_once(' ');
            let blob = blob.and_then(|(d, s)| Some((d.parse().ok()?, s.parse().ok()?)));
            let (digest, size) = blob.ok_or(ListError::Line(number))?;
            list.0.insert(digest, size);
            if list.0.len() > MAX_BLOBS {
                return Err(ListError::Line(number));
            }
        }
        Ok(list)
    }

    /// The text.
    pub fn render(&self) -> String {
        let lines = self.0.iter().map(|(d, size)| format!("{d} {size}\n"));
        std::iter::once(format!("{HEAD}\n")).chain(lines).collect()
    }

    /// The digest that stands for the blobs.
    pub fn digest(&self) -> Digest {
        Digest::of(self.render().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_back_and_nothing_else_is_one() {
        let list = List([(Digest::of(b"a"), 1), (Digest::of(b"b"), 1 << 40)].into());
        let text = list.render();
        assert!(List::begins(text.as_bytes()));
        assert_eq!(List::parse(text.as_bytes()).expect("a list"), list);
        let cut = &text[..text.len() - 70];
        for bad in ["", "sha256:00 1\n", &format!("{HEAD}\nsha256:00 1\n"), cut] {
            assert!(List::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
