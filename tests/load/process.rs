//! The server's process, as `/proc` shows it.

use crate::client::Failure;

/// The most memory that the server may ever have had, in KiB.
const MEMORY: u64 = 300 << 10;

#[derive(Debug, Clone, Copy)]
pub struct Process {
    pid: u32,
}

impl Process {
    pub const fn new(pid: u32) -> Self {
        Self { pid }
    }

    fn read(&self, file: &str, field: &str) -> Result<u64, Failure> {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.pid))?;
        let line = text.lines().find_map(|l| l.strip_prefix(field));
        let word = line.and_then(|l| l.split_whitespace().next());
        Ok(word.ok_or("no such field")?.parse()?)
    }

    /// The largest resident set so far, in KiB.
    pub fn peak(&self) -> Result<u64, Failure> {
        self.read("status", "VmHWM:")
    }

    /// Bytes that the process has read, from files and sockets.
    pub fn bytes_read(&self) -> Result<u64, Failure> {
        self.read("io", "rchar:")
    }

    /// Open files below the folder of blobs, and open sockets.
    pub fn files(&self) -> Result<(usize, usize), Failure> {
        let (mut blobs, mut sockets) = (0, 0);
        for entry in std::fs::read_dir(format!("/proc/{}/fd", self.pid))? {
            // One that was closed meanwhile is no failure.
            let Ok(target) = std::fs::read_link(entry?.path()) else {
                continue;
            };
            let target = target.to_string_lossy();
            blobs += usize::from(target.contains("/blobs/sha256/"));
            sockets += usize::from(target.starts_with("socket:"));
        }
        Ok((blobs, sockets))
    }

    /// Says the peak and fails if it is too much.
    pub fn check_memory(&self, when: &str) -> Result<(), Failure> {
        let peak = self.peak()?;
        println!("{when}: peak memory {} MiB", peak >> 10);
        match peak < MEMORY {
            true => Ok(()),
            false => Err(format!("{when}: more than {} MiB of memory", MEMORY >> 10).into()),
        }
    }
}

/// Memory of the system that TCP holds, in MiB; all connections of this machine.
pub fn kernel_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/net/sockstat").ok()?;
    let line = text.lines().find(|l| l.starts_with("TCP:"))?;
    let pages: u64 = line.rsplit(' ').next()?.parse().ok()?;
    Some((pages * 4096) >> 20)
}
