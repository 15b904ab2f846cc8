//! `hf-oci pin` and `hf-oci unpin`: what is never evicted.

use clap::Args;

use super::Failure;
use super::manage::{Named, Target};
use crate::config::{ConfigError, Flags, Sources};
use crate::control::Request;

/// Keeps a cached image from being evicted
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci pin org/model:main
  hf-oci pin org/model:0123456789abcdef0123456789abcdef01234567

A pin belongs to the reference: when a tag comes to mean another commit, the new image is pinned, and the old one is not. Pin the \
commit to keep just that. The image must be cached; without a tag, latest is meant.

Exit codes: 0 done, 1 it failed, 2 usage, 4 it is not cached.")]
pub(super) struct Pin {
    #[command(flatten)]
    target: Target,

    /// Image to pin
    #[arg(value_name = "NAME[:TAG]")]
    image: Named,
}

impl Pin {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let (name, tag) = self.image.reference();
        let request = Request::Pin { name, tag };
        self.target.run(load, request).await.map(drop)
    }
}

/// Lets a pinned image be evicted again
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  hf-oci unpin org/model:main

Without a tag, latest is meant.

Exit codes: 0 done, 1 it failed, 2 usage, 4 it is not cached.")]
pub(super) struct Unpin {
    #[command(flatten)]
    target: Target,

    /// Image to unpin
    #[arg(value_name = "NAME[:TAG]")]
    image: Named,
}

impl Unpin {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let (name, tag) = self.image.reference();
        let request = Request::Unpin { name, tag };
        self.target.run(load, request).await.map(drop)
    }
}
