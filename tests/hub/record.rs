//! What was asked and answered: every request, bytes of content, concurrency.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::faults::Origin;

/// A request and its answer.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it came.
    pub at: Instant,
    /// Where.
    pub origin: Origin,
    /// The method.
    pub method: String,
    /// The raw path and query.
    pub path: String,
    /// What it was: `info`, `tree`, `refs`, `commits`, `auth-check`, `whoami`, `search`, `resolve`, `resolve-cache`, `cdn`, `unknown`.
    pub route: &'static str,
    /// `models/org/name/path`, if it was about a file.
    pub file: Option<String>,
    /// All its headers; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The status of the answer; 0 if none was sent (yet).
    pub status: u16,
    /// How many bytes of content were sent.
    pub bytes: u64,
    /// Whether the answer ended (whole or not).
    pub done: bool,
}

impl Record {
    /// A header of the request.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The `Authorization` header.
    pub fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    /// The `Range` header.
    pub fn range(&self) -> Option<&str> {
        self.header("range")
    }
}

/// A record that is still being written.
struct Open {
    start: Record,
    status: AtomicU16,
    bytes: AtomicU64,
    done: AtomicBool,
}

impl Open {
    fn snapshot(&self) -> Record {
        Record {
            status: self.status.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            done: self.done.load(Relaxed),
            ..self.start.clone()
        }
    }
}

/// How many at once, now and at most.
#[derive(Default)]
struct Gauge {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Gauge {
    fn enter(&self) {
        let now = self.now.fetch_add(1, Relaxed) + 1;
        self.peak.fetch_max(now, Relaxed);
    }
}

/// All records since the last reset.
#[derive(Default)]
pub struct Recorder {
    log: Mutex<Vec<Arc<Open>>>,
    hub: Gauge,
    cdn: Gauge,
}

/// A request under way. Its drop ends the record.
pub struct Ticket {
    recorder: Arc<Recorder>,
    open: Arc<Open>,
}

impl Ticket {
    /// Notes the status of the answer.
    pub fn status(&self, status: u16) {
        self.open.status.store(status, Relaxed);
    }

    /// Counts bytes of content.
    pub fn sent(&self, bytes: u64) {
        self.open.bytes.fetch_add(bytes, Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.open.done.store(true, Relaxed);
        let gauge = self.recorder.gauge(self.open.start.origin);
        gauge.now.fetch_sub(1, Relaxed);
    }
}

impl Recorder {
    /// Begins a record.
    pub fn begin(self: &Arc<Self>, start: Record) -> Ticket {
        self.gauge(start.origin).enter();
        let open = Arc::new(Open {
            start,
            status: AtomicU16::new(0),
            bytes: AtomicU64::new(0),
            done: AtomicBool::new(false),
        });
        self.lock().push(open.clone());
        Ticket {
            recorder: self.clone(),
            open,
        }
    }

    /// Everything so far, in the order of arrival.
    pub fn records(&self) -> Vec<Record> {
        self.lock().iter().map(|open| open.snapshot()).collect()
    }

    /// How many requests an origin worked on at once, at most.
    pub fn peak(&self, origin: Origin) -> u64 {
        self.gauge(origin).peak.load(Relaxed)
    }

    /// How many requests an origin works on now.
    pub fn now(&self, origin: Origin) -> u64 {
        self.gauge(origin).now.load(Relaxed)
    }

    /// Forgets everything so far.
    pub fn reset(&self) {
        self.lock().clear();
        for gauge in [&self.hub, &self.cdn] {
            gauge.peak.store(gauge.now.load(Relaxed), Relaxed);
        }
    }

    /// The bytes of content that were sent, by file.
    pub fn bytes_by_file(&self) -> BTreeMap<String, u64> {
        let mut files = BTreeMap::new();
        for record in self.records() {
            if let Some(file) = record.file.filter(|_| record.bytes > 0) {
                *files.entry(file).or_default() += record.bytes;
            }
        }
        files
    }

    /// The counters, for scripts.
    pub fn stats(&self) -> Value {
        let records = self.records();
        let mut requests: BTreeMap<&str, u64> = BTreeMap::new();
        let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
        let mut origins: BTreeMap<&str, u64> = BTreeMap::from([("hub", 0), ("cdn", 0)]);
        for record in &records {
            *requests.entry(record.route).or_default() += 1;
            *statuses.entry(record.status.to_string()).or_default() += 1;
            *origins.entry(record.origin.name()).or_default() += record.bytes;
        }
        json!({
            "bytes": origins.values().sum::<u64>(), "bytes_by_origin": origins, "bytes_by_file": self.bytes_by_file(),
            "requests": records.len(), "requests_by_route": requests, "requests_by_status": statuses,
            "peak": { "hub": self.peak(Origin::Hub), "cdn": self.peak(Origin::Cdn) },
        })
    }

    fn gauge(&self, origin: Origin) -> &Gauge {
        match origin {
            Origin::Hub => &self.hub,
            Origin::Cdn => &self.cdn,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Open>>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
