//! Promise: every client finds out how to log in, and a login opens what it should: `docker login`, Basic, tokens by GET and by form.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hf_oci::auth::{GateSettings, Mode, Rules, Site};
use reqwest::{Method, Response};

use crate::harness::{OciError, Proxy, Setup, header, http, small};
use crate::hub::{Effect, Fault, Hub, Repo, World};

/// A gate without rules.
pub fn gate(mode: Mode, ttl: Duration) -> GateSettings {
    GateSettings {
        mode,
        ttl,
        rules: Rules::default(),
        site: Site::default(),
    }
}

/// The header of a name and a password.
pub fn basic(user: &str, password: &str) -> Option<String> {
    let pair = STANDARD.encode(format!("{user}:{password}"));
    Some(format!("Basic {pair}"))
}

/// The header of the token that a proxy gives for a login, or to an anonymous client; `None` if it gives none.
pub async fn bearer(proxy: &Proxy, authorization: Option<&str>) -> Option<String> {
    let path = "/token?service=proxy&scope=repository:org/x:pull";
    let response = ask(proxy, path, authorization).await;
    if response.status() != 200 {
        assert_eq!(response.status(), 401);
        return None;
    }
    Some(format!("Bearer {}", token(response).await))
}

/// A GET that presents something.
pub async fn ask(proxy: &Proxy, path: &str, authorization: Option<&str>) -> Response {
    let headers = authorization.map(|a| ("authorization", a));
    let headers: Vec<_> = headers.into_iter().collect();
    proxy.send(Method::GET, path, &headers).await
}

async fn token(response: Response) -> String {
    assert_eq!(response.status(), 200);
    assert_eq!(
        header(&response, "cache-control").as_deref(),
        Some("no-store")
    );
    let text = response.text().await.expect("a body");
    let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(answer["token"], answer["access_token"]);
    assert!(answer["expires_in"].as_u64().expect("a number") >= 60);
    answer["token"].as_str().expect("a token").to_owned()
}

/// A hub with a private model and a public one, and who may read the private one.
pub async fn hub() -> Hub {
    let private = Repo::model("org/private")
        .private()
        .allow("hf_in")
        .commit(small());
    let public = Repo::model("org/public").commit(small().file("public.txt", "x"));
    let world = World::new().repo(private).repo(public);
    Hub::start(world.user("hf_out", "outsider").user("hf_server", "server")).await
}

/// A proxy with such a gate. Its own token opens nothing that is not public.
pub async fn proxy(hub: &Hub, gate: GateSettings) -> Proxy {
    let setup = Setup {
        token: Some("hf_server"),
        gate: Some(gate),
        retries: 0,
        ..Setup::default()
    };
    Proxy::start_with(hub, setup).await
}

