//! Promise: the Hub's client gives exactly what the Hub holds, whatever goes wrong on the way, and gives its token to nobody else.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use hf_oci::hub::{Access, HubClient, HubSettings, RemoteFile, Token, Upstream, UpstreamError};
use hf_oci::repo::{Commit, Entry, RepoId};

use crate::hub::{Content, Effect, Fault, Files, Hub, Origin, Quota, Repo, World};

const ID: &str = "Org/Model";
const BIG: &str = "sub dir/été #1%?.safetensors";

fn id(text: &str) -> RepoId {
    text.parse().expect("an id")
}

fn world() -> World {
    let files = Files::new()
        .file("README.md", "# model\n".repeat(100).into_bytes())
        .file("empty", Vec::new())
        .file("a b/c@d+e&f=g.txt", b"signs".to_vec())
        .file("empty.bin", Content::memory(Vec::new()).lfs(true))
        .file(BIG, Content::pattern(3_000_000, 1).lfs(true));
    World::new()
        .repo(
            Repo::model(ID)
                .commit(files)
                .tag("v1")
                .commit(Files::new().file("more", b"x".to_vec()))
                .pr(1, Files::new().file("pr", b"y".to_vec())),
        )
        .user("hf_user", "user")
}

fn client(hub: &Hub, token: Option<&str>) -> HubClient {
    HubClient::new(HubSettings {
        endpoint: hub.url().parse().expect("an endpoint"),
        token: token.map(|t| Token::new(t).expect("a token")),
        stall: Duration::from_millis(400),
        ..HubSettings::default()
    })
    .expect("a client")
}

fn commit(hub: &Hub, repo: &str) -> Commit {
    hub.sha(repo, "main").parse().expect("a commit")
}

fn remote(repo: &RepoId, commit: Commit, entry: &Entry) -> RemoteFile {
    RemoteFile {
        repo: repo.clone(),
        commit,
        path: entry.path.clone(),
        size: entry.size,
        content: entry.content,
    }
}

async fn file(client: &HubClient, hub: &Hub, repo: &str, path: &str) -> RemoteFile {
    let (repo, commit) = (id(repo), commit(hub, repo));
    let snapshot = client.snapshot(&repo, commit).await.expect("a listing");
    let mut files = snapshot.files().iter();
    let entry = files.find(|f| f.path.as_str() == path).expect("the file");
    remote(&repo, commit, entry)
}

async fn read(
    client: &HubClient,
    file: &RemoteFile,
    range: Range<u64>,
) -> Result<Bytes, UpstreamError> {
    let parts: Vec<Bytes> = client.read(file, range).await?.try_collect().await?;
    Ok(parts.concat().into())
}

/// The big file with a fault at the CDN, read whole.
async fn with_fault(fault: Fault) -> (Hub, Result<Bytes, UpstreamError>) {
    let hub = Hub::start(world()).await;
    let client = client(&hub, Some("hf_user"));
    let big = file(&client, &hub, ID, BIG).await;
    hub.fault(fault);
    let got = read(&client, &big, 0..big.size).await;
    assert!(hub.leaks().is_empty());
    (hub, got)
}

fn big(hub: &Hub) -> Bytes {
    hub.content(ID, "main", BIG).to_bytes()
}

#[tokio::test]
async fn every_file_comes_as_the_hub_holds_it() {
    let world = world().options(|o| {
        o.page_size = 2;
        o.link_origin = Some("https://huggingface.co".into());
        o.gzip_text = true;
    });
    let hub = Hub::start(world).await;
    let client = client(&hub, Some("hf_user"));
    let found = client.resolve(&id("org/model"), None).await.expect("found");
    assert_eq!(found.repo.to_string(), ID);
    assert_eq!(found.commit, commit(&hub, ID));
    let snapshot = client.snapshot(&found.repo, found.commit).await;
    let snapshot = snapshot.expect("a listing");
    assert_eq!(snapshot.files().len(), 6);
    for entry in snapshot.files() {
        let remote = remote(&found.repo, found.commit, entry);
        let path = entry.path.as_str();
        let bytes = hub.content(ID, "main", path).to_bytes();
        let got = read(&client, &remote, 0..entry.size).await;
        assert_eq!(got, Ok(bytes), "{path}");
    }
    // The empty ones need no request.
    assert_eq!(hub.count("resolve"), 4);
    assert!(hub.leaks().is_empty());
}

