//! How fast each route of the upstream may be asked: the pauses that its rate limit wants, and how many bodies at once it bears.
//!
//! A route is what an upstream limits together: the API, the resolvers of the endpoint, or one other host (a CDN). All that ask a route
//! share its pause, so one 429 stops them all instead of each finding out. A host that refuses some of several parallel reads gets half
//! as many, and one more for each [`GROW`] that passes without another refusal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::endpoint::Endpoint;

/// A host that was given fewer reads gets one more after so long.
const GROW: Duration = Duration::from_secs(10);

/// Routes that are remembered; more are forgotten when nobody uses them.
const ROUTES: usize = 64;

/// All routes.
pub(super) struct Pace {
    routes: Mutex<HashMap<String, Arc<Route>>>,
    /// Bodies at once of a host that never refused any.
    most: usize,
}

/// What is limited together.
pub(super) struct Route {
    state: Mutex<State>,
    free: Notify,
}

struct State {
    pause: Option<Pause>,
    crowd: Crowd,
}

/// A pause in force.
#[derive(Debug, Clone, Copy)]
struct Pause {
    /// Nobody asks before.
    until: Instant,
    /// When the upstream will answer again by its own account; later than `until` if that is too far away to be relied on.
    told: Instant,
}

/// How many bodies at once a host bears. Pure: no clock.
#[derive(Debug)]
struct Crowd {
    most: usize,
    limit: usize,
    running: usize,
    /// Grows with each halving: refusals of requests that began before it say nothing new.
    epoch: u64,
    changed: Instant,
}

/// The right to read one body of a host. Given back when it is dropped.
pub(super) struct Slot {
    route: Arc<Route>,
    epoch: u64,
}

impl Pace {
    pub(super) fn new(most: usize) -> Self {
        Self {
            routes: Mutex::default(),
            most,
        }
    }

    /// The same bounds, nothing learned yet.
    pub(super) fn anew(&self) -> Self {
        Self::new(self.most)
    }

    /// The route that an address belongs to.
    pub(super) fn route(&self, endpoint: &Endpoint, url: &Url) -> Arc<Route> {
        let key = if endpoint.is_api(url) {
            "api".to_owned()
        } else if endpoint.owns(url) {
            "resolvers".to_owned()
        } else {
            url.origin().ascii_serialization()
        };
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.len() >= ROUTES && !routes.contains_key(&key) {
            routes.retain(|_, route| Arc::strong_count(route) > 1);
        }
        let new = || Arc::new(Route::new(self.most));
        Arc::clone(routes.entry(key).or_insert_with(new))
    }
}

