//! The command line, one file a command.

mod cert;
mod copy;
mod export;
mod failure;
mod filling;
mod flags;
mod gate;
mod gc;
mod health;
mod import;
mod listing;
mod look;
mod manage;
mod meter;
mod origin;
mod pin;
mod pull;
mod rm;
mod serve;
mod table;
mod verify;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{Environment, Flags, Sources};

pub use failure::Failure;

/// Serves any Hugging Face repository as an OCI image.
#[derive(Debug, Parser)]
#[command(
    name = "hf-oci",
    version,
    arg_required_else_help = true,
    after_help = "\
Example:
  hf-oci serve
  # then, in a Dockerfile:
  COPY --from=127.0.0.1:5000/openai-community/gpt2 / /model"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Configuration file (TOML); none is read unless named here or in HF_OCI_CONFIG
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Health(health::Health),
    Cert(cert::Cert),
    Gc(gc::Gc),
    Pin(pin::Pin),
    Unpin(pin::Unpin),
    Pull(pull::Pull),
    Ls(listing::Ls),
    Inspect(listing::Inspect),
    Du(listing::Du),
    Rm(rm::Rm),
    Verify(verify::Verify),
    Export(export::Export),
    Import(import::Import),
    Copy(copy::Copy),
}

impl Cli {
    /// Does what the command line says. The runtime must be multi-threaded, with time and I/O.
    pub async fn run(self) -> Result<(), Failure> {
        let load = |flags: Flags| {
            let environment = Environment::of_process();
            Sources::load(flags, self.config.as_deref(), environment)
        };
        match self.command {
            Command::Serve(serve) => serve.run(load).await,
            Command::Health(health) => health.run(load).await,
            Command::Cert(cert) => cert.run(),
            Command::Gc(gc) => gc.run(load).await,
            Command::Pin(pin) => pin.run(load).await,
            Command::Unpin(unpin) => unpin.run(load).await,
            Command::Pull(pull) => pull.run(load).await,
            Command::Ls(ls) => ls.run(load).await,
            Command::Inspect(inspect) => inspect.run(load).await,
            Command::Du(du) => du.run(load).await,
            Command::Rm(rm) => rm.run(load).await,
            Command::Verify(verify) => verify.run(load).await,
            Command::Export(export) => export.run(load).await,
            Command::Import(import) => import.run(load).await,
            Command::Copy(copy) => copy.run(load).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_an_example() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
            let after = sub.get_after_help().map(ToString::to_string);
            assert!(
                after.is_some_and(|text| text.contains("Example")),
                "{}",
                sub.get_name()
            );
        }
    }
}
