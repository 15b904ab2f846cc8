//! One layer: reuse it by its recipe, or plan, fill, seal and publish it.

use std::collections::{BTreeSet, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Shared;
use super::memory::Buffer;
use super::progress::LayerProgress;
use super::proof::prove;
use super::window::{Source, chunks};
use crate::error::{Error, Kind};
use crate::image::{LayerRecord, recipe};
use crate::layer::{ChunkRef, Plan, SealError, Sealer};
use crate::oci::Digest;
use crate::repo::{Entry, RepoId};
use crate::store::{Lease, Reservation, Staging, Store, StoreError, Wanted};

/// The longest table of contents that is taken; it is made in memory.
const MAX_TOC: u64 = 128 << 20;

/// The right to fill a recipe; held until its writing thread has ended.
type Turn = Arc<Option<OwnedSemaphorePermit>>;

/// Chunks that may wait for the writing thread, besides the one it works on.
const QUEUE: usize = 2;

/// Which recipes are being filled: two images that need the same layer at once fill it once.
#[derive(Default)]
pub(super) struct Recipes(Mutex<HashMap<Digest, Arc<Semaphore>>>);

impl Recipes {
    /// Waits until nobody else fills this recipe.
    async fn turn(&self, recipe: Digest) -> Option<OwnedSemaphorePermit> {
        let one = {
            let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            map.retain(|_, turn| Arc::strong_count(turn) > 1 || turn.available_permits() == 0);
            Arc::clone(
                map.entry(recipe)
                    .or_insert_with(|| Arc::new(Semaphore::new(1))),
            )
        };
        one.acquire_owned().await.ok()
    }
}

/// What the layers of one image share.
#[derive(Clone)]
pub(super) struct Job {
    pub shared: Arc<Shared>,
    pub source: Source,
    /// The repository as it was asked for.
    pub asked: RepoId,
    /// The room for what this fill writes, held as long as anything of it works.
    pub room: Option<Arc<Reservation>>,
}

/// A layer that an image needs.
pub(super) struct Draft {
    pub recipe: Digest,
    pub progress: Arc<LayerProgress>,
    files: Vec<Entry>,
    found: Found,
}

enum Found {
    /// It is in the store, and stays.
    There(Box<LayerRecord>, Lease),
    /// It has to be filled, unless another fill does meanwhile.
    Missing(Arc<Plan>),
}

impl Draft {
    /// Looks for the layer of `files`, and lays it out if it is not there.
    pub(super) async fn new(job: &Job, files: Vec<Entry>) -> Result<Self, Error> {
        let recipe = recipe(&files);
        let bytes = files.iter().map(|f| f.size).sum();
        let progress = Arc::new(LayerProgress::new(files.len() as u64, bytes));
        let look = move |store: &Store| store.layer(&recipe);
        let found = match job.shared.with_store(look).await? {
            Some((record, lease)) => Found::There(Box::new(record), lease),
            None => Found::Missing(Arc::new(plan(job, files.clone()).await?)),
        };
        Ok(Self {
            recipe,
            progress,
            files,
            found,
        })
    }

    /// What has to be reserved for it.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        match &self.found {
            Found::There(..) => None,
            Found::Missing(plan) => Some((self.recipe, plan.blob_len())),
        }
    }

    fn reused(&self) {
        let progress = &self.progress;
        progress.reuse(progress.total_files(), progress.total_bytes());
    }
}

/// A layer, from the store or from the upstream.
///
/// What an earlier fill wrote of it is read back, not fetched again. A file whose bytes are wrong is fetched once more, then refused.
pub(super) async fn layer(job: Job, draft: Draft) -> Result<(LayerRecord, Lease), Error> {
    let progress = Arc::clone(&draft.progress);
    let layer = find_or_fill(job, draft).await?;
    let blob = &layer.0.descriptor;
    progress.done(blob.digest, blob.size);
    Ok(layer)
}