impl Route {
    fn new(most: usize) -> Self {
        Self {
            state: Mutex::new(State {
                pause: None,
                crowd: Crowd::new(most, Instant::now()),
            }),
            free: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of the pause in force. If that is further away than `patience`, it says at once how far.
    pub(super) async fn ready(&self, patience: Duration) -> Result<(), Duration> {
        loop {
            let now = Instant::now();
            let pause = self.lock().pause;
            let Some(pause) = pause.filter(|pause| pause.until > now) else {
                return Ok(());
            };
            if pause.told - now > patience {
                return Err(pause.told - now);
            }
            sleep_until(pause.until).await;
        }
    }

    /// Nobody asks this route for as long as `wait`, but for no longer than `most`: after that one may try whether it still holds.
    pub(super) fn pause(&self, wait: Duration, most: Duration) {
        let now = Instant::now();
        let far = Duration::from_secs(24 * 3600);
        let new = Pause {
            until: now + wait.min(most),
            told: now + wait.min(far),
        };
        let mut state = self.lock();
        state.pause = match state.pause {
            Some(old) if old.until > new.until => Some(old),
            _ => Some(new),
        };
    }

    /// Waits until the host bears one body more.
    pub(super) async fn enter(self: &Arc<Self>) -> Slot {
        loop {
            let mut free = std::pin::pin!(self.free.notified());
            free.as_mut().enable();
            let entered = self.lock().crowd.enter(Instant::now());
            if let Some(epoch) = entered {
                let route = Arc::clone(self);
                return Slot { route, epoch };
            }
            // The limit also grows while nothing ends.
            let _ = timeout(GROW, free).await;
        }
    }
}

impl Slot {
    /// The host refused this body, though the request was good. Says whether others ran beside it: then it is worth another attempt,
    /// as there are fewer of them from now on.
    pub(super) fn refused(&self) -> bool {
        self.route.lock().crowd.refused(self.epoch, Instant::now())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.route.lock().crowd.running -= 1;
        self.route.free.notify_one();
    }
}

impl Crowd {
    fn new(most: usize, now: Instant) -> Self {
        Self {
            most: most.max(1),
            limit: most.max(1),
            running: 0,
            epoch: 0,
            changed: now,
        }
    }

    fn enter(&mut self, now: Instant) -> Option<u64> {
        if self.limit < self.most && now.saturating_duration_since(self.changed) >= GROW {
            self.limit += 1;
            self.changed = now;
        }
        (self.running < self.limit).then(|| {
            self.running += 1;
            self.epoch
        })
    }

    fn refused(&mut self, epoch: u64, now: Instant) -> bool {
        // Any refusal begins the time to grow anew.
        self.changed = now;
        if epoch != self.epoch {
            return true;
        }
        if self.running <= 1 {
            return false;
        }
        self.limit = (self.running.min(self.limit) / 2).max(1);
        self.epoch += 1;
        tracing::info!(
            limit = self.limit,
            "a host refuses parallel reads; asking for fewer at once"
        );
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_halves_once_for_many_refusals_and_grows_back_slowly() {
        let mut now = Instant::now();
        let mut crowd = Crowd::new(8, now);
        let epochs: Vec<_> = (0..8).filter_map(|_| crowd.enter(now)).collect();
        assert_eq!(epochs.len(), 8);
        assert_eq!(crowd.enter(now), None);
        assert!(epochs.iter().all(|epoch| crowd.refused(*epoch, now)));
        assert_eq!(crowd.limit, 4);
        crowd.running = 3;
        let epoch = crowd.enter(now).expect("one more");
        assert!(crowd.refused(epoch, now));
        assert_eq!(crowd.limit, 2);
        crowd.running = 0;
        let epoch = crowd.enter(now).expect("the only one");
        assert!(!crowd.refused(epoch, now), "nobody else ran");
        for limit in 3..=8 {
            now += GROW;
            crowd.running = 0;
            assert!(crowd.enter(now).is_some());
            assert_eq!(crowd.limit, limit);
        }
        now += GROW;
        assert!(crowd.enter(now).is_some());
        assert_eq!(crowd.limit, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn all_wait_for_one_pause_and_hear_at_once_of_one_that_is_too_long() {
        let route = Route::new(1);
        let patience = Duration::from_secs(60);
        route.pause(Duration::from_secs(50), patience);
        route.pause(Duration::from_secs(5), patience);
        let begun = Instant::now();
        assert!(route.ready(Duration::from_secs(20)).await.is_err());
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(route.ready(patience).await, Ok(()));
        assert!(begun.elapsed() >= Duration::from_secs(50));
        route.pause(Duration::from_secs(3600), patience);
        assert_eq!(
            route.ready(patience).await,
            Err(Duration::from_secs(3600)),
            "it is told whole"
        );
        tokio::time::advance(patience + Duration::from_millis(1)).await;
        assert_eq!(route.ready(patience).await, Ok(()), "and tried before");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_body_gets_the_next_one_that_is_given_back() {
        let route = Arc::new(Route::new(1));
        let slot = route.enter().await;
        let other = Arc::clone(&route);
        let waiting = tokio::spawn(async move { drop(other.enter().await) });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(slot);
        waiting.await.expect("entered");
    }
}
