//! Rate limits, stated on every answer of the Hub and enforced where a quota is set.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::answer::{Answer, Headers};
use super::options::{Options, Quota};

/// Windows by class and token.
#[derive(Default)]
pub struct Limits(Mutex<HashMap<(&'static str, String), Window>>);

struct Window {
    begun: Instant,
    used: u64,
}

impl Limits {
    /// Counts a request. Gives the headers that state the limit, or the 429 of one too many.
    pub fn count(
        &self,
        resolver: bool,
        token: Option<&str>,
        options: &Options,
    ) -> Result<Headers, Box<Answer>> {
        let (class, enforced, usual) = match resolver {
            true => ("resolvers", options.resolve_quota, 3000),
            false => ("api", options.api_quota, 500),
        };
        let quota = enforced.unwrap_or(Quota {
            requests: usual,
            window: 300,
        });
        let length = Duration::from_secs(quota.window);
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows
            .entry((class, token.unwrap_or_default().to_owned()))
            .or_insert_with(|| Window {
                begun: Instant::now(),
                used: 0,
            });
        if window.begun.elapsed() >= length {
            *window = Window {
                begun: Instant::now(),
                used: 0,
            };
        }
        let left = quota.requests.saturating_sub(window.used);
        let wait = length.saturating_sub(window.begun.elapsed());
        window.used += 1;
        if left == 0 && enforced.is_some() {
            return Err(too_many(class, wait.as_secs() + 1, quota).into());
        }
        Ok(headers(
            class,
            left.saturating_sub(1),
            wait.as_secs(),
            quota,
        ))
    }
}

/// The answer to one request too many.
pub fn limited(resolver: bool, t: u64) -> Answer {
    let (class, requests) = if resolver {
        ("resolvers", 3000)
    } else {
        ("api", 500)
    };
    too_many(
        class,
        t,
        Quota {
            requests,
            window: 300,
        },
    )
}

fn too_many(class: &str, t: u64, quota: Quota) -> Answer {
    let message = format!(
        "We had to rate limit you, you hit the quota of {} {class} requests per {} seconds period.",
        quota.requests, quota.window
    );
    let mut answer = Answer::error(429, None, &message);
    answer.headers.extend(headers(class, 0, t, quota));
    answer
}

fn headers(class: &str, left: u64, t: u64, quota: Quota) -> Headers {
    let Quota { requests, window } = quota;
    vec![
        (
            "ratelimit".to_owned(),
            format!("\"{class}\";r={left};t={t}"),
        ),
        (
            "ratelimit-policy".to_owned(),
            format!("\"fixed window\";\"{class}\";q={requests};w={window}"),
        ),
    ]
}
