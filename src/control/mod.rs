//! What operators ask of a cache: pull, list, inspect, collect, pin, remove, verify. The same work is done on the folder itself or inside a
//! running server, which is asked through a socket in the folder: one JSON line with the request, then JSON lines with what becomes of it,
//! the last one final.

mod client;
mod listing;
mod pull;
mod server;
mod transfer;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::oci::{Descriptor, Digest};
use crate::store::{Finding, Reference, Removal, Store, StoreError, Sweep, Watcher};

pub use client::{AskError, Connection, ask, listens, transfer};
pub use listing::{
    FileLine, ImageLine, InspectedLine, LayerLine, ListedLine, Listing, StagingLine, SumLine,
    UsageLine,
};
pub use pull::{Counts, FailedLine, FillingLine, LayerCounts, PulledLine, Wanted, Why, pull};
pub use server::{Context, Control};
pub use transfer::{Transfer, import_here};

/// The socket's name in the data folder.
const SOCKET: &str = "control";

/// The longest line of either side, in bytes.
const MAX_LINE: u64 = 1 << 20;

/// The most tags that an answer lists, and the most images of a finding.
const SHOWN: usize = 100;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// Delete what nothing reaches.
    Gc,
    /// Never evict what a reference means.
    Pin {
        /// The image's name.
        name: String,
        /// The tag.
        tag: String,
    },
    /// End that.
    Unpin {
        /// The image's name.
        name: String,
        /// The tag.
        tag: String,
    },
    /// Remove a reference, and what only it needs.
    Rm {
        /// The image's name.
        name: String,
        /// The tag; `None` is all of them.
        tag: Option<String>,
    },
    /// Hash every blob again.
    Verify {
        /// Whether what is wrong is moved aside, and fetched again.
        repair: bool,
    },
    /// Tell what is cached.
    List {
        /// Of this name, and of paths in it; `None` is all.
        name: Option<String>,
    },
    /// Tell what is known of an image.
    Inspect {
        /// Its name.
        name: String,
        /// The tag.
        tag: String,
        /// The digest of its index, if it must be that.
        digest: Option<Digest>,
    },
    /// Tell how much room is taken.
    Usage,
    /// See to it that an image is cached. Asked of a server that fills.
    Pull(Wanted),
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A verification is at work.
    Progress {
        /// Bytes that are hashed.
        done: u64,
        /// Bytes of all blobs.
        total: u64,
    },
    /// A blob is wrong.
    Finding {
        /// `bad`, `unreadable` or `missing`.
        fault: String,
        /// Which one.
        digest: String,
        /// Its length.
        size: u64,
        /// The references that have it, at most a hundred.
        images: Vec<String>,
    },
    /// An image is asked for, and nothing is known of it yet.
    Waiting {
        /// The image, as it was asked for.
        image: String,
        /// Milliseconds since.
        elapsed_ms: u64,
    },
    /// An image is being filled.
    Filling(Box<FillingLine>),
    /// Final: an image is cached.
    Pulled(Box<PulledLine>),
    /// Final: an image is not cached.
    NotPulled(FailedLine),
    /// An image that is cached.
    Image(Box<ImageLine>),
    /// A layer of an image.
    Layer(Box<LayerLine>),
    /// More files of the layer that was told last.
    Files {
        /// In the layer's order.
        files: Vec<FileLine>,
    },
    /// Final: these are all images.
    Listed(ListedLine),
    /// Final: this is the image whose layers were told.
    Inspected(Box<InspectedLine>),
    /// Final: this is taken.
    Usage(Box<UsageLine>),
    /// An image is held, and this is how a bundle lists it.
    Holding {
        /// As [`Listed::parse`](crate::bundle::Listed::parse) reads it.
        descriptor: Descriptor,
    },
    /// Final: all images are held, for as long as the connection is open.
    Held,
    /// Final: a bundle was taken in.
    Imported {
        /// Its images, at most a hundred.
        images: Vec<String>,
        /// How many it has.
        count: u64,
        /// Blobs that were written.
        blobs: u64,
        /// Their bytes.
        bytes: u64,
        /// Blobs that were there already.
        present: u64,
    },
    /// Final: what nothing reached is gone.
    Collected {
        /// Blobs that were deleted.
        blobs: u64,
        /// Unfinished layers that were deleted.
        layers: u64,
        /// Bytes of both.
        bytes: u64,
    },
    /// Final: a reference is pinned, or is not any more.
    Pinned {
        /// Which one.
        image: String,
        /// Whether it is.
        pinned: bool,
    },
    /// Final: references are gone.
    Removed {
        /// How many.
        references: u64,
        /// Images that nothing means any more.
        images: u64,
        /// Their blobs.
        blobs: u64,
        /// Bytes of those.
        bytes: u64,
        /// Blobs in use, deleted when they are not any more.
        later: u64,
    },
    /// Final: all blobs were hashed.
    Verified {
        /// How many.
        blobs: u64,
        /// Their bytes.
        bytes: u64,
        /// Those that are bad or cannot be read.
        bad: u64,
        /// Those that are not there.
        missing: u64,
        /// Whether those were moved aside and forgotten.
        repaired: bool,
        /// Images that are being fetched again now.
        refetching: u64,
    },
    /// Final: nothing of this name is cached.
    Unknown {
        /// What was asked for.
        image: String,
        /// The tags that are cached of this name, at most a hundred.
        tags: Vec<String>,
    },
    /// Final: it is not done, because what it asks for is pinned.
    Refused {
        /// The pinned references.
        pinned: Vec<String>,
    },
    /// Final: it could not be done.
    Failed {
        /// Why.
        message: String,
    },
}

