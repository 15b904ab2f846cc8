//! Showing how far the images are: bars on a terminal, lines elsewhere, JSON for programs.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::bars::Bars;
use super::meter::{Meter, Span};
use crate::cli::listing::count;
use crate::cli::table::plain;
use crate::control::{Event, FillingLine, PulledLine};
use crate::store::Bytes;

/// The time between two lines about one image, as a person reads them.
const EVERY: Duration = Duration::from_secs(5);

/// What is shown, and how. May be used from many tasks.
pub(super) struct Show {
    form: Form,
    images: Mutex<HashMap<String, Image>>,
}

enum Form {
    Json,
    Lines,
    Bars(Bars),
}

/// What was last said of an image.
struct Image {
    meter: Meter,
    said: Option<Instant>,
    /// Layers that were told to be done.
    done: Vec<bool>,
}

impl Show {
    /// JSON on stdout, or bars if stderr is a terminal, or lines on stderr.
    pub(super) fn new(json: bool, images: usize) -> Self {
        let form = match (json, std::io::stderr().is_terminal()) {
            (true, _) => Form::Json,
            (false, true) => Form::Bars(Bars::new(images)),
            (false, false) => Form::Lines,
        };
        Self {
            form,
            images: Mutex::default(),
        }
    }

    /// Shows an event of an image.
    pub(super) fn event(&self, event: &Event) {
        if let Form::Json = self.form {
            if let Ok(line) = serde_json::to_string(event) {
                self.out(&line);
            }
            return;
        }
        match event {
            Event::Waiting { image, elapsed_ms } => self.waiting(image, *elapsed_ms),
            Event::Filling(filling) => self.filling(filling),
            Event::Pulled(pulled) => self.pulled(pulled),
            _ => {}
        }
    }

    fn waiting(&self, image: &str, elapsed_ms: u64) {
        let now = Instant::now();
        match &self.form {
            Form::Bars(bars) => bars.waiting(image),
            _ => {
                let mut images = self.lock();
                let known = entry(&mut images, image);
                if known.said.is_none_or(|said| now - said >= EVERY) {
                    known.said = Some(now);
                    let span = Span(Duration::from_millis(elapsed_ms));
                    self.err(&format!("{image}: waiting, for {span}"));
                }
            }
        }
    }

    fn filling(&self, filling: &FillingLine) {
        let now = Instant::now();
        let mut images = self.lock();
        let known = entry(&mut images, &filling.image);
        known.meter.note(now, filling.all.bytes);
        let begun = known.done.is_empty();
        known.done.resize(filling.layers.len(), false);
        let mut ended = Vec::new();
        for (at, (done, layer)) in known.done.iter_mut().zip(&filling.layers).enumerate() {
            if let (false, Some(digest), Some(size)) = (*done, &layer.digest, layer.size) {
                *done = true;
                let of = filling.layers.len();
                ended.push(format!(
                    "{}: layer {} of {of} done, {}, {digest}",
                    filling.image,
                    at + 1,
                    Bytes(size)
                ));
            }
        }
        let rest = filling.all.total_bytes - filling.all.there();
        let pace = known.meter.text(rest);
        if let Form::Bars(bars) = &self.form {
            bars.filling(filling, &pace);
            return;
        }
        if begun {
            known.said = Some(now);
            self.err(&begins(filling));
        }
        for line in ended {
            self.err(&line);
        }
        if rest > 0 && known.said.is_none_or(|said| now - said >= EVERY) {
            known.said = Some(now);
            self.err(&format!("{}: {}, {pace}", filling.image, far(filling)));
        }
    }

    fn pulled(&self, pulled: &PulledLine) {
        self.lock().remove(&pulled.image);
        if let Form::Bars(bars) = &self.form {
            bars.ended(&pulled.image);
        }
        if pulled.outcome.as_deref() == Some("stale") {
            self.err(&format!(
                "{}: the upstream did not answer; this is what was last known of it",
                pulled.image
            ));
        }
        self.err(&ended(pulled));
        let name = pulled.image.split('@').next().unwrap_or_default();
        self.out(&format!("{name}@{}", pulled.index));
    }

    /// Says that an image is not cached.
    pub(super) fn failed(&self, image: &str, message: &str) {
        self.lock().remove(image);
        if let Form::Bars(bars) = &self.form {
            bars.ended(image);
        }
        self.err(&format!("error: {image}: {}", plain(message)));
    }

    /// Says how all of it ended.
    pub(super) fn summary(&self, cached: usize, failed: &[String], interrupted: bool) {
        if let Form::Json = self.form {
            let line = serde_json::json!({
                "event": "summary",
                "cached": cached,
                "failed": failed,
                "interrupted": interrupted,
            });
            self.out(&line.to_string());
        }
    }

    /// Takes the bars away.
    pub(super) fn clear(&self) {
        if let Form::Bars(bars) = &self.form {
            bars.clear();
        }
    }

    /// A line on stdout. Nobody reads it if that is closed.
    fn out(&self, line: &str) {
        self.quietly(|| drop(writeln!(std::io::stdout(), "{line}")));
    }

    fn err(&self, line: &str) {
        self.quietly(|| drop(writeln!(std::io::stderr(), "{line}")));
    }

    /// Writes where no bar is drawn meanwhile.
    fn quietly(&self, write: impl FnOnce()) {
        match &self.form {
            Form::Bars(bars) => bars.multi().suspend(write),
            _ => write(),
        }
    }

    /// A poisoned lock is taken all the same: what is lost is a line.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Image>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn entry<'a>(images: &'a mut HashMap<String, Image>, image: &str) -> &'a mut Image {
    images.entry(image.to_owned()).or_insert_with(|| Image {
        meter: Meter::default(),
        said: None,
        done: Vec::new(),
    })
}

fn begins(filling: &FillingLine) -> String {
    let all = &filling.all;
    let here = match all.reused {
        0 => String::new(),
        reused => format!(", {} of it here already", Bytes(reused)),
    };
    format!(
        "{}: filling {} in {} and {}, commit {}{here}",
        filling.image,
        Bytes(all.total_bytes),
        count(all.total_files, "file"),
        count(filling.layers.len() as u64, "layer"),
        filling.commit
    )
}

/// How far a fill is.
pub(super) fn far(filling: &FillingLine) -> String {
    let all = &filling.all;
    format!(
        "{} of {}, {} of {} files",
        Bytes(all.there()),
        Bytes(all.total_bytes),
        all.files,
        all.total_files
    )
}

fn ended(pulled: &PulledLine) -> String {
    let how = match (pulled.outcome.as_deref(), pulled.bytes) {
        (Some("hit" | "revalidated" | "stale"), _) => "was cached already".to_owned(),
        (_, Some(bytes)) => format!(
            "cached, {} downloaded in {}",
            Bytes(bytes),
            Span(Duration::from_millis(pulled.elapsed_ms))
        ),
        (_, None) => format!(
            "cached after {}",
            Span(Duration::from_millis(pulled.elapsed_ms))
        ),
    };
    format!(
        "{}: {how}, {} in {}",
        pulled.image,
        Bytes(pulled.size),
        count(pulled.layers, "layer")
    )
}

/// Writes log lines between the bars.
#[derive(Clone)]
pub(super) struct Between(pub(super) Arc<Show>);

impl Write for Between {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut written = Ok(0);
        self.0.quietly(|| written = std::io::stderr().write(bytes));
        written
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}
