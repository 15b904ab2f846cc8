//! Looking at a cache without changing it: through the running server, or at the folder itself.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use super::Failure;
use super::manage::{PATIENCE, Target, end};
use crate::config::{self, ConfigError, Flags, Sources};
use crate::control::{AskError, Event, Listing, Request, ask, look};
use crate::store::{Inventory, Limits, StoreError, last_uses};

impl Target {
    /// All that a request which changes nothing is answered with, the final event last. Blocks on files away from the runtime.
    pub(super) async fn look(
        &self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
        request: Request,
    ) -> Result<Vec<Event>, Failure> {
        let mut flags = Flags::new();
        flags.extend(self.data_dir.clone().map(|dir| ("data_dir", dir)));
        let sources = load(flags)?;
        let (data, limits) = (config::data_dir(&sources)?, config::cache(&sources)?);
        let done = tokio::task::spawn_blocking(move || answers(&data, &limits, &request)).await;
        done.unwrap_or_else(|error| Err(Failure::new("the command was lost").from(error)))
    }
}

/// The folder of a cache, or what is wrong with it.
pub(super) fn cache(data: &Path) -> Result<(), Failure> {
    let there = data.join("oci-layout").try_exists().map_err(|error| {
        let what = format!("cannot read the data folder {}", data.display());
        Failure::new(what)
            .from(error)
            .next("run this as its owner: the server's user")
    });
    if there? {
        return Ok(());
    }
    let what = format!("there is no cache in {}", data.display());
    Err(Failure::new(what).next("--data-dir DIR, or the configuration file that the server uses (--config), says where it is"))
}

fn answers(data: &Path, limits: &Limits, request: &Request) -> Result<Vec<Event>, Failure> {
    cache(data)?;
    let started = Instant::now();
    loop {
        let mut events = Vec::new();
        let mut each = |event| {
            events.push(event);
            true
        };
        match ask(data, request, &mut each) {
            Ok(()) => {}
            Err(AskError::Nobody) => here(data, limits, request, &mut each)?,
            // Whoever may read the folder, but not ask its server, sees what the folder says.
            Err(AskError::Broken(error)) if error.kind() == ErrorKind::PermissionDenied => {
                here(data, limits, request, &mut each)?;
            }
            // It was stopping; the next look is at the folder.
            Err(AskError::Stopped) if started.elapsed() < PATIENCE => {
                std::thread::sleep(PATIENCE / 50);
                continue;
            }
            Err(error) => {
                return Err(Failure::new("cannot ask the running server")
                    .from(error)
                    .next("run this as the server's user, who owns the data folder"));
            }
        }
        end(events.last().cloned())?;
        return Ok(events);
    }
}

/// Reads the folder.
fn here(
    data: &Path,
    limits: &Limits,
    request: &Request,
    each: &mut dyn FnMut(Event) -> bool,
) -> Result<(), Failure> {
    let fail = |error: StoreError| {
        Failure::new(format!("cannot read the data folder {}", data.display())).from(error)
    };
    let uses = last_uses(data).unwrap_or_default();
    let inventory = Inventory::read(data, &uses).map_err(fail)?;
    let listing = Listing {
        inventory: &inventory,
        limits,
        used: None,
    };
    let last = look(data, &listing, request, each).map_err(fail)?;
    each(last);
    Ok(())
}
