//! Ranges of a blob, as a client sees them: a real server on loopback, one connection, one request after the other.
//!
//! The sets ask for little (512 bytes a range), so their time is that of parsing, resolving, framing and the answer itself; `fixed` has the
//! requests that touch no byte of a blob, to take off. `slices` is what lazy readers do: 64 KiB here and there. Its limits are reading the
//! same bytes from the file and getting them over loopback from a server that does nothing else.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use hf_oci::fill::{FillSettings, Images};
use hf_oci::hub::{HubClient, HubSettings};
use hf_oci::image::{ImageName, LayerRecord, Layout, Selection, Subject, documents};
use hf_oci::layer::{Sealed, Sink};
use hf_oci::oci::Digest;
use hf_oci::registry::{Registry, RegistrySettings};
use hf_oci::server::{self, ServerSettings, Shutdown};
use hf_oci::store::{ImageKey, NewImage, Store};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, RANGE};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

fn main() {
    // One request is mostly threads waking each other: many are one sample.
    let divan = divan::Divan::default().sample_count(40).sample_size(50);
    divan.config_with_args().main();
}

/// Bytes of the blob.
const SIZE: u64 = 64 << 20;

/// Bytes of a slice.
const SLICE: u64 = 64 << 10;

/// The one server of all benchmarks, and its folder, which goes with it.
struct Served {
    runtime: Runtime,
    address: SocketAddr,
    file: Arc<File>,
    path: String,
    _folder: tempfile::TempDir,
}

static SERVED: LazyLock<Served> = LazyLock::new(Served::start);

impl Served {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Arc::new(Store::open(folder.path()).expect("a store"));
        let digest = publish(&store);
        let opened = store.open_blob(&digest).expect("a file").expect("a blob");
        let runtime = Runtime::new().expect("a runtime");
        let address = runtime.block_on(serve(store));
        Self {
            runtime,
            address,
            file: opened.file,
            path: format!("/v2/org/model/blobs/{digest}"),
            _folder: folder,
        }
    }

    fn client(&self, address: SocketAddr) -> Client<'_> {
        let sender = self.runtime.block_on(async {
            let stream = TcpStream::connect(address).await.expect("a connection");
            stream.set_nodelay(true).expect("an option");
            let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
            tokio::spawn(connection);
            sender
        });
        Client {
            runtime: &self.runtime,
            sender,
        }
    }
}

/// Puts an image of one layer into the store; the layer need not be one for its ranges to be served.
fn publish(store: &Store) -> Digest {
    let bytes: Vec<u8> = (0..SIZE / 8).flat_map(u64::to_le_bytes).collect();
    let sealed = Sealed {
        digest: Digest::of(&bytes),
        size: SIZE,
        diff_id: Digest::of(b"diff"),
        toc: Digest::of(b"toc"),
        uncompressed: SIZE,
    };
    let recipe = Digest::of(b"recipe");
    let record = LayerRecord::new(&sealed, recipe);
    let mut staging = store.stage(&recipe, SIZE).expect("room");
    staging.write(0, &[&bytes]).expect("room");
    let published = store.publish_layer(staging, &recipe, &record);
    published.expect("a layer");
    let subject = Subject {
        repo: "org/model".parse().expect("an id"),
        commit: "0123456789".repeat(4).parse().expect("a commit"),
        path: String::new(),
        license: None,
        restricted: Vec::new(),
    };
    let image = NewImage {
        key: ImageKey {
            name: ImageName::parse("org/model").expect("a name"),
            layout: Layout::Split,
            selection: Selection::default(),
            commit: subject.commit,
        },
        repo: subject.repo.clone(),
        documents: documents(&subject, std::slice::from_ref(&record)).expect("JSON"),
        layers: vec![record],
    };
    let tag = "main".parse().expect("a tag");
    let published = store.publish_image(&image, &tag, SystemTime::now());
    published.expect("an image");
    sealed.digest
}

/// Serves what is in the store. Nothing here asks its upstream.
async fn serve(store: Arc<Store>) -> SocketAddr {
    let client = HubClient::new(HubSettings::default()).expect("a client");
    let images = Images::new(
        Arc::new(client),
        Arc::clone(&store),
        FillSettings::default(),
    );
    let registry = Registry::new(Arc::new(images), store, RegistrySettings::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(server::run(
        vec![listener],
        Arc::new(registry),
        ServerSettings::default(),
        None,
        Shutdown::new(),
    ));
    address
}

/// A connection that asks and reads the answer to its end.
struct Client<'a> {
    runtime: &'a Runtime,
    sender: SendRequest<Empty<Bytes>>,
}

