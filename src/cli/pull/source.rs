//! Who fills: the server of the data folder, this process, or a server elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::remote::Remote;
use super::show::Show;
use crate::cli::manage::{PATIENCE, owned};
use crate::cli::{Failure, filling};
use crate::config::Settings;
use crate::control::{
    AskError, Context, Control, Event, FailedLine, Request, Wanted, Why, ask, listens, pull,
};
use crate::fill::{Images, Upkeep};
use crate::server::Shutdown;
use crate::store::Store;

/// Events that may wait to be shown.
const QUEUE: usize = 16;

/// Who fills.
pub(super) enum Source {
    /// The server that has the data folder, asked through its socket.
    Server(PathBuf),
    /// This process, on the data folder.
    Own(Own),
    /// A server elsewhere.
    Remote(Remote),
}

/// What fills in this process.
pub(super) struct Own {
    store: Arc<Store>,
    images: Arc<Images>,
    upkeep: Upkeep,
    control: Option<Control>,
}

impl Source {
    /// The server that has the data folder, or this process. A folder that changes hands just now is waited for.
    pub(super) async fn of_folder(settings: &Settings) -> Result<Self, Failure> {
        let data = &settings.data_dir;
        let started = Instant::now();
        loop {
            if is_served(data).await? {
                return Ok(Self::Server(data.clone()));
            }
            match Own::open(settings).await {
                Ok(own) => return Ok(Self::Own(own)),
                Err(failure) if !failure.is_locked() || started.elapsed() > PATIENCE => {
                    return Err(failure);
                }
                Err(_) => tokio::time::sleep(PATIENCE / 50).await,
            }
        }
    }

    /// Sees to it that an image is cached, and shows how far that is. Dropping the future ends only what this process does.
    pub(super) async fn pull(
        &self,
        wanted: Wanted,
        show: &Arc<Show>,
        stop: &Shutdown,
    ) -> Result<(), FailedLine> {
        match self {
            Self::Server(data) => asked(data.clone(), wanted, Arc::clone(show), stop.clone()).await,
            Self::Own(own) => own.pull(wanted, show).await,
            Self::Remote(remote) => remote.pull(&wanted, show).await,
        }
    }

    /// What becomes of fills that are under way when this ends.
    pub(super) const fn afterwards(&self) -> &'static str {
        match self {
            Self::Server(_) | Self::Remote(_) => "the server goes on filling what was asked for",
            Self::Own(_) => "what is on disk stays: the same command goes on with it",
        }
    }

    /// Waits until others have what they asked this process for. May be cancelled.
    pub(super) async fn idle(&self) {
        if let Self::Own(Own {
            control: Some(control),
            ..
        }) = self
        {
            control.idle().await;
        }
    }

    /// Lets go of the data folder. What is not done can be gone on with.
    pub(super) async fn close(self) {
        if let Self::Own(own) = self {
            own.close().await;
        }
    }
}

async fn is_served(data: &Path) -> Result<bool, Failure> {
    let folder = data.to_owned();
    let asked = tokio::task::spawn_blocking(move || listens(&folder)).await;
    asked
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|error| {
            Failure::new("cannot ask the running server")
                .from(error)
                .next("run this as the server's user, who owns the data folder")
        })
}

/// Has the running server fill it.
async fn asked(
    data: PathBuf,
    wanted: Wanted,
    show: Arc<Show>,
    stop: Shutdown,
) -> Result<(), FailedLine> {
    let image = wanted.to_string();
    let work = move || {
        let mut last = None;
        let mut each = |event: Event| {
            show.event(&event);
            last = event.is_final().then_some(event);
            !stop.has_begun()
        };
        ask(&data, &Request::Pull(wanted), &mut each).map(|()| last)
    };
    let other = |why, message: String| FailedLine {
        image: image.clone(),
        why,
        message,
        retry_after: None,
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(last)) => ended(&image, last),
        Ok(Err(error @ (AskError::Stopped | AskError::Nobody))) => {
            Err(other(Why::Upstream, format!("{error}; run the same again")))
        }
        Ok(Err(error)) => Err(other(Why::Other, error.to_string())),
        Err(error) => Err(other(Why::Other, error.to_string())),
    }
}

/// How the last event says that it ended.
fn ended(image: &str, last: Option<Event>) -> Result<(), FailedLine> {
    let message = match last {
        Some(Event::Pulled(_)) => return Ok(()),
        Some(Event::NotPulled(failed)) => return Err(failed),
        Some(Event::Failed { message }) => message,
        _ => "it did not say how it ended".to_owned(),
    };
    Err(FailedLine {
        image: image.to_owned(),
        why: Why::Other,
        message,
        retry_after: None,
    })
}

impl Own {
    /// Takes the data folder, and makes it if need be.
    async fn open(settings: &Settings) -> Result<Self, Failure> {
        filling::prepare_data_dir(&settings.data_dir)?;
        owned(&settings.data_dir)?;
        let origin = filling::origin(settings)?;
        let store = filling::open_store(settings).await?;
        // Who may pull from this folder later is not known here, so nothing is opened by a listing alone.
        let images = filling::images(settings, origin, &store, true);
        let context = Context {
            store: Arc::clone(&store),
            images: Arc::clone(&images),
            offline: settings.offline,
            limits: settings.cache,
        };
        let control = Control::start(context).inspect_err(|error| {
            tracing::warn!(%error, "no control socket: other commands wait until this one is done");
        });
        Ok(Self {
            upkeep: Upkeep::start(Arc::clone(&store), Upkeep::EVERY),
            control: control.ok(),
            store,
            images,
        })
    }

    async fn pull(&self, wanted: Wanted, show: &Show) -> Result<(), FailedLine> {
        let image = wanted.to_string();
        let (tell, mut told) = mpsc::channel(QUEUE);
        let (images, store) = (Arc::clone(&self.images), Arc::clone(&self.store));
        let work = pull(images, store, wanted, tell);
        let watch = async {
            let mut last = None;
            while let Some(event) = told.recv().await {
                show.event(&event);
                last = event.is_final().then_some(event);
            }
            last
        };
        let ((), last) = tokio::join!(work, watch);
        ended(&image, last)
    }

    async fn close(self) {
        if let Some(control) = self.control {
            control.stop().await;
        }
        self.images.shutdown().await;
        self.upkeep.stop().await;
    }
}
