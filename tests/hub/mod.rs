//! A simulator of the Hugging Face Hub: two origins on loopback, the Hub and its CDN.
//!
//! It knows nothing of hf_oci, so that it can judge it, and is itself judged by the real client. See `README.md`.
//! It runs on threads of its own: a test may block, and may pause tokio's clock.
#![allow(dead_code, unused_imports)] // Each user needs a part of it.

mod access;
mod answer;
mod api;
mod body;
mod card;
mod cdn;
pub mod content;
pub mod disk;
pub mod faults;
mod git;
mod limits;
pub mod options;
mod range;
pub mod record;
mod resolve;
mod routes;
mod server;
pub mod world;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use content::Content;
pub use faults::{Effect, Fault, Origin};
pub use options::{Options, Quota, Xet};
pub use record::Record;
pub use server::Reload;
pub use world::{Commit, Files, Kind, Repo, World};

use server::Shared;

/// A running simulator. Dropping it stops it.
pub struct Hub {
    shared: Arc<Shared>,
    ports: [Port; 2],
    serving: Mutex<Serving>,
    runtime: Option<Runtime>,
}

/// The listeners at work, and what ends them and their connections.
#[derive(Default)]
struct Serving {
    stop: CancellationToken,
    listeners: Vec<JoinHandle<()>>,
}

/// Where a simulator listens, and how it gets a new world.
pub struct Launch {
    /// The Hub's address.
    pub listen: SocketAddr,
    /// The CDN's address.
    pub cdn: SocketAddr,
    /// How `/-/reload` reads the world anew.
    pub reload: Option<Reload>,
}

impl Default for Launch {
    fn default() -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: any,
            cdn: any,
            reload: None,
        }
    }
}

/// An address that stays ours while nobody listens there.
struct Port {
    origin: Origin,
    address: SocketAddr,
    // Bound but not listening: connections are refused, and the system gives the port to nobody else.
    _reserved: TcpSocket,
}

impl Port {
    fn reserve(origin: Origin, address: SocketAddr) -> io::Result<Self> {
        let reserved = socket(address)?;
        Ok(Self {
            origin,
            address: reserved.local_addr()?,
            _reserved: reserved,
        })
    }

    fn listen(&self) -> io::Result<TcpListener> {
        socket(self.address)?.listen(1024)
    }
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

impl Hub {
    /// Starts on free ports of loopback.
    pub async fn start(world: World) -> Self {
        Self::launch(world, Launch::default()).expect("loopback has free ports")
    }

    /// Starts where told. Does not need a runtime.
    pub fn launch(world: World, launch: Launch) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("hub")
            .enable_all()
            .build()?;
        let ports = [
            Port::reserve(Origin::Hub, launch.listen)?,
            Port::reserve(Origin::Cdn, launch.cdn)?,
        ];
        let shared = Shared {
            world: RwLock::new(Arc::new(world)),
            faults: faults::Faults::default(),
            recorder: Arc::default(),
            signer: cdn::Signer::default(),
            limits: limits::Limits::default(),
            hub_origin: format!("http://{}", ports[0].address),
            cdn_origin: format!("http://{}", ports[1].address),
            paused: tokio::sync::watch::Sender::new(false),
            released: tokio::sync::watch::Sender::default(),
            reload: launch.reload,
        };
        let hub = Self {
            shared: Arc::new(shared),
            ports,
            serving: Mutex::default(),
            runtime: Some(runtime),
        };
        hub.restart()?;
        Ok(hub)
    }

    /// `http://127.0.0.1:PORT` of the Hub: the endpoint for clients.
    pub fn url(&self) -> &str {
        &self.shared.hub_origin
    }

    /// `http://127.0.0.1:PORT` of the CDN.
    pub fn cdn_url(&self) -> &str {
        &self.shared.cdn_origin
    }

