//! The registry's answers, over scripted content.

mod wire;

use bytes::Buf as _;
use std::io::Write;
use std::sync::atomic::AtomicUsize;

use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::content::{Blob, Document, Image};
use super::*;
use crate::fill::{Asker, Outcome, Ready};
use crate::image::ImageName;
use crate::oci::{Digest, MEDIA_INDEX, MEDIA_LAYER, MEDIA_MANIFEST, Tag};
use crate::repo::RepoId;
use crate::store::Member;

/// One repository, `org/model`, with an index, a manifest and a layer. Its tags say what happens: `ready`, `in-S` and `fail-S` (after S
/// seconds), `in-S-ms` and `fail-S-ms`, `late-S` (found after S seconds, filled at once); any other is unknown.
#[derive(Default)]
struct Scripted {
    /// Futures of fills that somebody still holds.
    waiting: Arc<AtomicUsize>,
}

fn index() -> Vec<u8> {
    let digest = Digest::of(&manifest()).hex();
    let mut text = INDEX_PREFIX.to_vec();
    text.extend_from_slice(format!("{digest}\",\"size\":2}}]}}").as_bytes());
    text
}

fn manifest() -> Vec<u8> {
    b"{}".to_vec()
}

fn layer() -> Vec<u8> {
    (0..300_000_u32).map(|i| (i * 7 / 3) as u8).collect()
}

fn ready() -> Ready {
    let index = index();
    Ready {
        index: Digest::of(&index),
        size: index.len() as u64,
    }
}

/// Counts itself while it lives.
struct Held(Arc<AtomicUsize>);

impl Held {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Content for Scripted {
    fn find<'a>(
        &'a self,
        _: Option<&'a Asker>,
        name: &'a ImageName,
        tag: &'a Tag,
    ) -> BoxFuture<'a, Result<(Image, Outcome), Error>> {
        Box::pin(async move {
            if name.as_str() != "org/model" {
                return Err(Error::new(Kind::NameUnknown, "no such repository"));
            }
            let mut words = tag.as_str().split('-');
            let (word, after) = (words.next().unwrap_or_default(), words.next());
            let after = Duration::from_secs(after.and_then(|s| s.parse().ok()).unwrap_or(0));
            let after = if words.next().is_some() {
                after / 1000
            } else {
                after
            };
            let held = Held::new(&self.waiting);
            let end = match word {
                "ready" => return Ok((Image::Ready(ready()), Outcome::Hit)),
                "late" => {
                    sleep(after).await;
                    return Ok((
                        Image::Filling(Box::pin(async { Ok(ready()) })),
                        Outcome::Joined,
                    ));
                }
                "in" => Ok(ready()),
                "fail" => Err(Error::new(Kind::BadGateway, "the upstream is gone")),
                "broken" => return Err(Error::new(Kind::Internal, "/srv/data: EIO")),
                _ => return Err(Error::new(Kind::ManifestUnknown, "no such tag")),
            };
            let filling = Image::Filling(Box::pin(async move {
                sleep(after).await;
                drop(held);
                end
            }));
            Ok((filling, Outcome::Miss))
        })
    }

    fn tags<'a>(
        &'a self,
        _: Option<&'a Asker>,
        _: &'a ImageName,
    ) -> BoxFuture<'a, Result<Vec<String>, Error>> {
        Box::pin(async { Ok(vec!["main".into(), "v1".into(), "v2".into()]) })
    }

    fn catalog(&self) -> BoxFuture<'_, Result<Vec<String>, Error>> {
        Box::pin(async { Ok(vec!["org/model".into()]) })
    }

    fn blob(&self, repo: RepoId, digest: Digest) -> BoxFuture<'_, Result<Option<Blob>, Error>> {
        let has = repo.id() == "org/model" && digest == Digest::of(&layer());
        Box::pin(async move {
            Ok(has.then(|| {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&layer()).unwrap();
                let size = layer().len() as u64;
                Blob {
                    file: file.into(),
                    size,
                    lease: None,
                }
            }))
        })
    }

    fn document(
        &self,
        repo: RepoId,
        digest: Digest,
    ) -> BoxFuture<'_, Result<Option<Document>, Error>> {
        let all = [
            (MEDIA_INDEX, index()),
            (MEDIA_MANIFEST, manifest()),
            (MEDIA_LAYER, layer()),
        ];
        let found = all
            .into_iter()
            .find(|(_, bytes)| repo.id() == "org/model" && Digest::of(bytes) == digest)
            .map(|(media, bytes)| Document {
                member: Arc::new(Member {
                    media_type: media.into(),
                    size: bytes.len() as u64,
                }),
                bytes: bytes.into(),
            });
        Box::pin(async { Ok(found) })
    }

    fn index(&self, _: Digest) -> BoxFuture<'static, Result<Bytes, Error>> {
        Box::pin(async { Ok(index().into()) })
    }
}

fn registry() -> Registry {
    Registry::over(Arc::new(Scripted::default()), RegistrySettings::default())
}

