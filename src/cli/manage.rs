//! What the commands share that work on a cache: which one, by which name, and through whom.
//!
//! A running server does the work itself, asked through its socket; without one the command locks the folder and does it.

use std::cell::RefCell;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;

use super::Failure;
use super::look::cache;
use crate::config::{self, ConfigError, Flags, Sources};
use crate::control::{AskError, Event, Request, ask, execute};
use crate::image::ImageName;
use crate::oci::{Digest, Tag};
use crate::store::{Bytes, Store, StoreError};

/// How long a folder may be locked by somebody who does not answer: a server that starts or stops.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The exit code if nothing of the name is cached.
const UNKNOWN: u8 = 4;

/// Which cache, and how its answer is printed.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// Folder of the cache [default: that of hf-oci serve; env: HF_OCI_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<String>,

    /// Print JSON, an object a line; the last one is the result
    #[arg(long)]
    pub(super) json: bool,
}

impl Target {
    /// The settings, with what was said here.
    pub(super) fn sources(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<Sources, ConfigError> {
        let mut flags = Flags::new();
        flags.extend(self.data_dir.map(|dir| ("data_dir", dir)));
        load(flags)
    }

    /// Whether JSON is printed.
    pub(super) const fn json(&self) -> bool {
        self.json
    }

    /// Has `request` done, prints what becomes of it, and gives the final event.
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
        request: Request,
    ) -> Result<Event, Failure> {
        let json = self.json;
        let data = config::data_dir(&self.sources(load)?)?;
        let done = tokio::task::spawn_blocking(move || work(&data, &request, json)).await;
        done.unwrap_or_else(|error| Err(Failure::new("the command was lost").from(error)))
    }
}

/// Asks the server, or does it here.
fn work(data: &Path, request: &Request, json: bool) -> Result<Event, Failure> {
    cache(data)?;
    let last = RefCell::new(None);
    let each = |event: Event| {
        show(&event, json);
        *last.borrow_mut() = event.is_final().then_some(event);
        true
    };
    let asked = || ask(data, request, &mut |event| each(event));
    let here = |store: Store| {
        execute(&store, request, &mut |event| each(event), &|_| 0);
        Ok(())
    };
    through(data, asked, here)?;
    end(last.into_inner())
}

/// Has something done by the server of a folder, or without one here. A folder that changes hands meanwhile is waited for.
pub(super) fn through<T>(
    data: &Path,
    asked: impl Fn() -> Result<T, AskError>,
    here: impl FnOnce(Store) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let started = Instant::now();
    loop {
        match asked() {
            Ok(done) => return Ok(done),
            Err(AskError::Nobody) => {}
            Err(error) => {
                return Err(Failure::new("cannot ask the running server")
                    .from(error)
                    .next("run this as the server's user, who owns the data folder"));
            }
        }
        match open(data)? {
            Some(store) => return here(store),
            None if started.elapsed() < PATIENCE => std::thread::sleep(PATIENCE / 50),
            None => {
                let what = format!(
                    "another process has {}, and does not answer",
                    data.display()
                );
                return Err(Failure::new(what).next("a server that starts or stops? try again"));
            }
        }
    }
}

/// Refuses a folder of another user, into which files of this one would come.
pub(super) fn owned(data: &Path) -> Result<(), Failure> {
    let fail = || Failure::new(format!("cannot use the data folder {}", data.display()));
    let owner = std::fs::metadata(data).map_err(|error| fail().from(error))?;
    let user = rustix::process::geteuid().as_raw();
    if owner.uid() != user {
        let what = format!("it is user id {}'s, and this is {user}", owner.uid());
        return Err(fail().from(what).next(format!(
            "run this as its owner, such as: sudo -u '#{}' hf-oci …",
            owner.uid()
        )));
    }
    Ok(())
}

/// Opens the folder; `None` if another process has it.
fn open(data: &Path) -> Result<Option<Store>, Failure> {
    owned(data)?;
    let fail = || Failure::new(format!("cannot use the data folder {}", data.display()));
    match Store::open(data) {
        Ok(store) => Ok(Some(store)),
        Err(StoreError::Locked(_)) => Ok(None),
        Err(error) => Err(fail().from(error)),
    }
}