    /// Cuts all connections and refuses new ones, from when it returns.
    pub fn stop(&self) {
        let serving = std::mem::take(&mut *self.serving());
        serving.stop.cancel();
        while !serving.listeners.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Listens again on the same ports.
    pub fn restart(&self) -> io::Result<()> {
        let _inside = self.runtime.as_ref().map(Runtime::enter);
        self.stop();
        let mut serving = Serving::default();
        for port in &self.ports {
            let (shared, stop) = (self.shared.clone(), serving.stop.clone());
            let serve = serve(shared, port.origin, port.listen()?, stop);
            serving.listeners.push(tokio::spawn(serve));
        }
        *self.serving() = serving;
        Ok(())
    }

    fn serving(&self) -> std::sync::MutexGuard<'_, Serving> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the world holds.
impl Hub {
    /// Commits on a branch, which begins at `main` if it is new. Gives the commit's id.
    pub fn commit(&self, repo: &str, branch: &str, files: Files) -> String {
        let (kind, id) = world::parse_id(repo);
        self.edit(|world| {
            let repo = world.find_mut(kind, id).expect("a known repository");
            repo.apply(&format!("refs/heads/{branch}"), "refs/heads/main", files)
        })
    }

    /// Changes anything.
    pub fn edit<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        self.shared.edit(change)
    }

    /// What it holds now.
    pub fn world(&self) -> Arc<World> {
        self.shared.world()
    }

    /// The commit of a revision.
    pub fn at(&self, repo: &str, revision: &str) -> Arc<Commit> {
        let (kind, id) = world::parse_id(repo);
        let world = self.world();
        let repo = world.find(kind, id).expect("a known repository");
        repo.revision(revision).expect("a known revision").clone()
    }

    /// The id of the commit of a revision.
    pub fn sha(&self, repo: &str, revision: &str) -> String {
        self.at(repo, revision).id.clone()
    }

    /// The content of a file.
    pub fn content(&self, repo: &str, revision: &str, path: &str) -> Content {
        self.at(repo, revision).files[path].content.clone()
    }

    /// Reads the world anew, as `/-/reload` does.
    pub fn reload(&self) -> io::Result<()> {
        self.shared.reload()
    }
}

/// What goes wrong.
impl Hub {
    /// Adds a fault.
    pub fn fault(&self, fault: Fault) {
        self.shared.faults.add(fault);
    }

    /// How many requests met the faults in force.
    pub fn fault_hits(&self) -> u64 {
        self.shared.faults.hits()
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Makes every signed URL given so far an expired one.
    pub fn expire_signatures(&self) {
        self.shared.signer.expire_all();
    }

    /// Holds all bodies of the CDN.
    pub fn pause(&self) {
        self.shared.paused.send_replace(true);
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.shared.paused.send_replace(false);
    }

    /// Lets requests go on that `Effect::Hold` with this name holds.
    pub fn release(&self, name: &str) {
        let add = |names: &mut std::collections::BTreeSet<String>| {
            names.insert(name.to_owned());
        };
        self.shared.released.send_modify(add);
    }
}

/// What happened.
impl Hub {
    /// Every request since the last reset.
    pub fn records(&self) -> Vec<Record> {
        self.shared.recorder.records()
    }

    /// How many requests there were of a route (see [`Record::route`]).
    pub fn count(&self, route: &str) -> usize {
        let records = self.records();
        records
            .iter()
            .filter(|record| record.route == route)
            .count()
    }

    /// Bytes of content sent, of all files.
    pub fn bytes(&self) -> u64 {
        self.records().iter().map(|record| record.bytes).sum()
    }

    /// Bytes of content sent, by file (`models/org/name/path`).
    pub fn bytes_by_file(&self) -> BTreeMap<String, u64> {
        self.shared.recorder.bytes_by_file()
    }

    /// Waits until something happened; panics if it does not within ten seconds.
    pub async fn wait_until(&self, happened: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !happened(self) {
            assert!(begun.elapsed().as_secs() < 10, "waited in vain");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Requests at the CDN that carried a token: there should be none.
    pub fn leaks(&self) -> Vec<Record> {
        let leaks =
            |record: &Record| record.origin == Origin::Cdn && record.authorization().is_some();
        let mut records = self.records();
        records.retain(leaks);
        records
    }

    /// How many requests an origin worked on at once, at most.
    pub fn peak(&self, origin: Origin) -> u64 {
        self.shared.recorder.peak(origin)
    }

    /// The counters as JSON, as `/-/stats` shows them.
    pub fn stats(&self) -> Value {
        self.shared.recorder.stats()
    }

    /// Forgets all records.
    pub fn reset(&self) {
        self.shared.recorder.reset();
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Accepts connections until told to stop, which also cuts them.
async fn serve(
    shared: Arc<Shared>,
    origin: Origin,
    listener: TcpListener,
    stop: CancellationToken,
) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(shared.clone(), origin, stream, stop.clone()));
            }
            // Out of files: wait for some to close.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connection(
    shared: Arc<Shared>,
    origin: Origin,
    stream: TcpStream,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| server::handle(shared.clone(), origin, request));
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // An error is a client that left or a fault that was asked for.
    let _ = stop.run_until_cancelled(served).await;
}
