//! `hf-oci copy`: pushes cached images to a registry elsewhere.

mod show;

use std::path::Path;
use std::sync::Arc;

use clap::Args;

use super::Failure;
use super::export::{self, Keeper};
use super::manage::{Named, Target};
use crate::bundle::{Listed, Refusal};
use crate::config::{self, ConfigError, Flags, Sources};
use crate::oci::{Digest, Index, Manifest};
use crate::push::{Blob, Destination, Image, Login, PushError, Pusher, Retries, Why};
use crate::server::Shutdown;

use show::Show;

/// The exit code if the registry is in trouble.
const TROUBLE: u8 = 5;

/// The exit code if the registry says no.
const REFUSED: u8 = 4;

/// The exit code after a signal.
const INTERRUPTED: u8 = 130;

/// Pushes cached images to another registry
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci copy org/model:main registry.example.com/mirror
  hf-oci copy org/model:main org/other:v2 127.0.0.1:5001 --plain-http

The image org/model:main becomes registry.example.com/mirror/org/model:main, with the same digests. What the registry has is not sent \
again, and what several images share is sent once. The login is what docker login or podman login left in Docker's config.json, or what \
the helper named there knows. Images must be cached: hf-oci pull fills them.

For each image that is there HOST/NAME:TAG@DIGEST is printed; how far it is goes to stderr.

Exit codes: 0 all are there; else the gravest of 5 the registry is in trouble, try again; 4 an image is not cached, or the registry says \
no; 1 anything else. 2 usage, 130 interrupted.")]
pub(super) struct Copy {
    #[command(flatten)]
    target: Target,

    /// Images to push; without a tag, latest
    #[arg(value_name = "NAME[:TAG]", required = true)]
    images: Vec<Named>,

    /// Where they are pushed to
    #[arg(value_name = "REGISTRY[/PREFIX]")]
    destination: Destination,

    /// Speak HTTP without TLS
    #[arg(long)]
    plain_http: bool,

    /// How often a request is tried again when the registry is in trouble
    #[arg(long, value_name = "N", default_value_t = 5)]
    retries: u32,
}

impl Copy {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let show = Arc::new(Show::new(self.target.json()));
        let data = config::data_dir(&self.target.sources(load)?)?;
        let wanted: Vec<_> = self.images.into_iter().map(Named::reference).collect();
        let destination = self.destination;
        let find = destination.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare(&data, &wanted, &find)).await;
        let prepared =
            prepared.map_err(|error| Failure::new("the command was lost").from(error))??;
        let Prepared {
            images,
            login,
            keeper,
        } = prepared;
        if login.is_some() && self.plain_http && !destination.is_loopback() {
            show.warn("the login crosses the network without TLS");
        }
        let teller = Arc::clone(&show);
        let retries = Retries {
            most: self.retries,
            tell: Box::new(move |error, pause| teller.trouble(error, pause)),
        };
        let pusher = Pusher::new(destination, login, self.plain_http, retries)?;
        let signals = Shutdown::on_signals()
            .map_err(|error| Failure::new("cannot wait for signals").from(error))?;
        let ended = tokio::select! {
            biased;
            () = signals.begun() => Err(Failure::new("interrupted")
                .next("the same command goes on: what the registry has is not sent again")
                .code(INTERRUPTED)),
            ended = copy_all(&pusher, &images, &show) => ended,
        };
        // Closing a store takes a moment.
        let let_go = tokio::task::spawn_blocking(move || drop(keeper)).await;
        ended.and(let_go.map_err(|error| Failure::new("the cache was not closed").from(error)))
    }
}

/// What is to be pushed, held so that it stays.
struct Prepared {
    images: Vec<Image>,
    login: Option<Login>,
    keeper: Keeper,
}

fn prepare(
    data: &Path,
    wanted: &[(String, String)],
    destination: &Destination,
) -> Result<Prepared, Failure> {
    let login = Login::configured(destination)?;
    let (listed, keeper) =
        export::hold(data, wanted).map_err(|failure| match failure.exit_code() == REFUSED {
            true => failure.then("hf-oci pull fills an image that is not cached"),
            false => failure,
        })?;
    let images = listed.iter().map(|listed| image(data, listed));
    Ok(Prepared {
        images: images.collect::<Result<_, _>>()?,
        login,
        keeper,
    })
}

