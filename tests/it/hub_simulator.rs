//! The simulator keeps the protocol that it stands in for: what `hub` answers, route by route, fault by fault.

mod content;
mod faults;
mod folder;
mod real_client;
mod wire;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::hub::{Files, Hub, Repo, World, Xet};
use wire::{follow, get, head};

const TOKEN: (&str, &str) = ("authorization", "Bearer hf_in");
const OTHER: (&str, &str) = ("authorization", "Bearer hf_out");
const BAD: (&str, &str) = ("authorization", "Bearer hf_unknown");

const CARD: &str = "---\nlicense: apache-2.0\ntags:\n- tiny\n---\n# Tiny\n";

/// A Hub with something of everything.
fn world() -> World {
    let tiny = Files::new()
        .file("README.md", CARD)
        .file("sub dir/été #1%?.txt", "odd name\n")
        .file("empty.txt", "")
        .pattern("weights/model.safetensors", 3_000_000, 1);
    let gated = Files::new()
        .file("a.txt", "closed")
        .pattern("w.bin", 2_000_000, 2);
    World::new()
        .user("hf_out", "outsider")
        .repo(
            Repo::model("Org/Tiny")
                .commit(tiny)
                .tag("v1.0")
                .branch("dev/x")
                .commit(Files::new().file("README.md", "second").title("Second"))
                .commit_on("dev/x", Files::new().file("dev.txt", "dev"))
                .pr(1, Files::new().file("pr.txt", "proposal"))
                .convert("parquet", Files::only().file("0.parquet", "PAR1")),
        )
        .repo(Repo::model("gpt2").commit(Files::new().file("README.md", "old")))
        .repo(Repo::dataset("org/data").commit(Files::new().file("x.csv", "1,2\n")))
        .repo(Repo::space("org/app").commit(Files::new().file("app.py", "pass\n")))
        .repo(
            Repo::model("org/gated")
                .gated("manual")
                .allow("hf_in")
                .commit(gated),
        )
        .repo(
            Repo::model("org/secret")
                .private()
                .allow("hf_in")
                .commit(Files::new().file("s", "s")),
        )
        .repo(
            Repo::model("org/closed")
                .disabled()
                .commit(Files::new().file("c", "c")),
        )
        .renamed("org/before", "Org/Tiny")
}

fn paths(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list");
    list.iter()
        .map(|entry| entry["path"].as_str().expect("a path"))
        .collect()
}

#[tokio::test]
async fn metadata_of_every_kind_and_revision() {
    let hub = Hub::start(world()).await;
    let api = |path: &str| get(&format!("{}/api/{path}", hub.url()), &[]).json();
    let main = api("models/Org/Tiny");
    assert_eq!(main["id"], "Org/Tiny");
    assert_eq!(main["sha"], hub.sha("Org/Tiny", "main"));
    assert_eq!(
        (&main["private"], &main["gated"], &main["disabled"]),
        (&json!(false), &json!(false), &json!(false))
    );
    let tagged = api("models/Org/Tiny/revision/v1.0");
    assert_eq!(tagged["sha"], hub.sha("Org/Tiny", "v1.0"));
    assert_eq!(
        tagged["cardData"],
        json!({ "license": "apache-2.0", "tags": ["tiny"] })
    );
    for revision in [
        "dev%2Fx",
        "refs%2Fpr%2F1",
        "refs/pr/1",
        "refs%2Fconvert%2Fparquet",
    ] {
        let info = api(&format!("models/Org/Tiny/revision/{revision}"));
        let name = revision.replace("%2F", "/");
        assert_eq!(info["sha"], hub.sha("Org/Tiny", &name), "{revision}");
    }
    let by_commit = api(&format!(
        "models/Org/Tiny/revision/{}",
        hub.sha("Org/Tiny", "v1.0")
    ));
    assert_eq!(by_commit["sha"], tagged["sha"]);
    assert_eq!(
        api("models/gpt2")["siblings"],
        json!([{ "rfilename": "README.md" }])
    );
    assert_eq!(api("datasets/org/data")["id"], "org/data");
    assert_eq!(api("spaces/org/app/revision/main")["id"], "org/app");
    assert_eq!(api("models/org/gated")["gated"], "manual");
}

