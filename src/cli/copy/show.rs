//! What a copy tells: lines for people on stderr, results on stdout, or objects on stdout.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::meter::Meter;
use crate::push::{Blob, Copied, How, Image, PushError, Why};
use crate::store::Bytes;

/// How often a terminal is told, and programs are.
const OFTEN: Duration = Duration::from_millis(500);

/// How often others are.
const SELDOM: Duration = Duration::from_secs(5);

/// The smallest blob that people are told of by itself.
const SHOWN: u64 = 1 << 20;

/// What is shown.
pub(super) struct Show {
    json: bool,
    terminal: bool,
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    meter: Meter,
    /// Bytes that were last told.
    told: u64,
    when: Instant,
}

impl Show {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            terminal: std::io::stderr().is_terminal(),
            begun: Instant::now(),
            state: Mutex::new(State {
                meter: Meter::new(),
                told: 0,
                when: Instant::now(),
            }),
        }
    }

    /// The time between two calls of [`progress`](Self::progress).
    pub(super) const fn tick(&self) -> Duration {
        match self.json || self.terminal {
            true => OFTEN,
            false => SELDOM,
        }
    }

    pub(super) fn warn(&self, text: &str) {
        self.line(&format!("warning: {text}"));
    }

    /// The registry was in trouble, and is asked again after a pause.
    pub(super) fn trouble(&self, error: &PushError, pause: Duration) {
        if self.json {
            let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            event(json!({"event": "trouble", "message": error.to_string(), "pause_ms": ms}));
        } else {
            let seconds = pause.as_secs_f32();
            self.line(&format!("{error}; trying again in {seconds} s"));
        }
    }

    pub(super) fn begin(&self, image: &str, parts: &Image) {
        let bytes: u64 = parts.blobs.values().map(|blob| blob.size).sum();
        let blobs = parts.blobs.len();
        match self.json {
            true => event(
                json!({"event": "copying", "image": image, "blobs": blobs, "total_bytes": bytes}),
            ),
            false => self.line(&format!("{image}: {blobs} blobs, {}", Bytes(bytes))),
        }
    }

    /// So many bytes were sent, over all images.
    pub(super) fn progress(&self, sent: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if sent == state.told {
            return;
        }
        if self.json {
            event(json!({"event": "sending", "bytes": sent, "elapsed_ms": self.elapsed()}));
        } else if self.terminal {
            state.meter.show(sent, 0);
        } else {
            let bytes = sent.saturating_sub(state.told);
            let rate = bytes as f64 / state.when.elapsed().as_secs_f64().max(0.001);
            stderr(&format!("{} sent, {}/s", Bytes(sent), Bytes(rate as u64)));
        }
        (state.told, state.when) = (sent, Instant::now());
    }

    pub(super) fn blob(&self, image: &str, blob: &Blob, how: How) {
        let (kind, text) = match how {
            How::Pushed => ("pushed", "sent"),
            How::Mounted => ("mounted", "taken from another repository there"),
            How::Present => ("present", "was there"),
        };
        if self.json {
            let digest = blob.digest.to_string();
            event(
                json!({"event": "blob", "image": image, "digest": digest, "size": blob.size, "how": kind}),
            );
        } else if how != How::Present && blob.size >= SHOWN {
            self.line(&format!(
                "{image}: {} {text}, {}",
                blob.digest,
                Bytes(blob.size)
            ));
        }
    }

    pub(super) fn copied(&self, image: &str, done: &Copied) {
        let index = done.index.to_string();
        if self.json {
            return event(json!({
                "event": "copied",
                "image": image,
                "to": done.to,
                "index": index,
                "pushed": done.pushed,
                "bytes": done.bytes,
                "mounted": done.mounted,
                "present": done.present,
                "manifests": done.manifests,
            }));
        }
        self.line(&format!(
            "{image}: {} blobs sent ({}), {} mounted, {} were there; {} manifests written",
            done.pushed,
            Bytes(done.bytes),
            done.mounted,
            done.present,
            done.manifests
        ));
        stdout(&format!("{}@{index}", done.to));
    }

    /// For people only if there are `many` images: what became of one is the last line anyhow.
    pub(super) fn failed(&self, image: &str, error: &PushError, many: bool) {
        let why = match error.why {
            Why::Trouble => "trouble",
            Why::Refused => "refused",
            Why::Other => "other",
        };
        match self.json {
            true => event(
                json!({"event": "not-copied", "image": image, "why": why, "message": error.to_string()}),
            ),
            false if many => self.line(&format!("{image} is not copied: {error}")),
            false => {}
        }
    }

    pub(super) fn summary<'a>(
        &self,
        copied: usize,
        failed: impl Iterator<Item = &'a str>,
        sent: u64,
    ) {
        if self.json {
            let failed: Vec<&str> = failed.collect();
            event(
                json!({"event": "summary", "copied": copied, "failed": failed, "bytes": sent, "elapsed_ms": self.elapsed()}),
            );
        }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A line that does not stand behind a meter.
    fn line(&self, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.meter = Meter::new();
        stderr(text);
    }
}

/// Nobody reads it if the other end is closed; the work is done all the same.
fn stderr(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn stdout(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn event(event: Value) {
    stdout(&event.to_string());
}
