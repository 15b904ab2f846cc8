//! The socket of a running server: for its own user only, a few requests at once, each on a thread that may block.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pull::{FailedLine, Why, pull};
use super::{Event, MAX_LINE, Request, SOCKET, execute};
use crate::fill::Images;
use crate::store::{Reference, Store};

/// Requests at work at once; more wait to be accepted.
const AT_ONCE: usize = 4;

/// Images that are pulled at once for those who ask here.
const PULLS: usize = 256;

/// How long a client may take to ask, and to take one line of the answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The time between two looks at whether anything is at work.
const GLANCE: Duration = Duration::from_millis(100);

/// Events that may wait for the client.
const QUEUE: usize = 16;

/// The longest path of a socket that every system takes.
const MAX_PATH: usize = 100;

/// What requests work on.
#[derive(Clone)]
pub struct Context {
    /// The data directory.
    pub store: Arc<Store>,
    /// What fills.
    pub images: Arc<Images>,
    /// Whether the upstream is never asked.
    pub offline: bool,
}

/// The socket, and those who were accepted on it.
pub struct Control {
    stop: CancellationToken,
    task: JoinHandle<()>,
    tasks: TaskTracker,
    path: PathBuf,
}

impl Control {
    /// Listens in the store's folder. Whatever stands at the socket's place is an earlier server's, which is gone: the store is locked.
    pub fn start(context: Context) -> io::Result<Self> {
        let root = context.store.root().to_owned();
        let listener = bind(&root)?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let task = tokio::spawn(listen(listener, context, tasks.clone(), stop.clone()));
        let path = root.join(SOCKET);
        Ok(Self {
            stop,
            task,
            tasks,
            path,
        })
    }

    /// Waits until nothing is at work that was asked for here. May be cancelled.
    pub async fn idle(&self) {
        while !self.tasks.is_empty() {
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Removes the socket and ends what is at work.
    pub async fn stop(self) {
        // Best effort: the next server replaces it.
        let _ = fs::remove_file(&self.path);
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the control socket failed by a defect");
        }
    }
}

/// Binds aside, so that at its place the socket is never open to others.
fn bind(root: &Path) -> io::Result<UnixListener> {
    let aside = root.join("staging").join(SOCKET);
    if let Err(error) = fs::remove_file(&aside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = with_short_path(&root.join("staging"), SOCKET, |path| {
        UnixListener::bind(path)
    })?;
    fs::set_permissions(&aside, Permissions::from_mode(0o600))?;
    fs::rename(&aside, root.join(SOCKET))?;
    Ok(listener)
}

/// Calls with a path of `name` in `folder` that is short enough for a socket.
pub(super) fn with_short_path<T>(
    folder: &Path,
    name: &str,
    call: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let path = folder.join(name);
    if path.as_os_str().len() <= MAX_PATH {
        return call(&path);
    }
    let open = File::open(folder)?;
    call(
        &Path::new("/proc/self/fd")
            .join(open.as_raw_fd().to_string())
            .join(name),
    )
}

async fn listen(
    listener: UnixListener,
    context: Context,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let pulls = Arc::new(Semaphore::new(PULLS));
    loop {
        let accepted = stop.run_until_cancelled(async {
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        });
        let Some((place, accepted)) = accepted.await else {
            break;
        };
        match accepted {
            Ok((stream, _)) => {
                let answered = answer(stream, context.clone(), place, Arc::clone(&pulls));
                let stop = stop.clone();
                tasks.spawn(async move {
                    if let Some(Err(error)) = stop.run_until_cancelled(answered).await {
                        tracing::debug!(%error, "a control connection failed");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket does not accept");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn answer(
    stream: UnixStream,
    context: Context,
    place: Option<OwnedSemaphorePermit>,
    pulls: Arc<Semaphore>,
) -> io::Result<()> {
    let mut place = place;
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(MAX_LINE));
    timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    let (tell, mut told) = mpsc::channel(QUEUE);
    match serde_json::from_slice::<Request>(&line) {
        Ok(Request::Pull(wanted)) => {
            tracing::info!(%wanted, "an operator pulls");
            // It takes as long as it takes, and keeps no other request waiting.
            drop(place.take());
            match pulls.try_acquire_owned() {
                Ok(pull) => place = Some(pull),
                Err(_) => {
                    let busy = Event::NotPulled(FailedLine {
                        image: wanted.to_string(),
                        why: Why::Upstream,
                        message: format!("{PULLS} images are being pulled; try again later"),
                        retry_after: None,
                    });
                    return write(&mut writer, &busy).await;
                }
            }
            let (images, store) = (context.images, context.store);
            tokio::spawn(pull(images, store, wanted, tell));
        }
        Ok(request) => {
            tracing::info!(?request, "an operator asks");
            tokio::task::spawn_blocking(move || work(&context, &request, &tell));
        }
        Err(error) => {
            let message = format!("the request is not understood: {error}");
            // There is room for one.
            let _ = tell.send(Event::Failed { message }).await;
            drop(tell);
        }
    }
    while let Some(event) = told.recv().await {
        write(&mut writer, &event).await?;
    }
    drop(place);
    writer.shutdown().await
}

async fn write(writer: &mut OwnedWriteHalf, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    timeout(PATIENCE, writer.write_all(&line)).await?
}

/// Works on a thread of its own. When the client leaves, the channel closes, and the work ends soon.
fn work(context: &Context, request: &Request, tell: &mpsc::Sender<Event>) {
    let mut send = |event: Event| {
        // A progress that nobody has room for is not news.
        if let Event::Progress { .. } = event {
            return !matches!(
                tell.try_send(event),
                Err(mpsc::error::TrySendError::Closed(_))
            );
        }
        tell.blocking_send(event).is_ok()
    };
    let refetch = |damaged: Vec<Reference>| {
        if context.offline {
            return 0;
        }
        let count = damaged.len() as u64;
        context.images.refetch(damaged);
        count
    };
    execute(&context.store, request, &mut send, &refetch);
}