async fn find_or_fill(job: Job, draft: Draft) -> Result<(LayerRecord, Lease), Error> {
    let recipe = draft.recipe;
    let plan = match &draft.found {
        Found::There(record, _) => {
            prove(&job, &draft.files, Some(record.descriptor.digest)).await?;
            draft.reused();
            let Found::There(record, lease) = draft.found else {
                return Err(Error::new(Kind::Internal, "a draft has changed"));
            };
            return Ok((*record, lease));
        }
        Found::Missing(plan) => Arc::clone(plan),
    };
    let turn = Arc::new(job.shared.recipes.turn(recipe).await);
    let known = job
        .shared
        .with_store(move |store| store.layer(&recipe))
        .await?;
    if let Some(known) = known {
        prove(&job, &draft.files, Some(known.0.descriptor.digest)).await?;
        draft.reused();
        return Ok(known);
    }
    let staged = move |store: &Store| store.is_staged(&recipe);
    if job.shared.settings.proof && job.shared.with_store(staged).await? {
        prove(&job, &draft.files, None).await?;
    }
    let mut refetched = BTreeSet::new();
    let mut trusted = None;
    loop {
        match attempt(&job, &draft, &plan, trusted, &turn).await {
            Ok(record) => return Ok(record),
            Err(Failed::Other(error)) => return Err(error),
            Err(Failed::Bytes { file, error }) => {
                if plan.files()[file].size == 0 || !refetched.insert(file) {
                    job.shared
                        .with_store(move |store| store.discard(&recipe))
                        .await?;
                    let file = job.source.file(&plan.files()[file]);
                    job.shared.upstream.doubt(&file).await;
                    return Err(error);
                }
                tracing::warn!(%error, "fetching the file once more");
                trusted = Some(file);
            }
        }
    }
}

/// Lays out a layer, away from the runtime's threads: of many files it takes a while.
async fn plan(job: &Job, files: Vec<Entry>) -> Result<Plan, Error> {
    let planned = job.source.tasks.spawn_blocking(move || Plan::new(files));
    let plan = planned
        .await
        .map_err(|_| Error::new(Kind::Internal, "a layer's plan was lost"))?;
    if plan.toc_len() > MAX_TOC {
        return Err(Error::new(
            Kind::ManifestInvalid,
            format!(
                "{} has more and longer names than a layer can list ({} files)",
                job.source.repo,
                plan.files().len()
            ),
        ));
    }
    Ok(plan)
}

/// Why an attempt at a layer failed.
enum Failed {
    /// The bytes of this file are wrong; what is before it in the layer is right.
    Bytes {
        file: usize,
        error: Error,
    },
    Other(Error),
}

impl<E: Into<Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Fills, seals and publishes a layer. Of what is in staging, only files before `trusted` are believed, if given.
async fn attempt(
    job: &Job,
    draft: &Draft,
    plan: &Arc<Plan>,
    trusted: Option<usize>,
    turn: &Turn,
) -> Result<(LayerRecord, Lease), Failed> {
    // Before any memory is taken: a layer without a thread would hold what others need to end.
    let place = Arc::clone(&job.shared.writers).acquire_owned().await;
    let place = place.map_err(|_| Error::new(Kind::Unavailable, "the server is stopping"))?;
    let (turn, room) = (Arc::clone(turn), job.room.clone());
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (begin, begun) = oneshot::channel();
    let writer = Writer {
        shared: Arc::clone(&job.shared),
        repo: job.source.repo.clone(),
        progress: Arc::clone(&draft.progress),
        plan: Arc::clone(plan),
        recipe: draft.recipe,
        trusted,
    };
    let written = job.source.tasks.spawn_blocking(move || {
        let _held = (place, turn, room);
        writer.write(begin, receiver)
    });
    let mut written = pin!(written);
    let lost = |_| Err(Error::new(Kind::Internal, "the layer failed by a defect").into());
    let read = tokio::select! {
        // It has failed, or has all: nobody wants what is still being read.
        ended = &mut written => return ended.unwrap_or_else(lost),
        read = feed(job.source.clone(), Arc::clone(plan), begun, sender) => read,
    };
    match (read, written.await.unwrap_or_else(lost)) {
        // A read that failed ends the writing too, which has no reason of its own then.
        (Err(read), Err(Failed::Other(error))) if error.kind == Kind::Unavailable => {
            Err(read.into())
        }
        (_, written) => written,
    }
}

