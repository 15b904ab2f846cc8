//! Where settings come from, and which place counts: flag, environment, file, default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::de::{DeTable, DeValue};

use super::keys::{self, KEYS, Key, LIST};
use super::rules;
use super::upstreams::{self, Block};
use super::value::ValueError;
use crate::fill::Rule;

/// Where rules for some repositories may stand.
const RULES: [&str; 2] = ["repositories", "repositories.rules"];

/// Settings given as flags: by [`Key::path`], as they were written.
pub type Flags = BTreeMap<&'static str, String>;

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A flag, without its dashes.
    Flag(&'static str),
    /// An environment variable.
    Env(String),
    /// A line of the configuration file.
    File {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The key, or as much of it as is known; may be empty.
        key: String,
    },
    /// Nobody set it.
    Default(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File { file, line, key } if key.is_empty() => {
                write!(f, "{}:{line}", file.display())
            }
            Self::File { file, line, key } => write!(f, "{}:{line}: {key}", file.display()),
            Self::Default(path) => write!(f, "default of {path}"),
        }
    }
}

/// A setting that is wrong: where it stands, and what is expected. Never holds a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {why}")]
pub struct ConfigError {
    /// Where the wrong value stands.
    pub place: Place,
    /// What is wrong with it and what is expected.
    pub why: String,
}

impl ConfigError {
    pub(super) fn new(place: Place, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { place, why }
    }
}

/// A process's environment, as far as settings are concerned. An empty variable is as good as none.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    vars: BTreeMap<String, OsString>,
    data_home: Option<PathBuf>,
}

impl Environment {
    /// That of this process, and its user's data folder.
    pub fn of_process() -> Self {
        let mut environment: Self = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect();
        environment.data_home = data_home(environment.vars.contains_key("HOME"));
        environment
    }

    /// The same, with `dir` as the folder in which programs keep their data.
    pub fn with_data_home(mut self, dir: impl Into<PathBuf>) -> Self {
        self.data_home = Some(dir.into());
        self
    }

    pub(super) fn data_home(&self) -> Option<&Path> {
        self.data_home.as_deref()
    }

    /// The variable, unless it is empty.
    pub(super) fn get(&self, name: &str) -> Result<Option<&str>, ConfigError> {
        let Some(value) = self.vars.get(name) else {
            return Ok(None);
        };
        value.to_str().map(Some).ok_or_else(|| {
            ConfigError::new(Place::Env(name.to_owned()), "its value is not UTF-8 text")
        })
    }

    /// `text` as a path; `~/` at its beginning is the home folder.
    pub(super) fn path(&self, text: &str) -> Result<PathBuf, ValueError> {
        let home = || self.get("HOME").ok().flatten();
        match text.strip_prefix('~') {
            Some("") => home().map(PathBuf::from),
            Some(rest) if rest.starts_with('/') => {
                home().map(|home| Path::new(home).join(&rest[1..]))
            }
            _ => Some(PathBuf::from(text)),
        }
        .ok_or_else(|| ValueError::new(text, "usable as a path without HOME; write it in full"))
    }

    /// Variables that look like settings and are none. What Kubernetes sets for a service called hf-oci is left alone.
    fn unknown(&self) -> impl Iterator<Item = &str> {
        let names = self.vars.keys().map(String::as_str);
        names.filter(|name| {
            let Some(rest) = name.strip_prefix("HF_OCI_") else {
                return false;
            };
            let service = rest.contains("SERVICE_") || rest == "PORT" || rest.contains("PORT_");
            !service && rest != "CONFIG" && !KEYS.iter().any(|key| key.env.contains(name))
        })
    }
}

/// Pairs of names and values; empty values are left out.
impl<K: Into<String>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(vars: I) -> Self {
        let vars = vars.into_iter().map(|(k, v)| (k.into(), v.into()));
        Self {
            vars: vars.filter(|(_, value)| !value.is_empty()).collect(),
            data_home: None,
        }
    }
}

/// The user's data folder: `~/.local/share` on Linux. A system service that runs as root without HOME has `/var/lib`.
fn data_home(home: bool) -> Option<PathBuf> {
    use etcetera::BaseStrategy;
    if !home && rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib"));
    }
    let strategy = etcetera::choose_base_strategy().ok()?;
    Some(strategy.data_dir())
}

