//! The second origin: signed URLs of files in LFS, that expire.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::answer::Answer;
use super::content::Content;
use super::git;
use super::routes;

/// Signs URLs, and knows the contents that it signed for.
#[derive(Default)]
pub struct Signer {
    contents: Mutex<HashMap<String, Content>>,
    generation: AtomicU64,
}

/// Why a URL is refused.
enum Refusal {
    Unsigned,
    Expired,
}

impl Signer {
    /// A URL for a file (`models/org/name/path`), good for some time; one that is expired already without any.
    pub fn sign(&self, origin: &str, file: &str, content: &Content, good: Duration) -> String {
        let sha256 = content.sha256().to_owned();
        let path = format!("/{sha256}/{}", routes::encode_path(file));
        let mut contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        contents.insert(sha256, content.clone());
        let expires = (now() + good).as_millis();
        let generation = self.generation.load(Ordering::Relaxed);
        let signature = signature(&path, &expires.to_string(), &generation.to_string());
        format!("{origin}{path}?Expires={expires}&Key-Pair-Id={generation}&Signature={signature}")
    }

    /// Makes every URL signed so far an expired one.
    pub fn expire_all(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// The answer to a GET or HEAD of a raw path and query.
    pub fn answer(&self, path: &str, query: Option<&str>, authorization: bool) -> Answer {
        if authorization {
            let message = "Only one auth mechanism allowed";
            return xml(400, "InvalidArgument", message);
        }
        match self.check(path, query) {
            Err(Refusal::Unsigned) => return xml(403, "SignatureDoesNotMatch", "Access denied"),
            Err(Refusal::Expired) => return Self::expired(),
            Ok(()) => {}
        }
        let sha256 = path.trim_start_matches('/').split('/').next();
        let sha256 = sha256.unwrap_or_default();
        let contents = self.contents.lock().unwrap_or_else(PoisonError::into_inner);
        match contents.get(sha256) {
            None => xml(404, "NoSuchKey", "The specified key does not exist."),
            Some(content) => {
                let other = git::sha1_hex(sha256.as_bytes());
                Answer::file(content.clone())
                    .with("etag", format!("\"{}\"", &other[..32]))
                    .with("content-type", "application/octet-stream")
                    .with("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT")
            }
        }
    }

    /// The answer to an expired URL.
    pub fn expired() -> Answer {
        xml(403, "AccessDenied", "Request has expired")
    }

    fn check(&self, path: &str, query: Option<&str>) -> Result<(), Refusal> {
        let get = |name| routes::query(query, name).ok_or(Refusal::Unsigned);
        let (expires, generation) = (get("Expires")?, get("Key-Pair-Id")?);
        if get("Signature")? != signature(path, &expires, &generation) {
            return Err(Refusal::Unsigned);
        }
        let past = expires
            .parse()
            .is_ok_and(|at: u128| at <= now().as_millis());
        let current = self.generation.load(Ordering::Relaxed).to_string();
        match past || generation != current {
            true => Err(Refusal::Expired),
            false => Ok(()),
        }
    }
}

/// The file (`models/org/name/path`) of a raw path.
pub fn file_of(path: &str) -> Option<String> {
    let (sha256, file) = path.strip_prefix('/')?.split_once('/')?;
    routes::decode(file).filter(|_| routes::is_hex(sha256, 64))
}

/// Over the decoded path, as clients may spell its encoding differently.
fn signature(path: &str, expires: &str, generation: &str) -> String {
    let path = routes::decode(path).unwrap_or_default();
    git::sha1_hex(format!("hub {path} {expires} {generation}").as_bytes())
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn xml(status: u16, code: &str, message: &str) -> Answer {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Answer::text(status, text).with("content-type", "application/xml")
}
