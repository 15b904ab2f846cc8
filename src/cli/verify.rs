//! `hf-oci verify`: hashes every blob again.

use clap::Args;

use super::Failure;
use super::manage::Target;
use crate::config::{ConfigError, Flags, Sources};
use crate::control::{Event, Request};

/// The exit code if something is wrong and was left so.
const DAMAGED: u8 = 3;

/// Hashes every cached blob, and reports those that are bad or missing
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci verify
  hf-oci verify --repair
  hf-oci verify --json | jq 'select(.event == \"finding\")'

With --repair, bad blobs are moved to quarantine in the data folder, and their images are incomplete: a running server fetches them \
again at once with its own Hub token, otherwise they are when they are asked for.

Exit codes: 0 all is well, or was repaired; 1 it failed; 2 usage; 3 something is wrong and was left so.")]
pub(super) struct Verify {
    #[command(flatten)]
    target: Target,

    /// Move bad blobs aside and have them fetched again
    #[arg(long)]
    repair: bool,
}

impl Verify {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let repair = self.repair;
        let end = self.target.run(load, Request::Verify { repair }).await?;
        match end {
            Event::Verified { bad, missing, .. } if bad + missing > 0 && !repair => {
                Err(Failure::new("the cache is damaged")
                    .next("hf-oci verify --repair moves bad blobs aside and has them fetched again")
                    .code(DAMAGED))
            }
            _ => Ok(()),
        }
    }
}
