//! One image: listing, selection, layers, licence, documents, publication.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::layer::{Job, layer};
use super::window::Source;
use super::{Progress, Ready, Shared};
use crate::error::{Error, Kind};
use crate::hub::RemoteFile;
use crate::image::{self, CARD, LayerRecord, MAX_CARD, Selected, Subject};
use crate::layer::Plan;
use crate::repo::{Entry, Snapshot};
use crate::store::{NewImage, Order};

/// Fills an image and publishes it. When it fails or is stopped, it has let go of its files before it returns.
pub(super) async fn fill(
    shared: Arc<Shared>,
    order: Order,
    progress: Arc<Progress>,
    stop: CancellationToken,
) -> Result<Ready, Error> {
    let tasks = TaskTracker::new();
    let work = fill_with(shared, order, progress, tasks.clone());
    let filled = stop.run_until_cancelled(work).await;
    tasks.close();
    tasks.wait().await;
    filled.unwrap_or_else(|| {
        Err(Error::new(
            Kind::Unavailable,
            "the server is stopping; ask again",
        ))
    })
}

async fn fill_with(
    shared: Arc<Shared>,
    order: Order,
    progress: Arc<Progress>,
    tasks: TaskTracker,
) -> Result<Ready, Error> {
    let key = order.key.clone();
    // Another flight may have ended between this one's lookup and its start.
    if let Some(stored) = shared.with_store(move |store| store.image(&key)).await? {
        return Ok(stored.into());
    }
    let snapshot = shared
        .upstream
        .snapshot(&order.repo, order.key.commit)
        .await?;
    let selected = image::select(&snapshot, order.key.name.path()).map_err(|error| {
        let Order { repo, key, .. } = &order;
        Error::new(
            Kind::ManifestUnknown,
            format!("{repo} at {}: {error}", key.commit),
        )
    })?;
    let bytes = selected.files.iter().map(|f| f.size).sum();
    progress.expect(selected.files.len() as u64, bytes);
    let job = Job {
        source: Source {
            shared: Arc::clone(&shared),
            repo: order.repo.clone(),
            commit: order.key.commit,
            allowance: shared.memory.allowance(),
            connections: Arc::new(Semaphore::new(shared.settings.connections.max(1))),
            tasks,
        },
        shared: Arc::clone(&shared),
        progress,
    };
    let groups = image::split(selected.files.clone(), order.key.layout);
    let layers = fill_layers(&job, &groups).await?;
    let license = license(&job, &snapshot, &groups, &layers).await?;
    publish(shared, order, selected, layers, license).await
}

async fn fill_layers(job: &Job, groups: &[Vec<Entry>]) -> Result<Vec<LayerRecord>, Error> {
    stream::iter(groups.to_vec())
        .map(|files| layer(job.clone(), files))
        .buffered(job.shared.settings.layers.max(1))
        .try_collect()
        .await
}

async fn publish(
    shared: Arc<Shared>,
    order: Order,
    selected: Selected,
    layers: Vec<LayerRecord>,
    license: Option<String>,
) -> Result<Ready, Error> {
    let subject = Subject {
        repo: order.repo.clone(),
        commit: order.key.commit,
        path: selected.path,
        license,
    };
    let documents = image::documents(&subject, &layers)
        .map_err(|e| Error::new(Kind::Internal, format!("writing the documents: {e}")))?;
    let image = NewImage {
        key: order.key,
        repo: order.repo,
        layers,
        documents,
    };
    let now = std::time::SystemTime::now();
    let stored = shared
        .with_store(move |store| store.publish_image(&image, &order.tag, now))
        .await?;
    Ok(stored.into())
}

/// The licence of the commit's card. The card is read back from the layer that holds it, or, where the selection leaves it out, from the
/// upstream.
async fn license(
    job: &Job,
    snapshot: &Snapshot,
    groups: &[Vec<Entry>],
    layers: &[LayerRecord],
) -> Result<Option<String>, Error> {
    let card = snapshot
        .files()
        .iter()
        .find(|f| f.path.as_str() == CARD && (1..=MAX_CARD).contains(&f.size));
    let Some(card) = card else {
        return Ok(None);
    };
    let held = groups.iter().zip(layers).find_map(|(files, layer)| {
        let at = files.iter().position(|f| f.path == card.path)?;
        Some((files.clone(), at, layer.descriptor.digest))
    });
    let read = match held {
        Some((files, at, blob)) => {
            let pieces: Vec<_> = Plan::new(files).pieces(at).collect();
            let read = move |store: &crate::store::Store| store.read_pieces(&blob, &pieces);
            job.shared.with_store(read).await?
        }
        None => None,
    };
    // What a layer gives back is believed when it is the card; a layer may be damaged, or gone by now.
    let bytes = match read.filter(|bytes| card.content.is_of(bytes)) {
        Some(bytes) => bytes,
        None => fetch(job, card).await?,
    };
    let text = String::from_utf8(bytes).ok();
    Ok(text.and_then(|text| image::license(&text)))
}

/// A small file of the commit, verified. If its bytes are wrong it is fetched once more, then refused.
async fn fetch(job: &Job, entry: &Entry) -> Result<Vec<u8>, Error> {
    let file = RemoteFile {
        repo: job.source.repo.clone(),
        commit: job.source.commit,
        path: entry.path.clone(),
        size: entry.size,
        content: entry.content,
    };
    for _ in 0..2 {
        let mut body = job.shared.upstream.read(&file, 0..entry.size).await?;
        let mut bytes = Vec::with_capacity(entry.size as usize);
        while let Some(part) = body.next().await {
            bytes.extend_from_slice(&part?);
        }
        if entry.content.is_of(&bytes) {
            return Ok(bytes);
        }
    }
    Err(Error::new(
        Kind::BadGateway,
        format!(
            "the upstream sent wrong bytes for {:?} of {}",
            entry.path, file.repo
        ),
    ))
}
