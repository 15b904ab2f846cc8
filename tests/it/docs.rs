//! Promise: what the documentation shows is so.

use clap::Parser;
use hf_oci::cli::Cli;
use hf_oci::image::ImageName;
use hf_oci::repo::{RepoId, RepoKind};

/// The cells of the tables of a page whose two columns are both in backquotes.
fn pairs(page: &str) -> Vec<(&str, &str)> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.strip_suffix("` |")?.split_once("` | `"))
        .collect()
}

#[test]
fn the_names_of_files_are_spelled_as_the_page_says() {
    let repo = RepoId::new(RepoKind::Model, "org/model").expect("an id");
    let files = pairs(include_str!("../../docs/names.md"));
    assert!(files.len() >= 8);
    for (file, name) in files {
        let spelled = ImageName::spell(&repo, file);
        assert_eq!(spelled, format!("org/model/{name}"));
        let read = ImageName::parse(&spelled).expect(name);
        assert_eq!(read.path().join("/"), file.to_ascii_lowercase());
    }
}

#[test]
fn the_references_of_the_readme_can_be_read() {
    let rows = include_str!("../../README.md").lines();
    let references = rows.filter_map(|row| row.strip_prefix("| `proxy:5000/")?.split_once('`'));
    let references: Vec<_> = references.map(|(reference, _)| reference).collect();
    assert!(references.len() >= 8);
    for reference in references {
        let (name, tag) = reference.split_once(':').unwrap_or((reference, "latest"));
        assert!(ImageName::parse(name).is_ok(), "{name}");
        assert!(tag.parse::<hf_oci::oci::Tag>().is_ok(), "{tag}");
    }
}

#[test]
fn the_commands_of_the_pages_are_ones() {
    let pages = [
        include_str!("../../docs/mirrors.md"),
        include_str!("../../docs/storage.md"),
    ];
    let lines = pages.iter().flat_map(|page| page.lines());
    let commands = lines.filter_map(|line| {
        let line = line.strip_prefix("$ ").unwrap_or(line);
        line.starts_with("hf-oci ").then_some(line)
    });
    let commands: Vec<&str> = commands.collect();
    assert!(commands.len() >= 6, "{commands:?}");
    for command in commands {
        let parsed = Cli::try_parse_from(command.split_whitespace());
        assert!(parsed.is_ok(), "{command}: {parsed:?}");
    }
}
