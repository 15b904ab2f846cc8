//! Writing out to the disk what was written to a file, while more is written: else all of it is waited for at the end.

use std::fs::File;
use std::io;
use std::thread::JoinHandle;

/// Bytes that are written between two times: few enough to leave little for the end, and a rare enough stop for the disk.
const STEP: u64 = 256 << 20;

/// The writing out of one file, on a thread of its own. Dropping it waits for that thread.
#[derive(Debug, Default)]
pub struct Writeback {
    written: u64,
    running: Option<JoinHandle<io::Result<()>>>,
}

impl Writeback {
    /// So many bytes were written to `file`. Fails if writing out an earlier part of it has failed: the system tells that once.
    pub fn wrote(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        self.written += bytes;
        let busy = self.running.as_ref().is_some_and(|r| !r.is_finished());
        if self.written < STEP || busy {
            return Ok(());
        }
        self.end()?;
        self.written = 0;
        // Without a descriptor or a thread more is left for the end.
        if let Ok(file) = file.try_clone() {
            let thread = std::thread::Builder::new().name("writeback".to_owned());
            self.running = thread.spawn(move || file.sync_data()).ok();
        }
        Ok(())
    }

    /// Waits for what runs, and tells how it ended.
    pub fn end(&mut self) -> io::Result<()> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        let lost = |_| Err(io::Error::other("the thread that writes out was lost"));
        running.join().unwrap_or_else(lost)
    }
}

impl Drop for Writeback {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "a layer that is given up could not be written out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_out_again_and_again_but_not_twice_at_once() {
        let file = tempfile::tempfile().expect("a file");
        let mut writeback = Writeback::default();
        writeback.wrote(&file, STEP - 1).expect("nothing to do");
        assert!(writeback.running.is_none());
        writeback.wrote(&file, 1).expect("a thread");
        assert!(writeback.running.is_some());
        assert_eq!(writeback.written, 0);
        writeback.end().expect("written out");
        assert!(writeback.running.is_none());
    }

    #[test]
    fn a_failure_is_told_at_the_next_write_or_at_the_end() {
        let file = tempfile::tempfile().expect("a file");
        let fails = || Some(std::thread::spawn(|| Err(io::Error::other("no disk"))));
        let mut writeback = Writeback {
            running: fails(),
            ..Writeback::default()
        };
        while !writeback
            .running
            .as_ref()
            .is_some_and(JoinHandle::is_finished)
        {
            std::thread::yield_now();
        }
        writeback.wrote(&file, STEP).expect_err("no disk");
        writeback.running = fails();
        writeback.end().expect_err("no disk");
    }
}
