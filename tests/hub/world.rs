//! What the Hub holds: repositories, their commits and the names that point at them.
//!
//! A [`Repo`] is described in steps; [`World::add`] plays them, so that the order of the other settings does not matter.
//! Commit ids are a hash of parent and files: the same description gives the same ids everywhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use sha1::{Digest, Sha1};

use super::content::Content;
use super::git;
use super::options::Options;

/// The three kinds of repositories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A model: its pages and files are at `/{id}`.
    Model,
    /// A dataset: at `/datasets/{id}`.
    Dataset,
    /// A space: at `/spaces/{id}`.
    Space,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Model, Self::Dataset, Self::Space];

    /// `models`, `datasets` or `spaces`, as in API paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
            Self::Space => "spaces",
        }
    }

    /// The kind of that plural.
    pub fn from_plural(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.plural() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural())
    }
}

/// `org/name` is a model, `datasets/org/name` a dataset, `spaces/org/name` a space.
pub fn parse_id(id: &str) -> (Kind, &str) {
    match id.split_once('/') {
        Some(("datasets", rest)) => (Kind::Dataset, rest),
        Some(("spaces", rest)) => (Kind::Space, rest),
        Some(("models", rest)) => (Kind::Model, rest),
        _ => (Kind::Model, id),
    }
}

/// A set of files, put over those of the parent commit.
#[derive(Clone, Debug, Default)]
pub struct Files {
    files: BTreeMap<String, Content>,
    removed: Vec<String>,
    raw: Vec<Value>,
    replace: bool,
    title: Option<String>,
}

impl Files {
    /// No changes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing of the parent commit stays.
    pub fn only() -> Self {
        Self {
            replace: true,
            ..Self::default()
        }
    }

    /// Adds or replaces a file. The path is not checked: hostile ones are listed as they are.
    pub fn file(mut self, path: impl Into<String>, content: impl Into<Content>) -> Self {
        self.files.insert(path.into(), content.into());
        self
    }

    /// Adds a file of made-up bytes.
    pub fn pattern(self, path: impl Into<String>, size: u64, seed: u64) -> Self {
        self.file(path, Content::pattern(size, seed))
    }

    /// Adds a file that lies on disk.
    pub fn disk(self, path: impl Into<String>, file: impl AsRef<Path>) -> Self {
        self.file(path, Content::disk(file).expect("the file is there"))
    }

    /// Removes a file of the parent commit.
    pub fn without(mut self, path: impl Into<String>) -> Self {
        self.removed.push(path.into());
        self
    }

    /// Lists a tree entry word for word, after the real ones: hostile paths, duplicates, absurd sizes, unknown types.
    pub fn raw(mut self, entry: Value) -> Self {
        self.raw.push(entry);
        self
    }

    /// The commit's title.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = Some(title.into());
        self
    }
}

/// A file of a commit.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its bytes.
    pub content: Content,
    /// Whether it is kept in LFS (and so served by the CDN).
    pub lfs: bool,
}

/// A commit: all files of a repository at one time.
#[derive(Debug)]
pub struct Commit {
    /// 40 hex digits.
    pub id: String,
    /// The one before.
    pub parent: Option<String>,
    /// The first line of its message.
    pub title: String,
    /// The files by path.
    pub files: BTreeMap<String, Entry>,
    /// The folders, each with an id.
    pub folders: BTreeMap<String, String>,
    /// Entries listed word for word.
    pub raw: Vec<Value>,
}

impl Commit {
    fn new(parent: Option<&Self>, change: Files, threshold: u64) -> Self {
        let mut files = match parent {
            Some(parent) if !change.replace => parent.files.clone(),
            _ => BTreeMap::new(),
        };
        for path in &change.removed {
            files.remove(path);
        }
        for (path, content) in change.files {
            let lfs = content.is_lfs(threshold);
            files.insert(path, Entry { content, lfs });
        }
        let title = change.title.unwrap_or_else(|| match parent {
            None => "initial commit".to_owned(),
            Some(_) => "Upload files".to_owned(),
        });
        let mut commit = Self {
            id: String::new(),
            parent: parent.map(|parent| parent.id.clone()),
            title,
            files,
            folders: BTreeMap::new(),
            raw: change.raw,
        };
        commit.name();
        commit
    }

    /// Computes the ids of the folders and of the commit.
    fn name(&mut self) {
        let mut whole = Sha1::new();
        let mut folders: BTreeMap<&str, Sha1> = BTreeMap::new();
        for (path, entry) in &self.files {
            let line = format!("{}\0{path}\n", entry.content.identity(entry.lfs));
            whole.update(&line);
            for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
                folders.entry(&path[..at]).or_default().update(&line);
            }
        }
        for raw in &self.raw {
            whole.update(raw.to_string());
        }
        let parent = self.parent.as_deref().unwrap_or_default();
        whole.update(format!("parent {parent}\n{}", self.title));
        self.id = git::hex(&whole.finalize());
        self.folders = folders
            .into_iter()
            .map(|(path, hash)| (path.to_owned(), git::hex(&hash.finalize())))
            .collect();
    }
}

