//! The `hf-oci` binary.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hf_oci::cli::{Cli, Failure};

/// How long work on blocking threads may go on after a command has ended.
const LINGER: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Runs the command on a thread for each core.
fn run(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new("cannot start threads").from(error))?;
    let end = runtime.block_on(cli.run());
    runtime.shutdown_timeout(LINGER);
    end
}
