//! `hf-oci gc`: deletes what nothing reaches.

use clap::Args;

use super::Failure;
use super::manage::Target;
use crate::config::{ConfigError, Flags, Sources};
use crate::control::Request;

/// Deletes blobs that no image has, and unfinished layers that no fill goes on with
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci gc
  hf-oci gc --data-dir /srv/hf-oci --json

No image goes: for that there are hf-oci rm, and eviction under cache.max_size and cache.min_free. What is being served or filled \
stays. With or without a running server.

Exit codes: 0 done, 1 it failed, 2 usage.")]
pub(super) struct Gc {
    #[command(flatten)]
    target: Target,
}

impl Gc {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        self.target.run(load, Request::Gc).await.map(drop)
    }
}
