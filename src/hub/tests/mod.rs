//! The client against scripted servers.

use std::time::Duration;

mod calls;
mod content;
mod fake;

use super::retry::Policy;
use super::*;
use fake::{Act, Fake, Seen};

const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

fn repo(id: &str) -> RepoId {
    id.parse().expect("an id")
}

fn commit() -> Commit {
    SHA.parse().expect("a commit")
}

fn settings(fake: &Fake, prefix: &str) -> HubSettings {
    HubSettings {
        endpoint: fake.url(prefix).parse().expect("an endpoint"),
        token: Some(Token::new("hf_secret").expect("a token")),
        stall: Duration::from_millis(300),
        ..HubSettings::default()
    }
}

fn quick() -> Policy {
    Policy {
        base: Duration::from_millis(2),
        ..Policy::new(3)
    }
}

fn client(settings: HubSettings) -> HubClient {
    HubClient::with_policy(settings, quick()).expect("a client")
}

fn hub(fake: &Fake) -> HubClient {
    client(settings(fake, ""))
}

fn info(id: &str) -> Act {
    Act::new(200, format!(r#"{{"id":"{id}","sha":"{SHA}"}}"#))
}

fn has_token(seen: &Seen) -> bool {
    seen.header("authorization") == Some("Bearer hf_secret")
}
