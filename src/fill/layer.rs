//! One layer: reuse it by its recipe, or plan, fill, seal and publish it.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use super::memory::Buffer;
use super::window::{Source, chunks};
use super::{Progress, Shared};
use crate::error::{Error, Kind};
use crate::image::{LayerRecord, recipe};
use crate::layer::{Plan, SealError, Sealer};
use crate::oci::Digest;
use crate::repo::{Entry, RepoId};
use crate::store::StoreError;

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
    pub progress: Arc<Progress>,
    /// The threads that write this fill's layers: when it fails, it has let go of its files once they have ended.
    pub writers: TaskTracker,
}

/// The layer of `files`, from the store or from the upstream.
pub(super) async fn layer(job: Job, files: Vec<Entry>) -> Result<LayerRecord, Error> {
    let recipe = recipe(&files);
    let _turn = job.shared.recipes.turn(recipe).await;
    let known = job
        .shared
        .with_store(move |store| store.layer(&recipe))
        .await?;
    if let Some(record) = known {
        let bytes = files.iter().map(|f| f.size).sum();
        job.progress.reuse(files.len() as u64, bytes);
        return Ok(record);
    }
    let plan = Arc::new(Plan::new(files));
    let (sender, receiver) = mpsc::channel(QUEUE);
    let writer = Writer {
        shared: Arc::clone(&job.shared),
        repo: job.source.repo.clone(),
        progress: Arc::clone(&job.progress),
        plan: Arc::clone(&plan),
        recipe,
    };
    let written = job.writers.spawn_blocking(move || writer.write(receiver));
    let read = feed(job.source, plan, sender).await;
    let lost = |_| Err(Error::new(Kind::Internal, "the layer failed by a defect"));
    let written = written.await.unwrap_or_else(lost);
    // A failed read also ends the writing; the read's error is the reason.
    read.and(written)
}

/// Passes the layer's chunks to the writing thread, until it has all or wants no more.
async fn feed(source: Source, plan: Arc<Plan>, sender: mpsc::Sender<Buffer>) -> Result<(), Error> {
    let mut chunks = pin!(chunks(source, plan));
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
    progress: Arc<Progress>,
    plan: Arc<Plan>,
    recipe: Digest,
}

impl Writer {
    fn write(self, mut chunks: mpsc::Receiver<Buffer>) -> Result<LayerRecord, Error> {
        let mut staging = self.shared.store.stage(self.plan.blob_len())?;
        let mut sealer = Sealer::new(Arc::clone(&self.plan));
        for chunk in self.plan.chunks() {
            let Some(data) = chunks.blocking_recv() else {
                return Err(Error::new(Kind::Unavailable, "the fill was given up"));
            };
            sealer
                .chunk(chunk, data.bytes(), &mut staging)
                .map_err(|e| self.explain(e))?;
            self.progress.add_bytes(chunk.len);
            if chunk.start + chunk.len == self.plan.files()[chunk.file].size {
                self.progress.add_file();
            }
        }
        let sealed = sealer.finish(&mut staging).map_err(|e| self.explain(e))?;
        let record = LayerRecord::new(&sealed, self.recipe);
        self.shared
            .store
            .publish_layer(staging, &self.recipe, &record)?;
        Ok(record)
    }

    fn explain(&self, error: SealError<StoreError>) -> Error {
        match error {
            SealError::Sink(error) => error.into(),
            SealError::Content { path, wanted, got } => Error::new(
                Kind::BadGateway,
                format!(
                    "the upstream sent wrong bytes for {path:?} of {}: the listing says {wanted}, they are {got}; nothing was published",
                    self.repo
                ),
            ),
        }
    }
}
