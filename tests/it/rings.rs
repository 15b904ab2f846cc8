//! The rings of the architecture: an inner one knows nothing of an outer one, and the pure one nothing of the world.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every module of the crate, the inner ones first. A module may use itself and what stands in an earlier line, nothing else.
const ORDER: &[&[&str]] = &[
    &["oci"],
    &["repo"],
    &["layer"],
    &["image"],
    &["bundle"],
    &["hub"],
    &["store"],
    &["push"],
    &["error"],
    &["fill"],
    &["auth"],
    &["server"],
    &["registry"],
    &["control"],
    &["config"],
    &["telemetry"],
    &["cli"],
];

/// The modules that know no runtime, file or socket.
const PURE: &[&str] = &["oci", "repo", "layer", "image", "bundle"];

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The code of each module, its tests left out.
fn modules() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut out: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
    for file in files {
        let inside = file.strip_prefix(&root).expect("below src");
        let first = inside.iter().next().expect("a name").to_string_lossy();
        let module = first.trim_end_matches(".rs").to_owned();
        // The entry points see everything, and so does what only fuzz targets build.
        if matches!(module.as_str(), "main" | "lib" | "fuzzing") || file.ends_with("tests.rs") {
            continue;
        }
        let code = fs::read_to_string(&file).expect("text");
        let code = code
            .split("#[cfg(test)]")
            .next()
            .unwrap_or_default()
            .to_owned();
        out.entry(module).or_default().push((file, code));
    }
    out
}

fn rank(module: &str) -> usize {
    ORDER
        .iter()
        .position(|line| line.contains(&module))
        .unwrap_or_else(|| panic!("src/{module} has no place in the rings"))
}

#[test]
fn an_inner_ring_uses_nothing_of_an_outer_one() {
    let mut wrong = Vec::new();
    for (module, files) in modules() {
        let own = rank(&module);
        for (file, code) in files {
            for used in code.split("crate::").skip(1) {
                let used: String = used
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                let known = ORDER.iter().any(|line| line.contains(&used.as_str()));
                if known && used != module && rank(&used) >= own {
                    wrong.push(format!("{} uses {used}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_pure_ring_knows_no_runtime_file_or_socket() {
    let world = [
        "tokio",
        "hyper",
        "reqwest",
        "std::fs",
        "std::net",
        "std::time",
        "std::env",
        "std::thread",
    ];
    let mut wrong = Vec::new();
    for (module, files) in modules() {
        if !PURE.contains(&module.as_str()) {
            continue;
        }
        for (file, code) in files {
            let code: Vec<&str> = code
                .lines()
                .filter(|l| !l.trim_start().starts_with("//"))
                .collect();
            for word in world {
                if code.iter().any(|line| line.contains(word)) {
                    wrong.push(format!("{} knows {word}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_source_file_passes_500_lines() {
    let long: Vec<_> = modules()
        .into_values()
        .flatten()
        .filter_map(|(file, _)| {
            let lines = fs::read_to_string(&file).expect("text").lines().count();
            (lines > 500).then(|| format!("{}: {lines}", file.display()))
        })
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}
