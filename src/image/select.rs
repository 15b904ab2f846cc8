//! Which files of a snapshot a name selects: all, a folder's or one; of these what a rule leaves, and of these a quantisation's.

use super::gguf::{self, GgufError, Quantisation};
use super::{LeftOut, Selection};
use crate::repo::{Entry, Snapshot};

/// The most names that an error message lists.
const SHOWN: usize = 12;

/// The files that a name selects, at their full paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The selected file or folder as the repository spells it; empty for all.
    pub path: String,
    /// The files, ascending by the bytes of their paths; never none.
    pub files: Vec<Entry>,
    /// What the rule left out of the file or folder.
    pub out: LeftOut,
    /// What the labels of the image say of the selection.
    pub labels: Vec<(&'static str, String)>,
}

/// Why a name selects nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The commit has no files.
    #[error("the commit has no files, so there is no image of it")]
    Empty,
    /// No file or folder of this name.
    #[error("there is no file or folder '{wanted}' in '/{folder}'; it holds {exist}")]
    Nothing {
        /// The component that matched nothing.
        wanted: String,
        /// The folder it was looked for in.
        folder: String,
        /// What there is, clipped.
        exist: String,
    },
    /// Several names differ in letter case only, and none is spelled exactly as asked.
    #[error(
        "'{wanted}' in '/{folder}' may be {candidates}; spell upper-case letters as '--' and two hex digits to tell them apart"
    )]
    Ambiguous {
        /// The component that matched several.
        wanted: String,
        /// The folder it was looked for in.
        folder: String,
        /// The candidates.
        candidates: String,
    },
    /// The rule leaves nothing of it.
    #[error("the rule leaves nothing of '/{path}' ({files} files): {filter}")]
    LeftOut {
        /// The file or folder.
        path: String,
        /// How many files it has.
        files: u64,
        /// The patterns of the rule.
        filter: String,
    },
    /// The quantisation is not there, or several models have it.
    #[error("{}{error}{rule}", if path.is_empty() { String::new() } else { format!("in '/{path}' ") })]
    Quantisation {
        /// The file or folder.
        path: String,
        /// Why.
        error: GgufError,
        /// What the rule left out, if it did; begins with a separator.
        rule: String,
    },
}

/// Selects the files under `components`, as far as `selection` leaves them.
pub fn select(
    snapshot: &Snapshot,
    components: &[String],
    selection: &Selection,
) -> Result<Selected, SelectError> {
    let (path, files) = under(snapshot, components)?;
    let (files, out) = selection.filtered(files);
    let filter = || {
        selection
            .filter()
            .map_or_else(String::new, ToString::to_string)
    };
    if files.is_empty() {
        return Err(SelectError::LeftOut {
            path,
            files: out.files,
            filter: filter(),
        });
    }
    let files = match selection.quantisation() {
        None => files,
        Some(wanted) => match gguf::of(&files, wanted) {
            Ok(files) => files,
            Err(error) => {
                let rule = match out.files {
                    0 => String::new(),
                    n => format!("; the rule leaves {n} files out: {}", filter()),
                };
                return Err(SelectError::Quantisation { path, error, rule });
            }
        },
    };
    let labels = selection.labels(out);
    Ok(Selected {
        path,
        files,
        out,
        labels,
    })
}

/// The quantisations that are tags of the files under `components`, as far as the filter of `selection` leaves them. None where there is
/// no such file.
pub fn quantisations(
    snapshot: &Snapshot,
    components: &[String],
    selection: &Selection,
) -> Vec<Quantisation> {
    under(snapshot, components).map_or_else(
        |_| Vec::new(),
        |(_, files)| gguf::all(&selection.filtered(files).0),
    )
}

/// The path that `components` mean, each matched without regard to ASCII letter case (a name spelled exactly so wins), and the files there.
fn under(snapshot: &Snapshot, components: &[String]) -> Result<(String, Vec<Entry>), SelectError> {
    if snapshot.files().is_empty() {
        return Err(SelectError::Empty);
    }
    let mut path = String::new();
    for component in components {
        let folder = if path.is_empty() {
            String::new()
        } else {
            format!("{path}/")
        };
        path = format!("{folder}{}", child(snapshot, &folder, component)?);
    }
    let inside = format!("{path}/");
    let files = snapshot
        .files()
        .iter()
        .filter(|f| {
            path.is_empty() || f.path.as_str() == path || f.path.as_str().starts_with(&inside)
        })
        .cloned()
        .collect();
    Ok((path, files))
}

/// The one child of `folder` (empty, or with its `/`) that `wanted` means.
fn child<'a>(snapshot: &'a Snapshot, folder: &str, wanted: &str) -> Result<&'a str, SelectError> {
    let mut children: Vec<&str> = snapshot
        .files()
        .iter()
        .filter_map(|f| f.path.as_str().strip_prefix(folder))
        .map(|rest| rest.split('/').next().unwrap_or(rest))
        .collect();
    children.sort_unstable();
    children.dedup();
    let alike: Vec<&str> = children
        .iter()
        .copied()
        .filter(|c| c.eq_ignore_ascii_case(wanted))
        .collect();
    match alike.as_slice() {
        [one] => Ok(one),
        [] => Err(SelectError::Nothing {
            wanted: wanted.to_owned(),
            folder: folder.to_owned(),
            exist: shown(&children, SHOWN),
        }),
        _ => alike
            .iter()
            .copied()
            .find(|c| *c == wanted)
            .ok_or_else(|| SelectError::Ambiguous {
                wanted: wanted.to_owned(),
                folder: folder.to_owned(),
                candidates: shown(&alike, SHOWN),
            }),
    }
}

