//! Single flight: one fill per image, detached from the requests that wait for it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::image::fill;
use super::{Outcome, Progress, Ready, Shared};
use crate::error::{Error, Kind};
use crate::oci::Tag;
use crate::store::{ImageKey, Order, Store, Stored};

type End = Result<Ready, Arc<Error>>;

/// A fill under way, as one of those who wait sees it. Dropping it changes nothing.
#[derive(Clone)]
pub struct Flight {
    done: watch::Receiver<Option<End>>,
    progress: Arc<Progress>,
    /// The tags under which it was asked for.
    tags: Arc<Mutex<Vec<Tag>>>,
}

impl Flight {
    /// Waits for the end of the fill. May be cancelled and called again.
    pub async fn done(&mut self) -> Result<Ready, Arc<Error>> {
        match self.done.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_else(|| Err(stopping())),
            Err(_) => Err(stopping()),
        }
    }

    /// How far the fill is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }
}

fn stopping() -> Arc<Error> {
    Arc::new(Error::new(
        Kind::Unavailable,
        "the server is stopping; ask again",
    ))
}

/// The most fills that are under way or wait for their turn.
const MOST: usize = 1000;

/// The fills under way, and those that wait for their turn.
pub(super) struct Flights {
    under_way: Arc<Mutex<HashMap<ImageKey, Flight>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Given out in the order of asking.
    turns: Arc<Semaphore>,
}

impl Flights {
    /// No fills yet, and `concurrent` at once at most.
    pub(super) fn new(concurrent: usize) -> Self {
        let turns = concurrent.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            under_way: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            turns: Arc::new(Semaphore::new(turns)),
        }
    }

    /// Joins the fill of an image, or starts it, or puts it at the end of the queue. An error if that is too long.
    pub(super) fn join(
        &self,
        shared: &Arc<Shared>,
        order: Order,
    ) -> Result<(Flight, Outcome), Error> {
        let mut under_way = lock(&self.under_way);
        if let Some(flight) = under_way.get(&order.key) {
            let mut tags = flight.tags.lock().unwrap_or_else(PoisonError::into_inner);
            if !tags.contains(&order.tag) {
                tags.push(order.tag);
            }
            return Ok((flight.clone(), Outcome::Joined));
        }
        if under_way.len() >= MOST {
            return Err(Error::new(
                Kind::Unavailable,
                format!("{MOST} images are being filled or wait for it; ask again later"),
            ));
        }
        let (end, done) = watch::channel(None);
        let progress = Arc::new(Progress::new(&order.key));
        let flight = Flight {
            done,
            progress: Arc::clone(&progress),
            tags: Arc::new(Mutex::new(vec![order.tag.clone()])),
        };
        let tags = Arc::clone(&flight.tags);
        under_way.insert(order.key.clone(), flight.clone());
        let all = Arc::clone(&self.under_way);
        let shared = Arc::clone(shared);
        let (stop, turns) = (self.stop.clone(), Arc::clone(&self.turns));
        self.tasks.spawn(async move {
            let asked = order.clone();
            remember(&shared, &order).await;
            let result = match stop.run_until_cancelled(turns.acquire()).await {
                Some(Ok(_turn)) => run(Arc::clone(&shared), order, progress, stop).await,
                _ => Err(stopping()),
            };
            // From here on nobody joins, so these are all.
            lock(&all).remove(&asked.key);
            let tags = std::mem::take(&mut *tags.lock().unwrap_or_else(PoisonError::into_inner));
            if let Ok(ready) = &result {
                note_tags(&shared, &asked, *ready, tags).await;
            }
            end.send_replace(Some(result));
            trim(&shared).await;
        });
        Ok((flight, Outcome::Miss))
    }

    pub(super) fn progress(&self) -> Vec<Arc<Progress>> {
        let mut all: Vec<_> = lock(&self.under_way)
            .values()
            .map(|f| Arc::clone(&f.progress))
            .collect();
        all.sort_by_key(|p| p.started());
        all
    }

    /// Whether a fill could begin at once.
    pub(super) fn has_turn(&self) -> bool {
        self.turns.available_permits() > 0
    }

    pub(super) async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// One fill to its end, whatever that is: a panic in it is an error to those who wait, not a wait without end.
async fn run(
    shared: Arc<Shared>,
    order: Order,
    progress: Arc<Progress>,
    stop: CancellationToken,
) -> End {
    let (name, commit) = (order.key.name.clone(), order.key.commit);
    let repo = order.repo.clone();
    tracing::info!(%name, %commit, "fill begins");
    let key = order.key.clone();
    let filled = fill(Arc::clone(&shared), order, Arc::clone(&progress), stop);
    let lost = |_| Err(Error::new(Kind::Internal, "the fill failed by a defect"));
    let result = AssertUnwindSafe(filled)
        .catch_unwind()
        .await
        .unwrap_or_else(lost);
    if !matches!(&result, Err(error) if error.kind == Kind::Unavailable) {
        forget(&shared, key).await;
    }
    if let Err(error) = &result
        && contradicts(error)
    {
        shared.doubts.add(&repo, commit);
    }
    let seconds = progress.started().elapsed().as_secs_f64();
    match &result {
        Ok(_) => tracing::info!(
            %name, %commit, bytes = progress.bytes(), reused = progress.reused(), files = progress.files(), seconds,
            "fill done"
        ),
        Err(error) => {
            tracing::warn!(%name, %commit, %error, bytes = progress.bytes(), seconds, "fill failed")
        }
    }
    result.map_err(Arc::new)
}

/// Whether a failed fill tells that the upstream has something else by now than what it said when it was asked what a tag means.
fn contradicts(error: &Error) -> bool {
    matches!(
        error.kind,
        Kind::BadGateway | Kind::NameUnknown | Kind::ManifestUnknown
    )
}

/// Notes what every tag means that the image was asked for by. What is noted already costs nothing.
async fn note_tags(shared: &Shared, asked: &Order, ready: Ready, tags: Vec<Tag>) {
    let Order { key, repo, .. } = asked.clone();
    let stored = Stored {
        index: ready.index,
        size: ready.size,
    };
    let now = std::time::SystemTime::now();
    let noted = shared.with_store(move |store| {
        tags.iter()
            .try_for_each(|tag| store.set_tag(&key, &repo, stored, tag, now))
    });
    if let Err(error) = noted.await {
        tracing::warn!(%error, "a tag could not be noted");
    }
}

/// Notes the fill, so that the next process goes on with it if this one dies.
pub(super) async fn remember(shared: &Shared, order: &Order) {
    let order = order.clone();
    if let Err(error) = shared
        .with_store(move |store| store.put_order(&order))
        .await
    {
        tracing::warn!(%error, "a fill could not be noted; after a crash it begins when it is asked for");
    }
}

/// What was published is more than was reserved only if others took the disk meanwhile.
async fn trim(shared: &Shared) {
    if let Err(error) = shared.with_store(Store::trim).await {
        tracing::warn!(%error, "the cache could not be brought under its limits");
    }
}

async fn forget(shared: &Shared, key: ImageKey) {
    if let Err(error) = shared
        .with_store(move |store| store.remove_order(&key))
        .await
    {
        tracing::warn!(%error, "the note of a fill could not be removed; the next start looks at it again");
    }
}

/// A poisoned lock is taken all the same: the map is never half changed.
fn lock(map: &Mutex<HashMap<ImageKey, Flight>>) -> MutexGuard<'_, HashMap<ImageKey, Flight>> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}
