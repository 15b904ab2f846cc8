//! `hf-oci ls`, `inspect` and `du`: what is cached, and what room it takes. They change nothing.

use std::io::Write;
use std::time::{Duration, SystemTime};

use clap::Args;

use super::Failure;
use super::manage::{Exact, Named, Target};
use super::table::{Align, Table, plain};
use crate::config::{ConfigError, Flags, Sources};
use crate::control::{Event, ImageLine, InspectedLine, LayerLine, Request, SumLine, UsageLine};
use crate::store::Bytes;

/// Tags that a row shows, and files that a layer shows.
const TAGS: usize = 4;
const FILES: usize = 20;

/// Digits of a commit that people tell it by.
const DIGITS: usize = 12;

/// Lists the cached images
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci ls
  hf-oci ls org/model
  hf-oci ls --json | jq -r 'select(.event == \"image\") | .name'

SIZE is what the image's blobs take on disk, UNIQUE what its removal would free; the rest is shared with other images. USED is when it \
was last asked for, or a layer read that only it has. The last line counts shared blobs once.

Exit codes: 0 done, 1 it failed, 2 usage, 4 nothing of this name is cached.")]
pub(super) struct Ls {
    #[command(flatten)]
    target: Target,

    /// Only images of this name, and of paths in it
    #[arg(value_name = "NAME")]
    name: Option<Named>,
}

impl Ls {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let name = match self.name {
            Some(Named { tag: Some(_), .. }) => {
                let what = "ls wants a name without a tag; inspect NAME:TAG looks into one image";
                return Err(Failure::new(what).code(2));
            }
            name => name.map(|named| named.name),
        };
        let events = self.target.look(load, Request::List { name }).await?;
        match self.target.json {
            true => events.iter().for_each(json),
            false => print(&listed(&events, SystemTime::now())),
        }
        Ok(())
    }
}

/// Shows one cached image: commit, layers, files
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci inspect org/model:main
  hf-oci inspect org/model@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  hf-oci inspect org/model --json | jq -r '.layers[].files[].path'

Without a tag, latest is meant. The files are those of the layers' tables of contents.

Exit codes: 0 done, 1 it failed, 2 usage, 4 it is not cached.")]
pub(super) struct Inspect {
    #[command(flatten)]
    target: Target,

    /// Image to look into
    #[arg(value_name = "NAME[:TAG][@DIGEST]")]
    image: Exact,
}

impl Inspect {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let request = Request::Inspect {
            tag: self.image.tag().to_owned(),
            name: self.image.name,
            digest: self.image.digest,
        };
        let events = self.target.look(load, request).await?;
        let Some(inspected) = assembled(events) else {
            return Err(Failure::new("the server did not say what the image is"));
        };
        match self.target.json {
            true => json(&Event::Inspected(Box::new(inspected))),
            false => print(&shown(&inspected, SystemTime::now())),
        }
        Ok(())
    }
}

/// Shows how much room the cache takes, and for what
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci du
  hf-oci du --json | jq .total

Lengths are those of the files. A layer that is being filled has its full length from the start.

Exit codes: 0 done, 1 it failed, 2 usage.")]
pub(super) struct Du {
    #[command(flatten)]
    target: Target,
}

impl Du {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let events = self.target.look(load, Request::Usage).await?;
        match (self.target.json, events.last()) {
            (true, Some(event)) => json(event),
            (false, Some(Event::Usage(usage))) => print(&taken(usage)),
            _ => return Err(Failure::new("the server did not say what is taken")),
        }
        Ok(())
    }
}

/// Prints a line of JSON. Nobody reads it if stdout is closed.
fn json(event: &Event) {
    if let Ok(line) = serde_json::to_string(event) {
        print(&format!("{line}\n"));
    }
}

fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Puts layers and files where they belong.
fn assembled(events: Vec<Event>) -> Option<InspectedLine> {
    let mut layers: Vec<LayerLine> = Vec::new();
    let mut inspected = None;
    for event in events {
        match event {
            Event::Layer(layer) => layers.push(*layer),
            Event::Files { files } => layers.last_mut()?.files.extend(files),
            Event::Inspected(last) => inspected = Some(*last),
            _ => {}
        }
    }
    let inspected = inspected?;
    Some(InspectedLine {
        layers,
        ..inspected
    })
}

fn listed(events: &[Event], now: SystemTime) -> String {
    let (left, right) = (Align::Left, Align::Right);
    let mut table = Table::new(&[
        ("NAME", left),
        ("TAGS", left),
        ("COMMIT", left),
        ("SIZE", right),
        ("UNIQUE", right),
        ("USED", left),
        ("", left),
    ]);
    let mut total = String::new();
    for event in events {
        match event {
            Event::Image(image) => table.row(vec![
                image.name.clone(),
                tags(image),
                image.commit.chars().take(DIGITS).collect(),
                Bytes(image.size).to_string(),
                Bytes(image.unique).to_string(),
                ago(image.used.as_deref(), now),
                remarks(image),
            ]),
            Event::Listed(sum) => {
                total = format!(
                    "{} with {}, {} on disk\n",
                    count(sum.images, "image"),
                    count(sum.references, "reference"),
                    Bytes(sum.size)
                );
            }
            _ => {}
        }
    }
    format!("{table}{total}")
}

/// The tags of an image; a commit by its first digits, and only if there is no other tag.
fn tags(image: &ImageLine) -> String {
    let named: Vec<&str> = image
        .tags
        .iter()
        .map(String::as_str)
        .filter(|tag| *tag != image.commit)
        .collect();
    if named.is_empty() {
        return image.commit.chars().take(DIGITS).collect();
    }
    let more = match named.len() > TAGS {
        true => format!(" +{}", image.tag_count.saturating_sub(TAGS as u64)),
        false => String::new(),
    };
    format!(
        "{}{more}",
        named
            .iter()
            .take(TAGS)
            .copied()
            .collect::<Vec<_>>()
            .join(", ")
    )
}

fn remarks(image: &ImageLine) -> String {
    let pinned = image.pinned.then(|| "pinned".to_owned());
    let missing = (image.missing > 0).then(|| format!("{} missing", count(image.missing, "blob")));
    pinned
        .into_iter()
        .chain(missing)
        .collect::<Vec<_>>()
        .join(", ")
}

