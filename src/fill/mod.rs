//! From a reference to an image: freshness, single flight, the download window and its progress.
//!
//! The cold path, from top to bottom: [`Images::find`] asks [`resolve`] what a tag means now, looks into the store, and joins or starts
//! a flight ([`flight`]); the flight fills an image ([`image`]) layer by layer ([`layer`]); a layer's bytes come through a window of
//! parallel reads ([`window`]) whose buffers are bounded for all fills together ([`memory`]).

mod asker;
mod flight;
mod image;
mod layer;
mod memory;
mod outcome;
mod prefetch;
mod progress;
mod proof;
mod resolve;
mod rules;
mod streams;
mod tags;
mod upkeep;
mod window;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;

use crate::error::{Error, Kind};
use crate::hub::{Upstream, UpstreamError};
use crate::image::ImageName;
use crate::image::{Layout, Quantisation, Selection};
use crate::oci::{Digest, Tag};
use crate::repo::{Commit, RepoId, Visibility};
use crate::store::{ImageKey, Order, Reference, Store, StoreError, Stored};

pub use asker::{Admits, Asker, Credential};
pub use flight::Flight;
pub use outcome::{Outcome, Outcomes};
pub use prefetch::Prefetch;
pub use progress::{LayerProgress, Progress};
pub use rules::{Rule, Rules};
pub use upkeep::Upkeep;

/// How fills behave.
#[derive(Debug, Clone)]
pub struct FillSettings {
    /// Bytes of buffers for all fills together, at least [`FillSettings::MIN_MEMORY`].
    pub memory: u64,
    /// Parallel reads of one fill.
    pub connections: usize,
    /// Layers of one image that are filled at once.
    pub layers: usize,
    /// Images that are filled at once; more wait for their turn.
    pub concurrent: usize,
    /// How repositories are cut into layers.
    pub layout: Layout,
    /// How long a tag's commit is believed without asking again.
    pub tag_ttl: Duration,
    /// How long an answer is waited for when a known image can stand in.
    pub revalidate: Duration,
    /// Whether not all may read the same: then a listing alone does not open a layer that is here because of another repository.
    pub proof: bool,
    /// What is otherwise for some repositories.
    pub rules: Arc<Rules>,
}

impl FillSettings {
    /// The least memory that fills work with.
    pub const MIN_MEMORY: u64 = 32 << 20;
}

impl Default for FillSettings {
    fn default() -> Self {
        Self {
            memory: 128 << 20,
            connections: 8,
            concurrent: 8,
            layers: std::thread::available_parallelism().map_or(2, usize::from),
            layout: Layout::Split,
            tag_ttl: Duration::from_secs(300),
            revalidate: Duration::from_secs(10),
            proof: false,
            rules: Arc::default(),
        }
    }
}

/// The index document of an image that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// Digest of the image index; its bytes are a blob of the store.
    pub index: Digest,
    /// Their length.
    pub size: u64,
}

impl From<Stored> for Ready {
    fn from(stored: Stored) -> Self {
        Self {
            index: stored.index,
            size: stored.size,
        }
    }
}

/// How long the upstream may take to say what everybody may read.
const ANONYMOUS: Duration = Duration::from_secs(5);

/// The most layers that are written at once, of all fills.
const WRITERS: usize = 64;

/// Where an image stands.
pub enum Found {
    /// It is in the store.
    Ready(Ready, Outcome),
    /// It is being filled; the repository, the revision and the access are already known to be good.
    Filling(Flight, Outcome),
}

impl Found {
    /// How the request was met.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Ready(_, outcome) | Self::Filling(_, outcome) => *outcome,
        }
    }
}

/// What every part of a fill works with.
#[derive(Clone)]
struct Shared {
    upstream: Arc<dyn Upstream>,
    store: Arc<Store>,
    settings: FillSettings,
    memory: memory::Memory,
    recipes: Arc<layer::Recipes>,
    /// Bounds the threads that write layers, well below what the runtime has: a layer takes memory only when it has one.
    writers: Arc<Semaphore>,
    outcomes: Arc<Outcomes>,
    doubts: Arc<resolve::Doubts>,
}

