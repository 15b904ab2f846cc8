//! Every fault does what it says, to the requests it is meant for and to no others.

use std::time::{Duration, Instant};

use super::wire::{Reply, ask, follow, get, head};
use crate::hub::{Content, Effect, Fault, Files, Hub, Origin, Quota, Repo, World};

const SIZE: usize = 3_000_000;

async fn start() -> Hub {
    let files = Files::new()
        .file("a.txt", "some text ".repeat(100))
        .pattern("w.bin", SIZE as u64, 5);
    Hub::start(World::new().repo(Repo::model("o/m").commit(files))).await
}

fn weights(hub: &Hub) -> Reply {
    follow(&format!("{}/o/m/resolve/main/w.bin", hub.url()), &[])
}

fn signed(hub: &Hub) -> String {
    let hop = head(&format!("{}/o/m/resolve/main/w.bin", hub.url()), &[]);
    hop.header("location").expect("a location").to_owned()
}

fn bytes() -> Vec<u8> {
    Content::pattern(SIZE as u64, 5).to_bytes().to_vec()
}

#[tokio::test]
async fn statuses_by_count() {
    let hub = start().await;
    let header = ("Retry-After", "1".to_owned());
    hub.fault(
        Fault::cdn("w.bin")
            .nth(2)
            .then(Effect::Status(503, vec![header])),
    );
    hub.fault(
        Fault::hub("/api/models/o/m")
            .first(1)
            .then(Effect::RateLimited { t: 87 }),
    );
    let replies: Vec<Reply> = (0..3).map(|_| weights(&hub)).collect();
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [200, 503, 200]);
    assert_eq!(replies[1].header("retry-after"), Some("1"));
    let limited = get(&format!("{}/api/models/o/m", hub.url()), &[]);
    assert_eq!(limited.status, 429);
    assert_eq!(limited.header("ratelimit"), Some("\"api\";r=0;t=87"));
    assert_eq!(
        limited.header("ratelimit-policy"),
        Some("\"fixed window\";\"api\";q=500;w=300")
    );
    assert_eq!(
        get(&format!("{}/api/models/o/m", hub.url()), &[]).status,
        200
    );
}

#[tokio::test]
async fn bodies_that_break() {
    let hub = start().await;
    hub.fault(
        Fault::cdn("w.bin")
            .nth(1)
            .then(Effect::DropAfter(1_234_567)),
    );
    hub.fault(Fault::cdn("w.bin").nth(2).then(Effect::Corrupt(2_000_000)));
    hub.fault(
        Fault::cdn("w.bin")
            .nth(3)
            .then(Effect::SizeLie(SIZE as u64 + 10)),
    );
    hub.fault(Fault::cdn("w.bin").nth(4).then(Effect::Chunked));
    let dropped = weights(&hub);
    assert_eq!((dropped.status, dropped.whole), (200, false));
    assert!(dropped.body == bytes()[..1_234_567]);
    assert_eq!(hub.bytes(), 1_234_567);
    let mut corrupt = bytes();
    corrupt[2_000_000] ^= 0xff;
    assert!(weights(&hub).body == corrupt);
    let longer = weights(&hub);
    assert_eq!(longer.header("content-length"), Some("3000010"));
    assert!(!longer.whole && longer.body == bytes());
    let chunked = weights(&hub);
    assert_eq!(chunked.header("content-length"), None);
    assert!(chunked.whole && chunked.body == bytes());
    let whole = weights(&hub);
    assert!(whole.whole && whole.body == bytes());
}

#[tokio::test]
async fn corruption_is_at_the_offset_of_the_file() {
    let hub = start().await;
    hub.fault(Fault::cdn("w.bin").then(Effect::Corrupt(1_500_000)));
    let url = signed(&hub);
    let hit = get(&url, &[("range", "bytes=1499999-1500000")]).body;
    assert_eq!(hit, [bytes()[1_499_999], !bytes()[1_500_000]]);
    assert!(get(&url, &[("range", "bytes=0-1499999")]).body == bytes()[..1_500_000]);
}

#[tokio::test]
async fn bodies_that_take_time() {
    let hub = start().await;
    let pause = Duration::from_millis(300);
    hub.fault(
        Fault::cdn("w.bin")
            .nth(1)
            .then(Effect::StallAfter(1000, pause)),
    );
    hub.fault(Fault::cdn("w.bin").nth(2).then(Effect::Slow(10_000_000)));
    hub.fault(Fault::cdn("w.bin").nth(3).then(Effect::Delay(pause)));
    for _ in 0..3 {
        let begun = Instant::now();
        assert!(weights(&hub).body == bytes());
        assert!(begun.elapsed() >= Duration::from_millis(280));
    }
}

#[tokio::test]
async fn ranges_ignored_and_urls_expired() {
    let hub = start().await;
    hub.fault(Fault::cdn("w.bin").nth(1).then(Effect::IgnoreRange));
    hub.fault(Fault::cdn("w.bin").nth(2).then(Effect::ExpireSignature));
    let url = signed(&hub);
    let range = [("range", "bytes=1-2")];
    let whole = get(&url, &range);
    assert_eq!((whole.status, whole.body.len()), (200, SIZE));
    assert_eq!(get(&url, &range).status, 403);
    assert_eq!(get(&url, &range).status, 206);
    hub.fault(Fault::hub("resolve").first(1).then(Effect::ExpireSignature));
    assert_eq!(get(&signed(&hub), &range).status, 403);
    assert_eq!(get(&signed(&hub), &range).status, 206);
    hub.edit(|world| world.options.signature_lifetime = Duration::from_millis(1));
    let url = signed(&hub);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(get(&url, &range).status, 403);
}

