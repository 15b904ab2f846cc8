//! Names and passwords for registries, as Docker's configuration has them.

use std::fmt;

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

    /// What `docker login` left for a registry: in Docker's `config.json`, or with the helper that is named there. Blocks.
    pub fn configured(destination: &Destination) -> Result<Option<Self>, PushError> {
        match docker_credential::get_credential(destination.host()) {
            Ok(DockerCredential::UsernamePassword(name, password)) => {
                Self::new(&name, &password).map(Some)
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
            // What a helper printed may hold a password.
            Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
                tracing::debug!(
                    helper,
                    "Docker's credential helper has nothing for the registry"
                );
                Ok(None)
            }
            Err(error) => Err(PushError::other(format!(
                "cannot read Docker's configuration: {error}"
            ))),
        }
    }

    pub(super) const fn header(&self) -> &HeaderValue {
        &self.0
    }
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