/// Finds images, and fills what is missing. One fill per image, detached from the requests that wait for it.
pub struct Images {
    shared: Arc<Shared>,
    heads: resolve::Heads,
    quantisations: tags::Known,
    flights: flight::Flights,
    /// The upstream without credentials, if the server has some.
    anonymous: Option<Arc<dyn Upstream>>,
}

impl Images {
    /// Images of `upstream`, kept in `store`.
    pub fn new(upstream: Arc<dyn Upstream>, store: Arc<Store>, settings: FillSettings) -> Self {
        let shared = Arc::new(Shared {
            memory: memory::Memory::new(settings.memory.max(FillSettings::MIN_MEMORY)),
            recipes: Arc::default(),
            writers: Arc::new(Semaphore::new(WRITERS)),
            outcomes: Arc::default(),
            doubts: Arc::default(),
            upstream,
            store,
            settings,
        });
        Self {
            heads: resolve::Heads::new(Arc::clone(&shared)),
            quantisations: tags::known(),
            flights: flight::Flights::new(shared.settings.concurrent),
            shared,
            anonymous: None,
        }
    }

    /// The same, where the upstream is asked with credentials: `anonymous` is the one without, which knows what everybody may read.
    pub fn with_credentials(self, anonymous: Arc<dyn Upstream>) -> Self {
        Self {
            anonymous: Some(anonymous),
            ..self
        }
    }

    /// Who asks with the server's own credentials, and may have everything that these open.
    pub fn own(&self) -> Asker {
        Asker::trusted(Arc::clone(&self.shared.upstream))
    }

    /// Which image `name` and `tag` mean now, and where it stands. Starts the fill, with the credentials of `asker`, if nobody has.
    ///
    /// Real failures (unknown repository or revision, gated content) come from here or, as far as they need the listing (a selection
    /// that matches nothing, content that no image can hold), from [`Flight::done`] within the first moments.
    /// Dropping the future changes nothing for others.
    pub async fn find(&self, asker: &Asker, name: &ImageName, tag: &Tag) -> Result<Found, Error> {
        let found = self.look(asker, name, tag).await?;
        self.shared.outcomes.count(found.outcome());
        Ok(found)
    }

    /// Forgets what tags mean and what there is not: something came that no upstream told of.
    pub fn forget_answers(&self) {
        self.heads.forget();
    }

    /// How many requests were met how, since the start.
    pub fn outcomes(&self) -> &Outcomes {
        &self.shared.outcomes
    }

    async fn look(&self, asker: &Asker, name: &ImageName, tag: &Tag) -> Result<Found, Error> {
        if let Ok(commit) = tag.as_str().parse::<Commit>()
            && let Some(stored) = self.stored(&self.shared.key(name, None, commit)).await?
        {
            return Ok(Found::Ready(stored.into(), Outcome::Hit));
        }
        let (head, outcome) = self.heads.head(asker, name, tag).await?;
        self.admit(asker, name, &head, outcome).await?;
        let key = head.key(&self.shared, name);
        let mut stored = self.stored(&key).await?;
        if let Some(noted) = head.known()
            && stored.is_none_or(|stored| stored.index != noted.index)
        {
            // The commit has another image now; the tag means the one that it is noted with.
            stored = self.noted(noted.clone()).await?;
        }
        if let Some(stored) = stored {
            if head.outage.is_none() {
                // The image is there: that it cannot be noted is no reason not to serve it.
                if let Err(error) = self.note_tag(&key, &head, stored, &head.noted(tag)).await {
                    tracing::warn!(%name, %tag, %error, "the tag could not be noted");
                }
            }
            return Ok(Found::Ready(stored.into(), outcome));
        }
        if let Some(outage) = head.outage {
            return Err(outage);
        }
        if head.gated {
            asker.upstream.access(&head.repo).await?;
        }
        let tag = &head.noted(tag);
        let order = Order {
            key,
            repo: head.repo,
            tag: tag.clone(),
            recipes: Vec::new(),
        };
        let shared = self.shared.on_behalf(asker);
        let (flight, outcome) = self.flights.join(&shared, order)?;
        Ok(Found::Filling(flight, outcome))
    }