#[tokio::test]
async fn a_mirror_that_folds_nothing_is_searched() {
    let hub = Hub::start(world().options(|o| o.redirect_ids = false)).await;
    for token in [None, Some("hf_user")] {
        let client = client(&hub, token);
        for _ in 0..2 {
            let found = client.resolve(&id("org/MODEL"), Some("v1")).await;
            assert_eq!(found.map(|f| f.repo), Ok(id(ID)));
        }
    }
    assert_eq!(hub.count("search"), 2);
}

#[tokio::test]
async fn a_renamed_repository_answers_under_its_new_name() {
    let hub = Hub::start(world().renamed("old/name", ID)).await;
    let client = client(&hub, None);
    let found = client.resolve(&id("Old/Name"), Some("refs/pr/1")).await;
    let found = found.expect("found");
    assert_eq!(found.repo, id(ID));
    assert_eq!(found.commit.to_string(), hub.sha(ID, "refs/pr/1"));
    let none = client.resolve(&id(ID), Some("nope/../x")).await;
    assert!(
        matches!(none, Err(UpstreamError::RevisionUnknown { .. })),
        "{none:?}"
    );
}

#[tokio::test]
async fn closed_repositories_say_why() {
    let one = || Files::new().file("f", Content::pattern(100, 1).lfs(true));
    let world = world()
        .repo(
            Repo::model("o/gated")
                .gated("manual")
                .allow("hf_friend")
                .commit(one()),
        )
        .repo(
            Repo::dataset("o/private")
                .private()
                .allow("hf_friend")
                .commit(one()),
        )
        .repo(Repo::space("o/off").disabled().commit(one()));
    let hub = Hub::start(world).await;
    let (gated, private, off) = (id("o/gated"), id("datasets/o/private"), id("spaces/o/off"));
    let unknown = |repo: &RepoId| Err(UpstreamError::RepositoryUnknown(repo.clone()));
    for token in [None, Some("hf_user")] {
        let client = client(&hub, token);
        assert!(client.resolve(&gated, None).await.expect("seen").gated);
        let closed = Err(UpstreamError::Gated(gated.clone()));
        assert_eq!(client.access(&gated).await, closed);
        let remote = file(&client, &hub, "o/gated", "f").await;
        let content = read(&client, &remote, 0..100).await;
        assert_eq!(content, Err(UpstreamError::Gated(gated.clone())));
        assert_eq!(client.resolve(&private, None).await, unknown(&private));
        assert_eq!(
            client.resolve(&id("o/none"), None).await,
            unknown(&id("o/none"))
        );
        let disabled = Err(UpstreamError::Disabled(off.clone()));
        assert_eq!(client.resolve(&off, None).await, disabled);
    }
    let friend = client(&hub, Some("hf_friend"));
    assert_eq!(friend.access(&gated).await, Ok(Access::Granted));
    assert!(friend.resolve(&private, None).await.expect("seen").private);
    let remote = file(&friend, &hub, "o/gated", "f").await;
    assert!(read(&friend, &remote, 0..100).await.is_ok());
    let bad = client(&hub, Some("hf_unheard_of"));
    let error = bad.resolve(&private, None).await.expect_err("refused");
    assert_eq!(error, UpstreamError::BadToken(private));
    assert!(!error.to_string().contains("unheard"));
    assert!(hub.leaks().is_empty());
}

