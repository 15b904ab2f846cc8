//! Where files come from: the one upstream of `[upstream]`, or the list of `[[upstreams]]`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use toml::de::DeValue;

use super::access::Globs;
use super::keys;
use super::source::{ConfigError, Place, Sources, line_of, list, scalar};
use super::token;
use super::value::Switch;
use crate::auth::Rules;
use crate::hub::{Endpoint, Token};

/// The list's name in the file.
pub(super) const SECTION: &str = "upstreams";

/// The keys of its entries.
const KEYS: [&str; 5] = ["url", "token_file", "allow", "deny", "public"];

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The Hub or a mirror.
    Hub(Endpoint),
    /// A folder of repositories, or a Hugging Face cache, on this machine.
    Folder(PathBuf),
}

/// The address, or the path.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub(endpoint) => endpoint.fmt(f),
            Self::Folder(path) => path.display().fmt(f),
        }
    }
}

/// An upstream, as it is set up.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Where it is.
    pub address: Address,
    /// The server's own credential there; `None` is anonymous. A folder has none.
    pub token: Option<Token>,
    /// Which repositories it is asked for.
    pub repositories: Rules,
    /// Whether everybody may read what is in a folder, where that is said.
    pub public: Option<bool>,
}

impl Origin {
    /// The endpoint, if it is the Hub or a mirror.
    pub const fn endpoint(&self) -> Option<&Endpoint> {
        match &self.address {
            Address::Hub(endpoint) => Some(endpoint),
            Address::Folder(_) => None,
        }
    }
}

/// An entry of the list, read but not resolved: its line, and of each key the line and the value.
#[derive(Debug)]
pub(super) struct Block {
    line: usize,
    values: BTreeMap<&'static str, (usize, String)>,
}

/// Reads the list. An error has its line, the rest of its key and what is wrong.
pub(super) fn read(
    text: &str,
    line: usize,
    value: &DeValue<'_>,
) -> Result<Vec<Block>, (usize, String, String)> {
    let wrong = |line, why: &str| (line, String::new(), why.to_owned());
    let why = "this is a list; write [[upstreams]] and the keys of each upstream beneath";
    let DeValue::Array(entries) = value else {
        return Err(wrong(line, why));
    };
    let mut blocks = Vec::new();
    for entry in entries {
        let line = line_of(text, entry.span().start);
        let DeValue::Table(table) = entry.get_ref() else {
            return Err(wrong(line, why));
        };
        let mut values = BTreeMap::new();
        for (name, value) in table {
            let line = line_of(text, name.span().start);
            let fail = |why: String| (line, format!(".{}", name.get_ref()), why);
            let Some(key) = KEYS.into_iter().find(|key| *key == &**name.get_ref()) else {
                return Err(fail(unknown_key(name.get_ref())));
            };
            let value = match key {
                "allow" | "deny" => list(value.get_ref()),
                _ => scalar(value.get_ref()),
            };
            values.insert(key, (line, value.map_err(fail)?));
        }
        blocks.push(Block { line, values });
    }
    Ok(blocks)
}

fn unknown_key(name: &str) -> String {
    if name == "token" {
        return "unknown key; a token does not belong into this file: set token_file to a file that has it".to_owned();
    }
    match keys::nearest(name, KEYS) {
        Some(near) => format!("unknown key; did you mean {near}?"),
        None => format!("unknown key; an upstream has {}", KEYS.join(", ")),
    }
}