/// Asks with `method` and these headers; gives the answer with its body collected, or why the body broke.
async fn ask(
    method: &Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Response<Result<Bytes, String>> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, ()) = request.body(()).unwrap().into_parts();
    let (head, body) = registry().answer(&head).await.into_parts();
    Response::from_parts(head, read(body).await.map_err(|e| e.to_string()))
}

/// All of a body. Its frames are dropped one by one, as a connection does it: a blob's body goes on only then.
async fn read(mut body: Body) -> std::io::Result<Bytes> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        bytes.extend_from_slice(frame?.data_ref().unwrap().chunk());
    }
    Ok(bytes.into())
}

async fn get(path: &str) -> Response<Result<Bytes, String>> {
    ask(&Method::GET, path, &[]).await
}

fn header<'a, T>(response: &'a Response<T>, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

fn code(response: &Response<Result<Bytes, String>>) -> String {
    let body = response.body().as_ref().unwrap();
    let body: Value = serde_json::from_slice(body).unwrap();
    body["errors"][0]["code"].as_str().unwrap().to_owned()
}

fn layer_path() -> String {
    format!("/v2/org/model/blobs/{}", Digest::of(&layer()))
}

#[tokio::test]
async fn head_is_answered_like_get_without_a_body() {
    let index = Digest::of(&index());
    for path in [
        "/",
        "/healthz",
        "/v2/",
        "/v2/_catalog",
        "/v2/org/model/tags/list?n=1",
        "/v2/org/model/manifests/ready",
        "/v2/org/model/manifests/unknown",
        &format!("/v2/org/model/manifests/{index}"),
        &layer_path(),
        &format!("/v2/org/model/blobs/{}", Digest::of(b"other")),
        &format!("/v2/org/model/referrers/{index}"),
        "/v2/org/model/manifests/broken",
        "/nothing",
    ] {
        let (get, head) = (get(path).await, ask(&Method::HEAD, path, &[]).await);
        assert_eq!(get.status(), head.status(), "{path}");
        assert_eq!(get.headers(), head.headers(), "{path}");
        let body = get.body().as_ref().unwrap();
        assert_eq!(
            header(&get, "content-length"),
            body.len().to_string(),
            "{path}"
        );
        assert!(head.body().as_ref().unwrap().is_empty(), "{path}");
        assert_eq!(
            header(&get, "docker-distribution-api-version"),
            "registry/2.0"
        );
        assert!(!get.headers().contains_key("content-encoding"));
    }
}

#[tokio::test]
async fn a_tag_gives_the_index_whatever_accept_says() {
    for accept in ["*/*", MEDIA_MANIFEST, "text/html"] {
        let path = "/v2/org/model/manifests/ready?ns=docker.io";
        let response = ask(&Method::GET, path, &[("accept", accept), ("accept", "a/b")]).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "content-type"), MEDIA_INDEX);
        assert_eq!(
            header(&response, "docker-content-digest"),
            Digest::of(&index()).to_string()
        );
        assert_eq!(response.extensions().get(), Some(&Outcome::Hit));
        assert_eq!(response.body().as_deref(), Ok(&index()[..]));
    }
}

#[tokio::test]
async fn a_digest_gives_manifests_of_this_repository_only() {
    let manifest = Digest::of(&manifest());
    let response = get(&format!("/v2/org/model/manifests/{manifest}")).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), MEDIA_MANIFEST);
    assert_eq!(
        header(&response, "docker-content-digest"),
        manifest.to_string()
    );
    for path in [
        format!("/v2/org/other/manifests/{manifest}"),
        // A layer is no manifest.
        format!("/v2/org/model/manifests/{}", Digest::of(&layer())),
    ] {
        let response = get(&path).await;
        assert_eq!(
            (response.status().as_u16(), &*code(&response)),
            (404, "MANIFEST_UNKNOWN")
        );
    }
}

#[tokio::test]
async fn a_blob_is_served_whole_and_in_ranges_and_never_encoded() {
    let (path, all) = (layer_path(), layer());
    let encodings = ("accept-encoding", "zstd, gzip, deflate");
    let whole = ask(&Method::GET, &path, &[encodings]).await;
    assert_eq!(whole.status(), 200);
    assert!(whole.body().as_ref().unwrap() == &all);
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("accept-ranges", "bytes"),
        ("content-encoding", ""),
        ("cache-control", "max-age=31536000, immutable"),
        ("etag", &format!("\"{}\"", Digest::of(&all))),
    ] {
        assert_eq!(header(&whole, name), value, "{name}");
    }
    let part = ask(&Method::GET, &path, &[("range", "bytes=-3"), encodings]).await;
    assert_eq!(part.status(), 206);
    assert_eq!(header(&part, "content-range"), "bytes 299997-299999/300000");
    assert_eq!(part.body().as_deref(), Ok(&all[299_997..]));
    // HEAD has no ranges.
    let head = ask(&Method::HEAD, &path, &[("range", "bytes=-3")]).await;
    assert_eq!(
        (head.status().as_u16(), header(&head, "content-length")),
        (200, "300000")
    );
}

