//! The Hub's JSON and headers, and the checked types they become. Pure.
//!
//! Nothing is dropped silently: what is not understood is an error that names it. Folders are the exception, they say nothing that paths do not.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::oci::{Digest, unhex};
use crate::repo::{Commit, ContentId, Entry, FilePath, RepoId};

use super::retry::split_unquoted;
use super::{Refs, Resolved, UpstreamError};

/// The longest piece of foreign text that an error repeats.
const CLIP: usize = 200;

/// `GET /api/{t}/{id}[/revision/{rev}]`
#[derive(Deserialize)]
struct Info {
    id: Option<String>,
    sha: String,
    private: Option<bool>,
    gated: Option<Value>,
    disabled: Option<bool>,
}

/// An element of `GET /api/{t}/{id}/tree/{rev}`
#[derive(Deserialize)]
struct Node {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    oid: Option<String>,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// `GET /api/{t}/{id}/refs`. Other groups than these are not asked for by name.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RefGroups {
    #[serde(default)]
    branches: Vec<Ref>,
    #[serde(default)]
    tags: Vec<Ref>,
    #[serde(default)]
    converts: Vec<Ref>,
    #[serde(default)]
    pull_requests: Vec<Ref>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ref {
    name: String,
    target_commit: String,
}

/// An element of a list whose elements are known by their `id`.
#[derive(Deserialize)]
struct Identified {
    id: String,
}

/// The commit and the canonical id. `asked` stands in where a mirror leaves the id out.
pub(super) fn resolved(body: &[u8], asked: &RepoId) -> Result<Resolved, UpstreamError> {
    let what = || format!("the description of {asked}");
    let info: Info = parse(body, what)?;
    let repo = match info.id {
        Some(id) => RepoId::new(asked.kind(), &id).map_err(|e| broken(what(), e))?,
        None => asked.clone(),
    };
    if info.disabled == Some(true) {
        return Err(UpstreamError::Disabled(repo));
    }
    Ok(Resolved {
        repo,
        commit: commit(&info.sha, what)?,
        private: info.private.unwrap_or(false),
        // Values that are not known yet close it too.
        gated: !matches!(info.gated, None | Some(Value::Null | Value::Bool(false))),
    })
}

/// One page of a listing: its files.
pub(super) fn files(body: &[u8], repo: &RepoId, at: Commit) -> Result<Vec<Entry>, UpstreamError> {
    let what = || format!("the listing of {repo} at {at}");
    let nodes: Vec<Node> = parse(body, what)?;
    let mut files = Vec::with_capacity(nodes.len());
    for node in nodes {
        match node.kind.as_str() {
            "directory" => {}
            "file" => files.push(file(node, repo, &what)?),
            kind => {
                let (kind, path) = (clip(kind), clip(&node.path));
                let why = format!("{path:?} is of the unknown type {kind:?}");
                return Err(broken(what(), why));
            }
        }
    }
    Ok(files)
}

fn file(node: Node, repo: &RepoId, what: &dyn Fn() -> String) -> Result<Entry, UpstreamError> {
    let lacks = |part: &str| {
        broken(
            what(),
            format!("{:?} has no usable {part}", clip(&node.path)),
        )
    };
    let (content, size) = match &node.lfs {
        Some(lfs) => {
            let hex = lfs.oid.strip_prefix("sha256:").unwrap_or(&lfs.oid);
            let digest = Digest::from_hex(hex).map_err(|_| lacks("LFS oid"))?;
            (ContentId::Sha256(digest), lfs.size)
        }
        None => {
            let oid = node.oid.as_deref().and_then(unhex::<20>);
            let size = node.size.ok_or_else(|| lacks("size"))?;
            (ContentId::Git(oid.ok_or_else(|| lacks("oid"))?), size)
        }
    };
    let path = FilePath::new(&node.path).map_err(|error| UpstreamError::Content {
        repo: repo.clone(),
        error,
    })?;
    Ok(Entry {
        path,
        size,
        content,
    })
}

/// The branches and tags.
pub(super) fn refs(body: &[u8], repo: &RepoId) -> Result<Refs, UpstreamError> {
    let what = || format!("the revisions of {repo}");
    let groups: RefGroups = parse(body, what)?;
    let named = |group: Vec<Ref>| -> Result<Vec<_>, UpstreamError> {
        let group = group.into_iter();
        group
            .map(|r| Ok((r.name, commit(&r.target_commit, what)?)))
            .collect()
    };
    Ok(Refs {
        branches: named(groups.branches)?,
        tags: named(groups.tags)?,
    })
}

/// The commits that any branch, tag, conversion or pull request points at, and the default branch: `main`, or else the first one.
pub(super) fn targets(
    body: &[u8],
    repo: &RepoId,
) -> Result<(Vec<Commit>, Option<String>), UpstreamError> {
    let what = || format!("the revisions of {repo}");
    let groups: RefGroups = parse(body, what)?;
    let branches = &groups.branches;
    let main = branches.iter().find(|r| r.name == "main");
    let default = main.or(branches.first()).map(|r| r.name.clone());
    let all = [
        groups.branches,
        groups.tags,
        groups.converts,
        groups.pull_requests,
    ];
    let all = all.into_iter().flatten();
    let commits: Result<_, _> = all.map(|r| commit(&r.target_commit, what)).collect();
    Ok((commits?, default))
}

/// One page of a history.
pub(super) fn history(body: &[u8], repo: &RepoId) -> Result<Vec<Commit>, UpstreamError> {
    let what = || format!("the history of {repo}");
    let list: Vec<Identified> = parse(body, what)?;
    list.iter().map(|c| commit(&c.id, what)).collect()
}

/// The one of the repositories found that is `repo` but for the case of letters.
pub(super) fn spelled(body: &[u8], repo: &RepoId) -> Result<Option<RepoId>, UpstreamError> {
    let list: Vec<Identified> = parse(body, || format!("the search for {repo}"))?;
    let same = |r: &Identified| r.id.eq_ignore_ascii_case(repo.id());
    let found = list.iter().find(|r| same(r));
    Ok(found.and_then(|r| RepoId::new(repo.kind(), &r.id).ok()))
}

/// The message in an error's body: `{"error": "…"}`.
pub(super) fn error_message(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    value.get("error")?.as_str().map(clip)
}

/// The address of the next page: the target of a `Link` header's `rel="next"`.
pub(super) fn next_link(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, after) = after.split_once('>')?;
        let parameters = split_unquoted(after, ',').first().copied().unwrap_or("");
        let next = split_unquoted(parameters, ';').into_iter().any(|p| {
            p.split_once('=').is_some_and(|(key, value)| {
                let relations = value.trim().trim_matches('"');
                key.trim().eq_ignore_ascii_case("rel")
                    && relations
                        .split_ascii_whitespace()
                        .any(|r| r.eq_ignore_ascii_case("next"))
            })
        });
        if next {
            return Some(target);
        }
        rest = &after[parameters.len()..];
    }
    None
}

