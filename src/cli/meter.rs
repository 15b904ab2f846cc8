//! How far a long copy is, for a person who waits: a line on stderr that is written over, if that is a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::store::Bytes;

/// How often the line is written.
const EVERY: Duration = Duration::from_millis(250);

/// A line that tells of progress.
pub(super) struct Meter {
    shown: bool,
    begun: Instant,
    last: Option<Instant>,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            shown: std::io::stderr().is_terminal(),
            begun: Instant::now(),
            last: None,
        }
    }

    /// So many bytes are done; `total` is 0 if it is not known.
    pub(super) fn show(&mut self, done: u64, total: u64) {
        if !self.shown || self.last.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        let rate = done as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
        let of = match total {
            0 => String::new(),
            total => format!(" of {}", Bytes(total)),
        };
        // It is only a line for whoever looks.
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{}{of}, {}/s",
            Bytes(done),
            Bytes(rate as u64)
        );
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if self.last.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
