//! Promise: whatever goes wrong upstream, at whatever moment, is survived or ends in the right error; no wrong byte is ever served, nothing
//! is lost, and the next pull succeeds. `docs/reliability.md` is written by this test, from the table that it executes:
//! `HF_OCI_WRITE_DOCS=1 cargo test --test it faults`.

mod page;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use hf_oci::oci::Digest;

use crate::harness::{Proxy, Setup, wanted};
use crate::hub::{Effect, Files, Hub};
use table::{Case, Ends, Extra, Moment, PIECE, ROWS, STALL};

/// Cells that run at once.
const PARALLEL: usize = 8;

/// The longest wait for a rate limit.
const PATIENCE: Duration = Duration::from_millis(1300);

fn setup() -> Setup {
    Setup {
        stall: STALL,
        retries: 2,
        backoff: Duration::from_millis(30),
        patience: PATIENCE,
        ..Setup::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_at_every_moment_ends_as_the_page_says() {
    let cells = ROWS.iter().flat_map(|row| {
        let case = |moment| Some((row.name, moment, (row.case)(moment)?));
        Moment::ALL.into_iter().filter_map(case)
    });
    let failed: Vec<String> = futures_util::stream::iter(cells)
        .map(|(name, moment, case)| async move {
            let ran = tokio::spawn(run(moment, case)).await;
            let why = why(ran.err()?);
            Some(format!("{name} × {}: {why}", moment.title()))
        })
        .buffer_unordered(PARALLEL)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The words of a panic.
fn why(error: tokio::task::JoinError) -> String {
    let panic = error.into_panic();
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or_default().to_owned()
}

/// One cell, from an empty cache to a second pull without the fault. Panics where a promise is broken.
async fn run(moment: Moment, case: Case) {
    let hub = Hub::start(moment.world()).await;
    let mut fault = moment.fault().then(case.effect.clone());
    if let Some(times) = case.times {
        fault = fault.first(times);
    }
    hub.fault(fault);
    let proxy = Proxy::start_with(&hub, setup()).await;
    let mut files = wanted(&hub, "org/m", "main");
    let read: u64 = match moment {
        Moment::Card => ["w.bin", "README.md"]
            .map(|f| files[f].len() as u64)
            .iter()
            .sum(),
        _ => files.values().map(|f| f.len() as u64).sum(),
    };
    let file = files[moment.file()].len() as u64;
    let after = files.range(moment.file().to_owned()..).skip(1);
    let behind: u64 = after.map(|(_, bytes)| bytes.len() as u64).sum();
    if moment == Moment::Card {
        files.retain(|path, _| path == "w.bin");
    }
    match case.ends {
        Ends::Survives(extra) => {
            let moving = moves(&hub, moment, &case);
            tokio::join!(survives(&proxy, moment, &files), moving);
            met(&hub, &case);
            let bytes: u64 = hub.bytes_by_file().values().sum();
            let most = read
                + match extra {
                    Extra::Nothing => 0,
                    Extra::Piece => file.min(PIECE),
                    Extra::File => file,
                    Extra::Ahead => file + behind,
                };
            assert!(bytes <= most, "{bytes} bytes came, at most {most} may");
        }
        Ends::Fails(status, code) => {
            fails(&proxy, moment, &case, status, code).await;
            met(&hub, &case);
            hub.clear_faults();
            if status == 429 {
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
    hub.clear_faults();
    survives(&proxy, moment, &files).await;
    holds_only_whole_blobs(&proxy);
    // What was staged by a listing that lied about sizes waits for that listing.
    let lied = moment == Moment::Tree && matches!(case.effect, Effect::SizeLie(_));
    assert!(lied || proxy.staged().is_empty(), "{:?}", proxy.staged());
    assert!(hub.leaks().is_empty());
}

/// The fault did happen, as often as it should.
fn met(hub: &Hub, case: &Case) {
    let hits = hub.fault_hits();
    match case.times {
        Some(times) => assert_eq!(hits, times, "the fault's hits"),
        None => assert!(hits > 0, "the fault was never met"),
    }
}

/// Moves the branch while the fault holds the answer.
async fn moves(hub: &Hub, moment: Moment, case: &Case) {
    let Effect::Hold(name) = case.effect else {
        return;
    };
    hub.wait_until(|hub| hub.records().iter().any(|r| moment.is_of(r)))
        .await;
    let other = Files::new()
        .file("config.json", "{}")
        .pattern("w.bin", 1_200_000, 9);
    hub.commit("org/m", "main", other);
    hub.release(name);
}

async fn survives(proxy: &Proxy, moment: Moment, files: &BTreeMap<String, Vec<u8>>) {
    if moment == Moment::Refs {
        let tags = proxy.get("/v2/org/m/tags/list").await;
        assert_eq!(tags.status(), 200);
        let text = tags.text().await.expect("text");
        assert!(text.contains("\"main\""), "{text}");
    }
    let got = proxy.files(moment.image(), "main").await;
    assert!(got == *files, "wrong bytes");
    let (_, index) = proxy.index(moment.image(), "main").await;
    let license = &index.annotations["org.opencontainers.image.licenses"];
    assert_eq!(license, "apache-2.0");
}

async fn fails(proxy: &Proxy, moment: Moment, case: &Case, status: u16, code: &str) {
    let path = match moment {
        Moment::Refs => "/v2/org/m/tags/list".to_owned(),
        _ => format!("/v2/{}/manifests/main", moment.image()),
    };
    let error = proxy.error(&path).await;
    let told = &error.message;
    assert_eq!(
        (error.status, error.code.as_str()),
        (status, code),
        "{told}"
    );
    if matches!(case.effect, Effect::Corrupt(_) | Effect::SizeLie(_)) {
        let names = ["w.bin", "config.json", "README.md"];
        assert!(names.iter().any(|name| told.contains(name)), "{told}");
    }
    // Before the first image there is no index.
    let index = std::fs::read_to_string(proxy.data().join("index.json")).unwrap_or_default();
    assert!(!index.contains("sha256:"), "published: {index}");
}

/// Every published blob is what its name says.
fn holds_only_whole_blobs(proxy: &Proxy) {
    let names = proxy.blobs();
    assert!(names.len() >= 3);
    for name in names {
        let bytes = std::fs::read(proxy.data().join("blobs/sha256").join(&name)).expect("a blob");
        assert_eq!(Digest::of(&bytes).to_string(), format!("sha256:{name}"));
    }
}