/// What happens to a repository while it is built.
#[derive(Clone, Debug)]
enum Step {
    Commit {
        to: String,
        from: String,
        files: Files,
    },
    Point {
        name: String,
        at: String,
    },
}

/// A repository.
#[derive(Clone, Debug)]
pub struct Repo {
    /// Model, dataset or space.
    pub kind: Kind,
    /// The id in its canonical spelling.
    pub id: String,
    /// Whether it is hidden from those without an allowed token.
    pub private: bool,
    /// `auto` or `manual`, if its content is only for allowed tokens.
    pub gated: Option<String>,
    /// Whether all access is closed.
    pub disabled: bool,
    /// The tokens that may see and read it.
    pub tokens: BTreeSet<String>,
    /// The size from which files are kept in LFS.
    pub lfs_threshold: u64,
    /// The branch that is meant where none is named.
    pub default_branch: String,
    /// All commits, by id.
    pub commits: HashMap<String, Arc<Commit>>,
    /// Full reference (`refs/heads/main`) to commit id.
    pub refs: BTreeMap<String, String>,
    steps: Vec<Step>,
}

impl Repo {
    /// An empty repository.
    pub fn new(kind: Kind, id: impl Into<String>) -> Self {
        Self {
            kind,
            id: id.into(),
            private: false,
            gated: None,
            disabled: false,
            tokens: BTreeSet::new(),
            lfs_threshold: 1 << 20,
            default_branch: "main".to_owned(),
            commits: HashMap::new(),
            refs: BTreeMap::new(),
            steps: Vec::new(),
        }
    }

    /// A model.
    pub fn model(id: impl Into<String>) -> Self {
        Self::new(Kind::Model, id)
    }

    /// A dataset.
    pub fn dataset(id: impl Into<String>) -> Self {
        Self::new(Kind::Dataset, id)
    }

    /// A space.
    pub fn space(id: impl Into<String>) -> Self {
        Self::new(Kind::Space, id)
    }

    /// Hides it from those without an allowed token.
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Closes its content (`auto` or `manual`) to those without an allowed token.
    pub fn gated(mut self, how: &str) -> Self {
        self.gated = Some(how.to_owned());
        self
    }

    /// Closes it to all.
    pub fn disabled(mut self) -> Self {
        self.disabled = true;
        self
    }

    /// A token that may read it though it is private or gated.
    pub fn allow(mut self, token: &str) -> Self {
        self.tokens.insert(token.to_owned());
        self
    }

    /// Files of this size and more are kept in LFS (1 MiB unless told).
    pub fn lfs_threshold(mut self, bytes: u64) -> Self {
        self.lfs_threshold = bytes;
        self
    }

    /// Another default branch than `main`.
    pub fn default_branch(mut self, name: &str) -> Self {
        self.default_branch = name.to_owned();
        self
    }

    /// A commit on `main`.
    pub fn commit(self, files: Files) -> Self {
        self.commit_on("main", files)
    }

    /// A commit on a branch, which begins at `main` if it is new.
    pub fn commit_on(self, branch: &str, files: Files) -> Self {
        self.step_commit(format!("refs/heads/{branch}"), files)
    }

    /// A pull request of one commit on top of `main`: `refs/pr/N`.
    pub fn pr(self, number: u32, files: Files) -> Self {
        self.step_commit(format!("refs/pr/{number}"), files)
    }

    /// A conversion made by the Hub: `refs/convert/NAME`.
    pub fn convert(self, name: &str, files: Files) -> Self {
        self.step_commit(format!("refs/convert/{name}"), files)
    }

    /// A branch at where `main` is now.
    pub fn branch(self, name: &str) -> Self {
        self.point(&format!("refs/heads/{name}"), "refs/heads/main")
    }

    /// A tag at where `main` is now.
    pub fn tag(self, name: &str) -> Self {
        self.point(&format!("refs/tags/{name}"), "refs/heads/main")
    }

    /// A full reference at where another one is now.
    pub fn point(mut self, name: &str, at: &str) -> Self {
        self.steps.push(Step::Point {
            name: name.to_owned(),
            at: at.to_owned(),
        });
        self
    }

    fn step_commit(mut self, to: String, files: Files) -> Self {
        let from = "refs/heads/main".to_owned();
        self.steps.push(Step::Commit { to, from, files });
        self
    }

