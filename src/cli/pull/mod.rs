//! `hf-oci pull`: fills images ahead of need.

mod bars;
mod list;
mod meter;
mod remote;
mod show;
mod source;

use std::sync::Arc;

use clap::Args;
use futures_util::stream::{self, StreamExt};
use reqwest::Url;

use super::Failure;
use super::flags::SettingFlags;
use super::manage::Exact;
use crate::config::{ConfigError, Flags, LogFilter, Settings, Sources};
use crate::control::{FailedLine, Wanted, Why};
use crate::server::Shutdown;
use crate::telemetry;

use remote::Remote;
use show::{Between, Show};
use source::Source;

/// Images that a server elsewhere is asked for at once.
const ELSEWHERE: usize = 8;

/// The exit code after a signal.
const INTERRUPTED: u8 = 130;

/// Fills images ahead of need
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci pull org/model
  hf-oci pull org/model:v1.0 datasets/org/data org/model/onnx
  hf-oci pull -f list.txt
  hf-oci pull --server http://proxy:5000 org/model

If a server has the data folder, it does the filling, with its own settings. Else this process does, with the settings that serve \
would have. What was cut off is gone on with. A list has a reference a line; # begins a comment. For each image that is cached \
NAME:TAG@DIGEST is printed; how far it is goes to stderr.

Exit codes: 0 all are cached; else the gravest of 5 the upstream or the server is in trouble, try again; 4 there is no such image, or it \
is refused; 1 anything else, such as a full disk. 2 usage, 130 interrupted.")]
pub(super) struct Pull {
    /// Images: [datasets/|spaces/]ORG/NAME[/PATH…][:TAG][@DIGEST]
    #[arg(value_name = "REF")]
    references: Vec<Exact>,

    /// List of images, a reference a line; - is stdin
    #[arg(short, long, value_name = "FILE")]
    file: Vec<String>,

    /// Server to ask instead of the one that has the data folder
    #[arg(long, value_name = "URL")]
    server: Option<Url>,

    /// Login at that server [default: what docker login left]
    #[arg(
        long,
        value_name = "NAME:PASSWORD",
        env = "HF_OCI_USER",
        hide_env_values = true
    )]
    user: Option<String>,

    /// Print events as JSON, an object a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    settings: SettingFlags,
}

impl Pull {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let (references, lists) = (self.references, self.file);
        let wanted = tokio::task::spawn_blocking(move || list::wanted(&references, &lists)).await;
        let wanted = wanted
            .map_err(|error| Failure::new("reading the lists was lost").from(error))
            .flatten()?;
        let sources = load(self.settings.0)?;
        let settings = Settings::resolve(&sources)?;
        let show = Arc::new(Show::new(self.json, wanted.len()));
        log(&sources, &settings, &show);
        let signals = Shutdown::on_signals()
            .map_err(|error| Failure::new("cannot wait for signals").from(error))?;
        let (source, at_once) = match self.server {
            Some(server) => {
                let remote = Remote::new(server, self.user).await?;
                (Source::Remote(remote), ELSEWHERE)
            }
            None => (
                Source::of_folder(&settings).await?,
                settings.fill.concurrent,
            ),
        };
        let ends = pull_all(&source, wanted, at_once, &show, &signals).await;
        let afterwards = source.afterwards();
        show.clear();
        tokio::select! {
            () = source.idle() => {}
            () = signals.begun() => {}
        }
        tokio::select! {
            () = source.close() => {}
            () = signals.at_once() => {}
        }
        ends.told(&show, afterwards)
    }
}

/// Starts the log. Unless somebody wants more, it says what is wrong only: the rest is shown.
fn log(sources: &Sources, settings: &Settings, show: &Arc<Show>) {
    let quiet = || "warn".parse::<LogFilter>().ok();
    let filter = match sources.is_set("log") {
        true => None,
        false => quiet(),
    };
    let filter = filter.unwrap_or_else(|| settings.log.clone());
    let between = Between(Arc::clone(show));
    telemetry::init_to(&filter, settings.log_format, move || between.clone());
}

/// How it ended.
struct Ends {
    wanted: usize,
    cached: usize,
    failed: Vec<FailedLine>,
    interrupted: bool,
}

/// Pulls some at once, until all have ended or a signal comes.
async fn pull_all(
    source: &Source,
    wanted: Vec<Wanted>,
    at_once: usize,
    show: &Arc<Show>,
    signals: &Shutdown,
) -> Ends {
    let mut ends = Ends {
        wanted: wanted.len(),
        cached: 0,
        failed: Vec::new(),
        interrupted: false,
    };
    let many = wanted.len() > 1;
    let each = stream::iter(wanted).map(|wanted| source.pull(wanted, show, signals));
    let mut each = std::pin::pin!(each.buffer_unordered(at_once.max(1)));
    loop {
        let next = tokio::select! {
            biased;
            () = signals.begun() => {
                ends.interrupted = true;
                break;
            }
            next = each.next() => next,
        };
        match next {
            None => break,
            Some(Ok(())) => ends.cached += 1,
            Some(Err(failed)) => {
                if many {
                    show.failed(&failed.image, &failed.message);
                }
                ends.failed.push(failed);
            }
        }
    }
    ends
}

impl Ends {
    /// Says how it ended, and gives that as an exit code.
    fn told(self, show: &Show, afterwards: &'static str) -> Result<(), Failure> {
        let names: Vec<String> = self.failed.iter().map(|f| f.image.clone()).collect();
        show.summary(self.cached, &names, self.interrupted);
        if self.interrupted {
            let what = format!(
                "interrupted: {} of {} images are cached",
                self.cached, self.wanted
            );
            return Err(Failure::new(what).next(afterwards).code(INTERRUPTED));
        }
        let Some(code) = self
            .failed
            .iter()
            .map(|f| code(f.why))
            .max_by_key(|c| gravity(*c))
        else {
            return Ok(());
        };
        let failure = match (self.failed.as_slice(), self.wanted) {
            ([only], 1) => Failure::new(format!(
                "{}: {}",
                only.image,
                super::table::plain(&only.message)
            )),
            (failed, wanted) => Failure::new(format!(
                "{} of {wanted} images are not cached: {}",
                failed.len(),
                names.join(", ")
            )),
        };
        let after = self.failed.iter().filter_map(|f| f.retry_after).max();
        Err(match (code, after) {
            (TROUBLE, Some(seconds)) => failure.next(format!("try again in {seconds} s")),
            (TROUBLE, None) => failure.next("try again: what is on disk is not fetched twice"),
            _ => failure,
        }
        .code(code))
    }
}

/// The exit code if the upstream is in trouble.
const TROUBLE: u8 = 5;

/// The exit code of a failure.
const fn code(why: Why) -> u8 {
    match why {
        Why::Upstream => TROUBLE,
        Why::NotFound | Why::Refused => 4,
        Why::NoRoom | Why::Other => 1,
    }
}

/// Which of several exit codes counts: what another attempt may heal is the least grave.
const fn gravity(code: u8) -> u8 {
    match code {
        TROUBLE => 0,
        4 => 1,
        _ => 2,
    }
}
