//! The Hub token: from the environment or a file, never from a flag or the configuration file.

use std::path::{Path, PathBuf};

use super::keys;
use super::source::{ConfigError, Place, Sources};
use crate::hub::Token;

const PATH: &str = "upstream.token_file";

/// The first of: the file of the flag, HF_TOKEN, the files of HF_OCI_UPSTREAM_TOKEN_FILE, HF_TOKEN_PATH and the configuration
/// file, and the file in which the Hub's own tools keep theirs. `None`: anonymous.
///
/// A file that one of our settings names must be there. Those of the Hub's tools may be missing, as they may for them.
pub(super) fn find(sources: &Sources) -> Result<Option<Token>, ConfigError> {
    let env = sources.environment();
    let ours = sources.find(PATH)?;
    if let Some((place @ Place::Flag(_), path)) = ours {
        return read_named(sources, place, path).map(Some);
    }
    if let Some(token) = env.get("HF_TOKEN")? {
        let place = Place::Env("HF_TOKEN".to_owned());
        return check(token).map_err(|why| ConfigError::new(place, why));
    }
    if let Some((place @ Place::Env(_), path)) = ours {
        return read_named(sources, place, path).map(Some);
    }
    if let Some(path) = env.get("HF_TOKEN_PATH")? {
        let place = Place::Env("HF_TOKEN_PATH".to_owned());
        let path = resolve(sources, &place, path)?;
        return read(&path).map_err(|why| ConfigError::new(place, why));
    }
    if let Some((place, path)) = keys::find(PATH).and_then(|key| sources.find_in_file(key)) {
        return read_named(sources, place, path).map(Some);
    }
    // Only where the Hub's tools would look by themselves: if it cannot be read, it was not meant for this user.
    Ok(default_file(sources)?.and_then(|path| read(&path).ok().flatten()))
}

/// `$HF_HOME/token`.
fn default_file(sources: &Sources) -> Result<Option<PathBuf>, ConfigError> {
    let env = sources.environment();
    if let Some(home) = env.get("HF_HOME")? {
        let place = Place::Env("HF_HOME".to_owned());
        return Ok(Some(resolve(sources, &place, home)?.join("token")));
    }
    let cache = match env.get("XDG_CACHE_HOME")? {
        Some(cache) => Some(PathBuf::from(cache)),
        None => env.get("HOME")?.map(|home| Path::new(home).join(".cache")),
    };
    Ok(cache.map(|cache| cache.join("huggingface/token")))
}

fn resolve(sources: &Sources, place: &Place, path: &str) -> Result<PathBuf, ConfigError> {
    let path = sources.environment().path(path);
    path.map_err(|error| ConfigError::new(place.clone(), error.to_string()))
}

/// The token of a file that must hold one.
pub(super) fn read_named(
    sources: &Sources,
    place: Place,
    path: &str,
) -> Result<Token, ConfigError> {
    let path = resolve(sources, &place, path)?;
    let missing = |what: &str| format!("{what} {}", path.display());
    match read(&path) {
        Ok(Some(token)) => Ok(token),
        Ok(None) if path.exists() => Err(ConfigError::new(place, missing("there is no token in"))),
        Ok(None) => Err(ConfigError::new(place, missing("there is no file"))),
        Err(why) => Err(ConfigError::new(place, why)),
    }
}

/// The token of a file; `None` if the file is missing or blank.
fn read(path: &Path) -> Result<Option<Token>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => check(&text).map_err(|why| format!("{}: {why}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// The token; `None` if the text is blank.
fn check(text: &str) -> Result<Option<Token>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    Token::new(text)
        .map(Some)
        .map_err(|error| error.to_string())
}
