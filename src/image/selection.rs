//! Which files of a name an image holds, beyond its path: what a rule leaves, and of that a quantisation's. It is part of an image's
//! identity.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Pattern, Quantisation};
use crate::repo::Entry;

/// Label: the patterns of files that are held.
const INCLUDE: &str = "io.hf-oci.include";
/// Label: the patterns of files that are left out.
const EXCLUDE: &str = "io.hf-oci.exclude";
/// Label: the quantisation.
const QUANTISATION: &str = "io.hf-oci.quantisation";

/// The most patterns of a list.
const MOST: usize = 32;

/// What a rule leaves of a repository: files that `include` stands for, or all if it is empty, without those that `exclude` stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

/// Too many patterns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} patterns are more than the {MOST} that a list may have")]
pub struct FilterError(usize);

impl Filter {
    /// A filter of a bounded number of patterns.
    pub fn new(include: Vec<Pattern>, exclude: Vec<Pattern>) -> Result<Self, FilterError> {
        match include.len().max(exclude.len()) {
            many if many > MOST => Err(FilterError(many)),
            _ => Ok(Self { include, exclude }),
        }
    }

    /// Whether it leaves everything.
    pub fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether it leaves a file.
    pub fn leaves(&self, path: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|p| p.matches(path));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

/// As a person reads it: `include a, b; exclude c`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [("include", &self.include), ("exclude", &self.exclude)];
        let lists = lists.iter().filter(|(_, patterns)| !patterns.is_empty());
        let lists: Vec<String> = lists.map(|(n, p)| format!("{n} {}", listed(p))).collect();
        f.write_str(&lists.join("; "))
    }
}

fn listed(patterns: &[Pattern]) -> String {
    let texts: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
    texts.join(", ")
}

/// What a name's image is restricted to. By default it is not. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    quantisation: Option<Quantisation>,
    filter: Option<Arc<Filter>>,
}

/// Its form in files: JSON, keys in this order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quantisation: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    include: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<String>,
}

/// Files that a rule left out, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Selection {
    /// The selection of a quantisation and a rule's filter.
    pub fn new(quantisation: Option<Quantisation>, filter: Option<Arc<Filter>>) -> Self {
        Self {
            quantisation,
            filter: filter.filter(|filter| !filter.is_empty()),
        }
    }

    /// The quantisation that it is restricted to.
    pub const fn quantisation(&self) -> Option<&Quantisation> {
        self.quantisation.as_ref()
    }

    /// The filter.
    pub fn filter(&self) -> Option<&Filter> {
        self.filter.as_deref()
    }

    /// Whether it is restricted to nothing.
    pub const fn is_all(&self) -> bool {
        self.quantisation.is_none() && self.filter.is_none()
    }

    /// Parts `files` into those that the filter leaves and a tally of the others.
    pub(super) fn filtered(&self, files: Vec<Entry>) -> (Vec<Entry>, LeftOut) {
        let mut out = LeftOut::default();
        let Some(filter) = self.filter() else {
            return (files, out);
        };
        let left = |file: &Entry| {
            let left = filter.leaves(file.path.as_str());
            if !left {
                out.files += 1;
                out.bytes += file.size;
            }
            left
        };
        (files.into_iter().filter(left).collect(), out)
    }

    /// The labels of an image that it was made for. A filter that left nothing out leaves no trace: the image is the one without it.
    pub(super) fn labels(&self, out: LeftOut) -> Vec<(&'static str, String)> {
        let mut labels = Vec::new();
        if let Some(filter) = self.filter().filter(|_| out.files > 0) {
            if !filter.exclude.is_empty() {
                labels.push((EXCLUDE, listed(&filter.exclude)));
            }
            labels.push(("io.hf-oci.excluded-bytes", out.bytes.to_string()));
            labels.push(("io.hf-oci.excluded-files", out.files.to_string()));
            if !filter.include.is_empty() {
                labels.push((INCLUDE, listed(&filter.include)));
            }
        }
        if let Some(quantisation) = &self.quantisation {
            labels.push((QUANTISATION, quantisation.to_string()));
        }
        labels
    }

    /// The selection that labels tell of.
    pub fn told(labels: &BTreeMap<String, String>) -> Result<Self, String> {
        let text = |key: &str| labels.get(key).map(String::as_str);
        let patterns = |key: &str| {
            let texts = text(key).into_iter().flat_map(|text| text.split(", "));
            texts.map(str::parse).collect::<Result<Vec<Pattern>, _>>()
        };
        let bad = |why: String| format!("has labels of a selection that make no sense: {why}");
        let quantisation = text(QUANTISATION).map(str::parse::<Quantisation>);
        let quantisation = quantisation.transpose().map_err(|e| bad(e.to_string()))?;
        let include = patterns(INCLUDE).map_err(|e| bad(e.to_string()))?;
        let exclude = patterns(EXCLUDE).map_err(|e| bad(e.to_string()))?;
        let filter = Filter::new(include, exclude).map_err(|e| bad(e.to_string()))?;
        Ok(Self::new(quantisation, Some(Arc::new(filter))))
    }

    /// Whether the labels of an image are those that it has if it was made for this selection.
    pub fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        let told = [QUANTISATION, INCLUDE, EXCLUDE].map(|key| labels.get(key).cloned());
        // What was left out is known to whoever had the whole only.
        let fits = |out| {
            let own: BTreeMap<_, _> = self.labels(out).into_iter().collect();
            [QUANTISATION, INCLUDE, EXCLUDE].map(|key| own.get(key).cloned()) == told
        };
        fits(LeftOut::default()) || fits(LeftOut { files: 1, bytes: 0 })
    }
}

