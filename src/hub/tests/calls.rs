//! What is asked, in which order, and what the answers become.

use std::time::Duration;

use super::fake::{Act, Fake};
use super::*;

#[tokio::test]
async fn a_wrong_cased_or_renamed_repository_is_followed_and_remembered() {
    let fake = Fake::start(|seen, _| match seen.path.as_str() {
        "/hf/api/models/org/model" => Act::to("/api/models/New/Model"),
        "/hf/api/models/New/Model" => info("New/Model"),
        "/hf/api/models/New/Model/revision/refs%2Fpr%2F1" => info("New/Model"),
        _ => Act::new(404, ""),
    })
    .await;
    let hub = client(settings(&fake, "/hf"));
    let found = hub.resolve(&repo("org/model"), None).await.expect("found");
    assert_eq!((found.repo, found.commit), (repo("New/Model"), commit()));
    hub.resolve(&repo("ORG/model"), Some("refs/pr/1"))
        .await
        .expect("found without a redirect");
    assert_eq!(fake.paths().len(), 3);
    for seen in fake.seen() {
        assert!(has_token(&seen));
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
        let agent = seen.header("user-agent").expect("an agent");
        assert!(agent.starts_with("hf-oci/"));
    }
}

#[tokio::test]
async fn a_mirror_that_neither_folds_nor_defaults_is_helped() {
    let fake = Fake::start(|seen, _| match seen.path.as_str() {
        "/api/models?search=model&author=org" => {
            Act::new(200, r#"[{"id":"org/model-2"},{"id":"Org/Model"}]"#)
        }
        "/api/models/Org/Model/revision/main" => info("Org/Model"),
        _ => Act::new(401, "").with("X-Error-Code", "RepoNotFound"),
    })
    .await;
    let hub = hub(&fake);
    let found = hub.resolve(&repo("org/model"), None).await.expect("found");
    assert_eq!(found.repo, repo("Org/Model"));
    let unknown = hub.resolve(&repo("org/model"), Some("nope")).await;
    assert!(
        matches!(unknown, Err(UpstreamError::RevisionUnknown { .. })),
        "{unknown:?}"
    );
    let refs = hub.refs(&repo("org/model")).await.expect("at least main");
    assert_eq!(refs.branches, [("main".to_owned(), commit())]);
}

#[tokio::test]
async fn a_mirror_without_refs_and_history_still_has_main() {
    let fake = Fake::start(|seen, _| match seen.path.as_str() {
        "/api/models/org/model" => info("org/model"),
        _ => Act::new(404, ""),
    })
    .await;
    let hub = hub(&fake);
    let refs = hub.refs(&repo("org/model")).await.expect("refs");
    assert_eq!(refs.branches, [("main".to_owned(), commit())]);
    let found = hub.commits(&repo("org/model"), &SHA[..8]).await;
    assert_eq!(found, Ok(vec![commit()]));
    assert_eq!(
        hub.commits(&repo("org/model"), "99999999").await,
        Ok(vec![])
    );
    assert_eq!(hub.access(&repo("org/model")).await, Ok(Access::Untold));
}

#[tokio::test]
async fn commits_are_found_among_refs_and_history_each_once() {
    let other = SHA.replace('0', "f");
    let (branch, pr) = (SHA, other.clone());
    let fake = Fake::start(move |seen, _| match seen.path.as_str() {
        "/api/models/org/model/refs?include_prs=1" => Act::new(200, format!(
            r#"{{"branches":[{{"name":"dev/x","targetCommit":"{branch}"}}],"pullRequests":[{{"name":"1","targetCommit":"{pr}"}}]}}"#
        )),
        "/api/models/org/model/commits/dev%2Fx" => {
            Act::new(200, format!(r#"[{{"id":"{branch}"}}]"#))
                .with("Link", "<https://huggingface.co/api/models/org/model/commits/dev%2Fx?p=1>; rel=\"next\"")
        }
        "/api/models/org/model/commits/dev%2Fx?p=1" => {
            Act::new(200, r#"[{"id":"01234567ffffffffffffffffffffffffffffffff"}]"#)
        }
        _ => Act::new(404, ""),
    })
    .await;
    let hub = hub(&fake);
    let found = hub
        .commits(&repo("org/model"), "01234567")
        .await
        .expect("found");
    assert_eq!(found.len(), 2);
    let found = hub.commits(&repo("org/model"), &other[..12]).await;
    assert_eq!(found.map(|c| c[0].to_string()), Ok(other));
}

#[tokio::test]
async fn refusals_become_their_errors() {
    let fake = Fake::start(|seen, _| match seen.path.as_str() {
        "/api/models/org/gated/auth-check" => Act::new(403, "").with("X-Error-Code", "GatedRepo"),
        "/api/models/org/off" => {
            Act::new(403, r#"{"error":"Access to this resource is disabled."}"#)
        }
        "/api/models/org/bad" => Act::new(401, r#"{"error":"Invalid username or password."}"#),
        _ => Act::new(404, "").with("X-Error-Code", "RepoNotFound"),
    })
    .await;
    let hub = hub(&fake);
    let (gated, off, bad, none) = (
        repo("org/gated"),
        repo("org/off"),
        repo("org/bad"),
        repo("o/n"),
    );
    assert_eq!(hub.access(&gated).await, Err(UpstreamError::Gated(gated)));
    let resolved = async |r: RepoId| hub.resolve(&r, None).await.expect_err("refused");
    assert_eq!(resolved(off.clone()).await, UpstreamError::Disabled(off));
    assert_eq!(
        resolved(bad.clone()).await,
        UpstreamError::BadToken(bad.clone())
    );
    assert_eq!(
        resolved(none.clone()).await,
        UpstreamError::RepositoryUnknown(none)
    );
    let anonymous = client(HubSettings {
        token: None,
        ..settings(&fake, "")
    });
    let error = anonymous.resolve(&bad, None).await.expect_err("refused");
    assert_eq!(error, UpstreamError::RepositoryUnknown(bad));
    for dots in ["..", ".", ""] {
        let error = hub.resolve(&gated_repo(), Some(dots)).await;
        assert!(matches!(error, Err(UpstreamError::RevisionUnknown { .. })));
    }
}

fn gated_repo() -> RepoId {
    repo("org/gated")
}

#[tokio::test]
async fn pages_are_asked_of_the_own_endpoint_whatever_host_the_link_names() {
    let evil = Fake::start(|_, _| Act::new(200, "[]")).await;
    let next = evil.url("/api/models/org/model/tree/x?recursive=true&cursor=2");
    let fake = Fake::start(move |seen, _| {
        let file = |path| format!(r#"[{{"type":"file","oid":"{SHA}","size":1,"path":"{path}"}}]"#);
        if seen.path.contains("cursor=2") {
            Act::new(200, file("b"))
        } else {
            Act::new(200, file("a")).with("Link", format!("<{next}>; rel=\"next\""))
        }
    })
    .await;
    let snapshot = hub(&fake)
        .snapshot(&repo("org/model"), commit())
        .await
        .expect("a listing");
    let paths: Vec<_> = snapshot.files().iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["a", "b"]);
    assert!(evil.seen().is_empty());
    let first = format!("/api/models/org/model/tree/{SHA}?recursive=true");
    assert_eq!(fake.paths()[0], first);
}

#[tokio::test]
async fn a_listing_that_goes_in_circles_is_refused() {
    let fake = Fake::start(|seen, _| {
        Act::new(200, "[]").with("Link", format!("<http://h{}>; rel=\"next\"", seen.path))
    })
    .await;
    let error = hub(&fake).snapshot(&repo("org/model"), commit()).await;
    assert!(matches!(error, Err(UpstreamError::Broken(_))), "{error:?}");
}

#[tokio::test]
async fn an_answer_without_end_is_refused() {
    let fake = Fake::start(|_, _| Act::new(200, vec![b' '; 5 << 20])).await;
    let error = hub(&fake).resolve(&repo("org/model"), None).await;
    assert!(matches!(error, Err(UpstreamError::Broken(_))), "{error:?}");
}

#[tokio::test]
async fn limits_are_waited_for_or_told() {
    let fake = Fake::start(|_, n| match n {
        0 => Act::new(429, "").with("RateLimit", "\"api\";r=0;t=1"),
        1 => Act::new(503, ""),
        _ => info("org/model"),
    })
    .await;
    let start = std::time::Instant::now();
    hub(&fake)
        .resolve(&repo("org/model"), None)
        .await
        .expect("found at last");
    assert!(start.elapsed() >= Duration::from_secs(1));
    let fake = Fake::start(|_, _| Act::new(429, "").with("RateLimit", "\"api\";r=0;t=87")).await;
    let error = hub(&fake).resolve(&repo("org/model"), None).await;
    let retry_after = Some(Duration::from_secs(87));
    assert_eq!(error, Err(UpstreamError::RateLimited { retry_after }));
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn a_broken_server_is_asked_again_and_then_told_about() {
    let fake = Fake::start(|_, _| Act::new(502, "")).await;
    let error = hub(&fake)
        .refs(&repo("org/model"))
        .await
        .expect_err("broken");
    assert!(matches!(&error, UpstreamError::Unavailable(why) if why.contains("502")));
    assert_eq!(fake.seen().len(), 4);
    let at = fake.url("");
    drop(fake);
    let gone = HubSettings {
        endpoint: at.parse().expect("an endpoint"),
        ..HubSettings::default()
    };
    let error = client(gone)
        .refs(&repo("org/model"))
        .await
        .expect_err("gone");
    assert!(error.is_outage(), "{error}");
}

#[tokio::test]
async fn redirects_end() {
    let fake = Fake::start(|seen, _| Act::to(format!("{}x", seen.path))).await;
    let error = hub(&fake).refs(&repo("org/model")).await;
    assert!(matches!(error, Err(UpstreamError::Broken(_))), "{error:?}");
    assert_eq!(fake.seen().len(), 7);
}

#[test]
fn nothing_of_the_token_is_in_the_settings_text() {
    let settings = HubSettings {
        token: Token::new("hf_secret").ok(),
        ..HubSettings::default()
    };
    assert!(!format!("{settings:?}").contains("secret"));
    assert!(HubClient::new(settings).is_ok());
}
