//! GGUF quantisations: which of them a repository has, and which files one of them needs.
//!
//! A quantisation is read from the name of a file, by words: `model-Q4_K_M.gguf` and `model.q4_k_m-00001-of-00002.gguf` are `q4_k_m`, and
//! nothing of it is ever cut off, so `q4_k` does not mean them. What is written in `docs/names.md` is held here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::select::shown;
use crate::repo::Entry;

/// Files that are no weights and smaller than this go with every quantisation.
const SMALL: u64 = 64 << 20;

/// Extensions of weights, which are never small files, however small they are.
const WEIGHTS: [&str; 16] = [
    "bin",
    "ckpt",
    "engine",
    "ggml",
    "h5",
    "msgpack",
    "npz",
    "onnx",
    "onnx_data",
    "ot",
    "pb",
    "pt",
    "pth",
    "safetensors",
    "tflite",
    "llamafile",
];

/// The most quantisations that a repository is taken to have, and the most that an error lists.
const MOST: usize = 256;
const SHOWN: usize = 64;

/// The most parts of a name behind `q4`, and the most characters of one.
const PARTS: usize = 6;
const PART: usize = 3;

/// A quantisation, in lower case: `q4_k_m`, `iq4_xs`, `ud-q4_k_xl`, `bf16`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Quantisation(Arc<str>);

/// A text that is no quantisation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not called as a GGUF quantisation is")]
pub struct QuantisationError(String);

impl Quantisation {
    /// The quantisation, in lower case. It is a tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Quantisation {
    type Err = QuantisationError;

    /// Reads it in any letter case.
    fn from_str(text: &str) -> Result<Self, QuantisationError> {
        let whole = |q: &Self| q.0.len() == text.len();
        let read = (text.len() <= 64).then(|| last_in(text)).flatten();
        read.filter(whole)
            .ok_or_else(|| QuantisationError(text.chars().take(100).collect()))
    }
}

impl fmt::Display for Quantisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the name of a `.gguf` file says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Gguf {
    /// A model, or a part of one: which quantisation, and the path without what tells the parts apart.
    Model(Quantisation, String),
    /// What lets a model see or hear: its path without the quantisation.
    Projector(Option<Quantisation>, String),
    /// Anything else.
    Other,
}

/// Why a quantisation selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// No file of this quantisation.
    #[error("there is no GGUF quantisation '{wanted}'; {}", .exist.as_ref().map_or_else(|| "there are none at all".to_owned(), |e| format!("it has {e}")))]
    Nothing {
        /// What was asked for.
        wanted: Quantisation,
        /// What there is; `None` if there is none.
        exist: Option<String>,
    },
    /// Several models have it.
    #[error(
        "several models have the quantisation '{wanted}': {models}; put the path of one behind the repository's name to choose it"
    )]
    Ambiguous {
        /// What was asked for.
        wanted: Quantisation,
        /// The models.
        models: String,
    },
}

/// The files that a quantisation needs, in the order of `files`: all parts of the one model that has it, one projector for each model that
/// has some, and the small files.
pub(super) fn of(files: &[Entry], wanted: &Quantisation) -> Result<Vec<Entry>, GgufError> {
    let named: Vec<Option<Gguf>> = files.iter().map(|f| read(f.path.as_str())).collect();
    let mut models = BTreeSet::new();
    let mut exist = BTreeSet::new();
    for gguf in named.iter().flatten() {
        if let Gguf::Model(quantisation, model) = gguf {
            exist.insert(quantisation.as_str());
            if quantisation == wanted {
                models.insert(model.as_str());
            }
        }
    }
    if models.len() > 1 {
        return Err(GgufError::Ambiguous {
            wanted: wanted.clone(),
            models: shown(&models.into_iter().collect::<Vec<_>>(), SHOWN),
        });
    }
    if models.is_empty() {
        let exist: Vec<&str> = exist.into_iter().collect();
        return Err(GgufError::Nothing {
            wanted: wanted.clone(),
            exist: (!exist.is_empty()).then(|| shown(&exist, SHOWN)),
        });
    }
    let projectors = projectors(files, &named);
    let needed = |(file, gguf): &(&Entry, &Option<Gguf>)| match gguf {
        Some(Gguf::Model(quantisation, _)) => quantisation == wanted,
        Some(Gguf::Projector(..)) => projectors.contains(file.path.as_str()),
        Some(Gguf::Other) => false,
        None => is_small(file),
    };
    let files = files.iter().zip(&named).filter(needed);
    Ok(files.map(|(file, _)| file.clone()).collect())
}

/// The quantisations that one model of `files` has, sorted, each once: those that are a tag, as far as they can be counted.
pub(super) fn all(files: &[Entry]) -> Vec<Quantisation> {
    let mut models: BTreeMap<Quantisation, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        if let Some(Gguf::Model(quantisation, model)) = read(file.path.as_str()) {
            models.entry(quantisation).or_default().insert(model);
        }
    }
    models.retain(|_, models| models.len() == 1);
    models.into_keys().take(MOST).collect()
}

