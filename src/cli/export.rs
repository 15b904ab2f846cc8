//! `hf-oci export`: writes images into one file that standard tools read, and that another site imports.

mod aside;
mod former;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::Failure;
use super::look::cache;
use super::manage::{Named, Target, end, through};
use crate::bundle::{Contents, List, Listed, MAX_DOCUMENT, Refusal, Shape, check};
use crate::config::{self, ConfigError, Flags, Sources};
use crate::control::{Connection, Event, Transfer, transfer};
use crate::oci::Digest;
use crate::store::{Bytes, Held, Hold, Store};

/// Writes cached images into a bundle: an OCI archive for sites without internet
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hf-oci export org/model:main -o model.tar
  hf-oci export org/model:main org/other:v2 -o - | ssh offline hf-oci import -
  hf-oci export org/model:main -o first.tar --list first.list
  hf-oci export org/model:next -o next.tar --since first.list

The same images give the same bytes at any time on any machine; images that have blobs in common share them. The file is also read by \
skopeo (oci-archive:model.tar:org/model:main), podman pull with the same name, and docker load with containerd's image store.

With --since, blobs that a former bundle has are left out: the other site must have imported that one. What stands for it is the former \
bundle itself or the list that its export wrote with --list, which also has what an incremental bundle leaves out. Several may be given.

It is written to FILE.partial, which becomes FILE when it is complete; with --resume, what is there of it is verified and gone on with.

Exit codes: 0 done, 1 it failed, 2 usage, 4 an image is not cached.")]
pub(super) struct Export {
    #[command(flatten)]
    target: Target,

    /// Images to write; without a tag, latest
    #[arg(value_name = "NAME[:TAG]", required = true)]
    images: Vec<Named>,

    /// File to write; - is stdout
    #[arg(short, long, value_name = "FILE|-")]
    output: PathBuf,

    /// Leave out what this former bundle has; or the list of one
    #[arg(long, value_name = "FILE")]
    since: Vec<PathBuf>,

    /// Also write the list of all blobs of the images, for a later --since
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,

    /// Go on with a file that an earlier export did not finish
    #[arg(long)]
    resume: bool,
}

