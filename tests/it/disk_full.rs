//! A disk that is full: told as 507, survived, and forgotten once there is room. On a small file system of its own.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hf_oci::store::{Limits, MinFree};

use crate::harness::{Proxy, Setup, wanted};
use crate::hub::{Effect, Fault, Files, Hub, Repo, World};

const FILE: u64 = 16 << 20;
const DISK: u64 = 64 << 20;

/// A mounted tmpfs of [`DISK`] bytes.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// `None`, told on stderr, where this process may not mount; where CI is set that is a failure.
    fn mount(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "hf-oci-test"])
            .arg(folder.path())
            .output();
        let why = match mounted {
            Ok(output) if output.status.success() => return Some(Self { folder }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        let strict = std::env::var_os("CI").is_some();
        assert!(!strict, "{test} needs a mount: {why}");
        eprintln!("skipped: {test} needs a mount: {why}");
        None
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Lets something else take all of the disk but `left` bytes.
    fn fill(&self, left: u64) {
        let file = File::create(self.folder.path().join("other")).expect("a file");
        let zeros = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            // Anew each time: the index takes and gives back a little meanwhile.
            let len = self.free().saturating_sub(left).min(1 << 20) as usize;
            match file.write_at(&zeros[..len], at) {
                Ok(0) => break,
                Ok(written) => at += written as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.folder.path()).expect("a disk");
        stat.f_bavail * stat.f_frsize
    }

    fn empty(&self) {
        fs::remove_file(self.folder.path().join("other")).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a file may still be open.
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.folder.path())
            .status();
    }
}

async fn hub() -> Hub {
    let world = (0..4).fold(World::new(), |world, n| {
        let files = Files::new().pattern("a.bin", FILE, n);
        world.repo(Repo::model(format!("org/m{n}")).commit(files))
    });
    let large = Files::new().pattern("a.bin", 2 * DISK, 9);
    Hub::start(world.repo(Repo::model("org/large").commit(large))).await
}

async fn start(hub: &Hub, data: &Path, min_free: u64) -> Proxy {
    let limits = Limits {
        max_size: None,
        min_free: MinFree::Bytes(min_free),
    };
    let setup = Setup {
        limits,
        ..Setup::default()
    };
    Proxy::start_on_with(hub, data, setup).await
}

async fn pull(proxy: &Proxy, hub: &Hub, n: u64) {
    let name = format!("org/m{n}");
    assert!(proxy.files(&name, "main").await == wanted(hub, &name, "main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_disk_has_is_507_and_nothing_is_touched() {
    let Some(disk) = Disk::mount("more_than_the_disk_has_is_507_and_nothing_is_touched") else {
        return;
    };
    let hub = hub().await;
    let proxy = start(&hub, &disk.data(), 4 << 20).await;
    pull(&proxy, &hub, 0).await;
    hub.reset();
    let error = proxy.error("/v2/org/large/manifests/main").await;
    assert_eq!((error.status, &*error.code), (507, "UNAVAILABLE"));
    assert!(
        error.message.contains("128.1 MiB are needed"),
        "{}",
        error.message
    );
    assert!(
        error.message.contains("cache.min_free, which is 4.0 MiB"),
        "{}",
        error.message
    );
    assert_eq!((hub.bytes(), proxy.staged().len()), (0, 0));
    pull(&proxy, &hub, 0).await;
    assert_eq!(hub.bytes(), 0);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_makes_room_by_itself_and_keeps_what_is_to_stay_free() {
    let Some(disk) = Disk::mount("a_full_disk_makes_room_by_itself_and_keeps_what_is_to_stay_free")
    else {
        return;
    };
    let hub = hub().await;
    let proxy = start(&hub, &disk.data(), 8 << 20).await;
    for n in 0..4 {
        pull(&proxy, &hub, n).await;
        assert!(disk.free() >= 8 << 20, "{n}");
    }
    assert_eq!(
        proxy.store.catalog().expect("names"),
        ["org/m1", "org/m2", "org/m3"]
    );
    // Others take the disk: the cache gives way.
    disk.fill(1 << 20);
    proxy.store.trim().expect("trimmed");
    assert_eq!(proxy.store.catalog().expect("names"), ["org/m2", "org/m3"]);
    hub.reset();
    pull(&proxy, &hub, 2).await;
    assert_eq!(hub.bytes(), 0);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_others_fill_to_the_last_byte_is_survived() {
    let Some(disk) = Disk::mount("a_disk_that_others_fill_to_the_last_byte_is_survived") else {
        return;
    };
    let hub = hub().await;
    let proxy = start(&hub, &disk.data(), 0).await;
    pull(&proxy, &hub, 0).await;
    assert!(proxy.store.pin("org/m0", "main", true).expect("pinned"));
    disk.fill(0);
    hub.reset();
    for _ in 0..3 {
        let error = proxy.error("/v2/org/m1/manifests/main").await;
        assert_eq!(error.status, 507, "{}", error.message);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    assert_eq!(hub.bytes(), 0);
    // What is there is served.
    pull(&proxy, &hub, 0).await;
    assert_eq!(hub.bytes(), 0);
    disk.empty();
    pull(&proxy, &hub, 1).await;
    proxy.stop().await;
    let proxy = start(&hub, &disk.data(), 0).await;
    hub.reset();
    pull(&proxy, &hub, 0).await;
    pull(&proxy, &hub, 1).await;
    assert_eq!(hub.bytes(), 0);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_quite_full_disk_an_eviction_still_works() {
    let Some(disk) = Disk::mount("on_a_quite_full_disk_an_eviction_still_works") else {
        return;
    };
    let hub = hub().await;
    let proxy = start(&hub, &disk.data(), 0).await;
    pull(&proxy, &hub, 0).await;
    pull(&proxy, &hub, 1).await;
    disk.fill(0);
    pull(&proxy, &hub, 2).await;
    // One layer's room is not quite enough: the documents need some too.
    assert_eq!(proxy.store.catalog().expect("names"), ["org/m2"]);
    pull(&proxy, &hub, 0).await;
    pull(&proxy, &hub, 2).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_during_a_fill_gives_back_what_the_fill_took() {
    let Some(disk) =
        Disk::mount("a_disk_that_fills_up_during_a_fill_gives_back_what_the_fill_took")
    else {
        return;
    };
    let hub = hub().await;
    let proxy = start(&hub, &disk.data(), 0).await;
    hub.fault(Fault::cdn("a.bin").then(Effect::Hold("fill")));
    let full = async {
        while proxy
            .staged()
            .iter()
            .all(|name| !name.starts_with("layer-"))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        disk.fill(0);
        hub.release("fill");
    };
    let (error, ()) = tokio::join!(proxy.error("/v2/org/m0/manifests/main"), full);
    // The layer has its room; what fails is what comes after it.
    assert_eq!(error.status, 507, "{}", error.message);
    assert!(!proxy.staged().iter().any(|name| name.starts_with("layer-")));
    hub.clear_faults();
    disk.empty();
    pull(&proxy, &hub, 0).await;
    proxy.stop().await;
}
