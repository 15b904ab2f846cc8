//! What a path asks for. Paths are split before they are percent-decoded, and each part is decoded exactly once.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::world::Kind;

/// What clients leave unencoded in a path: unreserved characters and the slash.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// Percent-encodes a path, keeping its slashes.
pub fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, PATH).to_string()
}

/// Percent-encodes one part of a path, slashes too.
pub fn encode_part(part: &str) -> String {
    encode_path(part).replace('/', "%2F")
}

/// The repository of a request, and where its id stands in the raw path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The kind.
    pub kind: Kind,
    /// The id as it was spelled.
    pub id: String,
    before: String,
    after: String,
}

impl Named {
    /// The same request for another id: a path without an origin.
    pub fn path_with(&self, id: &str) -> String {
        format!("{}{}{}", self.before, encode_path(id), self.after)
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A commit's metadata; the default branch's without a revision.
    Info(Named, Option<String>),
    /// The listing of a folder at a revision.
    Tree(Named, String, String),
    /// The branches and tags.
    Refs(Named),
    /// The commits up to a revision.
    Commits(Named, String),
    /// May this client read the content?
    AuthCheck(Named),
    /// Who is this client?
    Whoami,
    /// Search among a kind.
    Search(Kind),
    /// A file at a revision.
    Resolve(Named, String, String),
    /// A git file at a commit, where resolve sends to.
    ResolveCache(Named, String, String),
    /// Anything else.
    Unknown,
}

impl Route {
    /// What the request is counted as.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Info(..) => "info",
            Self::Tree(..) => "tree",
            Self::Refs(..) => "refs",
            Self::Commits(..) => "commits",
            Self::AuthCheck(..) => "auth-check",
            Self::Whoami => "whoami",
            Self::Search(..) => "search",
            Self::Resolve(..) => "resolve",
            Self::ResolveCache(..) => "resolve-cache",
            Self::Unknown => "unknown",
        }
    }

    /// The repository that it names.
    pub fn named(&self) -> Option<&Named> {
        match self {
            Self::Info(named, ..)
            | Self::Tree(named, ..)
            | Self::Refs(named)
            | Self::Commits(named, ..)
            | Self::AuthCheck(named)
            | Self::Resolve(named, ..)
            | Self::ResolveCache(named, ..) => Some(named),
            Self::Whoami | Self::Search(_) | Self::Unknown => None,
        }
    }

    /// Whether it counts against the limit on resolve calls (or the one on API calls).
    pub fn is_resolver(&self) -> bool {
        matches!(self, Self::Resolve(..) | Self::ResolveCache(..))
    }

    /// `models/org/name/path` of a file, as counters and faults see it.
    pub fn file(&self) -> Option<String> {
        match self {
            Self::Resolve(named, _, path) | Self::ResolveCache(named, _, path) => {
                Some(format!("{}/{}/{path}", named.kind, named.id))
            }
            _ => None,
        }
    }
}

/// Reads a raw path (without its query).
pub fn parse(raw: &str) -> Route {
    let parts: Vec<&str> = raw.trim_start_matches('/').split('/').collect();
    let route = match parts.as_slice() {
        ["api", "whoami-v2"] => Some(Route::Whoami),
        ["api", "resolve-cache", kind, ..] => {
            Kind::from_plural(kind).and_then(|kind| resolve_cache(kind, &parts))
        }
        ["api", kind] => Kind::from_plural(kind).map(Route::Search),
        ["api", kind, ..] => Kind::from_plural(kind).and_then(|kind| api(kind, &parts)),
        [kind @ ("datasets" | "spaces"), ..] => {
            Kind::from_plural(kind).and_then(|kind| resolve(kind, &parts, 1))
        }
        _ => resolve(Kind::Model, &parts, 0),
    };
    route.unwrap_or(Route::Unknown)
}

/// `/api/{kind}/{id}[/{call}…]`.
fn api(kind: Kind, parts: &[&str]) -> Option<Route> {
    let is_call = |part: &str| {
        matches!(
            part,
            "revision" | "tree" | "refs" | "commits" | "auth-check"
        )
    };
    let id_parts = match parts.len() {
        3 => 1,
        _ if is_call(parts[3]) => 1,
        _ => 2,
    };
    let named = named(kind, parts, 2, id_parts)?;
    let call = &parts[2 + id_parts..];
    Some(match call {
        [] => Route::Info(named, None),
        ["auth-check"] => Route::AuthCheck(named),
        ["refs"] => Route::Refs(named),
        ["revision", rest @ ..] => {
            let (revision, rest) = revision(rest)?;
            if !rest.is_empty() {
                return None;
            }
            Route::Info(named, Some(revision))
        }
        ["commits", rest @ ..] => Route::Commits(named, revision(rest)?.0),
        ["tree", rest @ ..] => {
            let (revision, rest) = revision(rest)?;
            Route::Tree(named, revision, decode_path(rest)?)
        }
        _ => return None,
    })
}

/// `[/{kind}]/{id}/resolve/{rev}/{path}`, with the id from part `at` on.
fn resolve(kind: Kind, parts: &[&str], at: usize) -> Option<Route> {
    let id_parts = (1..=2).find(|n| parts.get(at + n) == Some(&"resolve"))?;
    let named = named(kind, parts, at, id_parts)?;
    let (revision, rest) = revision(&parts[at + id_parts + 1..])?;
    Some(Route::Resolve(named, revision, decode_path(rest)?))
}

/// `/api/resolve-cache/{kind}/{id}/{commit}/{path}`.
fn resolve_cache(kind: Kind, parts: &[&str]) -> Option<Route> {
    let id_parts = (1..=2).find(|n| parts.get(3 + n).is_some_and(|part| is_hex(part, 40)))?;
    let named = named(kind, parts, 3, id_parts)?;
    let commit = parts[3 + id_parts].to_owned();
    let path = decode_path(&parts[4 + id_parts..])?;
    Some(Route::ResolveCache(named, commit, path))
}

fn named(kind: Kind, parts: &[&str], at: usize, count: usize) -> Option<Named> {
    let id = parts.get(at..at + count)?;
    let end = &parts[at + count..];
    let prefix = |parts: &[&str]| {
        parts
            .iter()
            .map(|part| format!("/{part}"))
            .collect::<String>()
    };
    Some(Named {
        kind,
        id: decode_path(id).filter(|id| !id.is_empty())?,
        before: format!("{}/", prefix(&parts[..at])),
        after: prefix(end),
    })
}

/// The revision at the head of some parts: one encoded part, or `refs/pr/1` and the like spelled out.
fn revision<'a>(parts: &'a [&'a str]) -> Option<(String, &'a [&'a str])> {
    let count = match parts {
        ["refs", "pr" | "convert", _, ..] => 3,
        [first, ..] if !first.is_empty() => 1,
        _ => return None,
    };
    Some((decode_path(&parts[..count])?, &parts[count..]))
}

/// Decodes each part once and joins them.
fn decode_path(parts: &[&str]) -> Option<String> {
    let decoded: Option<Vec<String>> = parts.iter().map(|part| decode(part)).collect();
    Some(decoded?.join("/"))
}

/// Percent-decodes once; nothing if the result is not UTF-8.
pub fn decode(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    Some(text.into_owned())
}

/// A parameter of a query, decoded.
pub fn query(raw: Option<&str>, name: &str) -> Option<String> {
    let pairs = raw?
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    decode(&value.replace('+', " "))
}

/// Whether this is `count` lower-case hex digits.
pub fn is_hex(text: &str, count: usize) -> bool {
    text.len() == count && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
