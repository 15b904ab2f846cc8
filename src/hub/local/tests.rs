mod doubts;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::auth::Rules;
use crate::oci::Digest;
use crate::repo::ContentId;

fn repo(text: &str) -> RepoId {
    text.parse().expect("an id")
}

fn write(top: &Path, path: &str, text: &str) {
    let path = top.join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    fs::write(path, text).expect("written");
}

fn local(top: &Path) -> Local {
    denying(top, &[])
}

/// The same, with names that are refused.
fn denying(top: &Path, denied: &'static [&'static str]) -> Local {
    let (kind, path) = LocalKind::of(top).expect("a folder");
    let ids = ContentIds::new(top.join("../content-ids"));
    let globs = denied.iter().map(|glob| glob.parse().expect("a pattern"));
    let rules = Rules {
        allow: Vec::new(),
        deny: globs.collect(),
    };
    let denied = Arc::new(move |repo: &RepoId| rules.denies(repo));
    Local::new(path, kind, false, Arc::new(ids), denied)
}

/// A folder of its own, and in it one for repositories.
fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let top = dir.path().join("top");
    fs::create_dir(&top).expect("a folder");
    (dir, top)
}

async fn files(local: &Local, name: &str) -> Result<BTreeMap<String, String>, UpstreamError> {
    let repo = repo(name);
    let resolved = local.resolve(&repo, None).await?;
    let snapshot = local.snapshot(&resolved.repo, resolved.commit).await?;
    let mut files = BTreeMap::new();
    for entry in snapshot.files() {
        let file = RemoteFile {
            repo: resolved.repo.clone(),
            commit: resolved.commit,
            path: entry.path.clone(),
            size: entry.size,
            content: entry.content,
        };
        let mut body = local.read(&file, 0..file.size).await?;
        let mut bytes = Vec::new();
        while let Some(part) = body.next().await {
            bytes.extend_from_slice(&part?);
        }
        assert!(entry.content.is_of(&bytes), "{file:?}");
        files.insert(
            entry.path.to_string(),
            String::from_utf8(bytes).expect("text"),
        );
    }
    Ok(files)
}

async fn unknown(local: &Local, name: &str) -> bool {
    let resolved = local.resolve(&repo(name), None).await;
    matches!(resolved, Err(UpstreamError::RepositoryUnknown(_)))
}

#[tokio::test]
async fn a_folder_has_what_lies_in_it_but_for_bookkeeping() {
    let (_dir, top) = scratch();
    for path in [
        "Org/Model/a",
        "Org/Model/.gitattributes",
        "Org/Model/sub/.git",
        "Org/Model/.git/config",
        "Org/Model/.cache/huggingface/x",
        "gpt2/config.json",
        "datasets/org/data/d",
        "spaces/org/app/s",
    ] {
        write(&top, path, path);
    }
    let local = local(&top);
    assert_eq!(local.shelf.kind, LocalKind::Folder);
    let found = files(&local, "org/model").await.expect("a model");
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, [".gitattributes", "a", "sub/.git"]);
    assert_eq!(found["a"], "Org/Model/a");
    let resolved = local
        .resolve(&repo("org/model"), Some("main"))
        .await
        .expect("resolved");
    assert_eq!(resolved.repo, repo("Org/Model"));
    assert_eq!(files(&local, "gpt2").await.expect("a model").len(), 1);
    assert!(
        files(&local, "datasets/org/data")
            .await
            .expect("data")
            .contains_key("d")
    );
    assert!(
        files(&local, "spaces/org/app")
            .await
            .expect("a space")
            .contains_key("s")
    );
    for none in [
        "org",
        "org/none",
        "none/model",
        "datasets/org",
        "gpt2/sub",
        "datasets",
    ] {
        assert!(unknown(&local, none).await, "{none}");
    }
}

#[tokio::test]
async fn the_commit_is_that_of_the_content_wherever_and_whenever() {
    let (_dir, top) = scratch();
    let (_other, elsewhere) = scratch();
    for top in [&top, &elsewhere] {
        write(top, "org/m/b/c", "two");
        write(top, "org/m/a", "one");
    }
    let commit = async |top: &Path| {
        let resolved = local(top).resolve(&repo("org/m"), None).await;
        resolved.expect("resolved").commit
    };
    let first = commit(&top).await;
    assert_eq!(first, commit(&elsewhere).await);
    assert_eq!(
        first.to_string(),
        "2b36428e78b15e8ec93e89383682670c01a76991"
    );
    write(&top, "org/m/a", "ONE");
    let second = commit(&top).await;
    assert_ne!(first, second);
    let gone = local(&top)
        .resolve(&repo("org/m"), Some(&first.to_string()))
        .await;
    assert!(
        matches!(gone, Err(UpstreamError::RevisionUnknown { .. })),
        "{gone:?}"
    );
    let begins = local(&top)
        .commits(&repo("org/m"), &second.to_string()[..8])
        .await;
    assert_eq!(begins, Ok(vec![second]));
    write(&top, "org/m/a", "one");
    assert_eq!(commit(&top).await, first);
}