const LONG: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_login_with_a_hub_token_goes_the_way_of_the_challenge() {
    let hub = hub().await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;

    let response = proxy.get("/v2/").await;
    assert_eq!(response.status(), 401);
    let host = proxy.base().strip_prefix("http://").expect("an address");
    let challenge = format!(r#"Bearer realm="http://{host}/token",service="{host}""#);
    assert_eq!(header(&response, "www-authenticate"), Some(challenge));

    let login = "/token?account=ann&client_id=docker&offline_token=true&service=x";
    let good = ask(&proxy, login, basic("ann", "hf_in").as_deref()).await;
    let good = format!("Bearer {}", token(good).await);
    assert_eq!(ask(&proxy, "/v2/", Some(&good)).await.status(), 200);
    let wrong = ask(&proxy, login, basic("ann", "hf_wrong").as_deref()).await;
    let wrong = OciError::of(wrong).await;
    assert_eq!((wrong.status, &*wrong.code), (401, "UNAUTHORIZED"));
    assert!(wrong.message.contains("Hub"), "{}", wrong.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_public_needs_a_token_but_no_login() {
    let hub = hub().await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    let anonymous = bearer(&proxy, None).await;
    let asked = async |name: &str| {
        let path = format!("/v2/org/{name}/manifests/main");
        ask(&proxy, &path, anonymous.as_deref()).await
    };
    assert_eq!(asked("public").await.status(), 200);
    let private = asked("private").await;
    assert_eq!(private.status(), 401);
    let challenge = header(&private, "www-authenticate").expect("a challenge");
    assert!(
        challenge.ends_with(r#",scope="repository:org/private:pull",error="insufficient_scope""#),
        "{challenge}"
    );
    assert_eq!(
        ask(&proxy, "/v2/", anonymous.as_deref()).await.status(),
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_be_asked_for_by_a_form() {
    let hub = hub().await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    let post = async |form: &str| {
        let client = http();
        let request = client.post(format!("{}/token", proxy.base()));
        request
            .body(form.to_owned())
            .send()
            .await
            .expect("an answer")
    };
    for form in [
        "grant_type=password&username=ann&password=hf_in&scope=repository%3Aorg%2Fprivate%3Apull",
        "grant_type=refresh_token&refresh_token=hf_in&service=x",
    ] {
        let bearer = format!("Bearer {}", token(post(form).await).await);
        let path = "/v2/org/private/tags/list";
        assert_eq!(
            ask(&proxy, path, Some(&bearer)).await.status(),
            200,
            "{form}"
        );
    }
    let long = format!("grant_type=password&password=hf_in&x={}", "x".repeat(9000));
    for form in ["", "grant_type=password&password=hf_wrong", &long] {
        assert_eq!(post(form).await.status(), 401, "{form}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_or_foreign_token_is_told_from_one_that_does_not_suffice() {
    let hub = hub().await;
    let here = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    let elsewhere = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    let foreign = bearer(&elsewhere, basic("x", "hf_in").as_deref()).await;
    let path = "/v2/org/private/tags/list";
    let response = ask(&here, path, foreign.as_deref()).await;
    assert_eq!(response.status(), 401);
    let challenge = header(&response, "www-authenticate").expect("a challenge");
    assert!(
        challenge.ends_with(r#"error="invalid_token""#),
        "{challenge}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_names_the_public_address_and_no_hostile_host() {
    let hub = hub().await;
    let challenge = async |site: Site, host: &str| {
        let mut gate = gate(Mode::HuggingFace, LONG);
        gate.site = site;
        let proxy = proxy(&hub, gate).await;
        let response = proxy.send(Method::GET, "/v2/", &[("host", host)]).await;
        header(&response, "www-authenticate").expect("a challenge")
    };
    let public = Site {
        public_url: Some("https://hub.example".to_owned()),
        tls: false,
    };
    let told = challenge(public, "proxy:5000").await;
    assert_eq!(
        told,
        r#"Bearer realm="https://hub.example/token",service="hub.example""#
    );
    let told = challenge(Site::default(), r#"x",realm="http://evil"#).await;
    assert!(!told.contains("evil"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_a_file_log_in_with_their_passwords() {
    let hub = hub().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users");
    let hash = bcrypt::hash("pass:word", 4).expect("a hash");
    std::fs::write(&file, format!("ann:{hash}\n")).expect("a file");
    let proxy = proxy(&hub, gate(Mode::Htpasswd(file), LONG)).await;
    let response = proxy.get("/v2/").await;
    assert_eq!(response.status(), 401);
    assert_eq!(
        header(&response, "www-authenticate").as_deref(),
        Some(r#"Basic realm="hf-oci""#)
    );
    for (user, password, status) in [
        ("ann", "pass:word", 200),
        ("ann", "password", 401),
        ("bob", "pass:word", 401),
        ("", "", 401),
    ] {
        let response = ask(&proxy, "/v2/", basic(user, password).as_deref()).await;
        assert_eq!(response.status(), status, "{user}:{password}");
    }
    assert_eq!(proxy.get("/token").await.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_needs_no_login_in_any_mode() {
    let hub = hub().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("users");
    std::fs::write(&file, "").expect("a file");
    for mode in [
        Mode::Open,
        Mode::Public,
        Mode::Htpasswd(file),
        Mode::HuggingFace,
    ] {
        let proxy = proxy(&hub, gate(mode.clone(), LONG)).await;
        assert_eq!(proxy.get("/healthz").await.status(), 200, "{mode:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_asked_about_once_and_few_at_a_time() {
    let hub = hub().await;
    let proxy = proxy(&hub, gate(Mode::HuggingFace, LONG)).await;
    let wrong = basic("x", "hf_wrong");
    for _ in 0..20 {
        assert_eq!(ask(&proxy, "/v2/", wrong.as_deref()).await.status(), 401);
    }
    assert_eq!(hub.count("whoami"), 1);

    hub.fault(Fault::hub("whoami").then(Effect::Hold("whoami")));
    let guesses: Vec<_> = (0..100).map(|n| basic("x", &format!("hf_{n}"))).collect();
    let asked = guesses
        .iter()
        .map(|guess| ask(&proxy, "/v2/", guess.as_deref()));
    let release = async {
        hub.wait_until(|hub| hub.count("whoami") >= 8).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        hub.release("whoami");
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(asked), release);
    let limited = answers.iter().filter(|a| a.status() == 429).count();
    assert!(
        answers
            .iter()
            .all(|a| matches!(a.status().as_u16(), 401 | 429))
    );
    assert!(limited >= 50, "{limited} of 100 guesses were put off");
}
