//! The socket of a running server: for its own user only, a few requests at once, each on a thread that may block.

use std::fs::{self, File, Permissions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pull::{FailedLine, Why, pull};
use super::transfer::{hold, import_here};
use super::{Event, MAX_LINE, Request, SOCKET, Transfer, execute};
use crate::fill::Images;
use crate::store::{Held, ImportOptions, Limits, Reference, Store};

/// Requests at work at once; more wait to be accepted.
const AT_ONCE: usize = 8;

/// Images that are pulled at once for those who ask here.
const PULLS: usize = 256;

/// Clients for whom images are held at once.
const HOLDS: usize = 64;

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
    /// How much room an import may take.
    pub limits: Limits,
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
    let longer = Longer {
        pulls: Arc::new(Semaphore::new(PULLS)),
        holds: Arc::new(Semaphore::new(HOLDS)),
    };
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
                let answered = answer(stream, context.clone(), place, longer.clone());
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

/// Places of those who stay for as long as they like, and keep nobody waiting who does not.
#[derive(Clone)]
struct Longer {
    pulls: Arc<Semaphore>,
    holds: Arc<Semaphore>,
}

async fn answer(
    stream: UnixStream,
    context: Context,
    place: Option<OwnedSemaphorePermit>,
    longer: Longer,
) -> io::Result<()> {
    let mut place = place;
    let mut hold = None;
    let (line, file) = timeout(PATIENCE, receive(&stream)).await??;
    let (mut reader, mut writer) = stream.into_split();
    let (tell, mut told) = mpsc::channel(QUEUE);
    let working = match serde_json::from_slice::<Asked>(&line) {
        Ok(Asked::Operator(Request::Pull(wanted))) => {
            tracing::info!(%wanted, "an operator pulls");
            // It takes as long as it takes, and keeps no other request waiting.
            drop(place.take());
            match longer.pulls.try_acquire_owned() {
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
            None
        }
        Ok(asked) => {
            tracing::info!(?asked, "an operator asks");
            if let Asked::Transfer(Transfer::Hold { .. }) = asked {
                hold = longer.holds.try_acquire_owned().ok();
                if hold.is_none() {
                    let message = format!(
                        "the server is busy: images are held for {HOLDS} exports; try again later"
                    );
                    return write(&mut writer, &Event::Failed { message }).await;
                }
            }
            Some(tokio::task::spawn_blocking(move || {
                work(&context, asked, file, &tell)
            }))
        }
        Err(error) => {
            let message = format!("the request is not understood: {error}");
            // There is room for one.
            let _ = tell.send(Event::Failed { message }).await;
            drop(tell);
            None
        }
    };
    while let Some(event) = told.recv().await {
        write(&mut writer, &event).await?;
    }
    // A lost thread holds nothing.
    if let Some(working) = working
        && let Ok(Some(_held)) = working.await
    {
        // It may take as long as an export takes.
        drop(place.take());
        let _ = reader.read(&mut [0]).await?;
    }
    drop((place, hold));
    writer.shutdown().await
}

async fn write(writer: &mut OwnedWriteHalf, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    timeout(PATIENCE, writer.write_all(&line)).await?
}

/// What is asked through the socket.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Asked {
    Operator(Request),
    Transfer(Transfer),
}

/// Reads a line, and takes the file that may come beside it.
async fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<File>)> {
    let (mut line, mut file) = (Vec::new(), None);
    while !line.ends_with(b"\n") && (line.len() as u64) < MAX_LINE {
        let take = || take_some(stream, &mut line, &mut file);
        if stream.async_io(Interest::READABLE, take).await? == 0 {
            break;
        }
    }
    Ok((line, file))
}

fn take_some(
    stream: &UnixStream,
    line: &mut Vec<u8>,
    file: &mut Option<File>,
) -> io::Result<usize> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let got = recvmsg(stream, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    line.extend_from_slice(&bytes[..got.bytes]);
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(files) = message {
            *file = files.last().map(File::from);
        }
    }
    Ok(got.bytes)
}

/// Works on a thread of its own. When the client leaves, the channel closes, and the work ends soon. Gives what is to be held until then.
fn work(
    context: &Context,
    asked: Asked,
    file: Option<File>,
    tell: &mpsc::Sender<Event>,
) -> Option<Held> {
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
    match asked {
        Asked::Operator(request) => {
            execute(&context.store, &request, &mut send, &refetch);
            None
        }
        Asked::Transfer(Transfer::Hold { images }) => hold(&context.store, &images, &mut send),
        Asked::Transfer(Transfer::Import { resume, public }) => {
            let options = ImportOptions {
                resume,
                public,
                limits: context.limits,
            };
            // Whoever hears that it is done may ask for it at once.
            let mut send = |event: Event| {
                if let Event::Imported { .. } = event {
                    context.images.forget_answers();
                }
                send(event)
            };
            match file {
                Some(file) => import_here(&context.store, file, options, &mut send),
                None => drop(send(Event::Failed {
                    message: "no file came beside the request".to_owned(),
                })),
            }
            None
        }
    }
}
