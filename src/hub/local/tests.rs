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

#[tokio::test]
async fn a_folder_with_files_is_one_repository_and_nothing_in_it_is_another() {
    let (_dir, top) = scratch();
    for path in ["secret/config.json", "secret/onnx/model.onnx"] {
        write(&top, path, path);
        write(&top, &format!("datasets/{path}"), path);
    }
    let local = local(&top);
    for prefix in ["", "datasets/"] {
        let whole = files(&local, &format!("{prefix}secret")).await;
        assert_eq!(whole.expect("a repository").len(), 2);
        assert!(unknown(&local, &format!("{prefix}secret/onnx")).await);
    }
}

#[tokio::test]
async fn what_lies_beside_repositories_makes_no_repository_of_all_of_them() {
    let (_dir, top) = scratch();
    for path in ["README.md", ".DS_Store", "LICENSE", "m/config.json"] {
        write(&top, &format!("ours/{path}"), path);
    }
    symlink("m", top.join("ours/alias")).expect("a link");
    write(&top, "alone/README.md", "a card");
    let local = local(&top);
    assert!(unknown(&local, "ours").await);
    assert_eq!(files(&local, "ours/m").await.expect("a model").len(), 1);
    assert_eq!(files(&local, "alone").await.expect("a model").len(), 1);
}

#[tokio::test]
async fn what_is_denied_by_one_name_is_not_served_by_another() {
    let (_dir, top) = scratch();
    // It cannot be told whether these are one repository or several.
    for path in [
        "secret/README.md",
        "secret/onnx/model.onnx",
        "ours/notes.txt",
        "ours/m/config.json",
        "folders/m/config.json",
    ] {
        write(&top, path, path);
    }
    let open = local(&top);
    for name in ["secret/onnx", "ours", "folders/m"] {
        assert!(files(&open, name).await.is_ok(), "{name}");
    }
    let closed = denying(&top, &["secret", "ours/*", "folders"]);
    for name in ["secret", "secret/onnx", "ours", "ours/m"] {
        assert!(unknown(&closed, name).await, "{name}");
    }
    // An organisation that has nothing but folders is none that is denied.
    assert!(files(&closed, "folders/m").await.is_ok());
}

#[tokio::test]
async fn a_repository_that_was_only_asked_for_is_not_in_the_cache() {
    let (_dir, top) = scratch();
    write(&top, "models--Org--M/refs/main", ONE);
    write(&top, &format!("models--Org--M/.no_exist/{ONE}/a"), "");
    let local = local(&top);
    let id = repo("org/m");
    for revision in [None, Some("main"), Some("v1"), Some(ONE)] {
        let told = local.resolve(&id, revision).await;
        assert_eq!(told, Err(UpstreamError::RepositoryUnknown(id.clone())));
    }
    let refs = local.refs(&id).await;
    assert_eq!(refs, Err(UpstreamError::RepositoryUnknown(id.clone())));
    // The same with a snapshot of which no file is left.
    link(&top, ONE, "gone", &format!("blobs/{TWO}"));
    assert!(unknown(&local, "org/m").await);
    assert_eq!(local.commits(&id, &ONE[..8]).await, Ok(Vec::new()));
}

#[tokio::test]
async fn what_is_doubted_is_read_anew() {
    let (_dir, top) = scratch();
    write(&top, "org/m/a", "one");
    let file = File::open(top.join("org/m/a")).expect("a file");
    let facts = beneath::facts(&file).expect("facts");
    let ids = ContentIds::new(top.join("../content-ids"));
    ids.remember(Root::of(&top), facts, Digest::of(b"something else"));
    let local = local(&top);
    let resolved = local.resolve(&repo("org/m"), None).await.expect("resolved");
    let file = RemoteFile {
        repo: resolved.repo,
        commit: resolved.commit,
        path: FilePath::new("a").expect("a path"),
        size: 3,
        content: ContentId::Sha256(Digest::of(b"something else")),
    };
    local.doubt(&file).await;
    assert_eq!(files(&local, "org/m").await.expect("a model")["a"], "one");
}