#[tokio::test]
async fn listings_have_true_ids() {
    let hub = Hub::start(world()).await;
    let tree = format!("{}/api/models/Org/Tiny/tree/v1.0", hub.url());
    let all = get(&format!("{tree}?recursive=true"), &[]).json();
    assert_eq!(
        paths(&all),
        [
            "README.md",
            "empty.txt",
            "sub dir",
            "sub dir/été #1%?.txt",
            "weights",
            "weights/model.safetensors"
        ]
    );
    assert_eq!(
        all[1]["oid"], "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
        "git's empty blob"
    );
    let weights = &all[5];
    let content = hub.content("Org/Tiny", "v1.0", "weights/model.safetensors");
    let sha256: String = Sha256::digest(content.to_bytes())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(
        weights["lfs"],
        json!({ "oid": sha256, "size": 3_000_000, "pointerSize": 132 })
    );
    assert_eq!(weights["xetHash"].as_str().map(str::len), Some(64));
    assert_eq!(all[0].get("lfs"), None);
    let folder = get(&format!("{tree}/sub%20dir"), &[]).json();
    assert_eq!(paths(&folder), ["sub dir/été #1%?.txt"]);
    let top = get(&tree, &[]).json();
    assert_eq!(
        paths(&top),
        ["README.md", "empty.txt", "sub dir", "weights"]
    );
    assert_eq!(
        get(&format!("{tree}/none"), &[]).header("x-error-code"),
        Some("EntryNotFound")
    );
    hub.edit(|world| world.options.xet = Xet::Asterisks);
    let all = get(&format!("{tree}?recursive=true"), &[]).json();
    assert_eq!(all[5]["xetHash"], "*".repeat(64));
}

#[tokio::test]
async fn pages_are_linked_by_absolute_urls() {
    let world = world().options(|options| {
        options.page_size = 4;
        options.link_origin = Some("https://huggingface.co".to_owned());
    });
    let hub = Hub::start(world).await;
    let mut next = format!("{}/api/models/Org/Tiny/tree/v1.0?recursive=true", hub.url());
    let mut seen = Vec::new();
    loop {
        let page = get(&next, &[]);
        seen.extend(paths(&page.json()).into_iter().map(str::to_owned));
        let Some(link) = page.header("link") else {
            break;
        };
        let (url, rest) = link.split_once('>').expect("<url>");
        assert_eq!(rest, "; rel=\"next\"");
        let path = url
            .strip_prefix("<https://huggingface.co")
            .expect("the mirror's origin");
        next = format!("{}{path}", hub.url());
    }
    assert_eq!(seen.len(), 6);
    assert_eq!(hub.count("tree"), 2);
}

#[tokio::test]
async fn hostile_entries_are_listed_word_for_word() {
    let absurd =
        json!({ "type": "submodule", "oid": "x", "size": u64::MAX, "path": "../../etc/passwd" });
    let files = Files::new()
        .file("a", "1")
        .file("a/b", "2")
        .file("/x", "3")
        .file(".wh.x", "4");
    let world =
        World::new().repo(Repo::model("o/h").commit(files.raw(absurd.clone()).raw(absurd.clone())));
    let hub = Hub::start(world).await;
    let all = get(
        &format!("{}/api/models/o/h/tree/main?recursive=true", hub.url()),
        &[],
    )
    .json();
    assert_eq!(
        paths(&all),
        [
            ".wh.x",
            "/x",
            "a",
            "a",
            "a/b",
            "../../etc/passwd",
            "../../etc/passwd"
        ]
    );
    assert_eq!(all[6], absurd);
}

#[tokio::test]
async fn refs_commits_search_and_access() {
    let hub = Hub::start(world()).await;
    let api =
        |path: &str, headers: &[(&str, &str)]| get(&format!("{}/api/{path}", hub.url()), headers);
    let refs = api("models/Org/Tiny/refs?include_prs=1", &[]).json();
    let named = |list: &str| -> Vec<String> {
        let list = refs[list].as_array().expect("a list");
        list.iter()
            .map(|r| {
                format!(
                    "{}={}",
                    r["name"].as_str().unwrap(),
                    r["ref"].as_str().unwrap()
                )
            })
            .collect()
    };
    assert_eq!(
        named("branches"),
        ["dev/x=refs/heads/dev/x", "main=refs/heads/main"]
    );
    assert_eq!(named("tags"), ["v1.0=refs/tags/v1.0"]);
    assert_eq!(named("converts"), ["parquet=refs/convert/parquet"]);
    assert_eq!(named("pullRequests"), ["1=refs/pr/1"]);
    assert_eq!(
        api("models/Org/Tiny/refs", &[]).json().get("pullRequests"),
        None
    );
    let commits = api("models/Org/Tiny/commits/main", &[]).json();
    assert_eq!(commits[0]["title"], "Second");
    assert_eq!(commits[1]["id"], hub.sha("Org/Tiny", "v1.0"));
    let found = api("models?search=tiny&author=org", &[]).json();
    assert_eq!(
        (found.as_array().map(Vec::len), &found[0]["id"]),
        (Some(1), &json!("Org/Tiny"))
    );
    assert_eq!(api("models?search=secret", &[]).json(), json!([]));
    assert_eq!(
        api("models?search=secret", &[TOKEN]).json()[0]["id"],
        "org/secret"
    );
    assert_eq!(api("whoami-v2", &[OTHER]).json()["name"], "outsider");
    assert_eq!(api("whoami-v2", &[]).status, 401);
    let check = |headers: &[(&str, &str)]| api("models/org/gated/auth-check", headers).status;
    assert_eq!(
        (check(&[]), check(&[OTHER]), check(&[TOKEN])),
        (401, 403, 200)
    );
}