#[tokio::test]
async fn links_out_of_a_repository_are_refused_and_links_to_one_are_not_there() {
    let (_dir, top) = scratch();
    write(&top, "org/m/a", "one");
    write(&top, "other/m/a", "one");
    symlink("/etc/passwd", top.join("org/m/passwd")).expect("a link");
    symlink("../other/m", top.join("org/linked")).expect("a link");
    symlink("other", top.join("alias")).expect("a link");
    let local = local(&top);
    let told = files(&local, "org/m")
        .await
        .expect_err("refused")
        .to_string();
    assert!(
        told.contains("\"passwd\"") && told.contains("symbolic link"),
        "{told}"
    );
    assert!(unknown(&local, "org/linked").await);
    assert!(unknown(&local, "alias/m").await);
}

#[tokio::test]
async fn a_file_that_becomes_a_link_after_the_listing_is_not_followed() {
    let (_dir, top) = scratch();
    write(&top, "org/m/a", "one");
    write(&top, "secret", "two");
    let local = local(&top);
    let resolved = local.resolve(&repo("org/m"), None).await.expect("resolved");
    let file = RemoteFile {
        repo: resolved.repo,
        commit: resolved.commit,
        path: FilePath::new("a").expect("a path"),
        size: 3,
        content: ContentId::Sha256(Digest::of(b"one")),
    };
    fs::remove_file(top.join("org/m/a")).expect("removed");
    symlink("../../secret", top.join("org/m/a")).expect("a link");
    let read = local.read(&file, 0..3).await.err();
    assert!(
        matches!(read, Some(UpstreamError::FileUnknown { .. })),
        "{read:?}"
    );
}

#[tokio::test]
async fn what_is_remembered_is_not_read_again() {
    let (_dir, top) = scratch();
    write(&top, "org/m/a", "one");
    let file = File::open(top.join("org/m/a")).expect("a file");
    let facts = beneath::facts(&file).expect("facts");
    let ids = ContentIds::new(top.join("../content-ids"));
    ids.remember(Root::of(&top), facts, Digest::of(b"something else"));
    let local = local(&top);
    let resolved = local.resolve(&repo("org/m"), None).await.expect("resolved");
    let snapshot = local
        .snapshot(&resolved.repo, resolved.commit)
        .await
        .expect("a listing");
    let id = ContentId::Sha256(Digest::of(b"something else"));
    assert_eq!(snapshot.files()[0].content, id);
}

#[tokio::test]
async fn a_folder_that_cannot_be_opened_is_an_outage_and_no_missing_repository() {
    let (_dir, top) = scratch();
    write(&top, "org/m/a", "one");
    let local = local(&top);
    fs::rename(&top, top.with_extension("away")).expect("renamed");
    let told = local.resolve(&repo("org/m"), None).await.expect_err("none");
    assert!(told.is_outage(), "{told}");
    assert!(
        !told.to_string().contains(&top.display().to_string()),
        "{told}"
    );
}

/// A file of a cache: the blob, and the link to it.
fn cached(top: &Path, commit: &str, path: &str, name: &str, text: &str) {
    write(top, &format!("models--Org--M/blobs/{name}"), text);
    link(top, commit, path, &format!("blobs/{name}"));
}

fn link(top: &Path, commit: &str, path: &str, to: &str) {
    let link = top.join(format!("models--Org--M/snapshots/{commit}/{path}"));
    fs::create_dir_all(link.parent().expect("a folder")).expect("folders");
    let up = "../".repeat(path.split('/').count() + 1);
    symlink(format!("{up}{to}"), link).expect("a link");
}

const ONE: &str = "1111111111111111111111111111111111111111";
const TWO: &str = "2222222222222222222222222222222222222222";
/// `git hash-object` of the text `hello` without a newline.
const HELLO: &str = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";

