//! Promise: the gate says no when in doubt: mirrors that tell less than the Hub, tokens that are good for some things only, guesses, outages.

use std::time::Duration;

use hf_oci::auth::Mode;
use hf_oci::repo::Visibility;

use crate::harness::{OciError, Proxy, Setup, header, small};
use crate::hub::{Effect, Fault, Files, Hub, Kind, Repo, World};
use crate::logins::{ask, basic, bearer, gate, proxy};

const GATED: &str = "/v2/org/gated/manifests/main";
const PUBLIC: &str = "/v2/org/public/manifests/main";
const PRIVATE: &str = "/v2/org/private/manifests/main";
const LONG: Duration = Duration::from_secs(300);

/// A hub with a gated model, a private one and a public one; `hf_in` may read all of them.
fn world() -> World {
    let gated = Repo::model("org/gated").gated("manual").allow("hf_in");
    let private = Repo::model("org/private").private().allow("hf_in");
    World::new()
        .repo(gated.commit(small()))
        .repo(private.commit(small().file("private.txt", "x")))
        .repo(Repo::model("org/public").commit(small().file("public.txt", "x")))
        .user("hf_out", "outsider")
        .user("hf_server", "server")
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_mirror_that_does_not_say_who_was_let_in_the_content_itself_does() {
    let world = world().options(|options| options.says_access = false);
    let hub = Hub::start(world).await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, Duration::ZERO)).await;
    for cached in [false, true] {
        for (login, wanted) in [
            (None, 401),
            (basic("x", "hf_guess"), 404),
            (basic("x", "hf_out"), 403),
            (basic("x", "hf_in"), 200),
        ] {
            let answer = ask(&proxy, GATED, login.as_deref()).await;
            assert_eq!(answer.status(), wanted, "{login:?}, cached: {cached}");
        }
    }
    hub.edit(|world| world.revoke("hf_in"));
    let revoked = ask(&proxy, GATED, basic("x", "hf_in").as_deref()).await;
    assert!(
        matches!(revoked.status().as_u16(), 401 | 404),
        "{}",
        revoked.status()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_one_repository_refuses_stays_good_for_the_others() {
    let hub = Hub::start(world()).await;
    for status in [401, 403] {
        let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
        hub.clear_faults();
        hub.fault(Fault::hub("models/org/private").then(Effect::Status(status, Vec::new())));
        let login = bearer(&proxy, basic("x", "hf_in").as_deref()).await;
        let refused = ask(&proxy, PRIVATE, login.as_deref()).await;
        assert_eq!(refused.status(), 404, "after a {status}");
        let other = ask(&proxy, GATED, login.as_deref()).await;
        assert_eq!(other.status(), 200, "after a {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_few_at_a_time_for_pulls_too() {
    let hub = Hub::start(world()).await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    hub.fault(Fault::hub("whoami").then(Effect::Hold("whoami")));
    let guesses: Vec<_> = (0..100).map(|n| basic("x", &format!("hf_{n}"))).collect();
    let asked = guesses
        .iter()
        .map(|guess| ask(&proxy, PRIVATE, guess.as_deref()));
    let release = async {
        hub.wait_until(|hub| hub.count("whoami") >= 8).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        hub.release("whoami");
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(asked), release);
    let limited = answers.iter().filter(|a| a.status() == 429).count();
    assert!(limited >= 50, "{limited} of 100 guesses were put off");
    let others = answers.iter().filter(|a| a.status() == 401).count();
    assert_eq!(limited + others, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_nobody_knows_are_asked_about_few_at_a_time() {
    let hub = Hub::start(world()).await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    hub.fault(Fault::hub("models/org/no-").then(Effect::Hold("names")));
    let names: Vec<_> = (0..400)
        .map(|n| format!("/v2/org/no-{n}/manifests/main"))
        .collect();
    let asked = names.iter().map(|name| ask(&proxy, name, None));
    let release = async {
        hub.wait_until(|hub| hub.count("info") >= 3).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(hub.count("info"), 3, "asked at once");
        // Others get through meanwhile.
        let login = basic("x", "hf_in");
        assert_eq!(ask(&proxy, PRIVATE, login.as_deref()).await.status(), 200);
        hub.release("names");
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(asked), release);
    let limited = answers.iter().filter(|a| a.status() == 429).count();
    let others = answers.iter().filter(|a| a.status() == 401).count();
    assert_eq!((limited, others), (400 - 259, 259));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_are_put_off_cannot_tell_what_is_cached_and_private_from_none() {
    let hub = Hub::start(world()).await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    let insider = basic("x", "hf_in");
    for (path, login) in [(PRIVATE, insider.as_deref()), (PUBLIC, None)] {
        assert_eq!(ask(&proxy, path, login).await.status(), 200);
    }
    hub.fault(Fault::hub("models/org/no-").then(Effect::Hold("names")));
    let names: Vec<_> = (0..300)
        .map(|n| format!("/v2/org/no-{n}/tags/list"))
        .collect();
    let asked = names.iter().map(|name| ask(&proxy, name, None));
    let meanwhile = async {
        hub.wait_until(|hub| hub.fault_hits() >= 3).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        for path in [PRIVATE, "/v2/org/missing/manifests/main"] {
            assert_eq!(ask(&proxy, path, None).await.status(), 429, "{path}");
        }
        assert_eq!(ask(&proxy, PUBLIC, None).await.status(), 200);
        hub.release("names");
    };
    tokio::join!(futures_util::future::join_all(asked), meanwhile);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gate_leaves_the_hub_alone_for_as_long_as_it_wants() {
    let hub = Hub::start(world()).await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    hub.fault(Fault::hub("/api/").then(Effect::RateLimited { t: 60 }));
    for (login, asked) in [(None, 1), (basic("x", "hf_in"), 2)] {
        for path in [PRIVATE, GATED, "/v2/org/missing/manifests/main"] {
            let answer = ask(&proxy, path, login.as_deref()).await;
            assert_eq!(answer.status(), 429, "{login:?} {path}");
        }
        assert_eq!(hub.count("info"), asked, "{login:?}");
    }
    for n in 0..5 {
        let guess = basic("x", &format!("hf_{n}"));
        assert_eq!(ask(&proxy, "/v2/", guess.as_deref()).await.status(), 429);
    }
    assert_eq!(hub.count("whoami"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_does_not_answer_is_not_asked_the_same_with_each_request() {
    let hub = Hub::start(world()).await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    hub.fault(Fault::hub("models/org/private").then(Effect::Status(500, Vec::new())));
    for _ in 0..5 {
        let login = basic("x", "hf_in");
        assert_eq!(ask(&proxy, PRIVATE, login.as_deref()).await.status(), 503);
    }
    assert_eq!(hub.count("info"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_repository_cannot_be_told_from_none_while_the_hub_fails() {
    let private = Repo::model("Org/Secret").private().allow("hf_in");
    let world = world().repo(private.commit(small()));
    let hub = Hub::start(world).await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, Duration::ZERO)).await;
    let path = |name: &str| format!("/v2/org/{name}/manifests/main");
    let cached = ask(&proxy, &path("secret"), basic("x", "hf_in").as_deref()).await;
    assert_eq!(cached.status(), 200);
    for effect in [Effect::Status(500, Vec::new()), Effect::Hangup] {
        hub.clear_faults();
        hub.fault(Fault::hub("/api/").then(effect.clone()));
        let told = async |name: &str| {
            let error = OciError::of(ask(&proxy, &path(name), None).await).await;
            (error.status, error.message.replace(name, "NAME"))
        };
        let (secret, missing) = (told("secret").await, told("missing").await);
        assert_eq!(secret, missing, "{effect:?}");
        assert_eq!(secret.0, 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_shows_an_address_of_the_hub_beyond_its_host() {
    let hub = Hub::start(world()).await;
    let proxy = proxy(&hub, gate(Mode::Open, LONG)).await;
    for effect in [
        Effect::Status(500, Vec::new()),
        Effect::Status(418, Vec::new()),
        Effect::Hangup,
    ] {
        hub.clear_faults();
        hub.fault(Fault::hub("/api/").then(effect.clone()));
        let error = proxy.error("/v2/org/public/manifests/main").await;
        assert!(error.message.contains(hub.url()), "{}", error.message);
        assert!(!error.message.contains("/api"), "{}", error.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_servers_token_sees_is_not_taken_for_public() {
    let world = world().options(|options| options.says_private = false);
    let hub = Hub::start(world).await;
    let setup = Setup {
        token: Some("hf_in"),
        ..Setup::default()
    };
    let proxy = Proxy::start_with(&hub, setup).await;
    for (name, wanted) in [
        ("org/private", Visibility::Private),
        ("org/public", Visibility::Public),
    ] {
        proxy.index(name, "main").await;
        let repo = name.parse().expect("an id");
        assert_eq!(proxy.store.visibility(&repo), Some(wanted), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_files_that_a_repository_does_not_have_opens_no_layer_of_another() {
    let weights = |id: &str| Repo::model(id).commit(Files::new().pattern("w.bin", 3_000_000, 8));
    let world = World::new()
        .repo(weights("org/private").private().allow("hf_in"))
        .repo(weights("org/claims"))
        .repo(weights("org/has"))
        .repo(weights("org/later"));
    let hub = Hub::start(world.user("hf_server", "server")).await;
    let mut gate = gate(Mode::HuggingFace, LONG);
    gate.ttl = Duration::ZERO;
    let proxy = proxy(&hub, gate).await;
    let path = |name: &str| format!("/v2/org/{name}/manifests/main");
    let insider = basic("x", "hf_in");
    assert_eq!(
        ask(&proxy, &path("private"), insider.as_deref())
            .await
            .status(),
        200
    );
    for claims in ["claims", "later"] {
        hub.fault(Fault::any(format!("org/{claims}/w.bin")).then(Effect::Status(404, Vec::new())));
    }
    assert_eq!(ask(&proxy, &path("claims"), None).await.status(), 404);
    hub.reset();
    assert_eq!(ask(&proxy, &path("has"), None).await.status(), 200);
    assert!(hub.bytes() < 3_000_000, "it is proven, not fetched");
    // Now everybody may have it.
    assert_eq!(ask(&proxy, &path("later"), None).await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_caches_keep_nothing_unless_everybody_may_have_everything() {
    let hub = Hub::start(world()).await;
    for (mode, private) in [
        (Mode::HuggingFace, true),
        (Mode::Public, true),
        (Mode::Open, false),
    ] {
        let proxy = proxy(&hub, gate(mode.clone(), LONG)).await;
        let tag = ask(&proxy, PUBLIC, None).await;
        let index = header(&tag, "docker-content-digest").expect("a digest");
        let by_digest = format!("/v2/org/public/manifests/{index}");
        for path in [PUBLIC, &by_digest, "/v2/org/public/tags/list"] {
            let answer = ask(&proxy, path, None).await;
            assert_eq!(answer.status(), 200);
            let told = header(&answer, "cache-control").unwrap_or_default();
            assert_eq!(
                told.starts_with("private"),
                private,
                "{mode:?} {path}: {told}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_does_not_list_what_became_private_though_nobody_asked_for_it() {
    let hub = Hub::start(world()).await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, Duration::ZERO)).await;
    assert_eq!(ask(&proxy, PUBLIC, None).await.status(), 200);
    let catalog = async || {
        let told = ask(&proxy, "/v2/_catalog", None).await;
        told.text().await.expect("a body")
    };
    assert_eq!(catalog().await, r#"{"repositories":["org/public"]}"#);
    hub.edit(|world| {
        let repo = world.find_mut(Kind::Model, "org/public");
        repo.expect("a repository").private = true;
    });
    assert_eq!(catalog().await, r#"{"repositories":[]}"#);
}
