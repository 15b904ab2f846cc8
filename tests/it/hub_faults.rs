//! Promise: upstreams that cannot do what the Hub does (ranges, parallel reads, many requests) are met with what they can.

use std::time::{Duration, Instant};

use crate::harness::{Proxy, Setup, wanted};
use crate::hub::{Effect, Fault, Files, Hub, Origin, Repo, World};

const MIB: u64 = 1 << 20;

async fn hub(files: Files) -> Hub {
    Hub::start(World::new().repo(Repo::model("org/m").commit(files))).await
}

async fn pulls_right(proxy: &Proxy, hub: &Hub) {
    assert!(proxy.files("org/m", "main").await == wanted(hub, "org/m", "main"));
}

/// What a connection may have on its way when it is dropped: the simulator's queue and the sockets' buffers.
const IN_FLIGHT: u64 = 8 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_server_ignores_ranges_is_read_once_in_one_stream() {
    const SIZE: u64 = 64 * MIB;
    let hub = hub(Files::new().pattern("big.bin", SIZE, 1)).await;
    hub.fault(Fault::cdn("").then(Effect::IgnoreRange));
    let proxy = Proxy::start(&hub).await;
    pulls_right(&proxy, &hub).await;
    // The first answer already tells: of eight pieces that are wanted at once, seven never ask.
    assert_eq!((hub.bytes(), hub.count("cdn")), (SIZE, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_begins_to_ignore_ranges_in_the_middle_costs_what_was_in_flight() {
    const SIZE: u64 = 64 * MIB;
    let hub = hub(Files::new().pattern("big.bin", SIZE, 1)).await;
    hub.fault(Fault::cdn("").after(3).then(Effect::IgnoreRange));
    let proxy = Proxy::start(&hub).await;
    pulls_right(&proxy, &hub).await;
    // Three pieces came as ranges and come again, skipped; five answers were in flight, and one of them is the stream.
    let most = SIZE + 24 * MIB + 4 * IN_FLIGHT;
    assert!(hub.bytes() <= most, "{}", hub.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_stream_survives_a_break_and_little_memory() {
    const SIZE: u64 = 48 * MIB;
    let files = Files::new()
        .pattern("a.bin", SIZE, 1)
        .pattern("b.bin", SIZE, 2)
        .pattern("c.bin", SIZE, 3);
    let hub = hub(files).await;
    hub.fault(Fault::cdn("").then(Effect::IgnoreRange));
    hub.fault(Fault::cdn("b.bin").nth(1).then(Effect::DropAfter(20 * MIB)));
    let mut setup = Setup::default();
    setup.fill.memory = 32 * MIB;
    setup.fill.connections = 3;
    setup.connections = 1;
    let proxy = Proxy::start_with(&hub, setup).await;
    pulls_right(&proxy, &hub).await;
    let most = 3 * SIZE + 20 * MIB + 3 * IN_FLIGHT;
    assert!(hub.bytes() <= most, "{}", hub.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_images_that_want_the_same_file_at_once_have_a_stream_each() {
    const SIZE: u64 = 48 * MIB;
    let files = Files::new()
        .pattern("x/a.bin", SIZE, 1)
        .pattern("b.bin", 9 * MIB, 2);
    let hub = hub(files).await;
    hub.fault(Fault::cdn("").then(Effect::IgnoreRange));
    let proxy = Proxy::start(&hub).await;
    let (all, part) = tokio::join!(proxy.files("org/m", "main"), proxy.files("org/m/x", "main"));
    let wanted = wanted(&hub, "org/m", "main");
    assert!(all == wanted);
    assert!(part["x/a.bin"] == wanted["x/a.bin"]);
    let most = 2 * SIZE + 9 * MIB + 4 * IN_FLIGHT;
    assert!(hub.bytes() <= most, "{}", hub.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cdn_that_refuses_parallel_reads_is_read_with_fewer() {
    for status in [403, 429, 503] {
        let hub = hub(Files::new().pattern("big.bin", 96 * MIB, 1)).await;
        hub.fault(Fault::cdn("").then(Effect::Crowd(2, status)));
        hub.fault(Fault::cdn("").then(Effect::Slow(64 * MIB)));
        let setup = Setup {
            backoff: Duration::from_millis(100),
            ..Setup::default()
        };
        let proxy = Proxy::start_with(&hub, setup).await;
        pulls_right(&proxy, &hub).await;
        assert_eq!(hub.bytes(), 96 * MIB, "{status}");
        let refused = hub.records().iter().filter(|r| r.status == status).count();
        assert!((1..40).contains(&refused), "{status}: {refused}");
        // Once it is known, hardly any read is refused any more.
        let late = hub
            .records()
            .iter()
            .rev()
            .take(6)
            .filter(|r| r.status == status)
            .count();
        assert!(late <= 1, "{status}: {late}");
        assert!(hub.peak(Origin::Cdn) >= 3, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_limited_answer_stops_all_readers_of_its_route_together() {
    let mut files = Files::new();
    for i in 0..40 {
        files = files.file(format!("{i}.txt"), format!("{i}"));
    }
    let hub = hub(files).await;
    hub.fault(
        Fault::hub("")
            .route("resolve")
            .nth(1)
            .then(Effect::RateLimited { t: 2 }),
    );
    let proxy = Proxy::start(&hub).await;
    let begun = Instant::now();
    pulls_right(&proxy, &hub).await;
    assert!(begun.elapsed() >= Duration::from_secs(2));
    let records = hub.records();
    let limited = records.iter().position(|r| r.status == 429);
    let limited = &records[limited.expect("one")];
    let early = records.iter().filter(|r| {
        r.route == "resolve"
            && r.at > limited.at + Duration::from_millis(200)
            && r.at < limited.at + Duration::from_millis(1900)
    });
    assert_eq!(early.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_too_long_to_wait_for_is_told_to_the_client() {
    for fault in [
        Fault::hub("").route("info"),
        Fault::hub("").route("tree"),
        Fault::hub("").route("resolve"),
    ] {
        let hub = hub(Files::new().file("a.txt", "a")).await;
        hub.fault(fault.then(Effect::RateLimited { t: 3600 }));
        let proxy = Proxy::start(&hub).await;
        for _ in 0..3 {
            let answer = proxy.get("/v2/org/m/manifests/main").await;
            assert_eq!(answer.status(), 429);
            let wait = crate::harness::header(&answer, "retry-after").expect("a wait");
            let wait: u64 = wait.parse().expect("seconds");
            assert!((3590..=3600).contains(&wait), "{wait}");
        }
        let asked = hub.records().iter().filter(|r| r.status == 429).count();
        assert_eq!(asked, 1, "nobody asks again before it is time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_is_of_one_commit_whatever_its_branch_does_meanwhile() {
    let hub = hub(Files::new()
        .pattern("w.bin", 20 * MIB, 1)
        .file("a.txt", "old"))
    .await;
    let old = wanted(&hub, "org/m", "main");
    hub.fault(
        Fault::cdn("")
            .range_start(8 * MIB..20 * MIB)
            .then(Effect::Hold("rest")),
    );
    let mut setup = Setup::default();
    setup.fill.tag_ttl = Duration::ZERO;
    let proxy = Proxy::start_with(&hub, setup).await;
    let moved = async {
        hub.wait_until(|hub| hub.count("cdn") >= 2).await;
        let next = Files::new()
            .pattern("w.bin", 12 * MIB, 2)
            .file("a.txt", "new");
        hub.commit("org/m", "main", next);
        hub.release("rest");
    };
    let (index, ()) = tokio::join!(proxy.get("/v2/org/m/manifests/main"), moved);
    assert_eq!(index.status(), 200);
    let commit = hub
        .records()
        .iter()
        .find(|r| r.route == "tree")
        .expect("a listing")
        .path
        .clone();
    let sha: String = commit
        .split('/')
        .find(|s| s.len() >= 40)
        .expect("a commit")
        .chars()
        .take(40)
        .collect();
    assert!(proxy.files("org/m", &sha).await == old);
    pulls_right(&proxy, &hub).await;
    assert!(wanted(&hub, "org/m", "main") != old);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_is_not_stalled() {
    let hub = hub(Files::new().pattern("w.bin", 3 * MIB, 1)).await;
    hub.fault(Fault::cdn("").then(Effect::Slow(MIB)));
    let setup = Setup {
        stall: Duration::from_millis(400),
        retries: 0,
        ..Setup::default()
    };
    let proxy = Proxy::start_with(&hub, setup).await;
    let begun = Instant::now();
    pulls_right(&proxy, &hub).await;
    assert!(begun.elapsed() > Duration::from_secs(2));
    assert_eq!(hub.count("cdn"), 1);
    assert_eq!(hub.bytes(), 3 * MIB);
}