/// What the last event means for the exit code.
pub(super) fn end(last: Option<Event>) -> Result<Event, Failure> {
    match last {
        Some(Event::Unknown { image, tags }) => {
            let failure = Failure::new(format!("{image} is not cached")).code(UNKNOWN);
            Err(match tags.is_empty() {
                true => failure,
                false => failure.next(format!("cached are: {}", tags.join(", "))),
            })
        }
        Some(Event::Refused { pinned }) => {
            let what = format!("nothing is removed: {} is pinned", pinned.join(", "));
            Err(Failure::new(what).next("hf-oci unpin it first"))
        }
        Some(Event::Failed { message }) => Err(Failure::new(message)),
        Some(event) => Ok(event),
        None => Err(Failure::new("the server did not say how it ended")),
    }
}

/// Prints an event: as JSON, or what a person wants to know of it.
pub(super) fn show(event: &Event, json: bool) {
    let line = if json {
        let silent = matches!(event, Event::Progress { total: 0, .. });
        serde_json::to_string(event).ok().filter(|_| !silent)
    } else {
        text(event)
    };
    if let Some(line) = line {
        // Nobody reads it if stdout is closed; the work is done all the same.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

fn text(event: &Event) -> Option<String> {
    Some(match event {
        Event::Finding {
            fault,
            digest,
            size,
            images,
        } => {
            let images = match images.is_empty() {
                true => "no image".to_owned(),
                false => images.join(", "),
            };
            format!("{fault:<10} {digest}  {}  {images}", Bytes(*size))
        }
        Event::Collected {
            blobs,
            layers,
            bytes,
        } => format!(
            "removed {blobs} unreachable blobs and {layers} unfinished layers, {}",
            Bytes(*bytes)
        ),
        Event::Pinned { image, pinned } => match pinned {
            true => format!("{image} is pinned: it is never evicted"),
            false => format!("{image} is not pinned any more"),
        },
        Event::Removed {
            references,
            images,
            blobs,
            bytes,
            later,
        } => {
            let later = match later {
                0 => String::new(),
                later => format!("; {later} blobs are in use and go when they are not"),
            };
            format!(
                "removed {references} references, {images} images, {blobs} blobs, {}{later}",
                Bytes(*bytes)
            )
        }
        Event::Imported {
            count,
            blobs,
            bytes,
            present,
            ..
        } => format!(
            "imported {count} images: {blobs} blobs, {}; {present} blobs were here already",
            Bytes(*bytes)
        ),
        Event::Verified { blobs, bytes, .. } => verified(event, *blobs, *bytes),
        _ => return None,
    })
}

fn verified(event: &Event, blobs: u64, bytes: u64) -> String {
    let mut line = format!("{blobs} blobs, {}", Bytes(bytes));
    let Event::Verified {
        bad,
        missing,
        repaired,
        refetching,
        ..
    } = event
    else {
        return line;
    };
    if bad + missing == 0 {
        return line + ": all are what they should be";
    }
    line += &format!(": {bad} bad, {missing} missing");
    if *repaired {
        line += match refetching {
            0 => "; moved to quarantine, fetched again when they are asked for",
            _ => "; moved to quarantine, being fetched again",
        };
    }
    line
}

/// A name, tag and digest of the command line, in the registry's grammar without the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exact {
    pub(super) name: String,
    pub(super) tag: Option<String>,
    pub(super) digest: Option<Digest>,
}

impl Exact {
    /// The tag that is meant: latest, where none was given.
    pub(super) fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or("latest")
    }
}

impl std::fmt::Display for Exact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl std::str::FromStr for Exact {
    type Err = String;

    /// NAME, NAME:TAG, NAME@DIGEST or NAME:TAG@DIGEST; letters of the name are folded.
    fn from_str(text: &str) -> Result<Self, String> {
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (text, None),
        };
        let Named { name, tag } = named.parse()?;
        let digest = digest.map(str::parse::<Digest>).transpose();
        Ok(Self {
            name,
            tag,
            digest: digest.map_err(|error| error.to_string())?,
        })
    }
}

/// A name and tag of the command line.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) tag: Option<String>,
}

impl Named {
    /// The name, and the tag that is meant: latest, where none was given.
    pub(super) fn reference(self) -> (String, String) {
        let tag = self.tag.unwrap_or_else(|| "latest".to_owned());
        (self.name, tag)
    }
}

impl std::str::FromStr for Named {
    type Err = String;

    /// NAME or NAME:TAG; letters are folded.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, tag) = match text.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (text, None),
        };
        let name =
            ImageName::parse(&name.to_ascii_lowercase()).map_err(|error| error.to_string())?;
        let tag = tag.map(str::parse::<Tag>).transpose();
        Ok(Self {
            name: name.to_string(),
            tag: tag.map_err(|e| e.to_string())?.map(|tag| tag.to_string()),
        })
    }
}
