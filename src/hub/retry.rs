//! When to ask again, and when to stop. Pure: no clock, no sleeping.

use std::time::Duration;

use super::UpstreamError;

/// Why one attempt failed.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// No connection, a status of a broken server, or a body that ended early.
    Unreachable(String),
    /// No byte for too long.
    Stalled(String),
    /// 429, with how long it asks to wait.
    Limited(Option<Duration>),
    /// The address that the Hub once gave is no longer good: ask the Hub for a new one.
    Expired(String),
    /// A host refused one of several parallel reads, and is asked for fewer from now on.
    Crowded(String),
    /// Asking again gives the same.
    Final(UpstreamError),
}

impl Trouble {
    /// What the caller is told after the last attempt.
    pub(super) fn into_error(self) -> UpstreamError {
        match self {
            Self::Unreachable(what) | Self::Expired(what) | Self::Crowded(what) => {
                UpstreamError::Unavailable(what)
            }
            Self::Stalled(what) => UpstreamError::Timeout(what),
            Self::Limited(retry_after) => UpstreamError::RateLimited { retry_after },
            Self::Final(error) => error,
        }
    }
}

/// How often and how fast to try again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// Attempts after the first, counted from the last progress.
    pub(super) retries: u32,
    /// The first pause; each further one is twice as long.
    pub(super) base: Duration,
    /// The longest pause of our own choosing.
    pub(super) cap: Duration,
    /// The longest pause at the upstream's wish while an image is filled. If it wants more, the caller is told.
    pub(super) patience: Duration,
    /// The same for questions before a fill, when somebody waits for the first byte of an answer.
    pub(super) hurry: Duration,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A question whose answer somebody waits for.
    Answer,
    /// An image that is being filled.
    Fill,
}

impl Policy {
    /// The policy with `retries` and the usual pauses.
    pub(super) const fn new(retries: u32) -> Self {
        Self {
            retries,
            base: Duration::from_millis(300),
            cap: Duration::from_secs(15),
            patience: Duration::from_secs(300),
            hurry: Duration::from_secs(20),
        }
    }

    /// The longest pause at the upstream's wish.
    pub(super) fn patience(&self, purpose: Purpose) -> Duration {
        match purpose {
            Purpose::Answer => self.hurry.min(self.patience),
            Purpose::Fill => self.patience,
        }
    }

    /// How long to wait before the next attempt, after `failures` (1 or more) in a row; None: give up. `dice` is any number, for the jitter.
    pub(super) fn pause(
        &self,
        purpose: Purpose,
        failures: u32,
        trouble: &Trouble,
        dice: u64,
    ) -> Option<Duration> {
        if failures > self.retries {
            return None;
        }
        match trouble {
            Trouble::Final(_) => None,
            Trouble::Limited(Some(wait)) if *wait > self.patience(purpose) => None,
            // Never earlier than asked, and not all at the same instant.
            Trouble::Limited(Some(wait)) => Some(*wait + jitter(self.base, dice)),
            Trouble::Expired(_) if failures == 1 => Some(Duration::ZERO),
            _ => Some(self.backoff(failures, dice)),
        }
    }

    /// Half to all of `base · 2^(failures - 1)`, at most `cap`.
    pub(super) fn backoff(&self, failures: u32, dice: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let full = self.base.saturating_mul(1 << doublings).min(self.cap);
        full / 2 + jitter(full / 2, dice)
    }
}

/// From nothing to `most`.
fn jitter(most: Duration, dice: u64) -> Duration {
    let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(dice % nanos.saturating_add(1).max(1))
}

/// A number nobody can foresee, good enough to spread retries: the standard library seeds every hasher anew.
pub(super) fn dice() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// Whether a status says "later, perhaps".
pub(super) const fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429) || (status >= 500 && !matches!(status, 501 | 505))
}

/// The wait that a limited answer asks for: `Retry-After` in seconds, or else the longest `t` of the items of `RateLimit` that have nothing left.
pub(super) fn wait_asked(retry_after: Option<&str>, rate_limit: Option<&str>) -> Option<Duration> {
    let seconds = |text: &str| text.trim().parse().ok().map(Duration::from_secs);
    retry_after
        .and_then(seconds)
        .or_else(|| rate_limit.and_then(limit_reset))
}

