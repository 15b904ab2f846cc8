//! Where content comes from, and which parts of it.

use super::wire::{follow, get, head};
use super::{TOKEN, world};
use crate::hub::Hub;

#[tokio::test]
async fn git_files_come_from_the_hub_and_large_ones_from_the_cdn() {
    let hub = Hub::start(world()).await;
    let commit = hub.sha("Org/Tiny", "v1.0");
    let odd = format!(
        "{}/Org/Tiny/resolve/v1.0/sub%20dir/%C3%A9t%C3%A9%20%231%25%3F.txt",
        hub.url()
    );
    let hop = head(&odd, &[]);
    assert_eq!((hop.status, hop.header("x-linked-size")), (307, Some("9")));
    assert_eq!(hop.header("x-repo-commit"), Some(commit.as_str()));
    assert!(
        hop.header("location")
            .unwrap()
            .starts_with("/api/resolve-cache/models/Org/Tiny/")
    );
    assert_ne!(
        hop.header("content-length"),
        Some("9"),
        "a redirect's length is its own"
    );
    let last = follow(&odd, &[]);
    assert_eq!((last.status, last.text()), (200, "odd name\n"));
    assert_eq!(last.header("etag"), hop.header("x-linked-etag"));

    let url = format!(
        "{}/Org/Tiny/resolve/v1.0/weights/model.safetensors",
        hub.url()
    );
    let hop = get(&url, &[TOKEN]);
    assert_eq!(
        (hop.status, hop.header("x-linked-size")),
        (302, Some("3000000"))
    );
    assert_eq!(hop.header("x-xet-hash").map(str::len), Some(64));
    let signed = hop.header("location").unwrap();
    assert!(signed.starts_with(hub.cdn_url()));
    let content = hub.content("Org/Tiny", "v1.0", "weights/model.safetensors");
    let last = get(signed, &[]);
    assert!(last.body == content.to_bytes());
    assert_ne!(
        last.header("etag"),
        hop.header("x-linked-etag"),
        "the CDN's is something else"
    );
    assert_eq!(last.header("x-repo-commit"), None);
    assert_eq!(
        hub.bytes_by_file()["models/Org/Tiny/weights/model.safetensors"],
        3_000_000
    );
    assert_eq!(hub.bytes(), 3_000_009);
    assert!(hub.leaks().is_empty());

    assert_eq!(
        get(&signed.replace("Signature=", "Signature=0"), &[]).status,
        403
    );
    assert_eq!(
        get(signed, &[TOKEN]).status,
        400,
        "a token has no business here"
    );
    assert_eq!(hub.leaks().len(), 1);
    hub.expire_signatures();
    assert_eq!(get(signed, &[]).status, 403);
    assert_eq!(follow(&url, &[]).status, 200);
}

#[tokio::test]
async fn ranges_are_answered_as_the_cdn_does() {
    let hub = Hub::start(world()).await;
    let content = hub
        .content("Org/Tiny", "main", "weights/model.safetensors")
        .to_bytes();
    let url = format!(
        "{}/Org/Tiny/resolve/main/weights/model.safetensors",
        hub.url()
    );
    let signed = head(&url, &[]).header("location").unwrap().to_owned();
    let part = |range: &str| get(&signed, &[("range", range)]);
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1048570-2097150", 1_048_570, 2_097_151),
        ("bytes=2999990-", 2_999_990, 3_000_000),
        ("bytes=-7", 2_999_993, 3_000_000),
        ("bytes=-9000000", 0, 3_000_000),
        ("bytes=5-9000000", 5, 3_000_000),
    ] {
        let reply = part(range);
        assert_eq!(reply.status, 206, "{range}");
        let told = format!("bytes {from}-{}/3000000", to - 1);
        assert_eq!(reply.header("content-range"), Some(told.as_str()));
        assert!(reply.body == content[from..to], "{range}");
    }
    for range in ["bytes=3000000-", "bytes=-0", "bytes=3000000-3000001"] {
        let reply = part(range);
        assert_eq!(
            (reply.status, reply.header("content-range")),
            (416, Some("bytes */3000000")),
            "{range}"
        );
    }
    for range in ["bytes=9-5", "bytes=0-1,3-4", "lines=0-1", "bytes=x-"] {
        assert_eq!(part(range).status, 200, "{range}");
    }
    let small = format!("{}/Org/Tiny/resolve/v1.0/README.md", hub.url());
    assert_eq!(follow(&small, &[("range", "bytes=4-10")]).text(), "license");
    let empty = format!("{}/Org/Tiny/resolve/main/empty.txt", hub.url());
    assert_eq!(follow(&empty, &[("range", "bytes=0-")]).status, 416);
    assert_eq!(follow(&empty, &[]).header("content-length"), Some("0"));
}