impl Client<'_> {
    /// The status, and the length of the body.
    fn get(&mut self, path: &str, range: Option<&str>) -> (StatusCode, u64) {
        let mut request = Request::get(path).header(HOST, "localhost");
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let request = request.body(Empty::new()).expect("a request");
        self.runtime.block_on(async {
            self.sender.ready().await.expect("a connection");
            let answer = self.sender.send_request(request).await;
            let mut answer = answer.expect("an answer");
            let mut length = 0;
            while let Some(frame) = answer.frame().await {
                let frame = frame.expect("a body");
                length += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            (answer.status(), length)
        })
    }
}

/// A Range header of `count` stretches of `length` bytes, one every `step` bytes.
fn set(count: u64, length: u64, step: u64) -> String {
    let ranges = (0..count).map(|i| format!("{}-{}", i * step, i * step + length - 1));
    format!("bytes={}", ranges.collect::<Vec<_>>().join(","))
}

/// Offsets of slices, in no order.
fn offsets() -> impl Iterator<Item = u64> {
    (0_u64..).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (SIZE - SLICE))
}

/// Requests for no byte of a blob.
#[divan::bench_group]
mod fixed {
    use super::*;

    /// The least that an answer takes.
    #[divan::bench]
    fn health(bencher: Bencher<'_, '_>) {
        let mut client = SERVED.client(SERVED.address);
        assert_eq!(client.get("/healthz", None).0, StatusCode::OK);
        bencher.bench_local(|| client.get("/healthz", None));
    }

    /// 1,000 ranges past the end: they are read and resolved, and the blob is opened; nothing is framed.
    #[divan::bench]
    fn thousand_past_the_end(bencher: Bencher<'_, '_>) {
        let ranges: Vec<_> = (0..1000).map(|i| format!("{}-", SIZE + i)).collect();
        let ranges = format!("bytes={}", ranges.join(","));
        let mut client = SERVED.client(SERVED.address);
        let (status, _) = client.get(&SERVED.path, Some(&ranges));
        assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
        bencher.bench_local(|| client.get(&SERVED.path, Some(&ranges)));
    }
}

/// So many ranges of 512 bytes, spread over the blob.
#[divan::bench(args = [1, 16, 1000])]
fn sets(bencher: Bencher<'_, '_>, count: u64) {
    let ranges = set(count, 512, SIZE / count);
    let mut client = SERVED.client(SERVED.address);
    let (status, length) = client.get(&SERVED.path, Some(&ranges));
    assert_eq!(status, StatusCode::PARTIAL_CONTENT);
    assert!(length >= count * 512);
    bencher
        .counter(ItemsCount::new(count))
        .bench_local(|| client.get(&SERVED.path, Some(&ranges)));
}

/// 1,000 ranges that touch, and become one.
#[divan::bench]
fn thousand_joined(bencher: Bencher<'_, '_>) {
    let ranges = set(1000, 512, 512);
    let mut client = SERVED.client(SERVED.address);
    let answer = (StatusCode::PARTIAL_CONTENT, 512_000);
    assert_eq!(client.get(&SERVED.path, Some(&ranges)), answer);
    bencher
        .counter(ItemsCount::new(1000_u64))
        .bench_local(|| client.get(&SERVED.path, Some(&ranges)));
}

/// Slices of 64 KiB at places all over the blob.
#[divan::bench]
fn slices(bencher: Bencher<'_, '_>) {
    let mut client = SERVED.client(SERVED.address);
    let mut offsets = offsets();
    bencher
        .counter(BytesCount::new(SLICE))
        .with_inputs(|| {
            let at = offsets.next().unwrap_or_default();
            format!("bytes={at}-{}", at + SLICE - 1)
        })
        .bench_local_refs(|range| client.get(&SERVED.path, Some(range)));
}

/// What the same slices cost at least.
#[divan::bench_group]
mod limits {
    use super::*;

    /// Reading them from the file, which is in memory.
    #[divan::bench]
    fn slices_from_the_file(bencher: Bencher<'_, '_>) {
        let mut buffer = vec![0; SLICE as usize];
        let mut offsets = offsets();
        bencher
            .counter(BytesCount::new(SLICE))
            .with_inputs(|| offsets.next().unwrap_or_default())
            .bench_local_values(|at| SERVED.file.read_exact_at(&mut buffer, at));
    }

    /// Getting as many bytes over loopback by the same client, from a thread that has them in memory and reads no request.
    #[divan::bench]
    fn slices_over_loopback(bencher: Bencher<'_, '_>) {
        let mut client = SERVED.client(parrot());
        assert_eq!(client.get("/", None), (StatusCode::OK, SLICE));
        bencher
            .counter(BytesCount::new(SLICE))
            .bench_local(|| client.get("/", None));
    }

    /// A server of one connection that gives one answer to everything.
    fn parrot() -> SocketAddr {
        let listener = StdListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {SLICE}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + SLICE as usize, 7);
        std::thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            // Its requests are short: each comes in one piece.
            while stream.read(&mut [0; 4096])? > 0 {
                stream.write_all(&answer)?;
            }
            Ok(())
        });
        address
    }
}