#[tokio::test]
async fn refs_and_commits_are_found() {
    let hub = Hub::start(world()).await;
    let client = client(&hub, None);
    let refs = client.refs(&id("org/model")).await.expect("refs");
    assert_eq!(refs.branches, [("main".to_owned(), commit(&hub, ID))]);
    assert_eq!(refs.tags.len(), 1);
    for revision in ["main", "v1", "refs/pr/1"] {
        let sha = hub.sha(ID, revision);
        let found = client.commits(&id(ID), &sha[..8]).await.expect("found");
        let found: Vec<_> = found.iter().map(Commit::to_string).collect();
        assert_eq!(found, [sha]);
    }
}

#[tokio::test]
async fn parallel_ranges_ask_the_hub_once_and_keep_to_the_limit() {
    let hub = Hub::start(world()).await;
    let client = HubClient::new(HubSettings {
        endpoint: hub.url().parse().expect("an endpoint"),
        connections: 4,
        ..HubSettings::default()
    })
    .expect("a client");
    let big_file = file(&client, &hub, ID, BIG).await;
    let pieces = (0..30_u64).map(|i| read(&client, &big_file, i * 100_000..(i + 1) * 100_000));
    let pieces: Vec<_> = futures_util::future::try_join_all(pieces)
        .await
        .expect("all");
    assert_eq!(pieces.concat(), big(&hub));
    assert_eq!(hub.count("resolve"), 1);
    assert_eq!(hub.count("cdn"), 30);
    assert!(hub.peak(Origin::Cdn) <= 4, "{}", hub.peak(Origin::Cdn));
    assert_eq!(hub.bytes(), 3_000_000);
}

#[tokio::test]
async fn faults_of_the_cdn_cost_no_byte() {
    let faults = [
        Fault::cdn("").first(3).then(Effect::DropAfter(700_001)),
        Fault::cdn("")
            .nth(1)
            .then(Effect::StallAfter(1_000_000, Duration::from_secs(30))),
        Fault::cdn("").first(2).then(Effect::Status(503, vec![])),
        Fault::cdn("").nth(1).then(Effect::Hangup),
        Fault::cdn("").nth(1).then(Effect::ExpireSignature),
        Fault::cdn("").nth(1).then(Effect::RateLimited { t: 1 }),
        Fault::cdn("").then(Effect::Chunked),
        Fault::hub("/resolve/")
            .nth(1)
            .then(Effect::Status(500, vec![])),
    ];
    for fault in faults {
        let told = format!("{fault:?}");
        let (hub, got) = with_fault(fault).await;
        assert!(got.expect(&told) == big(&hub), "{told}");
        // What came before the fault was not asked for again; what was under way when it came may be lost.
        assert!(hub.bytes() < 4_500_000, "{told}: {}", hub.bytes());
    }
}

#[tokio::test]
async fn an_ignored_range_is_slow_and_right() {
    let hub = Hub::start(world()).await;
    let client = client(&hub, None);
    let big_file = file(&client, &hub, ID, BIG).await;
    hub.fault(Fault::cdn("").then(Effect::IgnoreRange));
    hub.fault(Fault::cdn("").nth(1).then(Effect::DropAfter(1_200_000)));
    let got = read(&client, &big_file, 1_000_000..1_500_000).await;
    assert!(got.expect("read") == big(&hub).slice(1_000_000..1_500_000));
}

#[tokio::test]
async fn signatures_may_expire_and_the_hub_restart_in_the_middle_of_a_file() {
    let hub = Hub::start(world()).await;
    let client = client(&hub, Some("hf_user"));
    let big_file = file(&client, &hub, ID, BIG).await;
    hub.fault(Fault::cdn("").nth(1).then(Effect::Slow(1_500_000)));
    let mut stream = client
        .read(&big_file, 0..big_file.size)
        .await
        .expect("open");
    let mut got = stream.next().await.expect("bytes").expect("bytes").to_vec();
    hub.expire_signatures();
    hub.stop();
    hub.restart().expect("the port is kept");
    while let Some(bytes) = stream.next().await {
        got.extend_from_slice(&bytes.expect("bytes"));
    }
    assert!(got == big(&hub));
    assert_eq!(hub.count("resolve"), 2);
    assert!(hub.leaks().is_empty());
}