/// The values of a configuration file, by path, with the line that each stands on.
#[derive(Debug, Default)]
struct File {
    path: PathBuf,
    values: BTreeMap<&'static str, (usize, String)>,
    rules: Vec<Rule>,
    upstreams: Vec<Block>,
}

/// All places that settings come from, read but not yet resolved.
#[derive(Debug)]
pub struct Sources {
    flags: Flags,
    environment: Environment,
    file: Option<File>,
}

impl Sources {
    /// Reads the configuration file: `config`, else the one that HF_OCI_CONFIG names, else none. Unknown keys in it are errors.
    pub fn load(
        flags: Flags,
        config: Option<&Path>,
        environment: Environment,
    ) -> Result<Self, ConfigError> {
        let named = match config {
            Some(path) => Some((Place::Flag("config"), path.to_owned())),
            None => environment
                .get("HF_OCI_CONFIG")?
                .map(|path| (Place::Env("HF_OCI_CONFIG".to_owned()), path.into())),
        };
        let file = match named {
            Some((place, path)) => {
                let text = std::fs::read_to_string(&path).map_err(|error| {
                    ConfigError::new(place, format!("cannot read {}: {error}", path.display()))
                })?;
                Some(File::parse(path, &text)?)
            }
            None => None,
        };
        Ok(Self {
            flags,
            environment,
            file,
        })
    }

    /// The environment.
    pub(super) const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The value of `path` that counts, and where it stands; `None` if nobody set it and the table has no default.
    ///
    /// A `path` that the table does not have is an error of the caller's, told as one.
    pub(super) fn find(&self, path: &str) -> Result<Option<(Place, &str)>, ConfigError> {
        let Some(key) = keys::find(path) else {
            return Err(ConfigError::new(
                Place::Default("?"),
                format!("no setting '{path}'"),
            ));
        };
        if let Some(value) = self.flags.get(key.path) {
            return Ok(Some((Place::Flag(key.flag), value)));
        }
        for name in key.env {
            if let Some(value) = self.environment.get(name)? {
                return Ok(Some((Place::Env((*name).to_owned()), value)));
            }
        }
        Ok(self
            .find_in_file(key)
            .or(key.default.map(|value| (Place::Default(key.path), value))))
    }

    /// Whether somebody set `path`, so that it is not the table's default.
    pub fn is_set(&self, path: &str) -> bool {
        let found = self.find(path).ok().flatten();
        found.is_some_and(|(place, _)| !matches!(place, Place::Default(_)))
    }

    /// The value of `key` in the file.
    pub(super) fn find_in_file(&self, key: &Key) -> Option<(Place, &str)> {
        let file = self.file.as_ref()?;
        let (line, value) = file.values.get(key.path)?;
        Some((file.place(*line, key.path), value))
    }

    /// The rules for some repositories.
    pub(super) fn rules(&self) -> Vec<Rule> {
        self.file
            .as_ref()
            .map_or_else(Vec::new, |f| f.rules.clone())
    }

    /// The upstreams that the file lists, in its order.
    pub(super) fn upstreams(&self) -> &[Block] {
        self.file.as_ref().map_or(&[], |file| &file.upstreams)
    }

    /// The line of the file that a key of one of those stands on.
    pub(super) fn place_of_upstream(&self, line: usize, key: &str) -> Place {
        let key = format!("upstreams.{key}");
        match &self.file {
            Some(file) => file.place(line, &key),
            None => Place::Default("upstream.url"),
        }
    }

    /// The value of `path`, read and then put through `check`, which says what else it expects.
    pub(super) fn get<T: FromStr<Err: fmt::Display>>(
        &self,
        path: &str,
        check: impl FnOnce(&T) -> Result<(), String>,
    ) -> Result<Option<T>, ConfigError> {
        let Some((place, text)) = self.find(path)? else {
            return Ok(None);
        };
        let value = text.trim().parse::<T>().map_err(|error| error.to_string());
        let checked = value.and_then(|value| check(&value).map(|()| value));
        checked.map(Some).map_err(|why| ConfigError { place, why })
    }

