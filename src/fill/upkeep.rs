//! Upkeep: what the store needs beside the requests. Use times are written down, limits are held when others take the disk, and what a
//! crash or a removal left is collected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::store::{Store, StoreError, Sweep};

/// Looks after a store until it is stopped.
pub struct Upkeep {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Upkeep {
    /// How often it looks.
    pub const EVERY: Duration = Duration::from_secs(30);

    /// Begins. All work is done on threads that may block.
    pub fn start(store: Arc<Store>, every: Duration) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(look_after(store, every, stop.clone()));
        Self { stop, task }
    }

    /// Ends it, and writes the last use times down. After the last request, so that none is lost.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the upkeep of the store failed by a defect");
        }
    }
}

async fn look_after(store: Arc<Store>, every: Duration, stop: CancellationToken) {
    let collecting = tokio::spawn(collect(Arc::clone(&store), stop.clone()));
    loop {
        work(
            &store,
            "the limits of the cache could not be held",
            |store| store.trim(),
        )
        .await;
        work(&store, "unused blobs could not be deleted", |store| {
            store.collect_left().map(drop)
        })
        .await;
        let pause = stop.run_until_cancelled(tokio::time::sleep(every)).await;
        work(&store, "use times could not be written", Store::save_uses).await;
        if pause.is_none() {
            break;
        }
    }
    if let Err(error) = collecting.await {
        tracing::warn!(%error, "the collection failed by a defect");
    }
}

/// Deletes what a crash left. Ends soon after the stop.
async fn collect(store: Arc<Store>, stop: CancellationToken) {
    let stopped = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stopped);
    let sweep = async {
        let found = tokio::task::spawn_blocking(move || {
            store.collect(&Sweep::GENTLE, &mut || !seen.load(Relaxed))
        });
        match found.await {
            Ok(Ok(removed)) if removed.blobs > 0 => tracing::info!(
                blobs = removed.blobs,
                bytes = removed.bytes,
                "blobs that nothing reaches are deleted"
            ),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "unreachable blobs could not be collected"),
            Err(error) => tracing::warn!(%error, "the collection failed by a defect"),
        }
    };
    let mark = async {
        stop.cancelled().await;
        stopped.store(true, Relaxed);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = sweep => {}
        () = mark => {}
    }
}

/// Runs one piece of work; that it failed is told, and the next look tries again.
async fn work(
    store: &Arc<Store>,
    failed: &'static str,
    call: impl FnOnce(&Store) -> Result<(), StoreError> + Send + 'static,
) {
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || call(&store)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "{failed}"),
        Err(error) => tracing::warn!(%error, "{failed}, by a defect"),
    }
}
