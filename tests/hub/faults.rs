//! Injected faults: rules that match requests, and what they do to the answers.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::answer::Headers;

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The Hub: API, resolve, git files.
    Hub,
    /// The CDN: files in LFS.
    Cdn,
}

impl Origin {
    /// `hub` or `cdn`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Cdn => "cdn",
        }
    }
}

/// What a fault does. Offsets of `DropAfter` and `StallAfter` count the bytes of this answer; that of `Corrupt` is the file's.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Answers with this status and these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// Answers 429 and says to wait `t` seconds.
    RateLimited {
        /// Seconds.
        t: u64,
    },
    /// Answers with this status if more than so many requests are under way at this origin.
    Crowd(u64, u16),
    /// Waits before the headers.
    Delay(Duration),
    /// Waits before the headers until `Hub::release` is called with this name.
    Hold(&'static str),
    /// Closes the connection without an answer.
    Hangup,
    /// Cuts the connection after so many bytes of the body.
    DropAfter(u64),
    /// Stops for a while after so many bytes of the body.
    StallAfter(u64, Duration),
    /// Flips all bits of the byte at this offset of the file.
    Corrupt(u64),
    /// Sends so many bytes a second.
    Slow(u64),
    /// Answers 200 with the whole file.
    IgnoreRange,
    /// At the Hub: sends to a URL that is expired. At the CDN: says that it is.
    ExpireSignature,
    /// Tells another size: in listings, `X-Linked-Size`, Content-Length and Content-Range. Bytes beyond the file's end never come.
    SizeLie(u64),
    /// Sets a header of the answer.
    Header(&'static str, String),
    /// Compresses it if the client accepts gzip and asked for no range.
    Gzip,
    /// Sends no Content-Length.
    Chunked,
}

#[derive(Clone, Copy, Debug)]
enum When {
    Every,
    Nth(u64),
    First(u64),
    After(u64),
}

/// A rule: which requests, and what happens to them.
#[derive(Clone, Debug)]
pub struct Fault {
    origin: Option<Origin>,
    path: String,
    method: Option<String>,
    route: Option<&'static str>,
    starts: Option<Range<u64>>,
    when: When,
    seen: u64,
    hits: u64,
    effects: Vec<Effect>,
}

impl Fault {
    /// Requests at either origin whose path, or whose file (`models/org/name/path`), contains this.
    pub fn any(path: impl Into<String>) -> Self {
        Self {
            origin: None,
            path: path.into(),
            method: None,
            route: None,
            starts: None,
            when: When::Every,
            seen: 0,
            hits: 0,
            effects: Vec::new(),
        }
    }

    /// The same at the Hub only.
    pub fn hub(path: impl Into<String>) -> Self {
        Self {
            origin: Some(Origin::Hub),
            ..Self::any(path)
        }
    }

    /// The same at the CDN only.
    pub fn cdn(path: impl Into<String>) -> Self {
        Self {
            origin: Some(Origin::Cdn),
            ..Self::any(path)
        }
    }

    /// Only this method.
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Only this route (see `Record::route`): `resolve` and `resolve-cache` of a file are two requests.
    pub fn route(mut self, route: &'static str) -> Self {
        self.route = Some(route);
        self
    }

    /// Only requests whose range begins in here; those without one begin at 0.
    pub fn range_start(mut self, starts: Range<u64>) -> Self {
        self.starts = Some(starts);
        self
    }

    /// Only the `n`th request of those that match, from 1.
    pub fn nth(mut self, n: u64) -> Self {
        self.when = When::Nth(n);
        self
    }

    /// Only the first `n`.
    pub fn first(mut self, n: u64) -> Self {
        self.when = When::First(n);
        self
    }

    /// All but the first `n`.
    pub fn after(mut self, n: u64) -> Self {
        self.when = When::After(n);
        self
    }

    /// What happens; more than one thing may.
    pub fn then(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }

    fn hits(&mut self, asked: &Asked<'_>) -> bool {
        let file = asked.file.unwrap_or_default();
        let fits = self.origin.is_none_or(|origin| origin == asked.origin)
            && (asked.path.contains(&self.path) || file.contains(&self.path))
            && self.method.as_ref().is_none_or(|m| m == asked.method)
            && self.route.is_none_or(|route| route == asked.route)
            && self
                .starts
                .as_ref()
                .is_none_or(|s| s.contains(&asked.start));
        if !fits {
            return false;
        }
        self.seen += 1;
        let hit = match self.when {
            When::Every => true,
            When::Nth(n) => self.seen == n,
            When::First(n) => self.seen <= n,
            When::After(n) => self.seen > n,
        };
        self.hits += u64::from(hit);
        hit
    }
}

/// What a rule sees of a request.
pub struct Asked<'a> {
    /// Where.
    pub origin: Origin,
    /// The method.
    pub method: &'a str,
    /// The raw path and query.
    pub path: &'a str,
    /// What it is counted as.
    pub route: &'a str,
    /// `models/org/name/path`, if it is about a file.
    pub file: Option<&'a str>,
    /// Where its range begins.
    pub start: u64,
}

/// All that happens to one answer.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub crowd: Option<(u64, u16)>,
    pub delay: Duration,
    pub holds: Vec<&'static str>,
    pub hangup: bool,
    pub status: Option<(u16, Headers)>,
    pub rate_limited: Option<u64>,
    pub drop_after: Option<u64>,
    pub stall_after: Option<(u64, Duration)>,
    pub corrupt: Vec<u64>,
    pub slow: Option<u64>,
    pub ignore_range: bool,
    pub expire: bool,
    pub size_lie: Option<u64>,
    pub headers: Headers,
    pub gzip: bool,
    pub chunked: bool,
}

impl Script {
    fn add(&mut self, effect: Effect) {
        let owned = |(name, value): (&str, String)| (name.to_ascii_lowercase(), value);
        match effect {
            Effect::Status(code, headers) => {
                self.status = Some((code, headers.into_iter().map(owned).collect()));
            }
            Effect::RateLimited { t } => self.rate_limited = Some(t),
            Effect::Crowd(most, status) => self.crowd = Some((most, status)),
            Effect::Delay(time) => self.delay += time,
            Effect::Hold(name) => self.holds.push(name),
            Effect::Hangup => self.hangup = true,
            Effect::DropAfter(bytes) => self.drop_after = Some(bytes),
            Effect::StallAfter(bytes, time) => self.stall_after = Some((bytes, time)),
            Effect::Corrupt(at) => self.corrupt.push(at),
            Effect::Slow(rate) => self.slow = Some(rate.max(1)),
            Effect::IgnoreRange => self.ignore_range = true,
            Effect::ExpireSignature => self.expire = true,
            Effect::SizeLie(size) => self.size_lie = Some(size),
            Effect::Header(name, value) => self.headers.push(owned((name, value))),
            Effect::Gzip => self.gzip = true,
            Effect::Chunked => self.chunked = true,
        }
    }
}

/// The rules in force.
#[derive(Default)]
pub struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    /// Adds a rule.
    pub fn add(&self, fault: Fault) {
        self.lock().push(fault);
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// How many requests met the rules in force.
    pub fn hits(&self) -> u64 {
        self.lock().iter().map(|fault| fault.hits).sum()
    }

    /// What all rules together do to a request. Counts it.
    pub fn script(&self, asked: &Asked<'_>) -> Script {
        let mut script = Script::default();
        for fault in self.lock().iter_mut() {
            if fault.hits(asked) {
                for effect in &fault.effects {
                    script.add(effect.clone());
                }
            }
        }
        script
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Fault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
