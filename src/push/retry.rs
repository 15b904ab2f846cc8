//! When to try again, and when to stop.

use std::time::Duration;

use super::error::{PushError, Why};

/// The first pause; each further one is twice as long.
const BASE: Duration = Duration::from_millis(500);

/// The longest pause of our own choosing.
const CAP: Duration = Duration::from_secs(15);

/// The longest pause at the registry's wish.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whoever hears of trouble.
type Hears = dyn Fn(&PushError, Duration) + Send + Sync;

/// How often one thing is tried again, and who is told of it.
pub struct Retries {
    /// Attempts after the first.
    pub most: u32,
    /// Hears what was wrong, and how long is waited now.
    pub tell: Box<Hears>,
}

/// Tries until it is done, cannot be helped by trying, or was tried often enough.
pub(super) async fn retry<T, F>(retries: &Retries, attempt: impl Fn() -> F) -> Result<T, PushError>
where
    F: Future<Output = Result<T, PushError>>,
{
    let mut failures = 0;
    loop {
        let error = match attempt().await {
            Err(error) if error.why == Why::Trouble => error,
            done => return done,
        };
        failures += 1;
        let Some(pause) = pause(retries.most, failures, error.after) else {
            return Err(error);
        };
        (retries.tell)(&error, pause);
        tokio::time::sleep(pause).await;
    }
}

/// How long to wait after so many failures in a row; `None`: not any more.
fn pause(most: u32, failures: u32, wish: Option<Duration>) -> Option<Duration> {
    if failures > most || wish.is_some_and(|wish| wish > PATIENCE) {
        return None;
    }
    let own = BASE.saturating_mul(1 << (failures - 1).min(16)).min(CAP);
    Some(wish.unwrap_or_default().max(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_follow_the_registry_and_end() {
        let s = Duration::from_secs;
        assert_eq!(pause(5, 1, None), Some(BASE));
        assert_eq!(pause(5, 3, None), Some(s(2)));
        assert_eq!(pause(5, 1, Some(s(60))), Some(s(60)));
        assert_eq!(pause(5, 1, Some(s(3600))), None);
        assert_eq!(pause(5, 6, None), None);
    }
}
