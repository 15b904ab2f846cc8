//! The tokens that this server gives out: short-lived, signed, and empty of secrets.
//!
//! A token is a kind, an end and, after a login, the [`Credential`] under which the Hub token lies in this process's memory. Hub tokens are
//! kept nowhere else, and for no longer than what was given out for them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moka::future::Cache;

use super::key::Key;
use super::presented::Secret;
use crate::fill::Credential;
use crate::hub::Token;

/// The most logins that are remembered.
const SESSIONS: u64 = 10_000;
/// The same of those that the Hub said nothing of: they take no place from the others.
const UNCHECKED: u64 = 1_000;
/// What clients take as the shortest life of a token.
const SHORTEST: Duration = Duration::from_secs(60);
/// Kind, end, credential.
const BODY: usize = 1 + 8 + 16;

const ANONYMOUS: u8 = 0;
const LOGIN: u8 = 1;

/// A login: the Hub token, and what it is remembered by.
#[derive(Debug, Clone)]
pub struct Login {
    pub(super) credential: Credential,
    pub(super) token: Token,
    /// Whether the Hub has said that it knows the token.
    pub(super) checked: bool,
}

/// Gives tokens out and takes them back.
pub(super) struct Bearers {
    key: Key,
    sessions: Cache<Credential, Token>,
    /// Those of logins that were not checked.
    unchecked: Cache<Credential, Token>,
    lifetime: Duration,
}

impl Bearers {
    /// Tokens that live as long as `lifetime`, a minute at least.
    pub(super) fn new(key: Key, lifetime: Duration) -> Self {
        let lifetime = lifetime.max(SHORTEST);
        let remembering = |most| {
            Cache::builder()
                .max_capacity(most)
                .time_to_live(lifetime + Duration::from_secs(1))
                .build()
        };
        Self {
            key,
            sessions: remembering(SESSIONS),
            unchecked: remembering(UNCHECKED),
            lifetime,
        }
    }

    /// How long a token is good.
    pub(super) const fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// A token for a login, or for an anonymous client.
    pub(super) async fn issue(&self, login: Option<Login>, now: SystemTime) -> String {
        let end = seconds(now + self.lifetime).to_be_bytes();
        let (kind, credential) = match login {
            None => (ANONYMOUS, [0; 16]),
            Some(login) => {
                let sessions = match login.checked {
                    true => &self.sessions,
                    false => &self.unchecked,
                };
                sessions.insert(login.credential, login.token).await;
                (LOGIN, login.credential.0)
            }
        };
        let mut bytes = Vec::with_capacity(BODY + 32);
        bytes.push(kind);
        bytes.extend_from_slice(&end);
        bytes.extend_from_slice(&credential);
        let signature = self.key.sign(&bytes);
        bytes.extend_from_slice(signature.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Whose a token is: `Some(None)` for an anonymous one, `None` if it is not ours, or too old, or its login is forgotten.
    pub(super) async fn read(&self, token: &Secret, now: SystemTime) -> Option<Option<Login>> {
        let bytes = URL_SAFE_NO_PAD.decode(token.reveal()).ok()?;
        let (body, signature) = bytes.split_at_checked(BODY)?;
        if !self.key.verify(body, signature) {
            return None;
        }
        let end = u64::from_be_bytes(body[1..9].try_into().ok()?);
        if seconds(now) >= end {
            return None;
        }
        if body[0] == ANONYMOUS {
            return Some(None);
        }
        let credential = Credential(body[9..].try_into().ok()?);
        let checked = self.sessions.get(&credential).await;
        let is_checked = checked.is_some();
        let token = match checked {
            Some(token) => token,
            None => self.unchecked.get(&credential).await?,
        };
        Some(Some(Login {
            credential,
            token,
            checked: is_checked,
        }))
    }

    /// Forgets a login, whose token the Hub does not know any more.
    pub(super) async fn forget(&self, credential: &Credential) {
        self.sessions.invalidate(credential).await;
        self.unchecked.invalidate(credential).await;
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: Duration = Duration::from_secs(300);

    fn bearers() -> Bearers {
        Bearers::new(Key::random().unwrap(), MINUTES)
    }

    fn login() -> Login {
        Login {
            credential: Credential([7; 16]),
            token: Token::new("hf_canary").unwrap(),
            checked: true,
        }
    }

    #[tokio::test]
    async fn logins_that_were_not_checked_crowd_out_none_that_was() {
        let here = bearers();
        let now = SystemTime::now();
        let checked = here.issue(Some(login()), now).await;
        for n in 0..2 * SESSIONS {
            let mut credential = [0; 16];
            credential[..8].copy_from_slice(&n.to_be_bytes());
            let guess = Login {
                credential: Credential(credential),
                checked: false,
                ..login()
            };
            here.issue(Some(guess), now).await;
        }
        here.sessions.run_pending_tasks().await;
        here.unchecked.run_pending_tasks().await;
        assert_eq!(here.sessions.entry_count(), 1);
        assert!(here.unchecked.entry_count() <= UNCHECKED);
        assert!(here.read(&secret(&checked), now).await.is_some());
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text)
    }

    #[tokio::test]
    async fn a_token_is_good_for_its_time_and_here_only() {
        let (here, elsewhere) = (bearers(), bearers());
        let now = SystemTime::now();
        let named = here.issue(Some(login()), now).await;
        let anonymous = here.issue(None, now).await;
        assert!(!named.contains("canary") && named != anonymous);
        let (named, anonymous) = (secret(&named), secret(&anonymous));
        let read = here.read(&named, now).await.flatten();
        assert_eq!(read.map(|l| l.credential), Some(Credential([7; 16])));
        assert!(matches!(here.read(&anonymous, now).await, Some(None)));
        for token in [&named, &anonymous] {
            assert!(here.read(token, now + MINUTES).await.is_none());
            assert!(elsewhere.read(token, now).await.is_none());
        }
        here.forget(&Credential([7; 16])).await;
        assert!(here.read(&named, now).await.is_none());
    }

    #[tokio::test]
    async fn a_changed_token_is_none() {
        let here = bearers();
        let now = SystemTime::now();
        let token = here.issue(Some(login()), now).await;
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            let changed = secret(&URL_SAFE_NO_PAD.encode(changed));
            assert!(here.read(&changed, now).await.is_none(), "byte {i}");
        }
        for text in ["", "x", "hf_canary", &token[..20]] {
            assert!(here.read(&secret(text), now).await.is_none(), "{text}");
        }
    }
}
