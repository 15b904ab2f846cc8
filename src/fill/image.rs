//! One image: listing, selection, layers, licence, documents, publication.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::flight::remember;
use super::layer::{Draft, Job, layer};
use super::streams::Streams;
use super::window::Source;
use super::{Progress, Ready, Shared};
use crate::error::{Error, Kind};
use crate::hub::RemoteFile;
use crate::image::{self, CARD, LayerRecord, MAX_CARD, Selected, Subject};
use crate::layer::Plan;
use crate::repo::{Entry, RepoId, Snapshot};
use crate::store::{ImageKey, Lease, NewImage, Order, Store, Wanted};

/// The most bytes of an image's documents, and for each of its layers more.
const DOCUMENTS: u64 = 64 << 10;
const DOCUMENTS_LAYER: u64 = 16 << 10;

/// Fills an image and publishes it. When it fails or is stopped, it has let go of its files before it returns.
pub(super) async fn fill(
    shared: Arc<Shared>,
    order: Order,
    progress: Arc<Progress>,
    stop: CancellationToken,
) -> Result<Ready, Error> {
    let tasks = TaskTracker::new();
    let mut order = order;
    let work = fill_with(Arc::clone(&shared), &mut order, progress, tasks.clone());
    let filled = stop.run_until_cancelled(work).await;
    tasks.close();
    tasks.wait().await;
    if matches!(&filled, Some(Err(error)) if error.kind == Kind::InsufficientStorage) {
        // Room is what is wanted now, more than a later attempt's head start.
        let recipes = std::mem::take(&mut order.recipes);
        let given = shared.with_store(move |store| store.give_up(&recipes));
        if let Err(error) = given.await {
            tracing::warn!(%error, "the staging of a failed fill could not be removed");
        }
    }
    filled.unwrap_or_else(|| {
        Err(Error::new(
            Kind::Unavailable,
            "the server is stopping; ask again",
        ))
    })
}

async fn fill_with(
    shared: Arc<Shared>,
    order: &mut Order,
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
    let snapshot = Arc::new(snapshot);
    let selected = select(&shared, &order.key, &order.repo, Arc::clone(&snapshot)).await?;
    let bytes = selected.files.iter().map(|f| f.size).sum();
    progress.expect(selected.files.len() as u64, bytes);
    let job = Job {
        source: Source {
            shared: Arc::clone(&shared),
            repo: order.repo.clone(),
            commit: order.key.commit,
            allowance: shared.memory.allowance(),
            streams: Streams::new(shared.settings.connections),
            tasks,
        },
        shared: Arc::clone(&shared),
        asked: order.key.name.repo().clone(),
        room: None,
    };
    let groups = image::split(selected.files.clone(), order.key.layout);
    let drafts = draft(&job, groups.clone()).await?;
    progress.expect_layers(drafts.iter().map(|d| Arc::clone(&d.progress)).collect());
    order.recipes = drafts.iter().map(|d| d.recipe).collect();
    // Before anything is staged: what is there for these recipes stays, also if this process dies.
    remember(&shared, order).await;
    let job = reserve(job, order, &drafts).await?;
    let (layers, leases) = fill_layers(&job, drafts).await?;
    let license = license(&job, &snapshot, &groups, &layers).await?;
    publish(&job, order, selected, layers, leases, license).await
}

/// The files of an image, away from the runtime's threads: of many files and patterns it takes a while.
async fn select(
    shared: &Shared,
    key: &ImageKey,
    repo: &RepoId,
    snapshot: Arc<Snapshot>,
) -> Result<Selected, Error> {
    let (name, selection) = (key.name.clone(), key.selection.clone());
    let selected =
        tokio::task::spawn_blocking(move || image::select(&snapshot, name.path(), &selection));
    let selected = selected
        .await
        .map_err(|_| Error::new(Kind::Internal, "selecting files was lost"))?;
    selected.map_err(|error| {
        let mut message = format!("{repo} at {}: {error}", key.commit);
        if let Some(rule) = shared.settings.rules.of(key.name.repo())
            && key.selection.filter().is_some()
        {
            message.push_str(&format!(" (the rule is that of {})", rule.name()));
        }
        if let Some(quantisation) = key.selection.quantisation() {
            message.push_str(&format!(
                "; no branch or tag is called '{quantisation}' either"
            ));
        }
        Error::new(Kind::ManifestUnknown, message)
    })
}

/// Finds out which layers are there, and lays out the others. What is there stays while its draft lives.
async fn draft(job: &Job, groups: Vec<Vec<Entry>>) -> Result<Vec<Draft>, Error> {
    stream::iter(groups)
        .map(|files| Draft::new(job, files))
        .buffered(job.shared.settings.layers.max(1))
        .try_collect()
        .await
}

/// Reserves the room for all that this fill will write.
async fn reserve(mut job: Job, order: &Order, drafts: &[Draft]) -> Result<Job, Error> {
    let mut wanted: Vec<Wanted> = drafts.iter().filter_map(Draft::wanted).collect();
    let documents = DOCUMENTS + drafts.len() as u64 * DOCUMENTS_LAYER;
    wanted.push((order.key.documents(), documents));
    let reserved = job.shared.with_store(move |store| store.reserve(&wanted));
    job.room = Some(Arc::new(reserved.await?));
    Ok(job)
}

async fn fill_layers(
    job: &Job,
    drafts: Vec<Draft>,
) -> Result<(Vec<LayerRecord>, Vec<Lease>), Error> {
    let layers: Vec<(LayerRecord, Lease)> = stream::iter(drafts)
        .map(|draft| layer(job.clone(), draft))
        .buffered(job.shared.settings.layers.max(1))
        .try_collect()
        .await?;
    Ok(layers.into_iter().unzip())
}

async fn publish(
    job: &Job,
    order: &Order,
    selected: Selected,
    layers: Vec<LayerRecord>,
    leases: Vec<Lease>,
    license: Option<String>,
) -> Result<Ready, Error> {
    let subject = Subject {
        repo: order.repo.clone(),
        commit: order.key.commit,
        path: selected.path,
        license,
        restricted: selected.labels,
    };
    let documents = image::documents(&subject, &layers)
        .map_err(|e| Error::new(Kind::Internal, format!("writing the documents: {e}")))?;
    let image = NewImage {
        key: order.key.clone(),
        repo: order.repo.clone(),
        layers,
        documents,
    };
    let now = std::time::SystemTime::now();
    let (tag, room) = (order.tag.clone(), job.room.clone());
    let pin = job.shared.pins(&image.key.name);
    let publish = move |store: &Store| {
        // Until it is published, whether or not anybody still waits for it.
        let _held = (leases, room);
        let stored = store.publish_image(&image, &tag, now)?;
        if pin {
            store.pin(image.key.name.as_str(), tag.as_str(), true)?;
        }
        Ok(stored)
    };
    Ok(job.shared.with_store(publish).await?.into())
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
