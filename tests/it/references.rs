//! The grammar of names and tags, end to end.

use crate::harness::{Proxy, small, wanted};
use crate::hub::{Files, Hub, Repo, World};

async fn hub() -> Hub {
    let tiny = || Files::new().file("a.txt", "a");
    let model = Repo::model("Org/Demo")
        .commit(small())
        .tag("v1.0")
        .commit(Files::new().file("config.json", "{}"))
        .commit_on("feature/x", Files::new().file("x.txt", "x"))
        .pr(1, Files::new().file("pr.txt", "pr"));
    let odd = Repo::model("Org/Odd").commit(
        Files::new()
            .file("Readme.md", "1")
            .file("README.md", "2")
            .file("a b.txt", "3")
            .file("_x/y", "4"),
    );
    let world = World::new()
        .repo(model)
        .repo(odd)
        .repo(Repo::model("gpt2").commit(tiny()))
        .repo(Repo::dataset("Org/Data").commit(tiny()))
        .repo(Repo::space("org/app").commit(tiny()))
        .repo(Repo::model("_Org/trailing_").commit(tiny()));
    Hub::start(world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_repository_has_a_name() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    for (name, repo) in [
        ("gpt2", "gpt2"),
        ("org/demo", "Org/Demo"),
        ("datasets/org/data", "datasets/Org/Data"),
        ("spaces/org/app", "spaces/org/app"),
        ("0--5forg/trailing--5f", "_Org/trailing_"),
    ] {
        assert!(
            proxy.files(name, "latest").await == wanted(&hub, repo, "main"),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_mean_branches_tags_commits_and_slashed_names() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    let first = hub.sha("Org/Demo", "v1.0");
    let head = hub.sha("Org/Demo", "main");
    for (tag, commit) in [
        ("latest", &head),
        ("main", &head),
        ("v1.0", &first),
        (first.as_str(), &first),
        (&first[..8], &first),
        (&head[..12], &head),
        ("feature--x", &hub.sha("Org/Demo", "feature/x")),
        ("refs--pr--1", &hub.sha("Org/Demo", "refs/pr/1")),
    ] {
        let (_, index) = proxy.index("org/demo", tag).await;
        assert_eq!(
            &index.annotations["org.opencontainers.image.revision"], commit,
            "{tag}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_selects_a_file_or_folder_at_its_full_path() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    let all = wanted(&hub, "Org/Demo", "main");
    for (name, prefix) in [
        ("org/demo/onnx", "onnx/model.onnx"),
        ("org/demo/onnx/model.onnx", "onnx/model.onnx"),
        ("org/demo/readme.md", "README.md"),
        ("org/demo/sub--20dir", "sub dir/été #1%?.txt"),
    ] {
        let files = proxy.files(name, "main").await;
        assert_eq!(files.keys().collect::<Vec<_>>(), [prefix], "{name}");
        assert!(files[prefix] == all[prefix]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selections_image_tells_its_path_and_the_repositorys_license() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    let (manifest, _) = proxy.manifest("org/demo/onnx", "main").await;
    assert_eq!(
        manifest.annotations["org.opencontainers.image.title"],
        "Org/Demo/onnx"
    );
    assert_eq!(
        manifest.annotations["org.opencontainers.image.licenses"],
        "apache-2.0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_differ_in_case_are_told_apart_by_escapes() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    let error = proxy.error("/v2/org/odd/readme.md/manifests/main").await;
    assert_eq!(
        (error.status, error.code.as_str()),
        (404, "MANIFEST_UNKNOWN")
    );
    assert!(
        error.message.contains("'README.md', 'Readme.md'"),
        "{}",
        error.message
    );
    let files = proxy.files("org/odd/0--52eadme.md", "main").await;
    assert_eq!(files["Readme.md"], b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_canonical_id_is_asked_for_once() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    proxy.index("org/demo", "main").await;
    hub.reset();
    proxy.index("org/demo", "v1.0").await;
    let redirects = hub
        .records()
        .iter()
        .filter(|r| r.status == 307 && r.path.starts_with("/api/models/"))
        .count();
    assert_eq!(redirects, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_listed_in_pages_with_slashes_spelled() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    let tags = |text: String| -> Vec<String> {
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let tags = value["tags"].as_array().expect("tags").iter();
        tags.map(|t| t.as_str().expect("text").to_owned()).collect()
    };
    let all = proxy
        .get("/v2/org/demo/tags/list")
        .await
        .text()
        .await
        .expect("a body");
    assert_eq!(tags(all), ["feature--x", "main", "v1.0"]);
    let page = proxy
        .get("/v2/org/demo/tags/list?n=1&last=feature--x")
        .await;
    let link = crate::harness::header(&page, "link").expect("a next page");
    assert!(
        link.contains("rel=\"next\"") && link.contains("last=main"),
        "{link}"
    );
    assert_eq!(tags(page.text().await.expect("a body")), ["main"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_lists_what_is_cached() {
    let hub = hub().await;
    let proxy = Proxy::start(&hub).await;
    proxy.index("org/demo", "main").await;
    proxy.index("gpt2", "main").await;
    let text = proxy
        .get("/v2/_catalog")
        .await
        .text()
        .await
        .expect("a body");
    assert_eq!(text, r#"{"repositories":["gpt2","org/demo"]}"#);
}