/// `Content-Range: bytes FIRST-LAST/SIZE`
pub(super) fn content_range(header: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    let (first, last, size) = (number(first.trim())?, number(last)?, number(size)?);
    (first <= last && last < size).then_some((first, last, size))
}

fn parse<T: DeserializeOwned>(body: &[u8], what: impl Fn() -> String) -> Result<T, UpstreamError> {
    serde_json::from_slice(body).map_err(|e| broken(what(), clip(&e.to_string())))
}

fn commit(text: &str, what: impl Fn() -> String) -> Result<Commit, UpstreamError> {
    text.parse().map_err(|e| broken(what(), e))
}

fn broken(what: String, why: impl std::fmt::Display) -> UpstreamError {
    UpstreamError::Broken(format!("{what}: {why}"))
}

/// The beginning of foreign text, without control characters.
pub(super) fn clip(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(CLIP).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::ContentError;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    fn repo() -> RepoId {
        "org/model".parse().expect("an id")
    }

    fn at() -> Commit {
        SHA.parse().expect("a commit")
    }

    fn is_broken<T: std::fmt::Debug>(result: Result<T, UpstreamError>, word: &str) {
        match result {
            Err(UpstreamError::Broken(why)) if why.contains(word) && why.len() < 500 => {}
            other => panic!("{word}: {other:?}"),
        }
    }

    #[test]
    fn a_description_gives_commit_and_canonical_id() {
        let body = format!(
            r#"{{"id":"Org/Model","sha":"{SHA}","private":true,"gated":"manual","x":[1]}}"#
        );
        let got = resolved(body.as_bytes(), &repo()).expect("understood");
        assert_eq!(got.repo.to_string(), "Org/Model");
        assert_eq!((got.commit, got.private, got.gated), (at(), true, true));
    }

    #[test]
    fn gated_is_closed_unless_it_says_false() {
        for (gated, is) in [
            ("", false),
            (r#","gated":false"#, false),
            (r#","gated":null"#, false),
            (r#","gated":"auto""#, true),
            (r#","gated":true"#, true),
            (r#","gated":{"new":1}"#, true),
        ] {
            let body = format!(r#"{{"sha":"{SHA}"{gated}}}"#);
            let got = resolved(body.as_bytes(), &repo()).expect("understood");
            assert_eq!((got.gated, got.repo), (is, repo()), "{gated}");
        }
    }

    #[test]
    fn hostile_descriptions_are_refused() {
        let deep = "[".repeat(100_000);
        let long = format!(r#"{{"sha":"{}"}}"#, "y".repeat(100_000));
        let id = format!(r#"{{"id":"../../etc","sha":"{SHA}"}}"#);
        for body in [
            "",
            "null",
            "[]",
            "{}",
            "{",
            "<html>",
            r#"{"sha":null}"#,
            r#"{"sha":"x"}"#,
            &deep,
            &long,
            &id,
        ] {
            is_broken(resolved(body.as_bytes(), &repo()), "org/model");
        }
        is_broken(resolved(b"\xff\xfe", &repo()), "org/model");
        let disabled = format!(r#"{{"sha":"{SHA}","disabled":true}}"#);
        assert_eq!(
            resolved(disabled.as_bytes(), &repo()),
            Err(UpstreamError::Disabled(repo()))
        );
    }

    #[test]
    fn a_listing_tells_lfs_from_git_files() {
        let lfs = "ab".repeat(32);
        let stars = "*".repeat(64);
        let body = format!(
            r#"[{{"type":"directory","oid":"{SHA}","size":0,"path":"d"}},
                {{"type":"file","oid":"{SHA}","size":0,"path":"d/empty"}},
                {{"type":"file","oid":"{SHA}","size":135,"path":"w","lfs":{{"oid":"{lfs}","size":9,"pointerSize":135}},"xetHash":"{stars}"}}]"#
        );
        let got = files(body.as_bytes(), &repo(), at()).expect("understood");
        assert_eq!(got.len(), 2);
        assert_eq!((got[0].path.as_str(), got[0].size), ("d/empty", 0));
        assert_eq!(got[0].content.to_string(), format!("git:{SHA}"));
        assert_eq!((got[1].path.as_str(), got[1].size), ("w", 9));
        assert_eq!(got[1].content.to_string(), format!("sha256:{lfs}"));
    }

    #[test]
    fn hostile_listings_are_refused_naming_the_file() {
        let entry = |more: &str| format!(r#"[{{"path":"evil.bin",{more}}}]"#);
        for more in [
            r#""type":"symlink""#.to_owned(),
            r#""type":"file","size":1"#.to_owned(),
            format!(r#""type":"file","oid":"{SHA}""#),
            r#""type":"file","size":1,"oid":"xyz""#.to_owned(),
            format!(r#""type":"file","size":1,"oid":"{SHA}","lfs":{{"oid":"00","size":1}}"#),
        ] {
            is_broken(files(entry(&more).as_bytes(), &repo(), at()), "evil.bin");
        }
        for more in [
            r#""size":1"#.to_owned(),
            format!(r#""type":"file","oid":"{SHA}","size":-1"#),
            format!(r#""type":"file","oid":"{SHA}","size":1e99"#),
        ] {
            is_broken(files(entry(&more).as_bytes(), &repo(), at()), "listing");
        }
        for path in ["../x", "/x", "a/.wh.x", "a//b", "a\\u0000b"] {
            let body = format!(r#"[{{"type":"file","oid":"{SHA}","size":1,"path":"{path}"}}]"#);
            match files(body.as_bytes(), &repo(), at()) {
                Err(UpstreamError::Content {
                    error: ContentError::Path { .. },
                    ..
                }) => {}
                other => panic!("{path}: {other:?}"),
            }
        }
    }

    #[test]
    fn refs_and_their_targets() {
        let other = "f".repeat(40);
        let body = format!(
            r#"{{"branches":[{{"name":"dev","ref":"refs/heads/dev","targetCommit":"{other}"}},{{"name":"main","ref":"refs/heads/main","targetCommit":"{SHA}"}}],
                "tags":[{{"name":"v1","ref":"refs/tags/v1","targetCommit":"{SHA}"}}],"converts":[],
                "pullRequests":[{{"name":"1","ref":"refs/pr/1","targetCommit":"{other}"}}]}}"#
        );
        let got = refs(body.as_bytes(), &repo()).expect("understood");
        assert_eq!(got.branches[1], ("main".to_owned(), at()));
        assert_eq!(got.tags, [("v1".to_owned(), at())]);
        let (all, default) = targets(body.as_bytes(), &repo()).expect("understood");
        assert_eq!((all.len(), default.as_deref()), (4, Some("main")));
        let bad = r#"{"branches":[{"name":"main","targetCommit":"HEAD"}]}"#;
        is_broken(refs(bad.as_bytes(), &repo()), "HEAD");
    }

    #[test]
    fn a_search_finds_the_spelling_and_only_that() {
        let body = br#"[{"id":"org/model2"},{"id":"Org/MODEL"},{"id":"x"}]"#;
        let found = spelled(body, &repo()).expect("understood");
        assert_eq!(found.map(|r| r.to_string()).as_deref(), Some("Org/MODEL"));
        assert_eq!(spelled(br#"[{"id":"other/model"}]"#, &repo()), Ok(None));
    }

    #[test]
    fn the_next_page_is_found_in_any_link_header() {
        for (header, next) in [
            (r#"<https://h/a?c=1>; rel="next""#, Some("https://h/a?c=1")),
            (
                r#"<b>; rel=prev, <a,b;c>; x="<,>"; REL=Next"#,
                Some("a,b;c"),
            ),
            (r#"<b>; rel="last next""#, Some("b")),
            (r#"<b>; rel="nexts""#, None),
            (r#"<b>; title="rel=next""#, None),
            ("<b", None),
            ("", None),
        ] {
            assert_eq!(next_link(header), next, "{header}");
        }
    }

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(content_range("bytes 0-9/10"), Some((0, 9, 10)));
        for bad in [
            "bytes 0-9/*",
            "bytes */10",
            "bytes 9-0/10",
            "bytes 0-10/10",
            "bytes +0-9/10",
            "bytes 0-99999999999999999999/10",
            "0-9/10",
            "",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
