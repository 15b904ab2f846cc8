//! Prefetching: what rules want filled when the server starts, and again every so often.
//!
//! One image at a time, and only when no client's fill waits for its turn. What fails is logged, and tried again at its next time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Found, Images};
use crate::error::Error;
use crate::image::ImageName;
use crate::oci::Tag;

/// How often it is looked whether there is a free turn.
const LOOK: Duration = Duration::from_millis(200);

/// Fills ahead until it is stopped.
pub struct Prefetch {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Prefetch {
    /// Begins, if a rule of `images` wants something prefetched.
    pub fn start(images: Arc<Images>) -> Option<Self> {
        let wanted = |rule: &super::Rule| !rule.prefetch.is_empty();
        if !images.shared.settings.rules.0.iter().any(wanted) {
            return None;
        }
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            // What it was waiting for is a flight, which goes on by itself or is stopped by its own.
            stopped.run_until_cancelled(rounds(&images)).await;
        });
        Some(Self { stop, task })
    }

    /// Ends it. A fill that it began goes on.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "prefetching failed by a defect");
        }
    }
}

/// Fills what each rule wants, whenever its time has come; ends when there is no further time.
async fn rounds(images: &Arc<Images>) {
    let rules = &images.shared.settings.rules.0;
    let mut due: Vec<Option<Instant>> = rules.iter().map(|_| Some(Instant::now())).collect();
    // The earliest one; of several, the first in the file.
    while let Some((at, index)) = due
        .iter()
        .enumerate()
        .filter_map(|(i, at)| Some(((*at)?, i)))
        .min()
    {
        tokio::time::sleep_until(at).await;
        let rule = &rules[index];
        for (name, tag) in &rule.prefetch {
            fetch(images, name, tag, rule.pin).await;
        }
        // Times that went by while it was at work are left out.
        due[index] = rule.every.map(|every| {
            let every = every.max(LOOK);
            let late = at.elapsed().as_nanos() / every.as_nanos();
            let rounds = u32::try_from(late).unwrap_or(u32::MAX).saturating_add(1);
            at + every.saturating_mul(rounds)
        });
    }
}

async fn fetch(images: &Arc<Images>, name: &ImageName, tag: &Tag, pin: bool) {
    while !images.flights.has_turn() {
        tokio::time::sleep(LOOK).await;
    }
    match fill(images, name, tag, pin).await {
        Ok(true) => tracing::info!(%name, %tag, "prefetched"),
        Ok(false) => tracing::debug!(%name, %tag, "prefetched before"),
        Err(error) => tracing::warn!(
            %name, %tag, %error,
            "it could not be prefetched; it is tried again at its next time, or when it is asked for"
        ),
    }
}

/// Fills what the tag means now, however lately that was asked; whether it was missing.
async fn fill(images: &Arc<Images>, name: &ImageName, tag: &Tag, pin: bool) -> Result<bool, Error> {
    let own = images.own();
    images.heads.ask_again(&own, name, tag).await;
    match images.look(&own, name, tag).await? {
        Found::Filling(mut flight, _) => {
            let done = flight.done().await;
            done.map_err(|error| (*error).clone()).map(|_| true)
        }
        Found::Ready(..) if pin => {
            let (name, tag) = (name.to_string(), tag.to_string());
            let pinned = images
                .shared
                .with_store(move |store| store.pin(&name, &tag, true));
            pinned.await.map(|_| false)
        }
        Found::Ready(..) => Ok(false),
    }
}
