//! Names and passwords for registries, as Docker's configuration has them.

use std::fmt;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use reqwest::header::HeaderValue;

use super::{Destination, PushError};

/// A name and a password. `Debug` prints neither.
#[derive(Clone)]
pub struct Login(HeaderValue);

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    /// A login as it goes into a header.
    pub fn new(name: &str, password: &str) -> Result<Self, PushError> {
        let encoded = STANDARD.encode(format!("{name}:{password}"));
        let header = HeaderValue::from_str(&format!("Basic {encoded}"));
        let mut header =
            header.map_err(|_| PushError::other("this login cannot be sent by HTTP"))?;
        header.set_sensitive(true);
        Ok(Self(header))
    }

    /// What `docker login` left for a registry, in Docker's `config.json` or with the helper that is named there, else what `podman login`
    /// did. Blocks.
    pub fn configured(destination: &Destination) -> Result<Option<Self>, PushError> {
        let host = destination.host();
        match found(docker_credential::get_credential(host), is_there())? {
            None => found(docker_credential::get_podman_credential(host), false),
            login => Ok(login),
        }
    }

    pub(super) const fn header(&self) -> &HeaderValue {
        &self.0
    }
}

fn found(
    found: Result<DockerCredential, CredentialRetrievalError>,
    there: bool,
) -> Result<Option<Login>, PushError> {
    match found {
        Ok(DockerCredential::UsernamePassword(name, password)) => {
            Login::new(&name, &password).map(Some)
        }
        Ok(DockerCredential::IdentityToken(_)) => {
            let what = "Docker's configuration has an identity token for the registry, which hf-oci cannot log in with";
            Err(PushError::other(what)
                .next("docker login with a name and a password, or a token as the password"))
        }
        Err(
            CredentialRetrievalError::NoCredentialConfigured
            | CredentialRetrievalError::ConfigNotFound,
        ) => Ok(None),
        // One that is there and cannot be read is no reason to go on as if nobody had logged in.
        Err(CredentialRetrievalError::ConfigReadError) if !there => Ok(None),
        // What a helper printed may hold a password.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
            tracing::debug!(helper, "the credential helper has nothing for the registry");
            Ok(None)
        }
        Err(error) => Err(PushError::other(format!(
            "cannot read the configuration of docker or podman, which has the logins: {error}"
        ))),
    }
}

/// Whether Docker has a configuration.
fn is_there() -> bool {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    folder.is_some_and(|folder| folder.join("config.json").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_prints_nothing() {
        let login = Login::new("ann", "secret").expect("a login");
        let printed = format!("{login:?} {:?}", login.header());
        assert!(
            !printed.contains("secret") && !printed.contains("YW5u"),
            "{printed}"
        );
    }
}