/// Reads `"resolvers";r=0;t=87, "api";r=12;t=4`.
fn limit_reset(header: &str) -> Option<Duration> {
    split_unquoted(header, ',')
        .into_iter()
        .filter_map(|item| {
            let parameters: Vec<_> = split_unquoted(item, ';')
                .into_iter()
                .skip(1)
                .filter_map(|p| p.split_once('='))
                .map(|(k, v)| (k.trim(), v.trim()))
                .collect();
            let number = |key| {
                let (_, value) = parameters.iter().find(|(k, _)| *k == key)?;
                value.parse::<u64>().ok()
            };
            let exhausted = number("r").is_none_or(|left| left == 0);
            exhausted.then(|| number("t")).flatten()
        })
        .max()
        .map(Duration::from_secs)
}

/// Splits at `separator`, but not inside double quotes.
pub(super) fn split_unquoted(text: &str, separator: char) -> Vec<&str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(|c: char| {
        let literal = std::mem::take(&mut escaped);
        match c {
            '\\' if quoted && !literal => escaped = true,
            '"' if !literal => quoted = !quoted,
            _ => {}
        }
        c == separator && !quoted
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy::new(5)
    }

    fn broken() -> Trouble {
        Trouble::Unreachable("x".into())
    }

    #[test]
    fn pauses_double_up_to_the_cap_with_jitter_below() {
        let policy = policy();
        for (failures, full) in [(1, 300), (2, 600), (3, 1200), (5, 4800)] {
            for dice in [0, 1, 12345, u64::MAX] {
                let pause = policy
                    .pause(Purpose::Fill, failures, &broken(), dice)
                    .expect("a pause");
                let full = Duration::from_millis(full);
                assert!(pause >= full / 2 && pause <= full, "{failures} {pause:?}");
            }
        }
        assert_eq!(policy.pause(Purpose::Fill, 6, &broken(), 0), None);
        assert!(Policy::new(99).pause(Purpose::Fill, 99, &broken(), u64::MAX) <= Some(policy.cap));
    }

    #[test]
    fn a_limit_is_waited_for_within_patience() {
        let policy = policy();
        let limited = |s| Trouble::Limited(Some(Duration::from_secs(s)));
        assert!(policy.pause(Purpose::Fill, 1, &limited(300), 7) >= Some(Duration::from_secs(300)));
        assert_eq!(policy.pause(Purpose::Fill, 1, &limited(301), 7), None);
        assert!(policy.pause(Purpose::Answer, 1, &limited(20), 7).is_some());
        assert_eq!(policy.pause(Purpose::Answer, 1, &limited(21), 7), None);
        assert!(
            policy
                .pause(Purpose::Fill, 1, &Trouble::Limited(None), 7)
                .is_some()
        );
    }

    #[test]
    fn an_expired_address_is_renewed_at_once_and_then_with_pauses() {
        let expired = Trouble::Expired("x".into());
        assert_eq!(
            policy().pause(Purpose::Fill, 1, &expired, 7),
            Some(Duration::ZERO)
        );
        assert!(policy().pause(Purpose::Fill, 2, &expired, 7) >= Some(Duration::from_millis(300)));
    }

    #[test]
    fn what_cannot_change_is_not_asked_again() {
        let end = Trouble::Final(UpstreamError::Broken("x".into()));
        assert_eq!(policy().pause(Purpose::Fill, 1, &end, 0), None);
    }

    #[test]
    fn the_hubs_rate_limit_header_is_understood() {
        let seconds = |header| limit_reset(header).map(|d| d.as_secs());
        for (header, wait) in [
            (r#""resolvers";r=0;t=87"#, Some(87)),
            (r#""resolvers";r=0;t=87, "api";r=0;t=120"#, Some(120)),
            (r#""api";r=100;t=120, "resolvers"; r=0 ; t=5"#, Some(5)),
            (r#""a,b;r=9\";t=1";r=0;t=3"#, Some(3)),
            (r#""x";t=9"#, Some(9)),
            (r#""x";r=4;t=9"#, None),
            (r#""x";r=0;t=-9"#, None),
            (r#""x";r=0;t=99999999999999999999999"#, None),
            ("", None),
            (";;,,==;t", None),
            ("\"", None),
        ] {
            assert_eq!(seconds(header), wait, "{header}");
        }
    }

    #[test]
    fn retry_after_goes_before_the_rate_limit_header() {
        let limit = Some(r#""x";r=0;t=9"#);
        assert_eq!(wait_asked(Some("7"), limit), Some(Duration::from_secs(7)));
        assert_eq!(
            wait_asked(Some("Wed, 21 Oct 2026 07:28:00 GMT"), limit),
            Some(Duration::from_secs(9))
        );
        assert_eq!(wait_asked(None, None), None);
    }
}