    /// Goes on with the fills that an earlier process left under way; tells how many.
    pub async fn resume(&self) -> Result<usize, Error> {
        let orders = self.shared.with_store(Store::orders).await?;
        let mut count = 0;
        for order in orders {
            let quantisation = order.key.selection.quantisation().cloned();
            if order.key
                != self
                    .shared
                    .key(&order.key.name, quantisation, order.key.commit)
            {
                tracing::info!(name = %order.key.name, commit = %order.key.commit, "the settings have changed: a fill is given up");
                let key = order.key;
                self.shared
                    .with_store(move |store| store.remove_order(&key))
                    .await?;
                continue;
            }
            count += 1;
            tracing::info!(name = %order.key.name, commit = %order.key.commit, "going on with a fill");
            if let Err(error) = self.flights.join(&self.shared, order) {
                tracing::warn!(%error, "the fill begins when it is asked for");
            }
        }
        Ok(count)
    }

    /// Fills images again that are not whole any more, one after the other, detached.
    pub fn refetch(self: &Arc<Self>, damaged: Vec<Reference>) {
        let images = Arc::clone(self);
        tokio::spawn(async move {
            for reference in damaged {
                let Some((key, tag)) = reference.key().zip(reference.tag.parse().ok()) else {
                    continue;
                };
                let order = Order {
                    key,
                    repo: reference.repo,
                    tag,
                    recipes: Vec::new(),
                };
                let name = order.key.name.clone();
                let mut flight = match images.flights.join(&images.shared, order) {
                    Ok((flight, _)) => flight,
                    Err(error) => {
                        tracing::warn!(%error, %name, "the image is fetched again when it is asked for");
                        continue;
                    }
                };
                let done = flight.done().await;
                if done.is_err_and(|error| error.kind == Kind::Unavailable) {
                    break;
                }
            }
        });
    }

    /// The fills under way, the oldest first.
    pub fn fills(&self) -> Vec<Arc<Progress>> {
        self.flights.progress()
    }

    /// Ends all fills and waits until they have let go of their files. What they published stays.
    pub async fn shutdown(&self) {
        self.flights.shutdown().await;
    }

    async fn stored(&self, key: &ImageKey) -> Result<Option<Stored>, Error> {
        let now = SystemTime::now();
        if let Some(stored) = self.shared.store.known_image(key) {
            self.shared.store.touch(&stored.index, now);
            return Ok(Some(stored));
        }
        let key = key.clone();
        let look = move |store: &Store| {
            let found = store.image(&key)?;
            if let Some(stored) = &found {
                store.touch(&stored.index, now);
            }
            Ok(found)
        };
        self.shared.with_store(look).await
    }

    /// The image that a reference means, if all of it is here.
    async fn noted(&self, reference: Reference) -> Result<Option<Stored>, Error> {
        let now = SystemTime::now();
        let look = move |store: &Store| {
            let found = store.image_of(&reference)?;
            if let Some(stored) = &found {
                store.touch(&stored.index, now);
            }
            Ok(found)
        };
        self.shared.with_store(look).await
    }

    /// Refuses what the asker may not have, and notes who may read the repository, if that is news.
    async fn admit(
        &self,
        asker: &Asker,
        name: &ImageName,
        head: &resolve::Head,
        outcome: Outcome,
    ) -> Result<(), Error> {
        let repo = name.repo();
        // What is remembered for long may be true no longer.
        let fresh = outcome == Outcome::Revalidated;
        if fresh && self.shared.store.visibility(repo) != Some(head.visibility) {
            self.note(asker, name, head.visibility).await;
        }
        asker.admits(&head.repo, head.visibility)
    }