#[tokio::test]
async fn later_ranges_may_come_first() {
    let hub = start().await;
    hub.fault(
        Fault::cdn("w.bin")
            .range_start(0..1000)
            .then(Effect::Hold("first")),
    );
    let url = signed(&hub);
    let early = {
        let url = url.clone();
        std::thread::spawn(move || get(&url, &[("range", "bytes=0-999")]))
    };
    hub.wait_until(|hub| hub.count("cdn") == 1).await;
    let late = get(&url, &[("range", "bytes=1000-1999")]);
    assert_eq!(late.status, 206);
    assert!(!early.is_finished());
    hub.release("first");
    assert!(early.join().expect("an answer").body == bytes()[..1000]);
    assert_eq!(hub.peak(Origin::Cdn), 2);
}

#[tokio::test]
async fn outages_and_pauses() {
    let hub = start().await;
    hub.fault(Fault::hub("resolve").first(1).then(Effect::Hangup));
    let resolve = format!("{}/o/m/resolve/main/w.bin", hub.url());
    assert!(ask("GET", &resolve, &[]).is_none());
    let url = signed(&hub);
    hub.pause();
    let paused = {
        let url = url.clone();
        std::thread::spawn(move || get(&url, &[]))
    };
    hub.wait_until(|hub| hub.count("cdn") == 1).await;
    assert!(follow(&format!("{}/o/m/resolve/main/a.txt", hub.url()), &[]).whole);
    assert!(!paused.is_finished());
    hub.resume();
    assert!(paused.join().expect("an answer").body == bytes());
    for _ in 0..3 {
        hub.stop();
        assert!(ask("GET", &resolve, &[]).is_none() && ask("GET", &url, &[]).is_none());
        hub.restart().expect("the same ports");
        assert!(get(&url, &[]).whole);
    }
}

#[tokio::test]
async fn text_may_come_compressed() {
    let hub = start().await;
    hub.edit(|world| world.options.gzip_text = true);
    let url = format!("{}/o/m/resolve/main/a.txt", hub.url());
    let plain = follow(&url, &[("accept-encoding", "identity")]);
    assert_eq!(
        (plain.header("content-encoding"), plain.body.len()),
        (None, 1000)
    );
    let packed = follow(&url, &[("accept-encoding", "gzip, deflate")]);
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert_eq!(packed.header("transfer-encoding"), Some("chunked"));
    assert!(packed.whole && packed.body.starts_with(&[0x1f, 0x8b]));
}

#[tokio::test]
async fn sizes_lie_and_headers_change() {
    let hub = start().await;
    hub.fault(Fault::hub("/tree/").then(Effect::SizeLie(7)));
    hub.fault(Fault::hub("a.txt").then(Effect::Header("X-Repo-Commit", "0".repeat(40))));
    let tree = get(&format!("{}/api/models/o/m/tree/main", hub.url()), &[]).json();
    assert_eq!(
        (&tree[0]["size"], &tree[1]["lfs"]["size"]),
        (&7.into(), &7.into())
    );
    let hop = head(&format!("{}/o/m/resolve/main/a.txt", hub.url()), &[]);
    assert_eq!(hop.header("x-repo-commit"), Some("0".repeat(40).as_str()));
    hub.clear_faults();
    let tree = get(&format!("{}/api/models/o/m/tree/main", hub.url()), &[]).json();
    assert_eq!(tree[0]["size"], 1000);
}

#[tokio::test]
async fn quotas_are_stated_and_enforced() {
    let hub = start().await;
    let quota = Quota {
        requests: 2,
        window: 300,
    };
    hub.edit(|world| world.options.resolve_quota = Some(quota));
    let url = format!("{}/o/m/resolve/main/w.bin", hub.url());
    let first = head(&url, &[]);
    assert!(
        first
            .header("ratelimit")
            .unwrap()
            .starts_with("\"resolvers\";r=1;t=")
    );
    assert_eq!((head(&url, &[]).status, head(&url, &[]).status), (302, 429));
    assert_eq!(
        get(&format!("{}/api/models/o/m", hub.url()), &[]).status,
        200
    );
}

#[tokio::test]
async fn everything_is_recorded() {
    let hub = start().await;
    let url = format!("{}/o/m/resolve/main/w.bin", hub.url());
    follow(
        &url,
        &[("authorization", "Bearer hf_x"), ("range", "bytes=5-9")],
    );
    hub.edit(|world| *world = std::mem::take(world).user("hf_x", "x"));
    follow(
        &url,
        &[("authorization", "Bearer hf_x"), ("range", "bytes=5-9")],
    );
    let seen: Vec<_> = hub
        .records()
        .into_iter()
        .map(|r| (r.origin, r.route, r.status, r.bytes))
        .collect();
    assert_eq!(
        seen,
        [
            (Origin::Hub, "resolve", 401, 0),
            (Origin::Hub, "resolve", 302, 0),
            (Origin::Cdn, "cdn", 206, 5)
        ]
    );
    let last = hub.records().pop().expect("a record");
    assert_eq!(
        (last.authorization(), last.range()),
        (None, Some("bytes=5-9"))
    );
    assert_eq!(last.file.as_deref(), Some("models/o/m/w.bin"));
    let stats = get(&format!("{}/-/stats", hub.url()), &[]).json();
    assert_eq!(
        (&stats["bytes"], &stats["requests_by_route"]["resolve"]),
        (&5.into(), &2.into())
    );
    assert!(ask("POST", &format!("{}/-/reset", hub.url()), &[]).is_some());
    assert_eq!((hub.bytes(), hub.records().len()), (0, 0));
}
