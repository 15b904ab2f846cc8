//! The calls under `/api/`: metadata, listings, names, access.

use serde_json::{Value, json};

use super::access::{self, Viewer};
use super::answer::Answer;
use super::card;
use super::git;
use super::options::Xet;
use super::routes::{self, Route, encode_part};
use super::world::{Commit, Entry, Kind, Repo, World};

/// Everything that an API call is answered from.
pub struct Call<'a> {
    /// What the Hub holds.
    pub world: &'a World,
    /// Who asks.
    pub viewer: &'a Viewer,
    /// The raw path.
    pub path: &'a str,
    /// The raw query.
    pub query: Option<&'a str>,
    /// The Hub's own origin.
    pub origin: &'a str,
}

type Outcome = Result<Answer, Box<Answer>>;

impl Call<'_> {
    /// The answer to a route that is not about content.
    pub fn answer(&self, route: &Route) -> Outcome {
        match route {
            Route::Whoami | Route::AuthCheck(_) if !self.world.options.says_access => {
                Err(no_such_page())
            }
            Route::Whoami => self.whoami(),
            Route::Search(kind) => self.search(*kind),
            Route::Info(named, revision) => {
                let repo = self.repo(named)?;
                let revision = revision.as_deref().unwrap_or(&repo.default_branch);
                let commit = access::revision(repo, revision)?;
                Ok(Answer::json(&self.info(repo, commit)))
            }
            Route::Tree(named, revision, folder) => {
                let repo = self.repo(named)?;
                let commit = access::revision(repo, revision)?;
                self.tree(commit, folder)
            }
            Route::Refs(named) => Ok(Answer::json(&self.refs(self.repo(named)?))),
            Route::Commits(named, revision) => self.commits(self.repo(named)?, revision),
            Route::AuthCheck(named) => {
                access::readable(self.viewer, self.repo(named)?)?;
                Ok(Answer::text(200, "OK"))
            }
            Route::Resolve(..) | Route::ResolveCache(..) | Route::Unknown => Err(no_such_page()),
        }
    }

    fn repo(&self, named: &routes::Named) -> Result<&Repo, Box<Answer>> {
        access::visible(self.world, self.viewer, named.kind, &named.id, false)
    }

    fn param(&self, name: &str) -> Option<String> {
        routes::query(self.query, name)
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.param(name).as_deref(), Some("true" | "True" | "1"))
    }

    fn whoami(&self) -> Outcome {
        match self.viewer {
            Viewer::User { name, .. } => Ok(Answer::json(&json!({
                "type": "user", "id": git::sha1_hex(name.as_bytes())[..24], "name": name,
                "fullname": name, "email": null, "isPro": false, "orgs": [],
                "auth": { "type": "access_token", "accessToken": { "displayName": "test", "role": "read" } },
            }))),
            _ => Err(access::bad_token().into()),
        }
    }

    fn search(&self, kind: Kind) -> Outcome {
        let lower = |name| self.param(name).map(|text| text.to_lowercase());
        let (search, author) = (lower("search"), lower("author"));
        let fits = |repo: &&Repo| {
            let id = repo.id.to_lowercase();
            repo.kind == kind
                && self.viewer.may_see(repo)
                && search.as_ref().is_none_or(|text| id.contains(text))
                && author
                    .as_ref()
                    .is_none_or(|author| id.split_once('/').is_some_and(|(org, _)| org == author))
        };
        let found = self.world.all().filter(fits).map(summary).collect();
        self.page(found)
    }

    fn info(&self, repo: &Repo, commit: &Commit) -> Value {
        let mut info = summary(repo);
        if !self.world.options.says_private {
            info["private"] = false.into();
        }
        let blobs = self.flag("blobs");
        let sibling = |(path, entry): (&String, &Entry)| match blobs {
            false => json!({ "rfilename": path }),
            true => {
                let mut sibling = json!({
                    "rfilename": path, "size": entry.content.size(), "blobId": git_oid(entry),
                });
                if entry.lfs {
                    sibling["lfs"] = lfs(entry);
                    sibling["lfs"]["sha256"] = entry.content.sha256().into();
                }
                sibling
            }
        };
        let readme = commit.files.get("README.md");
        let card = readme.map(|entry| entry.content.read(0..entry.content.size().min(1 << 16)));
        let card = card.map_or(Value::Null, |bytes| {
            card::front_matter(&String::from_utf8_lossy(&bytes))
        });
        info["sha"] = commit.id.as_str().into();
        info["siblings"] = commit.files.iter().map(sibling).collect();
        if !card.is_null() {
            info["cardData"] = card;
        }
        let sizes = commit.files.values().map(|entry| entry.content.size());
        info["usedStorage"] = sizes.sum::<u64>().into();
        info
    }

    fn tree(&self, commit: &Commit, folder: &str) -> Outcome {
        let prefix = match folder.trim_end_matches('/') {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        let recursive = self.flag("recursive");
        let inside = |path: &str| {
            path.strip_prefix(&prefix)
                .is_some_and(|rest| recursive || !rest.contains('/'))
        };
        let folders = commit.folders.iter().filter(|(path, _)| inside(path));
        let folders = folders
            .map(|(path, oid)| json!({ "type": "directory", "oid": oid, "size": 0, "path": path }));
        let files = commit.files.iter().filter(|(path, _)| inside(path));
        let files = files.map(|(path, entry)| self.tree_file(path, entry));
        let mut listed: Vec<Value> = folders.chain(files).collect();
        listed.sort_by(|a, b| a["path"].as_str().cmp(&b["path"].as_str()));
        if prefix.is_empty() {
            listed.extend(commit.raw.iter().cloned());
        } else if listed.is_empty() {
            return Err(access::no_entry(commit));
        }
        self.page(listed)
    }

    fn tree_file(&self, path: &str, entry: &Entry) -> Value {
        let mut file = json!({
            "type": "file", "oid": git_oid(entry), "size": entry.content.size(), "path": path,
        });
        if entry.lfs {
            file["lfs"] = lfs(entry);
            if let Some(hash) = xet_hash(self.world.options.xet, entry) {
                file["xetHash"] = hash.into();
            }
        }
        file
    }

    fn refs(&self, repo: &Repo) -> Value {
        let under = |prefix: &str| -> Value {
            let inside = |(full, commit): (&String, &String)| {
                let name = full.strip_prefix(prefix)?;
                Some(json!({ "name": name, "ref": full, "targetCommit": commit }))
            };
            repo.refs.iter().filter_map(inside).collect()
        };
        let mut refs = json!({
            "branches": under("refs/heads/"), "tags": under("refs/tags/"), "converts": under("refs/convert/"),
        });
        if self.flag("include_prs") {
            refs["pullRequests"] = under("refs/pr/");
        }
        refs
    }

    fn commits(&self, repo: &Repo, revision: &str) -> Outcome {
        let mut list = Vec::new();
        let mut next = Some(access::revision(repo, revision)?);
        while let Some(commit) = next {
            list.push(json!({
                "id": commit.id, "title": commit.title, "message": "",
                "authors": [{ "user": "tester", "avatar": "" }], "date": "2024-01-01T00:00:00.000Z",
            }));
            let parent = commit.parent.as_ref();
            next = parent.and_then(|id| repo.commits.get(id));
        }
        self.page(list)
    }

    /// One page of a list, with an absolute link to the next one.
    fn page(&self, items: Vec<Value>) -> Outcome {
        let start = match self.param("cursor") {
            None => 0,
            Some(cursor) => cursor
                .strip_prefix("after:")
                .and_then(|at| at.strip_suffix('=')?.parse::<usize>().ok())
                .filter(|at| *at <= items.len())
                .ok_or_else(|| Answer::error(400, None, "Invalid cursor"))?,
        };
        let most = self.world.options.page_size.max(1);
        let wanted = self.param("limit").and_then(|limit| limit.parse().ok());
        let end = items
            .len()
            .min(start + wanted.unwrap_or(most).clamp(1, most));
        let answer = Answer::json(&items[start..end].into());
        if end == items.len() {
            return Ok(answer);
        }
        let origin = self.world.options.link_origin.as_deref();
        let kept = self.query.unwrap_or_default().split('&');
        let kept = kept.filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
        let query: Vec<&str> = kept.collect();
        let link = format!(
            "<{}{}?{}{}cursor=after%3A{end}%3D>; rel=\"next\"",
            origin.unwrap_or(self.origin),
            self.path,
            query.join("&"),
            if query.is_empty() { "" } else { "&" },
        );
        Ok(answer.with("link", link))
    }
}

