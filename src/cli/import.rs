//! `hf-oci import`: takes a bundle into a cache.

use std::cell::RefCell;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Failure;
use super::filling::prepare_data_dir;
use super::manage::{Target, end, show, through};
use super::meter::Meter;
use crate::config::{self, ConfigError, Flags, Sources};
use crate::control::{Event, Transfer, import_here, transfer};
use crate::server::Shutdown;
use crate::store::{ImportOptions, Store};

/// The exit code after a signal.
const INTERRUPTED: u8 = 130;

/// Takes in a bundle of images that another site has exported
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci import models.tar
  ssh online hf-oci export org/model:main -o - | hf-oci import -

A running server serves the images at once. Every byte is checked before anything is visible: of a bundle that is cut off, damaged or \
hostile nothing stays. What is here already is not written again. No image is evicted for it: if there is no room, it is refused.

It takes what hf-oci export writes, and copies of its images that skopeo has made (docker://proxy:5000/org/model:main to \
oci-archive:FILE:org/model:main).

With --resume, an import that was cut off goes on: what it had verified is read again, and not written again.

Exit codes: 0 done, 1 it failed or was refused, 2 usage, 130 interrupted.")]
pub(super) struct Import {
    #[command(flatten)]
    target: Target,

    /// Bundle to take in; - is stdin
    #[arg(value_name = "FILE|-")]
    file: PathBuf,

    /// Go on with an import that was cut off, and let what this one has verified stay if it is cut off
    #[arg(long)]
    resume: bool,

    /// Let everybody read those images of which the bundle does not say who may; without it they count as private
    #[arg(long)]
    public: bool,
}

impl Import {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let json = self.target.json();
        let sources = self.target.sources(load)?;
        let data = config::data_dir(&sources)?;
        let options = ImportOptions {
            resume: self.resume,
            public: self.public,
            limits: config::limits(&sources)?,
        };
        let source = source(&self.file)?;
        let work = move || import(&data, source, options, json);
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(Failure::new("the command was lost").from(error)))
    }
}

/// What the bundle is read from.
fn source(file: &Path) -> Result<File, Failure> {
    let fail = |error| Failure::new(format!("cannot read {}", file.display())).from(error);
    if file.as_os_str() != "-" {
        return File::open(file).map_err(fail);
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let failure = Failure::new("a terminal is no bundle");
        return Err(failure.next("pipe one into hf-oci import -, or name a file"));
    }
    stdin
        .as_fd()
        .try_clone_to_owned()
        .map(File::from)
        .map_err(fail)
}

fn import(data: &Path, source: File, options: ImportOptions, json: bool) -> Result<(), Failure> {
    prepare_data_dir(data)?;
    let last = RefCell::new(None);
    let meter = RefCell::new(Meter::new());
    let each = |event: Event| {
        if let Event::Progress { done, total } = event {
            meter.borrow_mut().show(done, total);
        }
        if let Event::Imported { images, .. } = &event
            && !json
        {
            images.iter().for_each(|image| println(image));
        }
        show(&event, json);
        *last.borrow_mut() = event.is_final().then_some(event);
        true
    };
    let ImportOptions { resume, public, .. } = options;
    let request = Transfer::Import { resume, public };
    let asked = || transfer(data, &request, Some(&source), &mut |event| each(event)).map(drop);
    let here = |store: Store| {
        let file = source.try_clone();
        let file = file.map_err(|error| Failure::new("cannot read the bundle").from(error))?;
        // Else what is staged would stay until the next import.
        let signals = Shutdown::on_signals()
            .map_err(|error| Failure::new("cannot wait for signals").from(error))?;
        import_here(&store, file, options, &mut |event| {
            each(event) && !signals.has_begun()
        });
        match signals.has_begun() && !matches!(*last.borrow(), Some(Event::Imported { .. })) {
            true => Err(Failure::new("the import was interrupted").code(INTERRUPTED)),
            false => Ok(()),
        }
    };
    through(data, asked, here)?;
    drop(meter);
    end(last.into_inner()).map(drop)
}

/// Nobody reads it if stdout is closed; the work is done all the same.
fn println(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}
