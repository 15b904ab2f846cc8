//! A world read from a folder: `{models,datasets,spaces}/ORG/NAME/…`, each with an optional `.hub.json`.
//!
//! Files are served from where they lie. Their hashes are computed once, by a few threads, and kept as long as size and time stay.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::Value;

use super::content::Content;
use super::world::{Files, Kind, Repo, World};

/// The settings of a repository; also what marks a folder right under a kind as a repository.
const SETTINGS: &str = ".hub.json";

/// Where further commits lie.
const REVISIONS: &str = ".revisions";

/// A folder of repositories, and the contents known from the last reading.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    known: Mutex<HashMap<(PathBuf, u64, SystemTime), Content>>,
}

impl Folder {
    /// A folder. Nothing is read yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            known: Mutex::default(),
        }
    }

    /// Reads everything. Slow where files are new.
    pub fn load(&self) -> io::Result<World> {
        fs::read_dir(&self.root)?;
        let mut found = Vec::new();
        for kind in Kind::ALL {
            for name in folders(&self.root.join(kind.plural()))? {
                let path = self.root.join(kind.plural()).join(&name);
                if path.join(SETTINGS).exists() {
                    found.push((kind, name, path));
                    continue;
                }
                for part in folders(&path)? {
                    found.push((kind, format!("{name}/{part}"), path.join(part)));
                }
            }
        }
        let mut world = World::new();
        let mut repos = Vec::new();
        for (kind, id, path) in found {
            repos.push(self.repo(kind, id, &path, &mut world)?);
        }
        self.hash(&repos);
        for loading in repos {
            world.add(loading.repo);
        }
        Ok(world)
    }

    /// One repository, its commits not yet made.
    fn repo(&self, kind: Kind, id: String, path: &Path, world: &mut World) -> io::Result<Loading> {
        let settings = Settings::read(path)?;
        let mut repo = settings.apply(Repo::new(kind, id), world);
        let mut contents = Vec::new();
        let mut files = |folder: &Path, start: Files| -> io::Result<Files> {
            let mut files = start;
            for (name, content) in self.files(folder)? {
                let content = match settings.lfs(&name) {
                    true => content.lfs(true),
                    false => content,
                };
                contents.push(content.clone());
                files = files.file(name, content);
            }
            Ok(files)
        };
        repo = repo.commit(files(path, Files::only())?);
        let mut points = BTreeMap::from([("base".to_owned(), "refs/heads/main".to_owned())]);
        repo = settings.point(repo, "base", &mut points);
        for name in folders(&path.join(REVISIONS))? {
            let own = &settings.0["revisions"][&name];
            let mut change = match own["full"].as_bool() {
                Some(true) => Files::only(),
                _ => Files::new(),
            }
            .title(name.as_str());
            for gone in texts(&own["delete"]) {
                change = change.without(gone);
            }
            let branch = own["branch"].as_str().unwrap_or("main");
            let change = files(&path.join(REVISIONS).join(&name), change)?;
            repo = match own["pr"].as_u64() {
                Some(pr) => repo.pr(pr as u32, change),
                None => repo.commit_on(branch, change),
            };
            let head = match own["pr"].as_u64() {
                Some(pr) => format!("refs/pr/{pr}"),
                None => format!("refs/heads/{branch}"),
            };
            points.insert(name.clone(), head);
            repo = settings.point(repo, &name, &mut points);
        }
        Ok(Loading { repo, contents })
    }

    /// All files under a folder by their path, without what is ours.
    fn files(&self, folder: &Path) -> io::Result<BTreeMap<String, Content>> {
        let mut files = BTreeMap::new();
        let mut todo = vec![(folder.to_owned(), String::new())];
        while let Some((folder, prefix)) = todo.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else {
                    eprintln!("hub: not UTF-8, left out: {}", entry.path().display());
                    continue;
                };
                if matches!(name.as_str(), SETTINGS | REVISIONS | ".git") {
                    continue;
                }
                let path = format!("{prefix}{name}");
                let metadata = fs::metadata(entry.path())?;
                if metadata.is_dir() {
                    todo.push((entry.path(), format!("{path}/")));
                } else {
                    files.insert(path, self.content(&entry.path(), &metadata)?);
                }
            }
        }
        Ok(files)
    }

    fn content(&self, path: &Path, metadata: &fs::Metadata) -> io::Result<Content> {
        let key = (path.to_owned(), metadata.len(), metadata.modified()?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = known.get(&key) {
            return Ok(content.clone());
        }
        let content = Content::disk(path)?;
        known.insert(key, content.clone());
        Ok(content)
    }

    /// Computes the hashes that commits need, on all cores.
    fn hash(&self, repos: &[Loading]) {
        let all = repos.iter().flat_map(|loading| {
            let threshold = loading.repo.lfs_threshold;
            let contents = loading.contents.iter();
            contents.map(move |content| (content, content.is_lfs(threshold)))
        });
        let queue = Mutex::new(all.filter(|(content, lfs)| !content.is_hashed(*lfs)));
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    while let Some((content, lfs)) = next() {
                        content.identity(lfs);
                    }
                });
            }
        });
    }
}

/// A repository and the contents whose hashes it waits for.
struct Loading {
    repo: Repo,
    contents: Vec<Content>,
}

/// What `.hub.json` says.
struct Settings(Value);

impl Settings {
    fn read(folder: &Path) -> io::Result<Self> {
        let path = folder.join(SETTINGS);
        let text = match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => text,
            Ok(_) => "{}".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "{}".to_owned(),
            Err(error) => return Err(error),
        };
        let value = serde_json::from_str(&text)
            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
        Ok(Self(value))
    }

    fn apply(&self, mut repo: Repo, world: &mut World) -> Repo {
        let settings = &self.0;
        repo.private = settings["private"] == true;
        repo.disabled = settings["disabled"] == true;
        repo.gated = match &settings["gated"] {
            Value::Bool(true) => Some("auto".to_owned()),
            Value::String(how) => Some(how.clone()),
            _ => None,
        };
        repo.tokens = texts(&settings["tokens"]).map(str::to_owned).collect();
        if let Some(bytes) = settings["lfs_threshold"].as_u64() {
            repo.lfs_threshold = bytes;
        }
        for old in texts(&settings["renamed_from"]) {
            let kind = repo.kind;
            world.rename(&format!("{kind}/{old}"), &format!("{kind}/{}", repo.id));
        }
        repo
    }

    /// Whether `lfs` lists a path, or a pattern (`*` is anything) that it or its last part fits.
    fn lfs(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        texts(&self.0["lfs"]).any(|pattern| fits(pattern, path) || fits(pattern, name))
    }

    /// Sets the branches and tags that point at a revision which was just made.
    fn point(&self, mut repo: Repo, revision: &str, points: &mut BTreeMap<String, String>) -> Repo {
        let Some(head) = points.get(revision).cloned() else {
            return repo;
        };
        for (list, prefix) in [("branches", "refs/heads"), ("tags", "refs/tags")] {
            for (name, at) in self.0[list].as_object().into_iter().flatten() {
                if at == revision {
                    repo = repo.point(&format!("{prefix}/{name}"), &head);
                }
            }
        }
        repo
    }
}

/// The names of the folders in a folder, in order; none if it is not there.
fn folders(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.path().is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

/// Whether a text fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.into_iter().any(|at| fits(tail, &rest[at..]))
        }),
    }
}
