//! What fills images, as the settings say: data folder, upstream, and the fills between them. The same for every command that fills.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::Failure;
use super::origin::Origin;
use crate::config::Settings;
use crate::fill::{FillSettings, Images};
use crate::hub::HubSettings;
use crate::store::{Limits, Store, StoreError};

/// Makes the data directory, if need be, and sees that it can be written.
pub(super) fn prepare_data_dir(dir: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;

    use rustix::fs::{Access, access};
    // Private models may come to lie here, so it is the user's alone unless its owner opens it.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| Ok(access(dir, Access::WRITE_OK | Access::EXEC_OK)?))
        .map_err(|error| {
            let next = match error.kind() {
                ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                    "a file is in the way; choose another folder with --data-dir".to_owned()
                }
                _ => format!(
                    "make it writable for user id {}, or choose another folder with --data-dir",
                    rustix::process::geteuid().as_raw()
                ),
            };
            Failure::new(format!("cannot use the data folder {}", dir.display()))
                .from(error)
                .next(next)
        })
}

/// Opens the store, away from the runtime's threads.
pub(super) async fn open_store(settings: &Settings) -> Result<Arc<Store>, Failure> {
    let dir = settings.data_dir.clone();
    // What is given up offline cannot be fetched again, and nothing new comes that needs room.
    let limits = match settings.offline {
        true => Limits::default(),
        false => settings.cache,
    };
    let opened = tokio::task::spawn_blocking(move || Store::open_with(&dir, limits)).await;
    let opened = opened.map_err(|error| Failure::new("opening the store was lost").from(error))?;
    opened.map(Arc::new).map_err(|error| {
        let what = format!("cannot use the data folder {}", settings.data_dir.display());
        let locked = matches!(error, StoreError::Locked(_));
        let failure = Failure::new(what).from(error);
        match locked {
            true => failure.next(
                "another hf-oci uses this folder; stop it, or choose another one with --data-dir",
            ),
            false => failure,
        }
    })
}

/// Where files come from.
pub(super) fn origin(settings: &Settings) -> Result<Origin, Failure> {
    Origin::of(settings, hub_settings(settings))
}

/// Images of `origin`, kept in `store`. `proof`: whether not all who pull from this folder may read the same.
pub(super) fn images(
    settings: &Settings,
    origin: Origin,
    store: &Arc<Store>,
    proof: bool,
) -> Arc<Images> {
    let anonymous = origin.anonymous(settings);
    let fills = FillSettings {
        proof,
        ..fill_settings(settings)
    };
    let images = Images::new(origin.own, Arc::clone(store), fills);
    Arc::new(match anonymous {
        Some(anonymous) => images.with_credentials(anonymous),
        None => images,
    })
}

fn fill_settings(settings: &Settings) -> FillSettings {
    FillSettings {
        memory: settings.fill.memory,
        connections: settings.fill.connections,
        layers: settings.fill.layers,
        concurrent: settings.fill.concurrent,
        layout: settings.fill.layout,
        tag_ttl: settings.tag_ttl,
        rules: Arc::clone(&settings.rules),
        ..FillSettings::default()
    }
}

/// What all clients of the Hub have in common. Each serves all fills, so it may read as many bodies at once as their memory holds chunks.
fn hub_settings(settings: &Settings) -> HubSettings {
    const CHUNK: u64 = 4 << 20;
    let chunks = usize::try_from(settings.fill.memory / CHUNK).unwrap_or(usize::MAX);
    HubSettings {
        connections: chunks.max(settings.fill.connections),
        stall: settings.upstream.stall_timeout,
        connect: settings.upstream.connect_timeout,
        ..HubSettings::default()
    }
}