#[tokio::test]
async fn conditions_are_honoured() {
    let path = layer_path();
    let tag = format!("\"{}\"", Digest::of(&layer()));
    let same = ask(&Method::GET, &path, &[("if-none-match", &tag)]).await;
    assert_eq!(
        (same.status().as_u16(), header(&same, "etag")),
        (304, &*tag)
    );
    let range = ("range", "bytes=0-1");
    let same = ask(&Method::GET, &path, &[range, ("if-range", &tag)]).await;
    assert_eq!(same.status(), 206);
    let other = ask(&Method::GET, &path, &[range, ("if-range", "\"x\"")]).await;
    assert_eq!(other.status(), 200);
}

#[tokio::test]
async fn too_many_ranges_are_400_so_that_stargz_asks_for_single_ones() {
    let set: Vec<_> = (0..1001).map(|i| format!("{}-{0}", i * 2)).collect();
    let range = format!("bytes={}", set.join(","));
    let response = ask(&Method::GET, &layer_path(), &[("range", &range)]).await;
    assert_eq!(
        (response.status().as_u16(), &*code(&response)),
        (400, "RANGE_INVALID")
    );
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_the_specifications_words() {
    let long = format!("/v2/org/model/manifests/{}", "a".repeat(129));
    for (path, status, wanted) in [
        ("/v2/Org/model/manifests/ready", 400, "NAME_INVALID"),
        (&*long, 400, "TAG_INVALID"),
        ("/v2/org/model/blobs/sha256:0", 400, "DIGEST_INVALID"),
        ("/v2/org/model/referrers/x", 400, "DIGEST_INVALID"),
        ("/v2/org/other/manifests/ready", 404, "NAME_UNKNOWN"),
        ("/v2/org/model/manifests/unknown", 404, "MANIFEST_UNKNOWN"),
        ("/v2/org/model/manifests/broken", 500, "UNKNOWN"),
        ("/v2/org/model/blobs/uploads/", 405, "UNSUPPORTED"),
        ("/v3/", 404, "UNSUPPORTED"),
    ] {
        let response = get(path).await;
        assert_eq!(
            (response.status().as_u16(), &*code(&response)),
            (status, wanted),
            "{path}"
        );
        assert_eq!(header(&response, "content-type"), "application/json");
    }
    let push = ask(&Method::POST, "/v2/org/model/blobs/uploads/", &[]).await;
    assert_eq!(
        (push.status().as_u16(), header(&push, "allow")),
        (405, "GET, HEAD")
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_that_comes_in_time_is_answered_as_if_it_had_been_there() {
    let start = Instant::now();
    let response = get("/v2/org/model/manifests/in-19").await;
    assert_eq!(start.elapsed(), Duration::from_secs(19));
    assert_eq!(
        header(&response, "docker-content-digest"),
        ready().index.to_string()
    );
    assert_eq!(
        header(&response, "content-length"),
        ready().size.to_string()
    );
    let failed = get("/v2/org/model/manifests/fail-19").await;
    assert_eq!(
        (failed.status().as_u16(), &*code(&failed)),
        (502, "UNAVAILABLE")
    );
    // The finding took longer than the waiting may; the fill still gets its moment.
    let late = get("/v2/org/model/manifests/late-24").await;
    assert_eq!(header(&late, "content-length"), ready().size.to_string());
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_does_not_say_what_is_there_is_told_before_clients_give_up() {
    let start = Instant::now();
    let lost = get("/v2/org/model/manifests/late-60").await;
    assert_eq!(start.elapsed(), Duration::from_secs(25));
    assert_eq!(
        (lost.status().as_u16(), &*code(&lost)),
        (504, "UNAVAILABLE")
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_that_does_not_come_in_time_is_answered_early() {
    let start = Instant::now();
    let head = ask(&Method::HEAD, "/v2/org/model/manifests/in-300", &[]).await;
    assert_eq!(start.elapsed(), Duration::from_secs(20));
    assert_eq!(
        (head.status().as_u16(), header(&head, "content-type")),
        (200, MEDIA_INDEX)
    );
    for absent in ["content-length", "docker-content-digest", "etag"] {
        assert!(!head.headers().contains_key(absent), "{absent}");
    }
    let start = Instant::now();
    let got = get("/v2/org/model/manifests/in-300").await;
    assert_eq!(start.elapsed(), Duration::from_secs(300));
    assert_eq!(
        (got.status().as_u16(), header(&got, "content-type")),
        (200, MEDIA_INDEX)
    );
    assert!(!got.headers().contains_key("content-length"));
    assert!(!got.headers().contains_key("docker-content-digest"));
    assert_eq!(got.body().as_deref(), Ok(&index()[..]));
    let broken = get("/v2/org/model/manifests/fail-300").await;
    assert_eq!(broken.status(), 200);
    assert_eq!(broken.body(), &Err("the upstream is gone".to_owned()));
}
