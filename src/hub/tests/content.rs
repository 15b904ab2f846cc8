//! The bytes of files, through everything that can happen to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future};

use super::fake::{Act, Fake, Seen};
use super::*;
use crate::oci::Digest;

fn data(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn lfs(data: &[u8]) -> RemoteFile {
    RemoteFile {
        repo: repo("org/model"),
        commit: commit(),
        path: FilePath::new("sub dir/été #1%?.bin").expect("a path"),
        size: data.len() as u64,
        content: ContentId::Sha256(Digest::of(data)),
    }
}

async fn read(
    hub: &HubClient,
    file: &RemoteFile,
    range: Range<u64>,
) -> Result<Vec<u8>, UpstreamError> {
    let parts: Vec<Bytes> = hub.read(file, range).await?.try_collect().await?;
    Ok(parts.concat())
}

/// A Hub that sends every file to `cdn`, with a signature that counts up.
async fn redirecting(cdn: &Fake) -> Fake {
    let cdn = cdn.url("/blob");
    let signature = AtomicUsize::new(0);
    Fake::start(move |_, _| {
        let n = signature.fetch_add(1, Ordering::Relaxed);
        Act::to(format!("{cdn}?sig={n}"))
    })
    .await
}

#[tokio::test]
async fn the_cdn_never_sees_the_token_and_the_hub_is_asked_once() {
    let all = Arc::new(data(100_000));
    let served = Arc::clone(&all);
    let cdn = Fake::start(move |seen, _| Act::part(seen, &served)).await;
    let fake = redirecting(&cdn).await;
    let (hub, file) = (hub(&fake), lfs(&all));
    let parts = (0..10).map(|i| read(&hub, &file, i * 10_000..(i + 1) * 10_000));
    let parts: Result<Vec<_>, _> = future::join_all(parts).await.into_iter().collect();
    assert_eq!(parts.expect("all parts").concat(), *all);
    let path = format!("/org/model/resolve/{SHA}/sub%20dir/%C3%A9t%C3%A9%20%231%25%3F.bin");
    assert_eq!(fake.paths(), [path]);
    assert!(has_token(&fake.seen()[0]));
    assert_eq!(cdn.seen().len(), 10);
    for seen in cdn.seen() {
        assert_eq!(seen.header("authorization"), None);
        assert!(seen.header("range").is_some());
    }
}

#[tokio::test]
async fn an_empty_range_asks_nobody_and_a_range_outside_is_refused() {
    let fake = Fake::start(|_, _| Act::new(500, "")).await;
    let (hub, file) = (hub(&fake), lfs(b"abc"));
    assert_eq!(read(&hub, &file, 3..3).await, Ok(vec![]));
    assert!(read(&hub, &file, 0..4).await.is_err());
    assert!(fake.seen().is_empty());
}

#[tokio::test]
async fn dropped_and_silent_bodies_go_on_at_the_next_byte() {
    for silent in [false, true] {
        let all = Arc::new(data(50_000));
        let served = Arc::clone(&all);
        let cdn = Fake::start(move |seen, n| {
            let part = Act::part(seen, &served);
            match n {
                0..=2 if silent => part.silent_after(9_000),
                0..=4 => part.dropped_after(9_000),
                _ => part,
            }
        })
        .await;
        let fake = redirecting(&cdn).await;
        let got = read(&hub(&fake), &lfs(&all), 100..49_900).await;
        assert_eq!(got.as_deref(), Ok(&all[100..49_900]));
        let ranges: Vec<_> = cdn
            .seen()
            .iter()
            .map(|s| s.range(all.len()).start)
            .collect();
        assert_eq!(
            ranges,
            [100, 9_100, 18_100, 27_100, 36_100, 45_100],
            "{silent}"
        );
        assert_eq!(fake.seen().len(), 1);
    }
}

#[tokio::test]
async fn retries_without_progress_end() {
    let all = Arc::new(data(1_000));
    let cdn = Fake::start(|seen, _| Act::part(seen, &data(1_000)).dropped_after(0)).await;
    let fake = redirecting(&cdn).await;
    let error = read(&hub(&fake), &lfs(&all), 0..1_000).await;
    assert!(
        matches!(error, Err(UpstreamError::Unavailable(_))),
        "{error:?}"
    );
    assert_eq!(cdn.seen().len(), 4);
    let cdn = Fake::start(|seen, _| Act::part(seen, &data(1_000)).silent_after(0)).await;
    let fake = redirecting(&cdn).await;
    let error = read(&hub(&fake), &lfs(&all), 0..1_000)
        .await
        .expect_err("silent");
    assert!(matches!(error, UpstreamError::Timeout(_)), "{error:?}");
    assert!(!error.to_string().contains("sig="), "{error}");
}

#[tokio::test]
async fn an_expired_signature_is_renewed_in_the_middle_of_a_file() {
    let all = Arc::new(data(50_000));
    let served = Arc::clone(&all);
    let cdn = Fake::start(move |seen, n| match (n, seen.path.as_str()) {
        (0, _) => Act::part(seen, &served).dropped_after(20_000),
        (_, "/blob?sig=0") => Act::new(403, "<Error>expired</Error>"),
        _ => Act::part(seen, &served),
    })
    .await;
    let fake = redirecting(&cdn).await;
    let got = read(&hub(&fake), &lfs(&all), 0..50_000).await;
    assert_eq!(got.as_deref(), Ok(&all[..]));
    let signed = ["/blob?sig=0", "/blob?sig=0", "/blob?sig=1"];
    assert_eq!(cdn.paths(), signed);
    assert_eq!(cdn.seen()[2].range(all.len()), 20_000..50_000);
}

#[tokio::test]
async fn an_ignored_range_gives_the_wanted_bytes_all_the_same() {
    let all = Arc::new(data(80_000));
    let served = Arc::clone(&all);
    let fake = Fake::start(move |_, n| {
        let whole = Act::new(200, &served[..]);
        if n == 0 {
            whole.dropped_after(40_000)
        } else {
            whole
        }
    })
    .await;
    let got = read(&hub(&fake), &lfs(&all), 30_000..60_000).await;
    assert_eq!(got.as_deref(), Ok(&all[30_000..60_000]));
    // Asked to the end, as others may want to go on where this one ends.
    assert_eq!(fake.seen()[1].range(all.len()), 40_000..80_000);
}

#[tokio::test]
async fn a_small_git_file_is_asked_for_without_a_range() {
    let fake = Fake::start(
        |seen, _| match seen.path.starts_with("/api/resolve-cache/") {
            false => Act::to("/api/resolve-cache/models/org/model/x"),
            true => Act::part(seen, b"hello"),
        },
    )
    .await;
    let file = RemoteFile {
        content: ContentId::Git([0; 20]),
        ..lfs(b"hello")
    };
    assert_eq!(
        read(&hub(&fake), &file, 0..5).await.as_deref(),
        Ok(&b"hello"[..])
    );
    assert!(
        fake.seen()
            .iter()
            .all(|s| s.header("range").is_none() && has_token(s))
    );
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test]
async fn answers_about_other_bytes_are_refused_naming_the_file() {
    let wrong: [fn(&Seen) -> Act; 6] = [
        |seen| Act::part(seen, &data(1_001)),
        |_| Act::new(206, data(10)).with("Content-Range", "bytes 0-9/1000"),
        |_| Act::new(206, data(10)),
        |_| Act::new(200, data(999)),
        |seen| Act::part(seen, &data(1_000)).with("Content-Encoding", "gzip"),
        |_| Act::new(416, ""),
    ];
    for (i, act) in wrong.into_iter().enumerate() {
        let cdn = Fake::start(move |seen, _| act(seen)).await;
        let fake = redirecting(&cdn).await;
        match read(&hub(&fake), &lfs(&data(1_000)), 10..20).await {
            Err(UpstreamError::Broken(why)) if why.contains("été #1%?.bin") => {
                assert!(!why.contains("sig="), "{why}");
            }
            other => panic!("{i}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn no_more_bodies_at_once_than_connections() {
    static NOW: AtomicUsize = AtomicUsize::new(0);
    let all = Arc::new(data(4_000_000));
    let served = Arc::clone(&all);
    let fake = Fake::start(move |seen, _| {
        NOW.fetch_add(1, Ordering::SeqCst);
        Act::part(seen, &served)
    })
    .await;
    let hub = client(HubSettings {
        connections: 2,
        stall: Duration::from_secs(5),
        ..settings(&fake, "")
    });
    let file = lfs(&all);
    let held: Vec<_> = vec![
        hub.read(&file, 0..4_000_000).await.expect("a stream"),
        hub.read(&file, 0..4_000_000).await.expect("a stream"),
    ];
    let third = hub.read(&file, 0..10);
    assert!(
        tokio::time::timeout(Duration::from_millis(100), third)
            .await
            .is_err()
    );
    assert_eq!(NOW.load(Ordering::SeqCst), 2);
    drop(held);
    let mut third = hub.read(&file, 0..10).await.expect("a permit is free");
    assert!(third.next().await.is_some());
}

#[tokio::test]
async fn whatever_happens_the_bytes_are_exact() {
    let all = Arc::new(data(30_000));
    for seed in 0..40_usize {
        let served = Arc::clone(&all);
        let cdn = Fake::start(move |seen, n| {
            let part = Act::part(seen, &served);
            // At most two failures in a row: the third answer always makes progress.
            match (seed * 31 + n * 17 + seed * n) % 7 {
                _ if n % 3 == 2 => part.dropped_after(4_000 + seed),
                0 => Act::new(403, "expired"),
                1 => Act::new(503, ""),
                2 => part.dropped_after(0),
                3 => Act::new(200, &served[..]),
                4 => Act::new(200, &served[..]).dropped_after(seed * 500),
                _ => part.dropped_after(seed * 300),
            }
        })
        .await;
        let fake = redirecting(&cdn).await;
        let range = seed as u64 * 101..30_000 - seed as u64 * 77;
        let wanted = &all[range.start as usize..range.end as usize];
        let got = read(&hub(&fake), &lfs(&all), range.clone()).await;
        assert_eq!(got.as_deref(), Ok(wanted), "seed {seed}");
    }
}