impl Event {
    /// Whether nothing comes after it.
    pub const fn is_final(&self) -> bool {
        !matches!(
            self,
            Self::Progress { .. }
                | Self::Finding { .. }
                | Self::Waiting { .. }
                | Self::Filling(_)
                | Self::Image(_)
                | Self::Holding { .. }
                | Self::Layer(_)
                | Self::Files { .. }
        )
    }
}

/// Does what is asked, and tells what becomes of it; the last event is final. `tell` gives whether anybody still listens; `refetch` is given
/// the references whose images are not whole any more, and gives how many are fetched again now. Blocks.
pub fn execute(
    store: &Store,
    request: &Request,
    tell: &mut dyn FnMut(Event) -> bool,
    refetch: &dyn Fn(Vec<Reference>) -> u64,
) {
    let ended = match request {
        Request::Gc => collect(store, tell),
        Request::Pin { name, tag } => pin(store, name, tag, true),
        Request::Unpin { name, tag } => pin(store, name, tag, false),
        Request::Rm { name, tag } => remove(store, name, tag.as_deref()),
        Request::Verify { repair } => verify(store, *repair, tell, refetch),
        Request::Pull(wanted) => Ok(Event::Failed {
            message: format!("{wanted} is pulled by what fills images"),
        }),
        Request::List { .. } | Request::Inspect { .. } | Request::Usage => {
            store.inventory().and_then(|inventory| {
                let listing = Listing {
                    inventory: &inventory,
                    limits: store.limits(),
                    used: Some(store.used()),
                };
                look(store.root(), &listing, request, tell)
            })
        }
    };
    tell(ended.unwrap_or_else(|error| Event::Failed {
        message: error.to_string(),
    }));
}

/// Tells what a folder holds; the last event is final. For requests that change nothing: another is an error.
pub fn look(
    root: &Path,
    listing: &Listing<'_>,
    request: &Request,
    tell: &mut dyn FnMut(Event) -> bool,
) -> Result<Event, StoreError> {
    match request {
        Request::List { name } => Ok(listing.list(name.as_deref(), tell)),
        Request::Inspect { name, tag, digest } => listing.inspect(name, tag, digest.as_ref(), tell),
        Request::Usage => listing.usage(root),
        other => Ok(Event::Failed {
            message: format!("{other:?} is not asked of a folder that is only read"),
        }),
    }
}

fn collect(store: &Store, tell: &mut dyn FnMut(Event) -> bool) -> Result<Event, StoreError> {
    // A progress of nothing only asks whether anybody listens.
    let mut go_on = || tell(Event::Progress { done: 0, total: 0 });
    let removed = store.collect(&Sweep::ALL, &mut go_on)?;
    Ok(Event::Collected {
        blobs: removed.blobs,
        layers: removed.staged,
        bytes: removed.bytes,
    })
}

fn pin(store: &Store, name: &str, tag: &str, pinned: bool) -> Result<Event, StoreError> {
    if store.pin(name, tag, pinned)? {
        let image = format!("{name}:{tag}");
        return Ok(Event::Pinned { image, pinned });
    }
    Ok(unknown(store, name, Some(tag)))
}

fn unknown(store: &Store, name: &str, tag: Option<&str>) -> Event {
    let image = tag.map_or_else(|| name.to_owned(), |tag| format!("{name}:{tag}"));
    let mut tags = store.tags_of(name);
    tags.truncate(SHOWN);
    Event::Unknown { image, tags }
}

fn remove(store: &Store, name: &str, tag: Option<&str>) -> Result<Event, StoreError> {
    Ok(match store.remove(name, tag)? {
        Removal::Unknown => unknown(store, name, tag),
        Removal::Pinned(mut pinned) => {
            pinned.truncate(SHOWN);
            Event::Refused { pinned }
        }
        Removal::Done(removed) => Event::Removed {
            references: removed.references,
            images: removed.images,
            blobs: removed.blobs,
            bytes: removed.bytes,
            later: removed.leased,
        },
    })
}

/// Passes on what a verification sees.
struct Teller<'a>(&'a mut dyn FnMut(Event) -> bool);

impl Watcher for Teller<'_> {
    fn progress(&mut self, done: u64, total: u64) -> bool {
        (self.0)(Event::Progress { done, total })
    }

    fn found(&mut self, finding: &Finding) -> bool {
        let mut images: Vec<String> = finding.references.iter().map(spelled).collect();
        images.sort_unstable();
        images.truncate(SHOWN);
        (self.0)(Event::Finding {
            fault: finding.fault.as_str().to_owned(),
            digest: finding.digest.to_string(),
            size: finding.size,
            images,
        })
    }
}

fn spelled(reference: &Reference) -> String {
    format!("{}:{}", reference.name, reference.tag)
}

fn verify(
    store: &Store,
    repair: bool,
    tell: &mut dyn FnMut(Event) -> bool,
    refetch: &dyn Fn(Vec<Reference>) -> u64,
) -> Result<Event, StoreError> {
    let verified = store.verify(repair, &mut Teller(tell))?;
    if !verified.whole {
        let message = "the verification was given up".to_owned();
        return Ok(Event::Failed { message });
    }
    let missing = verified.findings.iter();
    let missing = missing.filter(|f| f.fault == crate::store::Fault::Missing);
    let missing = missing.count() as u64;
    Ok(Event::Verified {
        blobs: verified.blobs,
        bytes: verified.bytes,
        bad: verified.findings.len() as u64 - missing,
        missing,
        repaired: repair,
        refetching: if repair {
            refetch(verified.damaged())
        } else {
            0
        },
    })
}