#[tokio::test]
async fn errors_are_those_of_the_table() {
    let hub = Hub::start(world()).await;
    let check = |path: &str, headers: &[(&str, &str)], status: u16, code: Option<&str>| {
        let reply = get(&format!("{}{path}", hub.url()), headers);
        assert_eq!(
            (reply.status, reply.header("x-error-code")),
            (status, code),
            "{path} {headers:?}"
        );
        assert_eq!(
            head(&format!("{}{path}", hub.url()), headers).status,
            status
        );
        reply
    };
    for path in [
        "/api/models/no/where",
        "/no/where/resolve/main/x",
        "/api/models/org/secret",
    ] {
        check(path, &[], 401, None);
        check(path, &[OTHER], 404, Some("RepoNotFound"));
        check(path, &[BAD], 401, None);
    }
    check("/api/models/org/secret", &[TOKEN], 200, None);
    check("/api/models/Org/Tiny", &[BAD], 401, None);
    for path in [
        "/org/gated/resolve/main/a.txt",
        "/org/gated/resolve/main/w.bin",
    ] {
        check(path, &[], 401, Some("GatedRepo"));
        check(path, &[OTHER], 403, Some("GatedRepo"));
    }
    check("/org/gated/resolve/main/a.txt", &[TOKEN], 307, None);
    check("/org/gated/resolve/main/w.bin", &[TOKEN], 302, None);
    check("/api/models/org/gated/tree/main", &[], 200, None);
    let closed = check("/api/models/org/closed", &[TOKEN], 403, None);
    assert_eq!(
        closed.header("x-error-message"),
        Some("Access to this resource is disabled.")
    );
    check(
        "/api/models/Org/Tiny/revision/none",
        &[],
        404,
        Some("RevisionNotFound"),
    );
    check(
        "/Org/Tiny/resolve/none/README.md",
        &[],
        404,
        Some("RevisionNotFound"),
    );
    check(
        "/Org/Tiny/resolve/main/readme.md",
        &[],
        404,
        Some("EntryNotFound"),
    );
    check(
        "/Org/Tiny/resolve/MAIN/README.md",
        &[],
        404,
        Some("RevisionNotFound"),
    );
    check(
        "/Org/Tiny/resolve/main/sub%2520dir/x",
        &[],
        404,
        Some("EntryNotFound"),
    );
    hub.edit(|world| world.options.code_on_401 = true);
    check("/api/models/no/where", &[], 401, Some("RepoNotFound"));
}

#[tokio::test]
async fn ids_are_redirected_to_their_canonical_spelling() {
    let hub = Hub::start(world()).await;
    let location = |path: &str| {
        let reply = get(&format!("{}{path}", hub.url()), &[]);
        (reply.status, reply.header("location").map(str::to_owned))
    };
    let to = |path: &str| (307, Some(path.to_owned()));
    assert_eq!(
        location("/api/models/ORG/tiny?x=%20"),
        to("/api/models/Org/Tiny?x=%20")
    );
    assert_eq!(
        location("/org/before/resolve/dev%2Fx/a%20b"),
        to("/Org/Tiny/resolve/dev%2Fx/a%20b")
    );
    assert_eq!(
        location("/api/models/GPT2/tree/main"),
        to("/api/models/gpt2/tree/main")
    );
    assert_eq!(
        location("/datasets/org/DATA/resolve/main/x.csv"),
        to("/datasets/org/data/resolve/main/x.csv")
    );
    assert_eq!(location("/api/models/org/SECRET"), (401, None));
    hub.edit(|world| world.options.redirect_ids = false);
    assert_eq!(location("/api/models/ORG/tiny"), (401, None));
}

#[tokio::test]
async fn the_world_may_change_and_ids_are_determined_by_content() {
    let (one, two) = (Hub::start(world()).await, Hub::start(world()).await);
    assert_eq!(one.sha("Org/Tiny", "main"), two.sha("Org/Tiny", "main"));
    let before = one.sha("Org/Tiny", "main");
    let change = || Files::new().file("README.md", "third").without("empty.txt");
    let after = one.commit("Org/Tiny", "main", change());
    assert_ne!(before, after);
    assert_eq!(after, two.commit("Org/Tiny", "main", change()));
    let files = &one.at("Org/Tiny", "main").files;
    assert!(files.contains_key("weights/model.safetensors") && !files.contains_key("empty.txt"));
    let read = |revision: &str| {
        follow(
            &format!("{}/Org/Tiny/resolve/{revision}/README.md", one.url()),
            &[],
        )
    };
    assert_eq!(read("main").text(), "third");
    assert_eq!(read(&before).text(), "second");
    one.edit(|world| world.remove("Org/Tiny"));
    assert_eq!(read("main").status, 401);
}
