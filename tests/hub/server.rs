//! From a request to a response: routing, faults, recording, delivery.

use std::collections::BTreeSet;
use std::io;
use std::io::Write as _;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::sync::{mpsc, watch};

use super::access::{self, Viewer};
use super::answer::{Answer, Body, header_value};
use super::api::Call;
use super::body::{HubBody, Producer};
use super::cdn::{self, Signer};
use super::content::Content;
use super::faults::{Asked, Faults, Origin, Script};
use super::limits::{self, Limits};
use super::range::{self, Wanted};
use super::record::{Record, Recorder, Ticket};
use super::routes::{self, Route};
use super::world::World;

/// Reads the world anew.
pub type Reload = Box<dyn Fn() -> io::Result<World> + Send + Sync>;

/// Everything that both origins share.
pub struct Shared {
    /// What the Hub holds.
    pub world: RwLock<Arc<World>>,
    /// What goes wrong.
    pub faults: Faults,
    /// What happened.
    pub recorder: Arc<Recorder>,
    /// Signed URLs.
    pub signer: Signer,
    /// Rate limits.
    pub limits: Limits,
    /// `http://HOST:PORT` of the Hub.
    pub hub_origin: String,
    /// `http://HOST:PORT` of the CDN.
    pub cdn_origin: String,
    /// Whether bodies of the CDN wait.
    pub paused: watch::Sender<bool>,
    /// The names that `Effect::Hold` waits for and that were released.
    pub released: watch::Sender<BTreeSet<String>>,
    /// How `/-/reload` gets a new world.
    pub reload: Option<Reload>,
}

impl Shared {
    /// What the Hub holds now.
    pub fn world(&self) -> Arc<World> {
        let world = self.world.read();
        world.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what the Hub holds.
    pub fn edit<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let world = self.world.write();
        change(Arc::make_mut(
            &mut world.unwrap_or_else(PoisonError::into_inner),
        ))
    }

    /// Reads the world anew, if there is a way to.
    pub fn reload(&self) -> io::Result<()> {
        if let Some(reload) = &self.reload {
            let world = reload()?;
            self.edit(|old| *old = world);
        }
        Ok(())
    }
}

/// A request as far as answers need it.
struct Asking {
    origin: Origin,
    method: Method,
    path: String,
    query: Option<String>,
    route: Option<Route>,
    headers: HeaderMap,
}

