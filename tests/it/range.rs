//! Ranges of a blob: every form that clients send, and random sets of them against slices of the blob.

use hf_oci::oci::Descriptor;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use reqwest::{Method, Response};

use crate::harness::{Proxy, demo, header};

/// A proxy, a blob of it, and where it is.
struct Blob {
    proxy: Proxy,
    path: String,
    bytes: Vec<u8>,
}

impl Blob {
    async fn open() -> Self {
        let hub = demo().await;
        let proxy = Proxy::start(&hub).await;
        let (manifest, _) = proxy.manifest("org/demo", "main").await;
        let layer: &Descriptor = &manifest.layers[0];
        let bytes = proxy.blob("org/demo", layer).await;
        let path = format!("/v2/org/demo/blobs/{}", layer.digest);
        Self { proxy, path, bytes }
    }

    async fn range(&self, range: &str) -> Response {
        self.proxy
            .send(Method::GET, &self.path, &[("range", range)])
            .await
    }

    /// The bytes that an answer to a range stands for, at their offsets; the headers are held against them.
    async fn parts(&self, range: &str) -> Vec<(usize, Vec<u8>)> {
        let response = self.range(range).await;
        assert_eq!(response.status(), 206, "{range}");
        assert_eq!(header(&response, "content-encoding"), None);
        let kind = header(&response, "content-type").expect("a type");
        let place = header(&response, "content-range");
        let length = header(&response, "content-length").expect("a length");
        let body = response.bytes().await.expect("a body").to_vec();
        assert_eq!(body.len().to_string(), length, "{range}");
        match kind.strip_prefix("multipart/byteranges; boundary=") {
            None => vec![(self.start(&place.expect("a place"), body.len()), body)],
            Some(boundary) => self.split(&body, boundary.trim_matches('"')),
        }
    }

    /// The start that a Content-Range tells, its end and total being right.
    fn start(&self, place: &str, len: usize) -> usize {
        let (range, total) = place
            .strip_prefix("bytes ")
            .and_then(|p| p.split_once('/'))
            .expect(place);
        let (start, end) = range.split_once('-').expect(place);
        let (start, end): (usize, usize) = (start.parse().expect(place), end.parse().expect(place));
        assert_eq!(
            (end + 1 - start, total),
            (len, self.bytes.len().to_string().as_str()),
            "{place}"
        );
        start
    }

    /// Takes a multipart body apart by the lengths that its own parts tell, as a careful client does.
    fn split(&self, body: &[u8], boundary: &str) -> Vec<(usize, Vec<u8>)> {
        let find = |from: usize, what: &[u8]| {
            let at = body[from..].windows(what.len()).position(|w| w == what);
            from + at.unwrap_or_else(|| panic!("{:?} is missing", String::from_utf8_lossy(what)))
        };
        let mut parts = Vec::new();
        let mut at = 0;
        loop {
            let open = format!("--{boundary}");
            at = find(at, open.as_bytes()) + open.len();
            if body[at..].starts_with(b"--") {
                return parts;
            }
            let head_end = find(at, b"\r\n\r\n");
            let head = String::from_utf8_lossy(&body[at..head_end]).to_lowercase();
            let place = head
                .lines()
                .find_map(|l| l.strip_prefix("content-range: "))
                .expect("a place");
            assert!(head.contains("content-type: "), "{head}");
            let (range, _) = place["bytes ".len()..].split_once('/').expect(place);
            let (start, end) = range.split_once('-').expect(place);
            let len = end.parse::<usize>().expect(place) + 1 - start.parse::<usize>().expect(place);
            let data = body[head_end + 4..head_end + 4 + len].to_vec();
            parts.push((self.start(place, len), data));
            at = head_end + 4 + len;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_one_range_gives_its_slice() {
    let blob = Blob::open().await;
    let size = blob.bytes.len();
    for (range, start, end) in [
        ("bytes=0-1".to_owned(), 0, 2),
        ("bytes=500-1499".to_owned(), 500, 1500),
        ("bytes=500-".to_owned(), 500, size),
        ("bytes=-500".to_owned(), size - 500, size),
        (format!("bytes=-{}", size + 1), 0, size),
        (
            format!("bytes={}-{}", size - 10, size + 5000),
            size - 10,
            size,
        ),
        (format!("bytes={}-", size - 1), size - 1, size),
        ("bytes=50000-99999".to_owned(), 50_000, 100_000),
        ("bytes=0-0,0-0".to_owned(), 0, 1),
    ] {
        let parts = blob.parts(&range).await;
        assert_eq!(parts.len(), 1, "{range}");
        assert!(
            parts[0] == (start, blob.bytes[start..end].to_vec()),
            "{range}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_cannot_be_met_is_416_with_the_size() {
    let blob = Blob::open().await;
    let size = blob.bytes.len();
    for range in [
        "bytes=500-0".to_owned(),
        format!("bytes={size}-"),
        format!("bytes={}-{}", size + 1, size + 2),
        "bytes=-0".to_owned(),
    ] {
        let response = blob.range(&range).await;
        assert_eq!(response.status(), 416, "{range}");
        assert_eq!(
            header(&response, "content-range"),
            Some(format!("bytes */{size}")),
            "{range}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_in_one_header_give_their_slices() {
    let blob = Blob::open().await;
    let parts = blob.parts("bytes=50000-99999,150000-430000").await;
    assert!(
        parts
            == [
                (50_000, blob.bytes[50_000..100_000].to_vec()),
                (150_000, blob.bytes[150_000..430_001].to_vec())
            ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_get_says_that_ranges_are_taken() {
    let blob = Blob::open().await;
    let response = blob.proxy.get(&blob.path).await;
    assert_eq!(header(&response, "accept-ranges").as_deref(), Some("bytes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_random_sets_of_ranges_cover_exactly_what_was_asked() {
    let blob = Blob::open().await;
    let size = blob.bytes.len() as u64;
    let one = prop_oneof![
        (0..size, 0..200_000_u64).prop_map(|(start, len)| (start, Some(start + len))),
        (size - 50_000..size).prop_map(|start| (start, None)),
    ];
    let sets = prop::collection::vec(one, 1..12);
    let mut runner = TestRunner::new(Config::default());
    for _ in 0..200 {
        let set = sets.new_tree(&mut runner).expect("a set").current();
        let spelled: Vec<String> = set
            .iter()
            .map(|(start, end)| {
                format!("{start}-{}", end.map(|e| e.to_string()).unwrap_or_default())
            })
            .collect();
        let range = format!("bytes={}", spelled.join(","));
        let mut asked = vec![false; blob.bytes.len()];
        for (start, end) in &set {
            let end = end.map_or(size, |e| (e + 1).min(size));
            asked[*start as usize..end as usize].fill(true);
        }
        let mut given = vec![false; blob.bytes.len()];
        for (start, data) in blob.parts(&range).await {
            assert!(data == blob.bytes[start..start + data.len()], "{range}");
            given[start..start + data.len()].fill(true);
        }
        assert!(asked == given, "{range}");
    }
}
