//! A registry in memory that can be made to misbehave, for what docker-registry never does (tests/e2e/copy.sh has that one).

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hf_oci::oci::Digest;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

/// How a registry behaves.
#[derive(Debug, Default)]
pub struct Rules {
    /// It wants ann:secret with each request.
    pub password: bool,
    /// It wants tokens, which are good for what they were asked for.
    pub tokens: bool,
    /// The host to which blobs are to be uploaded.
    pub uploads: Option<String>,
    /// It never answers.
    pub silent: bool,
    /// Uploads that fail with 503 before one is taken.
    pub troubles: u32,
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub login: Option<String>,
}

#[derive(Default)]
struct State {
    host: String,
    rules: Rules,
    asked: Vec<Asked>,
    blobs: BTreeSet<(String, String)>,
    /// The digests that manifests have, by repository and tag or digest.
    manifests: HashMap<(String, String), String>,
}

/// The registry.
pub struct Elsewhere {
    pub host: String,
    state: Arc<Mutex<State>>,
}

type Answer = Response<Full<Bytes>>;

fn answer(status: u16, headers: &[(&str, String)]) -> Answer {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.body(Full::default()).expect("an answer")
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no panic")
}

impl Elsewhere {
    pub async fn start(rules: Rules) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let state = State {
            host: host.clone(),
            rules,
            ..State::default()
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(|request| serve(Arc::clone(&state), request));
                    let connection = hyper::server::conn::http1::Builder::new();
                    // A client that leaves is one of the things that are tested.
                    let _ = connection
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { host, state }
    }

    pub fn requests(&self) -> Vec<Asked> {
        lock(&self.state).asked.clone()
    }

    pub fn forget_requests(&self) {
        lock(&self.state).asked.clear();
    }

    /// What a tag means.
    pub fn tag(&self, repository: &str, tag: &str) -> Option<String> {
        let key = (repository.to_owned(), tag.to_owned());
        lock(&self.state).manifests.get(&key).cloned()
    }

    pub fn has(&self, repository: &str, digest: &Digest) -> bool {
        let key = (repository.to_owned(), digest.to_string());
        lock(&self.state).blobs.contains(&key)
    }
}

async fn serve(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let (head, body) = request.into_parts();
    let login = head.headers.get("authorization");
    let login = login.map(|value| value.to_str().expect("text").to_owned());
    let path = head.uri.to_string();
    lock(&state).asked.push(Asked {
        method: head.method.to_string(),
        login: login.clone(),
    });
    let query: HashMap<String, String> = reqwest::Url::parse(&format!("http://x{path}"))
        .expect("an address")
        .query_pairs()
        .into_owned()
        .collect();
    let silent = lock(&state).rules.silent;
    if silent {
        std::future::pending::<()>().await;
    }
    if let Some(refused) = lock(&state).gate(&path, login.as_deref()) {
        return Ok(refused);
    }
    // Those who break off have sent nothing.
    let Ok(body) = body.collect().await else {
        return Ok(answer(400, &[]));
    };
    Ok(lock(&state).act(&head.method, head.uri.path(), &query, &body.to_bytes()))
}

impl State {
    /// The answer to who may not, and to who wants a token.
    fn gate(&self, path: &str, login: Option<&str>) -> Option<Answer> {
        let basic = format!("Basic {}", STANDARD.encode("ann:secret"));
        let known = login == Some(basic.as_str());
        if path.starts_with("/token") {
            let scopes = reqwest::Url::parse(&format!("http://x{path}")).expect("an address");
            let scopes: Vec<_> = scopes
                .query_pairs()
                .filter(|(k, _)| k == "scope")
                .map(|(_, v)| v.into_owned())
                .collect();
            let body = format!("{{\"token\":\"{}\"}}", scopes.join(";"));
            return Some(match known {
                true => Response::new(Full::from(body)),
                false => answer(401, &[]),
            });
        }
        if self.rules.password && !known {
            return Some(answer(
                401,
                &[("www-authenticate", "Basic realm=\"x\"".into())],
            ));
        }
        let repository = repository(path);
        let mut wanted = vec![format!("repository:{repository}:pull,push")];
        if let Some((_, from)) = path.split_once("from=") {
            wanted.push(format!("repository:{}:pull", from.replace("%2F", "/")));
        }
        let token = login
            .and_then(|l| l.strip_prefix("Bearer "))
            .unwrap_or_default();
        let has = wanted
            .iter()
            .all(|scope| token.split(';').any(|s| s == scope));
        if self.rules.tokens && !has {
            let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", self.host);
            return Some(answer(401, &[("www-authenticate", realm)]));
        }
        None
    }