/// Passes the layer's chunks to the writing thread, from where that one says, until it has all or wants no more.
async fn feed(
    source: Source,
    plan: Arc<Plan>,
    begun: oneshot::Receiver<ChunkRef>,
    sender: mpsc::Sender<Buffer>,
) -> Result<(), Error> {
    let Ok(from) = begun.await else {
        // Everything was there, or the writing has failed.
        return Ok(());
    };
    let mut chunks = pin!(chunks(source, plan, from));
    while let Some(chunk) = chunks.next().await {
        if sender.send(chunk?).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Hashes and writes a layer on a thread of its own.
struct Writer {
    shared: Arc<Shared>,
    repo: RepoId,
    progress: Arc<LayerProgress>,
    plan: Arc<Plan>,
    recipe: Digest,
    trusted: Option<usize>,
}

impl Writer {
    fn write(
        self,
        begin: oneshot::Sender<ChunkRef>,
        chunks: mpsc::Receiver<Buffer>,
    ) -> Result<(LayerRecord, Lease), Failed> {
        let mut staging = self
            .shared
            .store
            .stage(&self.recipe, self.plan.blob_len())?;
        let mut sealer = Sealer::new(Arc::clone(&self.plan));
        let filled = self
            .resume(&mut sealer, &mut staging)
            .and_then(|from| self.fill(from, begin, chunks, &mut sealer, &mut staging));
        if let Err(failed) = filled {
            // A later attempt goes on with what is there, unless it is the disk that failed.
            if !matches!(&failed, Failed::Other(e) if e.kind != Kind::Unavailable) {
                staging.keep();
            }
            return Err(failed);
        }
        let sealed = sealer.finish(&mut staging).map_err(|e| self.explain(e))?;
        let record = LayerRecord::new(&sealed, self.recipe);
        let store = &self.shared.store;
        let lease = store.publish_layer(staging, &self.recipe, &record)?;
        Ok((record, lease))
    }

    /// Hashes what an earlier fill wrote; gives the first chunk that is not there, if one is not.
    fn resume(
        &self,
        sealer: &mut Sealer,
        staging: &mut Staging,
    ) -> Result<Option<ChunkRef>, Failed> {
        let mut chunks = self.plan.chunks();
        if !staging.is_found() {
            return Ok(chunks.next());
        }
        let (mut member, mut data) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let trusted = self.trusted.is_none_or(|file| chunk.file < file);
            if !(trusted && staging.read_back(&self.plan, chunk, &mut member, &mut data)) {
                return Ok(Some(chunk));
            }
            // It is written once more, and with it what is between the payloads, which nothing else has checked.
            self.seal(chunk, &data, sealer, staging)?;
            if self.trusted.is_none() {
                self.progress.reuse(u64::from(self.ends(chunk)), chunk.len);
            }
        }
        Ok(None)
    }

    /// Writes what the upstream sends, from a chunk on.
    fn fill(
        &self,
        from: Option<ChunkRef>,
        begin: oneshot::Sender<ChunkRef>,
        mut chunks: mpsc::Receiver<Buffer>,
        sealer: &mut Sealer,
        staging: &mut Staging,
    ) -> Result<(), Failed> {
        let Some(from) = from else {
            return Ok(());
        };
        let gone = || Error::new(Kind::Unavailable, "the fill was given up");
        begin.send(from).map_err(|_| gone())?;
        for chunk in self.plan.chunks().skip_while(|chunk| *chunk != from) {
            let data = chunks.blocking_recv().ok_or_else(gone)?;
            self.seal(chunk, data.bytes(), sealer, staging)?;
            self.progress.add_bytes(chunk.len);
            if self.ends(chunk) {
                self.progress.add_file();
            }
        }
        Ok(())
    }

    fn seal(
        &self,
        chunk: ChunkRef,
        data: &[u8],
        sealer: &mut Sealer,
        staging: &mut Staging,
    ) -> Result<(), Failed> {
        sealer
            .chunk(chunk, data, staging)
            .map_err(|error| self.explain(error))
    }

    /// Whether a chunk is the last of its file.
    fn ends(&self, chunk: ChunkRef) -> bool {
        chunk.start + chunk.len == self.plan.files()[chunk.file].size
    }

    fn explain(&self, error: SealError<StoreError>) -> Failed {
        let (path, wanted, got) = match error {
            SealError::Sink(error) => return error.into(),
            SealError::Content { path, wanted, got } => (path, wanted, got),
        };
        let error = Error::new(
            Kind::BadGateway,
            format!(
                "the upstream sent wrong bytes for {path:?} of {}: the listing says {wanted}, they are {got}; nothing was published",
                self.repo
            ),
        );
        match self.plan.files().iter().position(|f| f.path == path) {
            Some(file) => Failed::Bytes { file, error },
            None => Failed::Other(error),
        }
    }
}
