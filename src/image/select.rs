//! Which files of a snapshot a name selects: all, a folder's or one.

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
}

/// Selects the files under `components`, each matched without regard to ASCII letter case; a name spelled exactly so wins.
pub fn select(snapshot: &Snapshot, components: &[String]) -> Result<Selected, SelectError> {
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
    Ok(Selected { path, files })
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
            exist: shown(&children),
        }),
        _ => alike
            .iter()
            .copied()
            .find(|c| *c == wanted)
            .ok_or_else(|| SelectError::Ambiguous {
                wanted: wanted.to_owned(),
                folder: folder.to_owned(),
                candidates: shown(&alike),
            }),
    }
}

fn shown(names: &[&str]) -> String {
    let mut out = names
        .iter()
        .take(SHOWN)
        .map(|n| format!("'{n}'"))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        out.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    if out.is_empty() {
        out.push_str("nothing: it is a file");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
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
        select(&snapshot(paths), &components)
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
}