    /// Plays the steps that were not played yet.
    pub fn build(&mut self) {
        for step in std::mem::take(&mut self.steps) {
            match step {
                Step::Commit { to, from, files } => {
                    self.apply(&to, &from, files);
                }
                Step::Point { name, at } => {
                    let commit = self.refs.get(&at).cloned();
                    let commit = commit.unwrap_or_else(|| panic!("{}: no {at}", self.id));
                    self.refs.insert(name, commit);
                }
            }
        }
    }

    /// Adds a commit on the full reference `to`, which begins at `from` if it is new. Gives its id.
    pub fn apply(&mut self, to: &str, from: &str, files: Files) -> String {
        let parent = self.refs.get(to).or_else(|| self.refs.get(from));
        let parent = parent.and_then(|id| self.commits.get(id)).cloned();
        let commit = Commit::new(parent.as_deref(), files, self.lfs_threshold);
        let id = commit.id.clone();
        self.commits.insert(id.clone(), Arc::new(commit));
        self.refs.insert(to.to_owned(), id.clone());
        id
    }

    /// The commit that a revision names: a branch, a tag, a full reference, or 40 hex digits.
    pub fn revision(&self, revision: &str) -> Option<&Arc<Commit>> {
        let names = [
            format!("refs/heads/{revision}"),
            format!("refs/tags/{revision}"),
            revision.to_owned(),
        ];
        let named = names.iter().find_map(|name| self.refs.get(name));
        let id = named.map_or(revision, String::as_str);
        self.commits.get(id)
    }

    /// `models/org/name`: unique among all kinds.
    pub fn key(&self) -> String {
        format!("{}/{}", self.kind, self.id)
    }
}

/// All that the Hub holds, and how it behaves.
#[derive(Clone, Debug, Default)]
pub struct World {
    repos: BTreeMap<(Kind, String), Repo>,
    renamed: BTreeMap<(Kind, String), String>,
    users: BTreeMap<String, String>,
    /// How it behaves.
    pub options: Options,
}

impl World {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a repository.
    pub fn repo(mut self, repo: Repo) -> Self {
        self.add(repo);
        self
    }

    /// A token that is valid, though no repository lists it, and whose it is.
    pub fn user(mut self, token: &str, name: &str) -> Self {
        self.users.insert(token.to_owned(), name.to_owned());
        self
    }

    /// A token is nobody's from now on, and opens nothing.
    pub fn revoke(&mut self, token: &str) {
        self.users.remove(token);
        for repo in self.repos.values_mut() {
            repo.tokens.remove(token);
        }
    }

    /// Requests for the old id are sent on to the new one (both as `datasets/org/name` and so on).
    pub fn renamed(mut self, old: &str, new: &str) -> Self {
        self.rename(old, new);
        self
    }

    /// The same, later.
    pub fn rename(&mut self, old: &str, new: &str) {
        let (kind, old) = parse_id(old);
        let (_, new) = parse_id(new);
        self.renamed.insert((kind, fold(old)), new.to_owned());
    }

    /// Changes how it behaves.
    pub fn options(mut self, change: impl FnOnce(&mut Options)) -> Self {
        change(&mut self.options);
        self
    }

    /// Adds or replaces a repository.
    pub fn add(&mut self, mut repo: Repo) {
        repo.build();
        self.repos.insert((repo.kind, fold(&repo.id)), repo);
    }

    /// Takes a repository away.
    pub fn remove(&mut self, id: &str) -> Option<Repo> {
        let (kind, id) = parse_id(id);
        self.repos.remove(&(kind, fold(id)))
    }

    /// The repository of an id in any letter case.
    pub fn find(&self, kind: Kind, id: &str) -> Option<&Repo> {
        self.repos.get(&(kind, fold(id)))
    }

    /// The same, to change it.
    pub fn find_mut(&mut self, kind: Kind, id: &str) -> Option<&mut Repo> {
        self.repos.get_mut(&(kind, fold(id)))
    }

    /// Where a renamed repository went.
    pub fn new_name(&self, kind: Kind, id: &str) -> Option<&str> {
        self.renamed.get(&(kind, fold(id))).map(String::as_str)
    }

    /// All repositories, in order.
    pub fn all(&self) -> impl Iterator<Item = &Repo> {
        self.repos.values()
    }

    /// Whose a token is; none for a token that nobody knows.
    pub fn user_of(&self, token: &str) -> Option<String> {
        let listed = || self.all().any(|repo| repo.tokens.contains(token));
        match self.users.get(token) {
            Some(name) => Some(name.clone()),
            None => listed().then(|| format!("user-{}", &git::sha1_hex(token.as_bytes())[..8])),
        }
    }
}

fn fold(id: &str) -> String {
    id.to_lowercase()
}
