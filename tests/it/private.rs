//! Promise: what is private stays so, whatever else happens: shared blobs, joined fills, a Hub that changes its mind or does not answer.

use std::time::Duration;

use hf_oci::auth::{Glob, Mode, Rules};
use hf_oci::repo::Visibility;
use hf_oci::store::Store;
use reqwest::Method;

use crate::harness::{OciError, Proxy, Setup, header, http, small};
use crate::hub::{Files, Hub, Kind, Repo, World};
use crate::logins::{ask, basic, gate, hub, proxy};

const LONG: Duration = Duration::from_secs(300);
const PRIVATE: &str = "/v2/org/private/manifests/main";

/// Everything of an answer but its date and the number of its request.
async fn all_of(proxy: &Proxy, path: &str, login: Option<&str>) -> (u16, String, String) {
    let response = ask(proxy, path, login).await;
    let status = response.status().as_u16();
    let mut headers: Vec<String> = response
        .headers()
        .iter()
        .filter(|(name, _)| *name != "date")
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort_unstable();
    (
        status,
        headers.join("\n"),
        response.text().await.expect("a body"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_cannot_be_told_from_none() {
    let hub = hub().await;
    for mode in [Mode::HuggingFace, Mode::Public] {
        let proxy = proxy(&hub, gate(mode.clone(), Duration::ZERO)).await;
        let insider = basic("x", "hf_in");
        // Cached or not makes no difference either.
        ask(&proxy, PRIVATE, insider.as_deref()).await;
        let digest = format!("sha256:{}", "0".repeat(64));
        for rest in [
            "manifests/main".to_owned(),
            "tags/list".to_owned(),
            format!("blobs/{digest}"),
            format!("manifests/{digest}"),
            format!("referrers/{digest}"),
        ] {
            for login in [None, basic("x", "hf_out")] {
                let asked = async |name: &str| {
                    let name = format!("org/{name}");
                    let path = format!("/v2/{name}/{rest}");
                    let (status, headers, body) = all_of(&proxy, &path, login.as_deref()).await;
                    (
                        status,
                        headers.replace(&name, "NAME"),
                        body.replace(&name, "NAME"),
                    )
                };
                let (private, missing) = (asked("private").await, asked("missing").await);
                assert_eq!(private, missing, "{mode:?} {rest} {login:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_served_only_under_a_name_that_has_it_and_that_may_be_read() {
    let both = |files: Files| files.pattern("shared.bin", 3_000_000, 7);
    let private = Files::new().pattern("own.bin", 3_000_000, 8);
    let world = World::new()
        .repo(Repo::model("org/public").commit(both(Files::new())))
        .repo(
            Repo::model("org/private")
                .private()
                .allow("hf_in")
                .commit(both(private)),
        )
        .repo(Repo::model("org/other").commit(small()))
        .user("hf_out", "outsider")
        .user("hf_server", "server");
    let hub = Hub::start(world).await;
    let mut setup = Setup {
        token: Some("hf_server"),
        gate: Some(gate(Mode::HuggingFace, LONG)),
        ..Setup::default()
    };
    setup.fill.layout = "split".parse().expect("a layout");
    let proxy = Proxy::start_with(&hub, setup).await;
    let insider = basic("x", "hf_in").expect("a header");
    let outsider = basic("x", "hf_out").expect("a header");
    let layers = async |name: &str| -> Vec<String> {
        let headers = [("authorization", insider.as_str())];
        let path = |rest: &str| format!("/v2/org/{name}/manifests/{rest}");
        let get = async |path: String| {
            let response = proxy.send(Method::GET, &path, &headers).await;
            let text = response.text().await.expect("a body");
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON")
        };
        let index = get(path("main")).await;
        let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
        let manifest = get(path(digest)).await;
        let layers = manifest["layers"].as_array().expect("layers").iter();
        layers
            .map(|l| l["digest"].as_str().expect("a digest").to_owned())
            .collect()
    };
    let (public, private) = (layers("public").await, layers("private").await);
    layers("other").await;
    let status = async |name: &str, digest: &str, login: &str| {
        let path = format!("/v2/org/{name}/blobs/{digest}");
        ask(&proxy, &path, Some(login)).await.status().as_u16()
    };
    for digest in &private {
        assert_eq!(status("private", digest, &insider).await, 200);
        assert_eq!(status("private", digest, &outsider).await, 404);
        assert_eq!(status("other", digest, &insider).await, 404);
        assert_eq!(status("other", digest, &outsider).await, 404);
        let shared = public.contains(digest);
        let wanted = if shared { 200 } else { 404 };
        assert_eq!(status("public", digest, &outsider).await, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn within_the_ttl_the_hubs_word_is_believed_also_while_it_is_down() {
    let hub = hub().await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    let insider = basic("x", "hf_in");
    let status = async || {
        ask(&proxy, PRIVATE, insider.as_deref())
            .await
            .status()
            .as_u16()
    };
    assert_eq!(status().await, 200);
    hub.stop();
    assert_eq!(status().await, 200);
    assert_eq!(ask(&proxy, PRIVATE, None).await.status(), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_ttl_only_what_was_public_is_served_while_the_hub_is_down() {
    let hub = hub().await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, Duration::ZERO)).await;
    let insider = basic("x", "hf_in");
    let public = "/v2/org/public/manifests/main";
    for path in [PRIVATE, public] {
        assert_eq!(ask(&proxy, path, insider.as_deref()).await.status(), 200);
    }
    hub.stop();
    for login in [None, insider] {
        assert_eq!(ask(&proxy, public, login.as_deref()).await.status(), 200);
        let refused = OciError::of(ask(&proxy, PRIVATE, login.as_deref()).await).await;
        assert_eq!((refused.status, &*refused.code), (503, "UNAVAILABLE"));
        assert!(
            refused.message.contains("does not answer"),
            "{}",
            refused.message
        );
    }
    hub.restart().expect("the same ports");
    assert_eq!(ask(&proxy, PRIVATE, None).await.status(), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_private_is_closed_and_noted_and_what_becomes_public_is_opened() {
    let hub = hub().await;
    let folder = tempfile::tempdir().expect("a folder");
    for mode in [Mode::HuggingFace, Mode::Public] {
        let setup = Setup {
            token: Some("hf_server"),
            gate: Some(gate(mode.clone(), Duration::ZERO)),
            ..Setup::default()
        };
        let proxy = Proxy::start_on_with(&hub, folder.path(), setup).await;
        let path = "/v2/org/public/manifests/main";
        let set = |private| {
            hub.edit(|world| {
                let repo = world.find_mut(Kind::Model, "org/public");
                repo.expect("a repository").private = private;
            });
        };
        let index = ask(&proxy, path, None).await;
        let digest = header(&index, "docker-content-digest").expect("a digest");
        let by_digest = format!("/v2/org/public/manifests/{digest}");
        set(true);
        for path in [path, &by_digest] {
            let status = ask(&proxy, path, None).await.status();
            assert!(
                matches!(status.as_u16(), 401 | 404),
                "{mode:?} {path}: {status}"
            );
        }
        proxy.stop().await;
        let noted = Store::open(folder.path()).expect("a store");
        let repo = "org/public".parse().expect("an id");
        assert_eq!(noted.visibility(&repo), Some(Visibility::Private));
        drop(noted);

        set(false);
        let setup = Setup {
            gate: Some(gate(mode, Duration::ZERO)),
            ..Setup::default()
        };
        let proxy = Proxy::start_on_with(&hub, folder.path(), setup).await;
        assert_eq!(ask(&proxy, &by_digest, None).await.status(), 200);
        proxy.stop().await;
    }
}

/// A hub with a private model for two, a proxy, and a fill of it under way for the first of them.
async fn under_way() -> (Hub, Proxy, tokio::task::JoinHandle<u16>) {
    let private = Repo::model("org/private").private();
    let private = private.allow("hf_one").allow("hf_two").commit(small());
    let world = World::new()
        .repo(private)
        .user("hf_out", "outsider")
        .user("hf_server", "server");
    let hub = Hub::start(world).await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, Duration::ZERO)).await;
    hub.pause();
    let begin = http()
        .get(format!("{}{PRIVATE}", proxy.base()))
        .header("authorization", basic("x", "hf_one").expect("a header"));
    let first = tokio::spawn(async move {
        let response = begin.send().await.expect("an answer");
        response.status().as_u16()
    });
    hub.wait_until(|hub| hub.count("cdn") > 0).await;
    (hub, proxy, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_is_joined_only_by_those_who_may_read_it_and_outlives_who_began_it() {
    let (hub, proxy, first) = under_way().await;
    let outsider = ask(&proxy, PRIVATE, basic("x", "hf_out").as_deref()).await;
    assert_eq!(outsider.status(), 404);
    assert_eq!(ask(&proxy, PRIVATE, None).await.status(), 401);
    first.abort();
    let two = basic("x", "hf_two");
    let resume = async {
        hub.wait_until(|hub| asked_by(hub, "hf_two")).await;
        hub.resume();
    };
    let (joined, ()) = tokio::join!(ask(&proxy, PRIVATE, two.as_deref()), resume);
    assert_eq!(joined.status(), 200);
    let fetched = |record: &crate::hub::Record| record.file.is_some() && record.bytes > 0;
    let files: u64 = hub
        .records()
        .iter()
        .filter(|r| fetched(r))
        .map(|r| r.bytes)
        .sum();
    let commit = hub.at("org/private", "main");
    let wanted: u64 = commit
        .files
        .values()
        .map(|f| f.content.to_bytes().len() as u64)
        .sum();
    assert_eq!(files, wanted, "each byte is fetched once");
    assert_eq!(hub.leaks().len(), 0);
}

fn asked_by(hub: &Hub, token: &str) -> bool {
    let bearer = format!("Bearer {token}");
    let theirs = |r: &crate::hub::Record| {
        r.route == "info" && r.done && r.authorization() == Some(bearer.as_str())
    };
    // The decision, and what the tag means.
    hub.records().iter().filter(|r| theirs(r)).count() >= 2
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fill_whose_token_is_revoked_goes_on_for_who_joined_it() {
    let (hub, proxy, first) = under_way().await;
    let two = basic("x", "hf_two");
    let revoke = async {
        hub.wait_until(|hub| asked_by(hub, "hf_two")).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        hub.edit(|world| world.revoke("hf_one"));
        // What the first token opened is not good any more.
        hub.expire_signatures();
        hub.resume();
    };
    let (joined, ()) = tokio::join!(ask(&proxy, PRIVATE, two.as_deref()), revoke);
    assert_eq!(joined.status(), 200);
    first.await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_fetched_with_the_token_of_who_asks_or_the_servers_if_it_is_public() {
    let hub = hub().await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    for (name, wanted) in [("private", "Bearer hf_in"), ("public", "Bearer hf_server")] {
        hub.reset();
        let path = format!("/v2/org/{name}/manifests/main");
        let login = basic("x", "hf_in");
        assert_eq!(ask(&proxy, &path, login.as_deref()).await.status(), 200);
        let mut records = hub.records();
        records.retain(|record| record.route == "resolve");
        assert!(!records.is_empty());
        assert!(
            records.iter().all(|r| r.authorization() == Some(wanted)),
            "{name}"
        );
        assert!(hub.leaks().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_rules_leave_out_is_refused_before_the_hub_is_asked() {
    let world = World::new()
        .repo(Repo::model("org/secret-1").commit(small()))
        .repo(Repo::model("org/fine").commit(small()))
        .renamed("models/org/old", "models/org/secret-1");
    let hub = Hub::start(world.user("hf_server", "server")).await;
    let globs = |text: &str| vec![text.parse::<Glob>().expect(text)];
    for mode in [Mode::Open, Mode::Public, Mode::HuggingFace] {
        hub.reset();
        let mut gate = gate(mode.clone(), LONG);
        gate.rules = Rules {
            allow: globs("org/*"),
            deny: globs("org/secret-*"),
        };
        let proxy = proxy(&hub, gate).await;
        let digest = format!("sha256:{}", "0".repeat(64));
        for (name, rule) in [
            ("org/secret-1", "repositories.deny has 'org/secret-*'"),
            ("datasets/org/x", "repositories.allow has only 'org/*'"),
        ] {
            for rest in [
                "manifests/main",
                "tags/list",
                &format!("blobs/{digest}"),
                &format!("referrers/{digest}"),
            ] {
                let refused = proxy.error(&format!("/v2/{name}/{rest}")).await;
                assert_eq!(
                    (refused.status, &*refused.code),
                    (403, "DENIED"),
                    "{mode:?} {rest}"
                );
                assert!(refused.message.contains(rule), "{}", refused.message);
            }
        }
        assert!(hub.records().is_empty(), "{mode:?}");
        // By another name only the Hub can tell.
        for rest in ["manifests/main", "tags/list"] {
            let refused = proxy.error(&format!("/v2/org/old/{rest}")).await;
            assert_eq!(refused.status, 403, "{mode:?} {rest}: {}", refused.message);
        }
        assert_eq!(proxy.get("/v2/org/fine/manifests/main").await.status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_lists_what_everybody_may_know_of() {
    let hub = hub().await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    let insider = basic("x", "hf_in");
    for path in [PRIVATE, "/v2/org/public/manifests/main"] {
        assert_eq!(
            ask(&proxy, path, insider.as_deref()).await.status(),
            200,
            "{path}"
        );
    }
    for login in [None, insider] {
        let response = ask(&proxy, "/v2/_catalog", login.as_deref()).await;
        let told = response.text().await.expect("a body");
        assert_eq!(told, r#"{"repositories":["org/public"]}"#);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_what_was_public_is_served_and_the_rest_is_as_if_it_were_not_here() {
    let hub = hub().await;
    let folder = tempfile::tempdir().expect("a folder");
    let setup = |mode, offline| Setup {
        token: Some("hf_in"),
        gate: Some(gate(mode, LONG)),
        offline,
        ..Setup::default()
    };
    let online = Proxy::start_on_with(&hub, folder.path(), setup(Mode::Open, false)).await;
    online.index("org/private", "main").await;
    online.index("org/public", "main").await;
    online.stop().await;
    for mode in [Mode::HuggingFace, Mode::Public] {
        let proxy = Proxy::start_on_with(&hub, folder.path(), setup(mode, true)).await;
        for login in [None, basic("x", "hf_in")] {
            let asked = async |name: &str| {
                let path = format!("/v2/org/{name}/manifests/main");
                let response = ask(&proxy, &path, login.as_deref()).await;
                let status = response.status().as_u16();
                let body = response.text().await.expect("a body");
                (status, body.replace(&format!("org/{name}"), "NAME"))
            };
            assert_eq!(asked("public").await.0, 200);
            let private = asked("private").await;
            assert_eq!(private.0, 404, "{}", private.1);
            assert_eq!(private, asked("missing").await);
        }
        proxy.stop().await;
    }
}