/// Some names, clipped.
pub(super) fn shown(names: &[&str], most: usize) -> String {
    let mut out = names
        .iter()
        .take(most)
        .map(|n| format!("'{n}'"))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > most {
        out.push_str(&format!(" and {} more", names.len() - most));
    }
    if out.is_empty() {
        out.push_str("nothing: it is a file");
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::Filter;
    use crate::repo::{ContentId, FilePath};

    fn snapshot(paths: &[&str]) -> Snapshot {
        let entry = |path: &&str| Entry {
            path: FilePath::new(path).expect("a path"),
            size: 1,
            content: ContentId::Git([0; 20]),
        };
        Snapshot::new(paths.iter().map(entry).collect()).expect("a snapshot")
    }

    fn picked(paths: &[&str], components: &[&str]) -> Result<Vec<String>, SelectError> {
        let components: Vec<String> = components.iter().map(|c| (*c).to_owned()).collect();
        select(&snapshot(paths), &components, &Selection::default())
            .map(|s| s.files.iter().map(|f| f.path.to_string()).collect())
    }

    #[test]
    fn a_file_is_found_in_any_case_and_keeps_its_full_path() {
        assert_eq!(
            picked(&["Sub/README.md", "x"], &["sub", "readme.md"]),
            Ok(vec!["Sub/README.md".into()])
        );
    }

    #[test]
    fn a_folder_selects_all_below_it_and_nothing_beside_it() {
        assert_eq!(
            picked(&["a/b", "a/c/d", "a-b", "ab"], &["a"]),
            Ok(vec!["a/b".into(), "a/c/d".into()])
        );
    }

    #[test]
    fn names_that_differ_in_case_are_ambiguous_unless_one_is_exact() {
        let files = ["Readme.md", "README.md"];
        assert!(matches!(
            picked(&files, &["readme.md"]),
            Err(SelectError::Ambiguous { .. })
        ));
        assert_eq!(picked(&files, &["README.md"]), Ok(vec!["README.md".into()]));
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let error = picked(&["a/b", "c"], &["x"]).expect_err("nothing is called x");
        assert_eq!(
            error.to_string(),
            "there is no file or folder 'x' in '/'; it holds 'a', 'c'"
        );
        assert!(picked(&["a/b"], &["a", "b", "c"]).is_err());
    }

    #[test]
    fn an_empty_commit_is_no_image() {
        assert_eq!(picked(&[], &[]), Err(SelectError::Empty));
    }

    fn selection(quantisation: &str, exclude: &[&str]) -> Selection {
        let exclude = exclude.iter().map(|p| p.parse().expect("a pattern"));
        let filter = Filter::new(Vec::new(), exclude.collect()).expect("few");
        Selection::new(quantisation.parse().ok(), Some(Arc::new(filter)))
    }

    #[test]
    fn a_rule_leaves_out_files_and_tells_how_many() {
        let files = snapshot(&["a.bin", "b/a.bin", "c"]);
        let selected = select(&files, &[], &selection("", &["*.bin"])).expect("a file");
        assert_eq!(selected.files.len(), 1);
        assert_eq!(selected.out, LeftOut { files: 2, bytes: 2 });
    }

    #[test]
    fn a_path_of_which_the_rule_leaves_nothing_is_told_with_the_rule() {
        let files = snapshot(&["b/a.bin", "c"]);
        let error = select(
            &files,
            &["b".to_owned()],
            &selection("", &["*.bin", "*.pt"]),
        );
        assert_eq!(
            error.expect_err("nothing").to_string(),
            "the rule leaves nothing of '/b' (1 files): exclude *.bin, *.pt"
        );
    }

    #[test]
    fn a_quantisation_is_looked_for_among_what_path_and_rule_leave() {
        let files = snapshot(&[
            "a/m-Q4_0.gguf",
            "a/x.json",
            "b/m-Q4_0.gguf",
            "b/m-Q8_0.gguf",
        ]);
        let whole = select(&files, &[], &selection("q4_0", &[]));
        assert!(matches!(whole, Err(SelectError::Quantisation { .. })));
        let path = select(&files, &["a".to_owned()], &selection("q4_0", &[])).expect("one");
        assert_eq!(path.files.len(), 2);
        let ruled = select(&files, &[], &selection("q4_0", &["b/**"])).expect("one");
        assert_eq!(ruled.files, path.files);
        let gone = select(&files, &[], &selection("q8_0", &["b/**"])).expect_err("none");
        assert_eq!(
            gone.to_string(),
            "there is no GGUF quantisation 'q8_0'; it has 'q4_0'; the rule leaves 2 files out: exclude b/**"
        );
        let tags = |exclude| quantisations(&files, &[], &selection("", exclude));
        assert_eq!(tags(&[]), ["q8_0".parse().expect("one")]);
        assert_eq!(tags(&["b/**"]), ["q4_0".parse().expect("one")]);
    }
}