/// All of an image, its documents held against their digests.
fn image(data: &Path, listed: &Listed) -> Result<Image, Failure> {
    let odd =
        |digest: &Digest| Refusal::new(format!("the blob {digest}"), "is no document of an image");
    let top = &listed.top.digest;
    let (Some(name), Some(tag)) = (&listed.name, &listed.tag) else {
        return Err(Refusal::new(format!("the image {top}"), "has no name and tag").into());
    };
    let index = export::document(data, top)?;
    let parsed: Index = serde_json::from_slice(&index).map_err(|_| odd(top))?;
    let mut image = Image {
        name: name.to_string(),
        tag: tag.to_string(),
        index,
        manifests: Vec::new(),
        blobs: Default::default(),
    };
    for descriptor in &parsed.manifests {
        let bytes = export::document(data, &descriptor.digest)?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|_| odd(&descriptor.digest))?;
        for part in manifest.layers.iter().chain([&manifest.config]) {
            let blob = Blob {
                digest: part.digest,
                size: part.size,
                path: export::blob(data, &part.digest),
            };
            image.blobs.insert(part.digest, blob);
        }
        image.manifests.push(bytes);
    }
    Ok(image)
}

/// Pushes one after the other. What one of them meets does not keep the others, unless the registry is in trouble.
async fn copy_all(pusher: &Pusher, images: &[Image], show: &Arc<Show>) -> Result<(), Failure> {
    let mut failed: Vec<(String, PushError)> = Vec::new();
    let mut copied = 0;
    for image in images {
        let name = format!("{}:{}", image.name, image.tag);
        let tell = |blob: &Blob, how| show.blob(&name, blob, how);
        show.begin(&name, image);
        let ended = {
            let mut work = std::pin::pin!(pusher.image(image, &tell));
            loop {
                tokio::select! {
                    ended = &mut work => break ended,
                    () = tokio::time::sleep(show.tick()) => show.progress(pusher.sent()),
                }
            }
        };
        match ended {
            Ok(done) => {
                copied += 1;
                show.copied(&name, &done);
            }
            Err(error) => {
                show.failed(&name, &error, images.len() > 1);
                let trouble = error.why == Why::Trouble;
                failed.push((name, error));
                if trouble {
                    break;
                }
            }
        }
    }
    show.summary(
        copied,
        failed.iter().map(|(name, _)| name.as_str()),
        pusher.sent(),
    );
    ended(images.len(), failed)
}

fn ended(images: usize, failed: Vec<(String, PushError)>) -> Result<(), Failure> {
    let worst = failed
        .iter()
        .map(|(_, error)| error.why)
        .max_by_key(gravity);
    let Some(worst) = worst else {
        return Ok(());
    };
    let failure = match (failed.as_slice(), images) {
        ([(name, error)], 1) => Failure::from_push(name, error),
        (failed, images) => {
            let names: Vec<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
            let names = names.join(", ");
            Failure::new(format!(
                "{} of {images} images are not copied: {names}",
                failed.len()
            ))
        }
    };
    Err(match worst {
        Why::Trouble => {
            failure.then("the same command goes on: what the registry has is not sent again")
        }
        _ => failure,
    }
    .code(code(worst)))
}

const fn code(why: Why) -> u8 {
    match why {
        Why::Trouble => TROUBLE,
        Why::Refused => REFUSED,
        Why::Other => 1,
    }
}

/// Which of several counts: what another attempt may heal is the least grave.
const fn gravity(why: &Why) -> u8 {
    match why {
        Why::Trouble => 0,
        Why::Refused => 1,
        Why::Other => 2,
    }
}

impl Failure {
    fn from_push(name: &str, error: &PushError) -> Self {
        let failure = Self::new(format!("{name}: {error}"));
        match error.next {
            Some(next) => failure.next(next),
            None => failure,
        }
    }
}

impl From<PushError> for Failure {
    fn from(error: PushError) -> Self {
        let failure = Self::new(error.to_string()).code(code(error.why));
        match error.next {
            Some(next) => failure.next(next),
            None => failure,
        }
    }
}
