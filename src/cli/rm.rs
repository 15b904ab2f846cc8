//! `hf-oci rm`: removes cached images by name.

use clap::Args;

use super::Failure;
use super::manage::{Named, Target};
use crate::config::{ConfigError, Flags, Sources};
use crate::control::Request;

/// Removes a cached image, and what only it needs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci rm org/model:main
  hf-oci rm org/model --all-tags

Layers that other images have stay. An image that other tags mean too stays under them. What is being served goes when it has been. \
Whoever asks for the image again has it fetched again.

Exit codes: 0 done, 1 it failed or is pinned, 2 usage, 4 it is not cached.")]
pub(super) struct Rm {
    #[command(flatten)]
    target: Target,

    /// Image to remove
    #[arg(value_name = "NAME[:TAG]")]
    image: Named,

    /// Remove every tag and commit of the name
    #[arg(long)]
    all_tags: bool,
}

impl Rm {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let Named { name, tag } = self.image;
        if tag.is_some() == self.all_tags {
            let what = match tag {
                Some(_) => "--all-tags is for a name without a tag",
                None => "which tag? NAME:TAG removes one, NAME --all-tags all",
            };
            return Err(Failure::new(what).code(2));
        }
        let request = Request::Rm { name, tag };
        self.target.run(load, request).await.map(drop)
    }
}