/// As files have it; empty for everything.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return Ok(());
        }
        let texts = |patterns: &[Pattern]| patterns.iter().map(Pattern::to_string).collect();
        let filter = self.filter();
        let written = Written {
            quantisation: self.quantisation.as_ref().map(Quantisation::to_string),
            include: filter.map_or_else(Vec::new, |filter| texts(&filter.include)),
            exclude: filter.map_or_else(Vec::new, |filter| texts(&filter.exclude)),
        };
        let text = serde_json::to_string(&written).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        fn all<T: FromStr<Err: fmt::Display>>(texts: &[String]) -> Result<Vec<T>, String> {
            let read = |text: &String| text.parse().map_err(|e: T::Err| e.to_string());
            texts.iter().map(read).collect()
        }
        if text.is_empty() {
            return Ok(Self::default());
        }
        let written: Written = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let quantisation = written.quantisation.as_deref();
        let quantisation = quantisation.map(str::parse::<Quantisation>).transpose();
        let filter = Filter::new(all(&written.include)?, all(&written.exclude)?);
        Ok(Self::new(
            quantisation.map_err(|e| e.to_string())?,
            Some(Arc::new(filter.map_err(|e| e.to_string())?)),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        let parsed = texts.iter().map(|t| t.parse().expect("a pattern"));
        parsed.collect()
    }

    #[test]
    fn what_is_left_is_included_and_not_excluded() {
        let filter = |include, exclude| Filter::new(patterns(include), patterns(exclude));
        let both = filter(&["*.json", "*.bin"], &["a/**"]).expect("few");
        for (path, left) in [("x.json", true), ("a/x.json", false), ("x.txt", false)] {
            assert_eq!(both.leaves(path), left, "{path}");
        }
        let all = filter(&[], &[]).expect("none");
        assert!(all.is_empty() && all.leaves("x"));
        assert!(Filter::new(patterns(&["a"; 33]), Vec::new()).is_err());
    }

    #[test]
    fn a_selection_is_told_by_the_labels_of_its_image_and_fits_no_other() {
        let filter = Filter::new(patterns(&["*.json", "a/**"]), patterns(&["b"])).expect("few");
        let quantisation = "q4_k_m".parse().expect("a quantisation");
        let selection = Selection::new(Some(quantisation), Some(Arc::new(filter)));
        let labels = |selection: &Selection, files| {
            let labels = selection.labels(LeftOut { files, bytes: 0 });
            let owned = labels.into_iter().map(|(k, v)| (k.to_owned(), v));
            owned.collect::<BTreeMap<_, _>>()
        };
        let all = Selection::default();
        assert_eq!(
            Selection::told(&labels(&selection, 1)),
            Ok(selection.clone())
        );
        assert!(selection.fits(&labels(&selection, 1)) && selection.fits(&labels(&selection, 0)));
        assert!(!selection.fits(&labels(&all, 0)) && !all.fits(&labels(&selection, 0)));
    }

    #[test]
    fn a_selection_reads_back_as_it_is_written() {
        let filter = Filter::new(patterns(&["*.json"]), patterns(&["a \"b\"/**"])).expect("few");
        let both = Selection::new("Q4_K_M".parse().ok(), Some(Arc::new(filter)));
        assert_eq!(
            both.to_string(),
            r#"{"quantisation":"q4_k_m","include":["*.json"],"exclude":["a \"b\"/**"]}"#
        );
        assert_eq!(both.to_string().parse(), Ok(both));
        assert_eq!("".parse(), Ok(Selection::default()));
        assert_eq!(Selection::default().to_string(), "");
        for bad in ["{", r#"{"colour":1}"#, r#"{"include":["a//b"]}"#] {
            assert!(bad.parse::<Selection>().is_err(), "{bad}");
        }
    }
}