#[tokio::test]
async fn a_cache_is_read_by_the_names_of_its_blobs() {
    let (_dir, top) = scratch();
    let sha256 = Digest::of(b"weights").hex();
    cached(&top, ONE, "sub/hello", HELLO, "hello");
    cached(&top, ONE, "model.bin", &sha256, "weights");
    write(
        &top,
        &format!("models--Org--M/snapshots/{ONE}/copied"),
        "no link",
    );
    link(&top, ONE, "gone", &format!("blobs/{TWO}"));
    write(&top, "models--Org--M/refs/main", ONE);
    write(&top, "models--Org--M/refs/refs/pr/1", ONE);
    write(&top, "models--Org--M/refs/nowhere", TWO);
    let local = local(&top);
    assert_eq!(local.shelf.kind, LocalKind::Cache);
    let found = files(&local, "org/m").await.expect("a model");
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["copied", "model.bin", "sub/hello"]);
    let id = repo("org/m");
    let main = local.resolve(&id, None).await.expect("main");
    assert_eq!(main.repo, repo("Org/M"));
    assert_ne!(main.commit.to_string(), ONE, "a part is not the whole");
    for same in ["main", "refs/pr/1", ONE, &main.commit.to_string()] {
        assert_eq!(
            local.resolve(&id, Some(same)).await.as_ref(),
            Ok(&main),
            "{same}"
        );
    }
    for none in ["nowhere", "none", TWO, "../../refs/main", ""] {
        let told = local.resolve(&id, Some(none)).await;
        assert!(
            matches!(told, Err(UpstreamError::RevisionUnknown { .. })),
            "{none}"
        );
    }
    let refs = local.refs(&id).await.expect("refs").branches;
    let refs: Vec<&str> = refs.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(refs, ["main", "refs/pr/1"]);
    let commits = local.commits(&id, &ONE[..8]).await.expect("commits");
    assert_eq!(commits, [ONE.parse().expect("a commit")]);
    assert!(unknown(&local, "org/other").await && unknown(&local, "datasets/org/m").await);
}

#[tokio::test]
async fn a_cache_in_its_home_folder_is_found_and_what_lies_beside_is_no_repository() {
    let (_dir, top) = scratch();
    cached(&top.join("hub"), ONE, "hello", HELLO, "hello");
    write(&top, "token", "hf_secret");
    write(&top, "xet/logs/log", "x");
    let local = local(&top);
    assert_eq!(local.shelf.kind, LocalKind::Cache);
    assert_eq!(
        files(&local, "org/m").await.expect("a model")["hello"],
        "hello"
    );
    assert!(unknown(&local, "xet/logs").await && unknown(&local, "hub").await);
    // Where there is more room.
    fs::rename(top.join("hub"), top.with_extension("moved")).expect("moved");
    symlink("../top.moved", top.join("hub")).expect("a link");
    let local = self::local(&top);
    assert_eq!(files(&local, "org/m").await.expect("a model").len(), 1);
}

#[tokio::test]
async fn a_link_of_a_cache_that_leads_elsewhere_is_refused() {
    for to in [
        "../../secret",
        "blobs/../../../secret",
        "blobs/..",
        "blobs/",
        "refs/main",
    ] {
        let (_dir, top) = scratch();
        write(&top, "secret", "x");
        write(&top, "models--Org--M/refs/main", ONE);
        cached(&top, ONE, "hello", HELLO, "hello");
        link(&top, ONE, "bad", to);
        let told = files(&local(&top), "org/m")
            .await
            .expect_err(to)
            .to_string();
        assert!(told.contains("\"bad\""), "{told}");
    }
    // Where the blob itself is a link, there is none.
    let (_dir, top) = scratch();
    cached(&top, ONE, "hello", HELLO, "hello");
    symlink(
        "/etc/passwd",
        top.join(format!("models--Org--M/blobs/{TWO}")),
    )
    .expect("a link");
    link(&top, ONE, "bad", &format!("blobs/{TWO}"));
    let found = files(&local(&top), "org/m").await.expect("a model");
    assert_eq!(found.into_keys().collect::<Vec<_>>(), ["hello"]);
}

#[tokio::test]
async fn without_main_the_latest_revision_is_the_one_that_was_begun_last() {
    let (_dir, top) = scratch();
    cached(&top, TWO, "hello", HELLO, "hello");
    cached(&top, ONE, "newer", HELLO, "hello");
    let set = |commit: &str, seconds| {
        let folder = File::open(top.join("models--Org--M/snapshots").join(commit));
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        folder.expect("a folder").set_modified(time).expect("set");
    };
    set(TWO, 1);
    set(ONE, 2);
    let found = files(&local(&top), "org/m").await.expect("a model");
    assert_eq!(found.into_keys().collect::<Vec<_>>(), ["newer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_goes_on_when_the_one_who_asked_for_it_leaves() {
    let (_dir, top) = scratch();
    write(&top, "org/m/a", "one");
    let id = repo("org/m");
    let commit = local(&top)
        .resolve(&id, None)
        .await
        .expect("resolved")
        .commit;
    let other = local(&top);
    assert!(other.resolve(&id, None).now_or_never().is_none());
    for _ in 0..1000 {
        if other.shelf.made.get(&(id.folded(), commit)).await.is_some() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("nothing was listed");
}