/// Of the projectors that differ in their quantisation only, one: the f16, else the bf16, else the first.
fn projectors<'a>(files: &'a [Entry], named: &[Option<Gguf>]) -> BTreeSet<&'a str> {
    let mut best: BTreeMap<&str, (u8, &str)> = BTreeMap::new();
    for (file, gguf) in files.iter().zip(named) {
        if let Some(Gguf::Projector(quantisation, model)) = gguf {
            let rank = match quantisation.as_ref().map(Quantisation::as_str) {
                Some("f16" | "fp16") => 0,
                Some("bf16") => 1,
                _ => 2,
            };
            let this = (rank, file.path.as_str());
            let kept = best.entry(model).or_insert(this);
            *kept = this.min(*kept);
        }
    }
    best.into_values().map(|(_, path)| path).collect()
}

/// Whether a file that is no GGUF goes with every quantisation.
fn is_small(file: &Entry) -> bool {
    let name = file_name(file.path.as_str());
    let weights = name.rsplit_once('.').is_some_and(|(_, extension)| {
        WEIGHTS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    });
    file.size < SMALL && !weights
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What the path of a file says; `None` if it is no GGUF.
fn read(path: &str) -> Option<Gguf> {
    let whole = without_parts(path)?;
    let name = file_name(whole);
    let folder = &whole[..whole.len() - name.len()];
    // The name itself counts before the folders, the inner ones before the outer ones.
    let parts = std::iter::once(name).chain(folder.rsplit('/'));
    let found = parts.filter_map(last_in).next();
    let lower = whole.to_ascii_lowercase();
    if lower.contains("mmproj") {
        let model = match &found {
            Some(quantisation) => lower.replace(quantisation.as_str(), "*"),
            None => lower,
        };
        return Some(Gguf::Projector(found, model));
    }
    Some(found.map_or(Gguf::Other, |q| Gguf::Model(q, whole.to_owned())))
}

/// The path of a GGUF without `.gguf`, and without what tells the parts of a split one apart: `-00001-of-00002`, or `.part1of2` at the end.
/// `None` if it is none.
fn without_parts(path: &str) -> Option<&str> {
    let strip = |path: &str| {
        let (stem, extension) = path.rsplit_once('.')?;
        extension.eq_ignore_ascii_case("gguf").then_some(stem.len())
    };
    let part = |(_, end): &(&str, &str)| {
        let numbers = end.strip_prefix("part");
        numbers.is_some_and(|numbers| is_part(numbers, "of"))
    };
    let cut = match path.rsplit_once('.').filter(part) {
        Some((whole, _)) => strip(whole)?,
        None => strip(path)?,
    };
    let stem = &path[..cut];
    let split = stem.char_indices().rev().filter(|(_, c)| *c == '-').nth(2);
    Some(match split {
        Some((at, _)) if is_part(&stem[at + 1..], "-of-") => &stem[..at],
        _ => stem,
    })
}

/// Whether a text is a number, `of`, and a number.
fn is_part(text: &str, of: &str) -> bool {
    let number = |n: &str| (1..=9).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit());
    text.split_once(of)
        .is_some_and(|(part, parts)| number(part) && number(parts))
}

/// The last quantisation that a name has a word for.
fn last_in(name: &str) -> Option<Quantisation> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = None;
    let mut before = "";
    let mut dashed = false;
    let mut rest = name;
    while !rest.is_empty() {
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let word = &rest[..length];
        if let Some(quantisation) = in_word(word, dashed && before.eq_ignore_ascii_case("ud")) {
            found = Some(quantisation);
        }
        before = word;
        let mut after = rest[length..].chars();
        dashed = after.next() == Some('-');
        rest = after.as_str();
    }
    found
}

/// The quantisation that a word of letters, digits and `_` has; `dynamic` if `UD-` stands before it.
fn in_word(word: &str, dynamic: bool) -> Option<Quantisation> {
    let parts: Vec<&str> = word.split('_').collect();
    let at = parts.iter().rposition(|part| begins(part))?;
    // Nothing of it is left out: of a longer name only the whole is the quantisation.
    let suffix = |part: &&&str| {
        (1..=PART).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let length = parts[at + 1..]
        .iter()
        .take(PARTS)
        .take_while(suffix)
        .count();
    let mut text = parts[at..=at + length].join("_").to_ascii_lowercase();
    let dynamic = match at {
        0 => dynamic,
        at => parts[at - 1].eq_ignore_ascii_case("ud"),
    };
    if dynamic {
        text.insert_str(0, "ud-");
    }
    Some(Quantisation(text.into()))
}

/// Whether a quantisation begins with this part of a word: a number of bits and how they are used.
fn begins(part: &str) -> bool {
    let lower = part.to_ascii_lowercase();
    let floats = [
        "f16", "f32", "f64", "bf16", "fp16", "fp32", "fp8", "fp4", "mxfp4", "nvfp4",
    ];
    let bits = ["iq", "tq", "q"]
        .iter()
        .find_map(|kind| lower.strip_prefix(kind));
    floats.contains(&lower.as_str())
        || bits.is_some_and(|bits| matches!(bits.as_bytes(), [b'1'..=b'9']))
}

#[cfg(test)]
mod tests;