/// What is shown of a repository in searches and metadata.
fn summary(repo: &Repo) -> Value {
    let gated = match &repo.gated {
        None => Value::Bool(false),
        Some(how) => how.as_str().into(),
    };
    let author = repo.id.split_once('/').map(|(org, _)| org);
    json!({
        "_id": git::sha1_hex(repo.key().as_bytes())[..24], "id": repo.id, "modelId": repo.id, "author": author,
        "private": repo.private, "gated": gated, "disabled": repo.disabled, "downloads": 0, "likes": 0, "tags": [],
        "createdAt": "2024-01-01T00:00:00.000Z", "lastModified": "2024-01-01T00:00:00.000Z",
    })
}

fn no_such_page() -> Box<Answer> {
    let message = "Sorry, we can't find the page you are looking for.";
    Answer::error(404, None, message).into()
}

/// The id that git has for an entry: of its bytes, or of its pointer.
pub fn git_oid(entry: &Entry) -> String {
    match entry.lfs {
        false => entry.content.blob_id().to_owned(),
        true => {
            let pointer = git::lfs_pointer(entry.content.sha256(), entry.content.size());
            git::blob_id(pointer.as_bytes())
        }
    }
}

fn lfs(entry: &Entry) -> Value {
    let (oid, size) = (entry.content.sha256(), entry.content.size());
    json!({ "oid": oid, "size": size, "pointerSize": git::lfs_pointer(oid, size).len() })
}

/// What is told of an entry's Xet hash.
pub fn xet_hash(xet: Xet, entry: &Entry) -> Option<String> {
    match xet {
        _ if !entry.lfs => None,
        Xet::Off => None,
        Xet::Asterisks => Some("*".repeat(64)),
        Xet::Hash => {
            let other = git::sha1_hex(entry.content.sha256().as_bytes());
            Some(format!("{other}{}", &other[..24]))
        }
    }
}

/// The path of a repository in URLs of its files.
pub fn page_path(repo: &Repo) -> String {
    match repo.kind {
        Kind::Model => format!("/{}", repo.id),
        kind => format!("/{kind}/{}", repo.id),
    }
}

/// Where resolve sends for a git file: a path without an origin.
pub fn cache_path(repo: &Repo, commit: &str, revision: &str, path: &str, oid: &str) -> String {
    let asked = format!("{}/resolve/{revision}/{path}", page_path(repo));
    format!(
        "/api/resolve-cache/{}/{}/{commit}/{}?{}=&etag=%22{oid}%22",
        repo.kind,
        routes::encode_path(&repo.id),
        routes::encode_path(path),
        encode_part(&asked),
    )
}
