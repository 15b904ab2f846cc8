//! Which images are wanted: those of the command line, and those of lists.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;

use crate::cli::Failure;
use crate::cli::manage::Exact;
use crate::control::Wanted;

/// The most bytes of a list.
const MAX_LIST: u64 = 16 << 20;

/// The exit code of wrong usage.
const USAGE: u8 = 2;

/// All images that are wanted, each once, in the order in which they are named. A list is a file, or `-` for stdin. Blocks.
pub(super) fn wanted(references: &[Exact], lists: &[String]) -> Result<Vec<Wanted>, Failure> {
    let mut all: Vec<Wanted> = references.iter().cloned().map(Wanted::from).collect();
    for list in lists {
        all.extend(parse(list, &read(list)?)?);
    }
    let mut seen = HashSet::new();
    all.retain(|wanted| seen.insert(wanted.to_string()));
    match all.is_empty() {
        true => Err(Failure::new("nothing is wanted")
            .next("name images: hf-oci pull org/model, or hf-oci pull -f list.txt")
            .code(USAGE)),
        false => Ok(all),
    }
}

impl From<Exact> for Wanted {
    fn from(exact: Exact) -> Self {
        let Exact { name, tag, digest } = exact;
        Self { name, tag, digest }
    }
}

fn read(list: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match list {
        "-" => std::io::stdin()
            .lock()
            .take(MAX_LIST)
            .read_to_string(&mut text),
        path => std::fs::File::open(Path::new(path))
            .and_then(|file| file.take(MAX_LIST).read_to_string(&mut text)),
    };
    read.map_err(|error| {
        Failure::new(format!("cannot read the list {list}"))
            .from(error)
            .code(USAGE)
    })?;
    Ok(text)
}

/// The images of a list: one a line; what follows a `#` at the start or after a space is a comment.
fn parse(list: &str, text: &str) -> Result<Vec<Wanted>, Failure> {
    let mut all = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let uncommented = match line.find(" #").or(line.find("\t#")) {
            Some(end) => &line[..end],
            None if line.trim_start().starts_with('#') => "",
            None => line,
        };
        let line = uncommented.trim();
        if line.is_empty() {
            continue;
        }
        let exact: Exact = line.parse().map_err(|error: String| {
            Failure::new(format!("{list}:{}: {line}: {error}", at + 1)).code(USAGE)
        })?;
        all.push(exact.into());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_comments_and_empty_lines() {
        let text = "# models\norg/a\n\n  Org/B:v1   # pinned\n\t# more\ndatasets/c@sha256:";
        let text = text.to_owned() + &"0".repeat(64);
        let all = parse("list", &text).expect("a list");
        let all: Vec<String> = all.iter().map(ToString::to_string).collect();
        let digest = format!("datasets/c@sha256:{}", "0".repeat(64));
        assert_eq!(all, ["org/a", "org/b:v1", digest.as_str()]);
    }

    #[test]
    fn a_line_that_is_no_reference_is_told_with_its_number() {
        let error = parse("list", "org/a\n\norg/b:\n").expect_err("no tag");
        assert!(error.to_string().starts_with("list:3: org/b:: "), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn what_is_named_twice_is_wanted_once() {
        let exact: Exact = "org/a".parse().expect("a reference");
        let all = wanted(&[exact.clone(), exact], &[]).expect("images");
        assert_eq!(all.len(), 1);
        assert_eq!(wanted(&[], &[]).expect_err("nothing").exit_code(), 2);
    }
}