/// A number of things, as a person says it.
pub(super) fn count(n: u64, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// How long ago a time was, in its largest unit.
fn ago(time: Option<&str>, now: SystemTime) -> String {
    let Some(time) = time.and_then(|text| humantime::parse_rfc3339(text).ok()) else {
        return "not known".to_owned();
    };
    let seconds = now.duration_since(time).unwrap_or(Duration::ZERO).as_secs();
    let (n, unit) = match seconds {
        0..60 => return "just now".to_owned(),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{} ago", count(n, unit))
}

fn shown(inspected: &InspectedLine, now: SystemTime) -> String {
    let image = &inspected.image;
    let used = match &image.used {
        Some(used) => format!("{used}, {}", ago(Some(used), now)),
        None => "not known".to_owned(),
    };
    let or = |list: &[String], none: &str| match list.is_empty() {
        true => none.to_owned(),
        false => list.join(", "),
    };
    let facts = [
        ("references", or(&inspected.references, "none")),
        ("repository", image.repository.clone()),
        ("commit", image.commit.clone()),
        (
            "visibility",
            image
                .visibility
                .clone()
                .unwrap_or_else(|| "not known: treated as private".to_owned()),
        ),
        ("index", image.index.clone()),
        ("platforms", inspected.platforms.join(", ")),
        ("layout", image.layout.clone()),
        (
            "size",
            format!(
                "{}: {} that only it has, {} shared",
                Bytes(image.size),
                Bytes(image.unique),
                Bytes(image.shared)
            ),
        ),
        ("shared with", or(&inspected.shared_with, "no other image")),
        ("cached", image.cached.clone()),
        ("used", used),
        ("pinned", or(&inspected.pins, "no")),
    ];
    let mut out = String::new();
    for (what, value) in facts {
        out += &format!("{what:<12} {}\n", plain(&value));
    }
    if image.missing > 0 {
        out += &format!("{:<12} {}\n", "missing", count(image.missing, "blob"));
    }
    for (key, value) in &inspected.annotations {
        out += &format!("annotation   {} = {}\n", plain(key), plain(value));
    }
    for layer in &inspected.layers {
        out += &layer_text(layer);
    }
    out
}

fn layer_text(layer: &LayerLine) -> String {
    let files = match layer.file_count {
        Some(n) => count(n, "file"),
        None => "files not known".to_owned(),
    };
    let there = if layer.there { "" } else { ", not there" };
    let shared = match layer.shared_with.is_empty() {
        true => String::new(),
        false => format!(", shared with {}", plain(&layer.shared_with.join(", "))),
    };
    let mut out = format!(
        "\nlayer {}\n  {}, {files}{there}{shared}\n",
        layer.digest,
        Bytes(layer.size)
    );
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right), ("", Align::Left)]);
    for file in layer.files.iter().take(FILES) {
        table.row(vec![
            "  ".to_owned(),
            Bytes(file.size).to_string(),
            file.path.clone(),
        ]);
    }
    out += table.to_string().trim_start_matches('\n');
    let more = layer.files.len().saturating_sub(FILES);
    if more > 0 {
        out += &format!(
            "  and {} more (--json has them all)\n",
            count(more as u64, "file")
        );
    }
    out
}

fn taken(usage: &UsageLine) -> String {
    let mut table = Table::new(&[("", Align::Left), ("", Align::Right), ("", Align::Left)]);
    let mut row = |what: &str, bytes: u64, note: String| {
        table.row(vec![what.to_owned(), Bytes(bytes).to_string(), note]);
    };
    let blobs = |sum: SumLine| count(sum.count, "blob");
    let images = format!(
        "{}, {}",
        count(usage.images, "image"),
        count(usage.references, "reference")
    );
    row(
        "blobs",
        usage.blobs.bytes,
        format!("{}; {images}", blobs(usage.blobs)),
    );
    row("  of one image", usage.unique.bytes, blobs(usage.unique));
    row("  shared", usage.shared.bytes, blobs(usage.shared));
    let some = |sum: SumLine| sum.count > 0;
    if some(usage.foreign) {
        row(
            "  of other tools",
            usage.foreign.bytes,
            blobs(usage.foreign),
        );
    }
    if some(usage.unfinished) {
        row(
            "  of unfinished images",
            usage.unfinished.bytes,
            blobs(usage.unfinished),
        );
    }
    if some(usage.unreachable) {
        row(
            "  unreachable",
            usage.unreachable.bytes,
            format!("{}; hf-oci gc deletes them", blobs(usage.unreachable)),
        );
    }
    let staging = usage.staging;
    row(
        "staging",
        staging.bytes,
        format!(
            "{} of {}; {} resumable",
            count(staging.layers, "layer"),
            count(staging.fills, "unfinished fill"),
            Bytes(staging.resumable)
        ),
    );
    row("index", usage.index, String::new());
    if usage.quarantine > 0 {
        row(
            "quarantine",
            usage.quarantine,
            "bad blobs that were set aside; yours to delete".to_owned(),
        );
    }
    row("total", usage.total, String::new());
    if let Some(max) = usage.max_size {
        row(
            "cache.max_size",
            max,
            format!("{} left", Bytes(max.saturating_sub(usage.counted))),
        );
    }
    row(
        "disk",
        usage.disk_size,
        format!(
            "{} free, of which cache.min_free keeps {}",
            Bytes(usage.disk_free),
            Bytes(usage.min_free)
        ),
    );
    table.to_string().trim_start_matches('\n').to_owned()
}