impl Asking {
    fn new(origin: Origin, request: &Request<Incoming>) -> Self {
        let path = request.uri().path();
        Self {
            origin,
            method: request.method().clone(),
            path: path.to_owned(),
            query: request.uri().query().map(str::to_owned),
            route: (origin == Origin::Hub).then(|| routes::parse(path)),
            headers: request.headers().clone(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    fn file(&self) -> Option<String> {
        match &self.route {
            Some(route) => route.file(),
            None => cdn::file_of(&self.path),
        }
    }

    fn counted_as(&self) -> &'static str {
        self.route.as_ref().map_or("cdn", Route::name)
    }

    fn record(&self) -> Record {
        let text = |value: &hyper::header::HeaderValue| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        Record {
            at: Instant::now(),
            origin: self.origin,
            method: self.method.to_string(),
            path: self.target(),
            route: self.counted_as(),
            file: self.file(),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            status: 0,
            bytes: 0,
            done: false,
        }
    }
}

/// Answers one request. An error closes the connection without an answer.
pub async fn handle(
    shared: Arc<Shared>,
    origin: Origin,
    request: Request<Incoming>,
) -> io::Result<Response<HubBody>> {
    let asking = Asking::new(origin, &request);
    if origin == Origin::Hub && asking.path.starts_with("/-/") {
        return Ok(admin(&shared, asking));
    }
    let ticket = shared.recorder.begin(asking.record());
    let mut script = shared.faults.script(&Asked {
        origin,
        method: asking.method.as_str(),
        path: &asking.target(),
        route: asking.counted_as(),
        file: asking.file().as_deref(),
        start: range::start(asking.header("range")),
    });
    if let Some((most, status)) = script.crowd
        && shared.recorder.now(origin) > most
    {
        script.status = Some((status, Vec::new()));
    }
    tokio::time::sleep(script.delay).await;
    let mut released = shared.released.subscribe();
    for hold in &script.holds {
        let _ = released.wait_for(|names| names.contains(*hold)).await;
    }
    if script.hangup {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let answer = tokio::task::block_in_place(|| answer(&shared, &asking, &script));
    Ok(deliver(&shared, &asking, answer, script, ticket))
}

/// The answer, before its body is cut to a range.
fn answer(shared: &Shared, asking: &Asking, script: &Script) -> Answer {
    if !matches!(asking.method, Method::GET | Method::HEAD) {
        return Answer::error(405, None, "Method not allowed");
    }
    let resolver = asking.route.as_ref().is_some_and(Route::is_resolver);
    if let Some(t) = script.rate_limited {
        return limits::limited(resolver, t);
    }
    if let Some((status, headers)) = &script.status {
        let mut answer = Answer::text(*status, "injected fault");
        answer.headers.clone_from(headers);
        return answer;
    }
    match &asking.route {
        Some(route) => hub_answer(shared, asking, route, script),
        None if script.expire => Signer::expired(),
        None => {
            let authorized = asking.headers.contains_key("authorization");
            shared
                .signer
                .answer(&asking.path, asking.query.as_deref(), authorized)
        }
    }
}

fn hub_answer(shared: &Shared, asking: &Asking, route: &Route, script: &Script) -> Answer {
    let world = shared.world();
    let authorization = asking.header("authorization");
    let limit = shared
        .limits
        .count(route.is_resolver(), authorization, &world.options);
    let limit = match limit {
        Ok(headers) => headers,
        Err(answer) => return *answer,
    };
    let viewer = Viewer::of(authorization, &world);
    let call = Call {
        world: &world,
        viewer: &viewer,
        path: &asking.path,
        query: asking.query.as_deref(),
        origin: &shared.hub_origin,
    };
    let good = match script.expire {
        true => Duration::ZERO,
        false => world.options.signature_lifetime,
    };
    let answer = match moved(&world, &viewer, route, asking.query.as_deref()) {
        Some(answer) => Ok(answer),
        None => match route {
            Route::Resolve(named, revision, path) => {
                call.resolve(named, revision, path, |file, entry| {
                    shared
                        .signer
                        .sign(&shared.cdn_origin, file, &entry.content, good)
                })
            }
            Route::ResolveCache(named, commit, path) => call.resolve_cache(named, commit, path),
            route => call.answer(route),
        },
    };
    let mut answer = answer.unwrap_or_else(|answer| *answer);
    answer.headers.extend(limit);
    if let Some(size) = script.size_lie {
        lie(&mut answer, route, size);
    }
    answer
}

/// The redirect of a wrong-cased or renamed id.
fn moved(world: &World, viewer: &Viewer, route: &Route, query: Option<&str>) -> Option<Answer> {
    let named = route.named().filter(|_| world.options.redirect_ids)?;
    let (kind, id) = (named.kind, &named.id);
    let id = match world.find(kind, id) {
        Some(_) => id,
        None => world.new_name(kind, id)?,
    };
    let repo = access::visible(world, viewer, kind, id, true).ok()?;
    if repo.id == named.id {
        return None;
    }
    let path = named.path_with(&repo.id);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    Some(Answer::redirect(307, &format!("{path}{query}")))
}

/// Tells another size than the true one.
fn lie(answer: &mut Answer, route: &Route, size: u64) {
    for (name, value) in &mut answer.headers {
        if name == "x-linked-size" {
            *value = size.to_string();
        }
    }
    if let (Route::Tree(..), Body::Text(text)) = (route, &mut answer.body)
        && let Ok(mut list) = serde_json::from_str::<serde_json::Value>(text)
    {
        for entry in list.as_array_mut().into_iter().flatten() {
            if entry["type"] == "file" {
                entry["size"] = size.into();
            }
            if entry.get("lfs").is_some() {
                entry["lfs"]["size"] = size.into();
            }
        }
        *text = list.to_string();
    }
}

/// `/-/stats`, `/-/reset`, `/-/reload`: for scripts, not recorded.
fn admin(shared: &Shared, asking: Asking) -> Response<HubBody> {
    let stats = shared.recorder.stats();
    let answer = match (asking.method.as_str(), asking.path.as_str()) {
        ("GET", "/-/stats") => Answer::json(&stats),
        ("POST", "/-/reset") => {
            shared.recorder.reset();
            Answer::json(&stats)
        }
        ("POST", "/-/reload") => match tokio::task::block_in_place(|| shared.reload()) {
            Ok(()) => Answer::text(200, "reloaded\n"),
            Err(error) => Answer::text(500, format!("{error}\n")),
        },
        _ => Answer::text(404, "no such call\n"),
    };
    let ticket = Arc::new(Recorder::default()).begin(asking.record());
    deliver(shared, &asking, answer, Script::default(), ticket)
}

/// Makes a response of an answer.
fn deliver(
    shared: &Shared,
    asking: &Asking,
    answer: Answer,
    script: Script,
    ticket: Ticket,
) -> Response<HubBody> {
    let mut response = Response::builder().status(answer.status);
    let headers = response.headers_mut().expect("nothing failed so far");
    for (name, value) in &answer.headers {
        headers.append(header_name(name), header_value(value));
    }
    let changed = script.headers.clone();
    let mut response = match answer.body {
        Body::Text(text) => {
            ticket.status(answer.status.as_u16());
            headers.insert("content-length", text.len().into());
            let body = match answer.status.is_success() {
                true => spoken(text, script, ticket),
                false => HubBody::text(text, ticket),
            };
            response.body(body)
        }
        Body::File(content) => {
            let sent = Delivery {
                shared,
                asking,
                content,
                script,
            }
            .send(headers, ticket);
            let (status, body) = sent;
            response.status(status).body(body)
        }
    }
    .expect("every part of it is valid");
    for (name, value) in &changed {
        let value = header_value(value);
        response.headers_mut().insert(header_name(name), value);
    }
    response
}

/// A text, with the faults that any body may have.
fn spoken(text: String, script: Script, ticket: Ticket) -> HubBody {
    let faulty =
        script.drop_after.is_some() || script.stall_after.is_some() || script.slow.is_some();
    if !faulty || text.is_empty() {
        return HubBody::text(text, ticket);
    }
    let length = text.len() as u64;
    let producer = Producer {
        content: Content::memory(text.into_bytes()),
        range: 0..length,
        script,
        paused: None,
    };
    HubBody::stream(producer.spawn(), Some(length), ticket)
}

fn header_name(name: &str) -> HeaderName {
    HeaderName::from_bytes(name.as_bytes()).expect("a valid header name")
}

/// The bytes of a file on their way.
struct Delivery<'a> {
    shared: &'a Shared,
    asking: &'a Asking,
    content: Content,
    script: Script,
}

impl Delivery<'_> {
    fn send(self, headers: &mut HeaderMap, ticket: Ticket) -> (StatusCode, HubBody) {
        let size = self.script.size_lie.unwrap_or(self.content.size());
        if self.wants_gzip(headers) {
            ticket.status(200);
            return (StatusCode::OK, self.gzip(headers, ticket));
        }
        headers.insert("accept-ranges", header_value("bytes"));
        let fresh = |etag: &str| headers.get("etag").is_some_and(|own| own == etag);
        let range = self.asking.header("range");
        let range = range.filter(|_| self.asking.header("if-range").is_none_or(fresh));
        let (status, range) = match range::wanted(range, size) {
            _ if self.script.ignore_range => (StatusCode::OK, 0..size),
            Wanted::Whole => (StatusCode::OK, 0..size),
            Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
            Wanted::Unsatisfiable => {
                headers.insert("content-range", header_value(&format!("bytes */{size}")));
                headers.insert("content-length", 0.into());
                ticket.status(416);
                return (StatusCode::RANGE_NOT_SATISFIABLE, HubBody::text("", ticket));
            }
        };
        if status == StatusCode::PARTIAL_CONTENT {
            let told = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            headers.insert("content-range", header_value(&told));
        }
        let length = range.end - range.start;
        let length = (!self.script.chunked).then_some(length);
        if let Some(length) = length {
            headers.insert("content-length", length.into());
        }
        ticket.status(status.as_u16());
        if self.asking.method == Method::HEAD {
            return (status, HubBody::text("", ticket));
        }
        (status, HubBody::stream(self.produce(range), length, ticket))
    }

    fn wants_gzip(&self, headers: &HeaderMap) -> bool {
        let text = headers
            .get("content-type")
            .is_some_and(|kind| kind.as_bytes().ends_with(b"charset=utf-8"));
        let wished = self.script.gzip || (text && self.shared.world().options.gzip_text);
        let accepted = self
            .asking
            .header("accept-encoding")
            .is_some_and(|list| list.split(',').any(|one| one.trim().starts_with("gzip")));
        wished && accepted && self.asking.header("range").is_none()
    }

    /// The whole file compressed, without a length. Corruption is of the file's bytes, all else of what is sent.
    fn gzip(mut self, headers: &mut HeaderMap, ticket: Ticket) -> HubBody {
        headers.insert("content-encoding", header_value("gzip"));
        headers.insert("vary", header_value("Accept-Encoding"));
        if let Some(etag) = headers.get("etag").cloned() {
            let weak = [b"W/", etag.as_bytes()].concat();
            headers.insert("etag", header_value(&String::from_utf8_lossy(&weak)));
        }
        if self.asking.method == Method::HEAD {
            return HubBody::text("", ticket);
        }
        let mut bytes = self.content.to_bytes().to_vec();
        for at in std::mem::take(&mut self.script.corrupt) {
            if let Some(byte) = bytes.get_mut(at as usize) {
                *byte ^= 0xff;
            }
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&bytes).expect("memory takes all");
        self.content = Content::memory(encoder.finish().expect("memory takes all"));
        let size = self.content.size();
        HubBody::stream(self.produce(0..size), None, ticket)
    }

    fn produce(self, range: Range<u64>) -> mpsc::Receiver<io::Result<Bytes>> {
        let cdn = self.asking.origin == Origin::Cdn;
        let producer = Producer {
            content: self.content,
            range,
            script: self.script,
            paused: cdn.then(|| self.shared.paused.subscribe()),
        };
        producer.spawn()
    }
}