/// Keeps what is copied away from being deleted.
pub(super) enum Keeper {
    Server(#[expect(dead_code, reason = "held until it is dropped")] Connection),
    /// The store after what is held of it, which goes first.
    Here(#[expect(dead_code, reason = "held until it is dropped")] Box<(Held, Store)>),
}

impl Export {
    pub(super) async fn run(
        self,
        load: impl FnOnce(Flags) -> Result<Sources, ConfigError>,
    ) -> Result<(), Failure> {
        let json = self.target.json();
        let data = config::data_dir(&self.target.sources(load)?)?;
        let order = Order {
            data,
            images: self.images.into_iter().map(Named::reference).collect(),
            output: self.output,
            since: self.since,
            list: self.list,
            resume: self.resume,
            json,
        };
        let done = tokio::task::spawn_blocking(move || order.export()).await;
        done.unwrap_or_else(|error| Err(Failure::new("the command was lost").from(error)))
    }
}

/// What is to be done.
struct Order {
    data: PathBuf,
    images: Vec<(String, String)>,
    output: PathBuf,
    since: Vec<PathBuf>,
    list: Option<PathBuf>,
    resume: bool,
    json: bool,
}

impl Order {
    fn export(&self) -> Result<(), Failure> {
        let stdout = self.output.as_os_str() == "-";
        if stdout && std::io::stdout().is_terminal() {
            let failure = Failure::new("a bundle is not for a terminal");
            return Err(failure.next("-o FILE writes it to a file"));
        }
        if stdout && self.resume {
            return Err(Failure::new("--resume is for files").code(2));
        }
        if let Some(list) = &self.list {
            if *list == self.output {
                return Err(Failure::new("--list and -o name the same file").code(2));
            }
            // Not after the bundle was written in vain.
            aside::target(list)?;
        }
        let former = former::read(&self.since)?;
        let (images, _keeper) = hold(&self.data, &self.images)?;
        let shape = self.shape(images, former.as_ref())?;
        match stdout {
            true => write::stream(&self.data, &shape)?,
            false => write::file(&self.data, &shape, &self.output, self.resume)?,
        }
        // A list stands for a bundle that there is.
        if let Some(list) = &self.list {
            let listed = write::small(list, shape.list.render().as_bytes());
            listed.map_err(|failure| failure.then("the bundle itself is written"))?;
        }
        self.tell(&shape, stdout);
        Ok(())
    }

    /// Lays out the bundle of some images.
    fn shape(&self, images: Vec<Listed>, former: Option<&List>) -> Result<Shape, Failure> {
        let mut blobs = BTreeMap::new();
        for image in &images {
            let checked = check(image, &mut |digest| document(&self.data, digest))?;
            blobs.extend(checked.blobs);
        }
        let contents = Contents {
            images,
            omits: None,
        };
        Shape::new(contents, blobs, former).map_err(Into::into)
    }

    /// On stderr where stdout is the bundle.
    fn tell(&self, shape: &Shape, stdout: bool) {
        let (images, omitted) = (self.images.len(), shape.omitted.0.len());
        let blobs = shape.list.0.len() - omitted;
        let line = if self.json {
            json!({
                "event": "exported",
                "images": images,
                "blobs": blobs,
                "bytes": shape.size(),
                "left_out": omitted,
            })
            .to_string()
        } else {
            let left = match omitted {
                0 => String::new(),
                omitted => format!("; {omitted} blobs are left out"),
            };
            format!(
                "exported {images} images: {blobs} blobs, {}{left}",
                Bytes(shape.size())
            )
        };
        // The bundle is written, whoever reads this.
        let _ = match stdout {
            true => writeln!(std::io::stderr(), "{line}"),
            false => writeln!(std::io::stdout(), "{line}"),
        };
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new("the cache has something that is no image of hf-oci")
            .from(refusal)
            .next("hf-oci verify --repair has what is damaged fetched again")
    }
}

/// A document of the cache.
pub(super) fn document(data: &Path, digest: &Digest) -> Result<Vec<u8>, Failure> {
    let fail = || Failure::new(format!("cannot read the blob {digest}"));
    let file = File::open(blob(data, digest)).map_err(|error| fail().from(error))?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| fail().from(error))?;
    match bytes.len() as u64 <= MAX_DOCUMENT && Digest::of(&bytes) == *digest {
        true => Ok(bytes),
        false => Err(Refusal::new(format!("the blob {digest}"), "is damaged").into()),
    }
}

/// Where a blob stands.
pub(super) fn blob(data: &Path, digest: &Digest) -> PathBuf {
    data.join("blobs/sha256").join(digest.hex())
}

/// Holds the images, through the server or here, and tells what they are.
pub(super) fn hold(
    data: &Path,
    images: &[(String, String)],
) -> Result<(Vec<Listed>, Keeper), Failure> {
    cache(data)?;
    let request = Transfer::Hold {
        images: images.to_vec(),
    };
    let asked = || {
        let (mut held, mut last) = (Vec::new(), None);
        let connection = transfer(data, &request, None, &mut |event| match event {
            Event::Holding { descriptor } => {
                held.push(Listed::parse(descriptor));
                true
            }
            event => {
                last = Some(event);
                true
            }
        })?;
        Ok((Ok((held, last)), Keeper::Server(connection)))
    };
    let here = |store: Store| {
        let fail = |error| Failure::new("cannot look into the cache").from(error);
        match store.hold(images).map_err(fail)? {
            Hold::Held(held) => {
                let images = held.images.clone();
                Ok((Err(images), Keeper::Here(Box::new((held, store)))))
            }
            Hold::Unknown(name, tag) => {
                let tags = store.tags_of(&name);
                let image = format!("{name}:{tag}");
                Err(end(Some(Event::Unknown { image, tags }))
                    .err()
                    .unwrap_or_else(lost))
            }
            Hold::Incomplete(name, tag) => Err(Failure::new(format!(
                "{name}:{tag} lacks some of its blobs; pull it again"
            ))),
        }
    };
    let (held, keeper) = through(data, asked, here)?;
    let images = match held {
        Err(images) => images,
        Ok((held, last)) => {
            end(last)?;
            let held: Result<Vec<Listed>, String> = held.into_iter().collect();
            held.map_err(|why| Failure::new("the running server is of another version").from(why))?
        }
    };
    Ok((images, keeper))
}

fn lost() -> Failure {
    Failure::new("the cache did not say what it has")
}