    /// What was set and has no effect, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let names = || KEYS.iter().flat_map(|key| key.env.iter().copied());
        let sentence = |name| match keys::nearest(name, names()) {
            Some(near) => {
                format!("the environment variable {name} is no setting; did you mean {near}?")
            }
            None => format!("the environment variable {name} is no setting"),
        };
        self.environment.unknown().map(sentence).collect()
    }
}

impl File {
    fn parse(path: PathBuf, text: &str) -> Result<Self, ConfigError> {
        let mut file = Self {
            path,
            values: BTreeMap::new(),
            rules: Vec::new(),
            upstreams: Vec::new(),
        };
        let table = DeTable::parse(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let has = |line: &str| text.lines().any(|l| l.trim() == line);
            let hint = match has("[repositories]") && has("[[repositories]]") {
                true => "; beside [repositories] with allow or deny, write rules as [[repositories.rules]]",
                false => "",
            };
            let why = format!("{}{hint}", error.message());
            ConfigError::new(file.place(line_of(text, start), ""), why)
        })?;
        file.take(text, table.get_ref(), "")?;
        Ok(file)
    }

    fn place(&self, line: usize, key: &str) -> Place {
        Place::File {
            file: self.path.clone(),
            line,
            key: key.to_owned(),
        }
    }

    /// Takes the values of a table whose path is `prefix`: empty, or with a dot at its end.
    fn take(&mut self, text: &str, table: &DeTable<'_>, prefix: &str) -> Result<(), ConfigError> {
        for (name, value) in table {
            let path = format!("{prefix}{}", name.get_ref());
            let line = line_of(text, name.span().start);
            let section = format!("{path}.");
            let is_section = KEYS.iter().any(|key| key.path.starts_with(&section));
            if path == upstreams::SECTION {
                let read = upstreams::read(text, line, value.get_ref());
                self.upstreams = read.map_err(|(line, key, why)| {
                    ConfigError::new(self.place(line, &format!("{path}{key}")), why)
                })?;
                continue;
            }
            let value = match value.get_ref() {
                DeValue::Table(inner) if is_section => {
                    self.take(text, inner, &section)?;
                    continue;
                }
                DeValue::Array(rules) if RULES.contains(&path.as_str()) => {
                    let locate = |at, key: &str| self.place(line_of(text, at), &joined(&path, key));
                    self.rules = rules::read(rules, &locate)?;
                    continue;
                }
                value => value,
            };
            let key = keys::find(&path).ok_or_else(|| {
                ConfigError::new(self.place(line, &path), unknown_key(&path, is_section))
            })?;
            let value = match key.value {
                LIST => list(value),
                _ => scalar(value),
            };
            let value = value.map_err(|why| ConfigError::new(self.place(line, &path), why))?;
            self.values.insert(key.path, (line, value));
        }
        Ok(())
    }
}

/// A key of a table.
fn joined(path: &str, key: &str) -> String {
    match key {
        "" => path.to_owned(),
        key => format!("{path}.{key}"),
    }
}

/// An array's values with commas between, or a text that has them.
pub(super) fn list(value: &DeValue<'_>) -> Result<String, String> {
    let DeValue::Array(values) = value else {
        return scalar(value);
    };
    let values = values.iter().map(|value| scalar(value.get_ref()));
    values.collect::<Result<Vec<_>, _>>().map(|v| v.join(","))
}

pub(super) fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| "the number is too large".to_owned()),
        DeValue::Boolean(on) => Ok(on.to_string()),
        other => Err(format!(
            "a string or a whole number is expected, not {}",
            other.type_str()
        )),
    }
}

fn unknown_key(path: &str, is_section: bool) -> String {
    if is_section {
        return format!("this is a section; write [{path}] and its keys beneath");
    }
    if path.rsplit('.').next() == Some("token") {
        return "unknown key; a token does not belong into this file: set HF_TOKEN, or upstream.token_file to a file that has it"
            .to_owned();
    }
    match keys::nearest(path, KEYS.iter().map(|key| key.path)) {
        Some(near) => format!("unknown key; did you mean {near}?"),
        None => "unknown key; config.example.toml has them all".to_owned(),
    }
}

/// The line, counted from 1, that the byte at `offset` stands on.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|byte| **byte == b'\n').count()
}
