//! Stopping in two stages.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A shutdown in two stages: it begins, and then it may become urgent. Clones are the same shutdown.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    begun: CancellationToken,
    at_once: CancellationToken,
}

impl Shutdown {
    /// One that only code begins.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that SIGTERM or SIGINT begins, and a second of them makes urgent. Must be called on a runtime.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stages = shutdown.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stages.advance();
            }
        });
        Ok(shutdown)
    }

    /// Begins, or, if it has begun, makes it urgent.
    fn advance(&self) {
        if self.begun.is_cancelled() {
            self.stop_at_once();
        } else {
            tracing::info!("stopping; a second signal stops at once");
            self.begin();
        }
    }

    /// Begins the shutdown.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Leaves no time for anything.
    pub fn stop_at_once(&self) {
        self.begun.cancel();
        self.at_once.cancel();
    }

    /// Waits until it begins.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Waits until there is no time left.
    pub async fn at_once(&self) {
        self.at_once.cancelled().await;
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_signal_is_urgent() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        assert!(!other.has_begun());
        shutdown.advance();
        assert!(other.has_begun() && !other.at_once.is_cancelled());
        shutdown.advance();
        assert!(other.at_once.is_cancelled());
    }

    #[tokio::test]
    async fn signals_advance_it() {
        use rustix::process::{Signal, getpid, kill_process};
        let shutdown = Shutdown::on_signals().unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
        shutdown.begun().await;
        assert!(!shutdown.at_once.is_cancelled());
        kill_process(getpid(), Signal::INT).unwrap();
        shutdown.at_once().await;
    }
}