/// The upstreams in their order: the one that a flag or variable names, else those that the file lists, else the one of the section
/// `upstream`. Reads the files of their tokens.
pub(super) fn origins(sources: &Sources) -> Result<Vec<Origin>, ConfigError> {
    let blocks = sources.upstreams();
    let (place, url) = match sources.find("upstream.url")? {
        Some(found) => found,
        None => {
            let place = Place::Default("upstream.url");
            return Err(ConfigError::new(place, "there is none; set it"));
        }
    };
    match place {
        Place::Default(_) if !blocks.is_empty() => {}
        Place::File { .. } if !blocks.is_empty() => {
            let why = "there are [[upstreams]] too, and only one of both can count; leave one out";
            return Err(ConfigError::new(place, why));
        }
        place => {
            let address = address(sources, url).map_err(|why| ConfigError::new(place, why))?;
            // Where the Hub's tools keep it, it may be of no use here.
            let token = match &address {
                Address::Hub(_) => token::find(sources)?,
                Address::Folder(_) => None,
            };
            return Ok(vec![Origin {
                address,
                token,
                repositories: Rules::default(),
                public: None,
            }]);
        }
    }
    if let Some((place @ Place::File { .. }, _)) = sources.find("upstream.token_file")? {
        let why = "there are [[upstreams]]; set token_file in the entry whose token it is";
        return Err(ConfigError::new(place, why));
    }
    blocks.iter().map(|block| block.origin(sources)).collect()
}

impl Block {
    fn origin(&self, sources: &Sources) -> Result<Origin, ConfigError> {
        let place = |line, key| sources.place_of_upstream(line, key);
        let Some((line, url)) = self.values.get("url") else {
            let why = "an upstream wants a url: an address like https://huggingface.co, or a path";
            return Err(ConfigError::new(place(self.line, "url"), why));
        };
        let address = address(sources, url);
        let address = address.map_err(|why| ConfigError::new(place(*line, "url"), why))?;
        let only = |key: &'static str, of: bool, why: &str| match self.values.get(key) {
            Some((line, _)) if !of => Err(ConfigError::new(place(*line, key), why)),
            value => Ok(value),
        };
        let is_folder = matches!(address, Address::Folder(_));
        let named = only(
            "token_file",
            !is_folder,
            "a folder is asked without a token",
        )?;
        let token = match (named, &address) {
            (Some((line, file)), _) => Some(token::read_named(
                sources,
                place(*line, "token_file"),
                file,
            )?),
            // The user's own token is the Hub's, and goes to nobody else.
            (None, Address::Hub(endpoint)) if endpoint.is_hub() => token::find(sources)?,
            (None, _) => None,
        };
        let why =
            "only a folder can be made public here; of others, the upstream says who may read what";
        let public = match only("public", is_folder, why)? {
            Some((line, text)) => {
                let switch: Result<Switch, _> = text.parse();
                let switch = switch
                    .map_err(|error| ConfigError::new(place(*line, "public"), error.to_string()))?;
                Some(switch.0)
            }
            None => None,
        };
        Ok(Origin {
            address,
            token,
            repositories: Rules {
                allow: self.globs(sources, "allow")?,
                deny: self.globs(sources, "deny")?,
            },
            public,
        })
    }

    fn globs(
        &self,
        sources: &Sources,
        key: &'static str,
    ) -> Result<Vec<crate::auth::Glob>, ConfigError> {
        let Some((line, text)) = self.values.get(key) else {
            return Ok(Vec::new());
        };
        let place = || sources.place_of_upstream(*line, key);
        let globs: Result<Globs, _> = text.parse();
        globs
            .map(|Globs(globs)| globs)
            .map_err(|error| ConfigError::new(place(), error.to_string()))
    }
}

/// An address, or a path: one that begins with `/`, `./`, `../` or `~/`, or with `file://`.
fn address(sources: &Sources, text: &str) -> Result<Address, String> {
    let text = text.trim();
    let path = match text.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => Some(path),
        Some(_) => return Err("a file:// address has a path that begins with /".to_owned()),
        None if matches!(text, "." | ".." | "~") => Some(text),
        None => Some(text).filter(|t| {
            let begins = |with| t.starts_with(with);
            begins("/") || begins("./") || begins("../") || begins("~/")
        }),
    };
    match path {
        Some(path) => {
            let path = sources.environment().path(path);
            path.map(Address::Folder).map_err(|error| error.to_string())
        }
        None => {
            let endpoint = text.parse::<Endpoint>().map_err(|error| error.to_string());
            let hint = |error| format!("{error}, or a path that begins with / or ./");
            endpoint.map(Address::Hub).map_err(hint)
        }
    }
}
