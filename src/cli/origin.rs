//! The upstream as it is set up: the Hub, folders on this machine, several of them in order, or nobody.

use std::path::Path;
use std::sync::Arc;

use super::Failure;
use crate::config::{Address, AuthMode, Origin as Setup, Settings};
use crate::hub::{
    Chain, ContentIds, Credentials, HubClient, HubSettings, Link, Local, LocalKind, Offline,
    Upstream,
};
use crate::repo::RepoId;

/// Where, in the data folder, it is remembered what files of local folders hash to.
const CONTENT_IDS: &str = "content-ids";

/// What to do about an upstream that nobody may read.
const NOBODY: &str = "upstream.share_private (in [[upstreams]]: public = true) gives all of it to whoever reaches the server; auth.mode htpasswd gives it to the users of a file";

/// Where files come from, asked with the server's own credentials and with those of others.
pub(super) struct Origin {
    pub(super) own: Arc<dyn Upstream>,
    pub(super) credentials: Arc<dyn Credentials>,
}

impl Origin {
    /// What the settings name. `hub` is what all clients of the Hub have in common.
    pub(super) fn of(settings: &Settings, hub: HubSettings) -> Result<Self, Failure> {
        let setups = &settings.upstream.origins;
        let folders_only = setups.iter().all(|setup| setup.endpoint().is_none());
        if folders_only && settings.auth.mode == AuthMode::HuggingFace {
            let failure = Failure::new("auth.mode huggingface wants an upstream that knows tokens");
            return Err(failure.next(
                "a folder knows none: take another mode, or list the Hub in [[upstreams]] too",
            ));
        }
        let ids = Arc::new(ContentIds::new(settings.data_dir.join(CONTENT_IDS)));
        let mut links = Vec::new();
        for setup in setups {
            links.extend(link(settings, setup, &hub, &ids)?);
        }
        if links.is_empty() {
            let failure = Failure::new("nobody may read any of the [[upstreams]]");
            return Err(failure.next(NOBODY));
        }
        if settings.offline {
            if tells_apart(settings) {
                warn_of_hidden(setups);
            }
            // What no folder has may be in the cache.
            links.push(nobody(false));
        }
        match links.as_slice() {
            [only] if setups.iter().all(|setup| setup.repositories.is_empty()) => Ok(Self {
                own: Arc::clone(&only.own),
                credentials: Arc::clone(&only.credentials),
            }),
            _ => {
                let chain = Arc::new(Chain::new(links, tells_apart(settings)));
                Ok(Self {
                    own: Arc::clone(&chain) as Arc<dyn Upstream>,
                    credentials: chain,
                })
            }
        }
    }

    /// Where files come from, asked without credentials, if the server has some.
    pub(super) fn anonymous(&self, settings: &Settings) -> Option<Arc<dyn Upstream>> {
        let token = settings.upstream.has_token();
        token.then(|| self.credentials.with_token(None))
    }
}

/// Says which folders are not asked offline for what an upstream on the network is meant for.
fn warn_of_hidden(setups: &[Setup]) {
    let after = setups.iter().skip_while(|setup| setup.endpoint().is_none());
    for folder in after.filter(|setup| setup.endpoint().is_none()) {
        tracing::warn!(
            "the upstream {} is asked only for what the patterns of the upstreams on the network before it leave out, also offline: not all who ask may read the same, and a name must not mean another repository. List it before them to change that",
            folder.address
        );
    }
}

/// Whether those who ask may not all read the same; where the address is what decides that, the one that is set.
fn tells_apart(settings: &Settings) -> bool {
    match settings.auth.mode {
        AuthMode::HuggingFace => true,
        AuthMode::Htpasswd(_) => false,
        AuthMode::None => {
            let host = settings.listen.host.as_str();
            let loopback = host.parse::<std::net::IpAddr>().map(|ip| ip.is_loopback());
            let loopback = loopback.unwrap_or(host == "localhost");
            !(settings.upstream.share_private || loopback)
        }
    }
}

fn link(
    settings: &Settings,
    setup: &Setup,
    hub: &HubSettings,
    ids: &Arc<ContentIds>,
) -> Result<Option<Link>, Failure> {
    let link = match &setup.address {
        Address::Hub(_) if settings.offline => nobody(true),
        Address::Hub(endpoint) => {
            let client = HubClient::new(HubSettings {
                endpoint: endpoint.clone(),
                token: setup.token.clone(),
                ..hub.clone()
            });
            let client = client.map_err(|error| {
                Failure::new(format!("cannot reach the upstream {endpoint}")).from(error)
            })?;
            to(Arc::new(client), true)
        }
        Address::Folder(path) => match folder(settings, setup, path, ids)? {
            Some(folder) => to(Arc::new(folder), false),
            None => return Ok(None),
        },
    };
    let rules = setup.repositories.clone();
    Ok(Some(Link {
        serves: Arc::new(move |repo| rules.check(repo).is_ok()),
        ..link
    }))
}

fn to<T: Upstream + Credentials>(upstream: Arc<T>, is_hub: bool) -> Link {
    Link {
        own: Arc::clone(&upstream) as Arc<dyn Upstream>,
        credentials: upstream,
        serves: Arc::new(|_| true),
        is_hub,
    }
}

/// In the place of an upstream that is not asked.
fn nobody(is_hub: bool) -> Link {
    to(Arc::new(Offline), is_hub)
}

/// A folder on this machine; `None` if nobody may have what is in it. Those who put repositories into a folder meant to give them out;
/// what is in a cache may be there because of a token, and nobody who asks can show that they have it.
fn folder(
    settings: &Settings,
    setup: &Setup,
    path: &Path,
    ids: &Arc<ContentIds>,
) -> Result<Option<Local>, Failure> {
    let shown = path.display();
    let (kind, place) = LocalKind::of(path).map_err(|error| {
        Failure::new(format!("cannot use the upstream {shown}"))
            .from(error)
            .next("--upstream wants a folder that the server's user may read, or an address such as https://huggingface.co")
    })?;
    let (what, public) = match kind {
        LocalKind::Folder => ("a folder of repositories", true),
        LocalKind::Cache => ("a Hugging Face cache", settings.upstream.share_private),
    };
    let public = setup.public.unwrap_or(public);
    if !public && tells_apart(settings) {
        let why = format!("the upstream {shown} is {what}, and may hold what only a token opened");
        if settings.upstream.origins.len() == 1 {
            return Err(Failure::new(why).next(NOBODY));
        }
        tracing::warn!("{why}: it is passed over. {NOBODY}");
        return Ok(None);
    }
    tracing::info!(path = %shown, public, "the upstream is {what}");
    let rules = [settings.repositories.clone(), setup.repositories.clone()];
    let denied = Arc::new(move |repo: &RepoId| rules.iter().any(|rules| rules.denies(repo)));
    let local = Local::new(place, kind, !public, Arc::clone(ids), denied);
    Ok(Some(local))
}