    /// Notes who may read a repository, of which the asker was told `told` just now.
    async fn note(&self, asker: &Asker, name: &ImageName, told: Visibility) {
        let repo = name.repo();
        let visibility = match (&self.anonymous, told) {
            // Whether something is public is not to be learned with a credential that may see more than everybody.
            (_, Visibility::Public) if asker.is_of_public() => Some(told),
            (_, Visibility::Public) if asker.has_credential() => None,
            (Some(anonymous), Visibility::Public) => to_all(&**anonymous, repo).await,
            (_, told) => Some(told),
        };
        let Some(visibility) = visibility else { return };
        let asked = repo.clone();
        let noted = self
            .shared
            .with_store(move |store| store.note_visibility(&asked, visibility));
        if let Err(error) = noted.await {
            tracing::warn!(%repo, %error, "who may read a repository could not be noted");
        }
    }

    /// Refuses what the asker may not have, where no tag is asked for. During an outage only what is cached is at stake, for which the
    /// asker was let in already.
    async fn admit_all(&self, asker: &Asker, name: &ImageName) -> Result<(), Error> {
        let Ok(latest) = "latest".parse() else {
            return Ok(());
        };
        if asker.is_trusted() {
            return Ok(());
        }
        match self.heads.head(asker, name, &latest).await {
            Ok((head, outcome)) => self.admit(asker, name, &head, outcome).await,
            Err(error) if resolve::is_outage(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Remembers what a tag means, if that is news.
    async fn note_tag(
        &self,
        key: &ImageKey,
        head: &resolve::Head,
        stored: Stored,
        tag: &Tag,
    ) -> Result<(), Error> {
        if self.shared.store.has_noted(key, stored, tag) {
            return Ok(());
        }
        let (key, repo, tag) = (key.clone(), head.repo.clone(), tag.clone());
        let now = SystemTime::now();
        self.shared
            .with_store(move |store| store.set_tag(&key, &repo, stored, &tag, now))
            .await
    }
}

impl Shared {
    /// The key of an image, as the settings and rules are now.
    fn key(
        &self,
        name: &ImageName,
        quantisation: Option<Quantisation>,
        commit: Commit,
    ) -> ImageKey {
        let rule = self.settings.rules.of(name.repo());
        ImageKey {
            name: name.clone(),
            layout: rule
                .and_then(|rule| rule.layout)
                .unwrap_or(self.settings.layout),
            selection: Selection::new(quantisation, rule.and_then(|rule| rule.filter.clone())),
            commit,
        }
    }

    /// Whether images of a name are pinned when they are filled.
    fn pins(&self, name: &ImageName) -> bool {
        let rule = self.settings.rules.of(name.repo());
        rule.is_some_and(|rule| rule.pin)
    }

    /// The same, for a fill that asks the upstream with the asker's credentials.
    fn on_behalf(&self, asker: &Asker) -> Arc<Self> {
        Arc::new(Self {
            upstream: Arc::clone(&asker.upstream),
            ..self.clone()
        })
    }

    /// Runs a call of the store where it may block.
    async fn with_store<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Error> {
        with_store(&self.store, call).await
    }
}

/// Runs a call of the store where it may block. Once begun it ends, also if nobody waits for it any more.
pub(crate) async fn with_store<T: Send + 'static>(
    store: &Arc<Store>,
    call: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Error> {
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || call(&store)).await {
        Ok(result) => result.map_err(Error::from),
        Err(_) => Err(Error::new(Kind::Internal, "a call of the store was lost")),
    }
}

/// Who may read a repository, as `anonymous` sees it; nothing if it does not say so soon.
async fn to_all(anonymous: &dyn Upstream, repo: &RepoId) -> Option<Visibility> {
    match tokio::time::timeout(ANONYMOUS, anonymous.resolve(repo, None)).await {
        Ok(Ok(seen)) => Some(seen.visibility()),
        Ok(Err(UpstreamError::RepositoryUnknown(_))) => Some(Visibility::Private),
        Ok(Err(_)) | Err(_) => None,
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Full { .. } | StoreError::NoRoom { .. } => Kind::InsufficientStorage,
            StoreError::Io { .. }
            | StoreError::Locked(_)
            | StoreError::Foreign(..)
            | StoreError::Index(_) => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}