#[tokio::test]
async fn many_who_look_for_commits_wait_for_their_turn() {
    let (_dir, top) = scratch();
    cached(&top, ONE, "hello", HELLO, "hello");
    let local = local(&top);
    let id = repo("org/m");
    let turns = AT_ONCE as u32;
    let held = local.shelf.turns.acquire_many(turns).await.expect("turns");
    let mut asked = local.commits(&id, &ONE[..8]);
    let mut refs = local.refs(&id);
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert!((&mut asked).now_or_never().is_none(), "it has no turn");
        assert!((&mut refs).now_or_never().is_none(), "it has no turn");
    }
    drop(held);
    assert_eq!(asked.await, Ok(vec![ONE.parse().expect("a commit")]));
    drop(refs);
    let _all = local.shelf.waiting.acquire_many(WAITING as u32).await;
    let busy = local.commits(&id, &ONE[..8]).await;
    assert!(
        matches!(busy, Err(UpstreamError::RateLimited { .. })),
        "{busy:?}"
    );
}

#[tokio::test]
async fn only_commits_that_begin_so_are_listed() {
    let (_dir, top) = scratch();
    cached(&top, ONE, "hello", HELLO, "hello");
    // Whoever lists it fails.
    link(&top, TWO, "bad", "../../../outside");
    let local = local(&top);
    let commits = local.commits(&repo("org/m"), &ONE[..8]).await;
    assert_eq!(commits, Ok(vec![ONE.parse().expect("a commit")]));
}

#[test]
fn a_cache_is_known_before_there_is_anything_in_it() {
    for home in [
        &["huggingface/"][..],
        &["home/hub/"],
        &["home/hub/.locks/"],
        &["home/token"],
        &["home/xet/logs/"],
        &["home/hub/version.txt"],
    ] {
        let (_dir, top) = scratch();
        for path in home {
            match path.strip_suffix('/') {
                Some(path) => fs::create_dir_all(top.join(path)).expect("folders"),
                None => write(&top, path, "x"),
            }
        }
        let name = home[0].split('/').next().expect("a name");
        let told = LocalKind::of(&top.join(name)).expect("a folder");
        let hub = top.join(name).join("hub");
        assert_eq!(told, (LocalKind::Cache, hub), "{home:?}");
    }
    // An organisation may be called so.
    let (_dir, top) = scratch();
    write(&top, "hub/m/config.json", "x");
    let told = LocalKind::of(&top).expect("a folder");
    assert_eq!(told, (LocalKind::Folder, top));
}

#[tokio::test]
async fn a_cache_that_is_not_there_yet_has_no_repository_and_then_has() {
    let (_dir, top) = scratch();
    write(&top, "token", "hf_secret");
    let local = local(&top);
    assert!(unknown(&local, "org/m").await);
    cached(&top.join("hub"), ONE, "hello", HELLO, "hello");
    assert_eq!(files(&local, "org/m").await.expect("a model").len(), 1);
}

#[tokio::test]
async fn an_empty_folder_that_becomes_a_cache_is_not_served_as_a_folder() {
    let (_dir, top) = scratch();
    let local = local(&top);
    assert!(unknown(&local, "xet/logs").await);
    write(&top, "xet/logs/log", "x");
    let told = local.resolve(&repo("xet/logs"), None).await;
    let told = told.expect_err("it is a cache");
    assert!(told.to_string().contains("restart"), "{told}");
}

#[tokio::test]
async fn whoever_has_only_the_name_of_a_blob_proves_nothing() {
    let (_dir, top) = scratch();
    let sha256 = Digest::of(b"weights");
    cached(&top, ONE, "right.bin", &sha256.hex(), "weights");
    let other = Digest::of(b"another's");
    cached(&top, ONE, "claimed.bin", &other.hex(), "whatever!");
    let local = local(&top);
    let resolved = local.resolve(&repo("org/m"), None).await.expect("resolved");
    let file = |path: &str, size, id| RemoteFile {
        repo: resolved.repo.clone(),
        commit: resolved.commit,
        path: FilePath::new(path).expect("a path"),
        size,
        content: ContentId::Sha256(id),
    };
    assert_eq!(local.prove(&file("right.bin", 7, sha256)).await, Ok(()));
    let told = local.prove(&file("claimed.bin", 9, other)).await;
    assert!(matches!(told, Err(UpstreamError::Broken(_))), "{told:?}");
}