#[tokio::test]
async fn lies_about_a_size_are_refused_naming_the_file() {
    let lie = Fault::cdn("").then(Effect::SizeLie(2_999_999));
    let (_, got) = with_fault(lie).await;
    let error = got.expect_err("refused");
    assert!(matches!(error, UpstreamError::Broken(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(BIG) && !text.contains("Signature"), "{text}");
}

#[tokio::test]
async fn a_broken_cdn_ends_in_an_error_without_secrets() {
    let (hub, got) = with_fault(Fault::cdn("").then(Effect::ExpireSignature)).await;
    let error = got.expect_err("refused");
    assert!(matches!(error, UpstreamError::Unavailable(_)), "{error:?}");
    assert!(!error.to_string().contains("Signature"), "{error}");
    assert_eq!(hub.count("cdn"), 6);
}

#[tokio::test]
async fn the_hubs_own_limit_is_waited_for_or_told() {
    let quota = |window| {
        world().options(move |o| {
            o.api_quota = Some(Quota {
                requests: 1,
                window,
            });
        })
    };
    let hub = Hub::start(quota(2)).await;
    let patient = client(&hub, None);
    for _ in 0..2 {
        patient.resolve(&id(ID), None).await.expect("at last");
    }
    let hub = Hub::start(quota(300)).await;
    let told = client(&hub, None);
    told.resolve(&id(ID), None).await.expect("the first");
    match told.resolve(&id(ID), None).await {
        Err(UpstreamError::RateLimited {
            retry_after: Some(wait),
        }) => {
            assert!(wait > Duration::from_secs(60) && wait <= Duration::from_secs(300));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn hostile_listings_are_refused() {
    for (entry, word) in [
        (
            r#"{"type":"file","path":"../x","size":1,"oid":"0123456789abcdef0123456789abcdef01234567"}"#,
            "../x",
        ),
        (r#"{"type":"symlink","path":"link","size":1}"#, "symlink"),
    ] {
        let raw = serde_json::from_str(entry).expect("JSON");
        let world = World::new().repo(Repo::model(ID).commit(Files::new().raw(raw)));
        let hub = Hub::start(world).await;
        let error = client(&hub, None).snapshot(&id(ID), commit(&hub, ID)).await;
        let error = error.expect_err("refused").to_string();
        assert!(error.contains(word), "{error}");
    }
}

/// Review: a body of a known address takes its host's slot and then waits for a permit; a redirect holds a permit and waits for the slot.
#[tokio::test(flavor = "multi_thread")]
async fn review_known_and_new_addresses_do_not_wait_for_each_other() {
    let mut files = Files::new();
    for i in 0..80 {
        files = files.file(format!("f{i:02}"), Content::pattern(200_000, i).lfs(true));
    }
    let hub = Hub::start(World::new().repo(Repo::model(ID).commit(files))).await;
    let client = HubClient::new(HubSettings {
        endpoint: hub.url().parse().expect("an endpoint"),
        connections: 4,
        ..HubSettings::default()
    })
    .expect("a client");
    let (repo, commit) = (id(ID), commit(&hub, ID));
    let snapshot = client.snapshot(&repo, commit).await.expect("a listing");
    let remotes: Vec<_> = snapshot
        .files()
        .iter()
        .map(|e| remote(&repo, commit, e))
        .collect();
    // The first half is known.
    for file in &remotes[..40] {
        read(&client, file, 0..1000).await.expect("bytes");
    }
    let mixed = (0..40).flat_map(|i| [&remotes[i], &remotes[40 + i]]);
    let all =
        futures_util::future::try_join_all(mixed.map(|file| read(&client, file, 0..file.size)));
    let done = tokio::time::timeout(Duration::from_secs(20), all).await;
    assert!(done.is_ok(), "80 reads of 200 kB hang");
}
