//! What is doubted, denied, or not there yet.

use super::*;

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