    fn act(
        &mut self,
        method: &Method,
        path: &str,
        query: &HashMap<String, String>,
        body: &[u8],
    ) -> Answer {
        let repository = repository(path).to_owned();
        let last = path.rsplit('/').next().unwrap_or_default().to_owned();
        let key = (repository.clone(), last.clone());
        let is_manifest = path.contains("/manifests/");
        match (method, is_manifest) {
            (&Method::HEAD, true) => match self.manifests.get(&key) {
                Some(digest) => answer(200, &[("docker-content-digest", digest.clone())]),
                None => answer(404, &[]),
            },
            (&Method::HEAD, false) => {
                answer(if self.blobs.contains(&key) { 200 } else { 404 }, &[])
            }
            (&Method::POST, _) => {
                let mount = query.get("mount").zip(query.get("from"));
                let from = mount.map(|(digest, from)| (from.clone(), digest.clone()));
                if let Some(from) = from.filter(|from| self.blobs.contains(from)) {
                    self.blobs.insert((repository, from.1));
                    return answer(201, &[]);
                }
                let host = self.rules.uploads.as_deref().unwrap_or(&self.host);
                answer(
                    202,
                    &[(
                        "location",
                        format!("http://{host}/v2/{repository}/blobs/uploads/1?state=x"),
                    )],
                )
            }
            (&Method::PUT, true) => self.manifest(&repository, last, body),
            (&Method::PUT, false) => {
                if self.rules.troubles > 0 {
                    self.rules.troubles -= 1;
                    return answer(503, &[]);
                }
                let digest = Digest::of(body).to_string();
                if query.get("digest") != Some(&digest) {
                    return answer(400, &[]);
                }
                self.blobs.insert((repository, digest));
                answer(201, &[])
            }
            _ => answer(405, &[]),
        }
    }

    /// Takes a manifest of which the parts are there.
    fn manifest(&mut self, repository: &str, reference: String, body: &[u8]) -> Answer {
        let parsed: Value = serde_json::from_slice(body).expect("JSON");
        let has = |part: &Value, manifests: bool| {
            let key = (
                repository.to_owned(),
                part["digest"].as_str().expect("text").to_owned(),
            );
            if manifests {
                self.manifests.contains_key(&key)
            } else {
                self.blobs.contains(&key)
            }
        };
        let of = |key: &str| parsed[key].as_array().cloned().unwrap_or_default();
        let blobs = of("layers")
            .iter()
            .chain(parsed.get("config"))
            .all(|part| has(part, false));
        if !blobs || !of("manifests").iter().all(|part| has(part, true)) {
            return answer(404, &[]);
        }
        let digest = Digest::of(body).to_string();
        for name in [reference, digest.clone()] {
            self.manifests
                .insert((repository.to_owned(), name), digest.clone());
        }
        answer(201, &[("docker-content-digest", digest)])
    }
}

/// The name in a path.
fn repository(path: &str) -> &str {
    let path = path.strip_prefix("/v2/").unwrap_or_default();
    let end = path.find("/blobs/").or_else(|| path.find("/manifests/"));
    &path[..end.unwrap_or(0)]
}
