//! A proxy over the simulator, in this process, and a client that pulls as strictly as the strictest real one.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hf_oci::auth::{Gate, GateSettings, Mode};
use hf_oci::fill::{FillSettings, Images};
use hf_oci::hub::{Credentials, Endpoint, HubClient, HubSettings, Offline, Token, Upstream};
use hf_oci::oci::{Config, Descriptor, Digest, Index, Manifest};
use hf_oci::registry::{Registry, RegistrySettings};
use hf_oci::server::{self, ServerSettings, Shutdown};
use hf_oci::store::{Limits, Store};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Method, Response, StatusCode};
use tokio::task::JoinHandle;

use crate::hub::{Files, Hub, Repo, World};

/// How a proxy is set up.
pub struct Setup {
    pub fill: FillSettings,
    pub registry: RegistrySettings,
    pub token: Option<&'static str>,
    pub stall: Duration,
    pub retries: u32,
    pub backoff: Duration,
    /// The longest wait for the upstream's rate limit.
    pub patience: Duration,
    /// Bodies read at once, of all fills.
    pub connections: usize,
    pub offline: bool,
    /// Who is let in; everybody, if nothing is said.
    pub gate: Option<GateSettings>,
    /// How much room the cache may take.
    pub limits: Limits,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            fill: FillSettings::default(),
            registry: RegistrySettings::default(),
            token: None,
            stall: Duration::from_secs(5),
            retries: 3,
            backoff: Duration::from_millis(300),
            patience: Duration::from_secs(300),
            connections: 64,
            offline: false,
            gate: None,
            limits: Limits::default(),
        }
    }
}

/// A running proxy. Its data folder goes with it, unless it is kept for the next one.
pub struct Proxy {
    pub images: Arc<Images>,
    pub store: Arc<Store>,
    base: String,
    client: reqwest::Client,
    folder: Folder,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
}

enum Folder {
    Own(tempfile::TempDir),
    Given(PathBuf),
}

impl Proxy {
    /// A proxy with an empty data folder and the defaults.
    pub async fn start(hub: &Hub) -> Self {
        Self::start_with(hub, Setup::default()).await
    }

    /// A proxy with an empty data folder.
    pub async fn start_with(hub: &Hub, setup: Setup) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::launch(hub, setup, Folder::Own(folder)).await
    }

    /// A proxy on a data folder that stays.
    pub async fn start_on(hub: &Hub, folder: &Path) -> Self {
        Self::start_on_with(hub, folder, Setup::default()).await
    }

    /// A proxy on a data folder that stays.
    pub async fn start_on_with(hub: &Hub, folder: &Path, setup: Setup) -> Self {
        Self::launch(hub, setup, Folder::Given(folder.to_owned())).await
    }

    async fn launch(hub: &Hub, setup: Setup, folder: Folder) -> Self {
        let endpoint: Endpoint = hub.url().parse().expect("an endpoint");
        let hub = HubClient::new(HubSettings {
            endpoint,
            token: setup.token.map(|t| Token::new(t).expect("a token")),
            connections: setup.connections,
            stall: setup.stall,
            retries: setup.retries,
            backoff: setup.backoff,
            patience: setup.patience,
            ..HubSettings::default()
        })
        .expect("a client");
        let hub = Arc::new(hub);
        let (upstream, credentials): (Arc<dyn Upstream>, Arc<dyn Credentials>) = match setup.offline
        {
            true => (Arc::new(Offline), Arc::new(Offline)),
            false => (hub.clone(), hub),
        };
        Self::run(upstream, credentials, setup, folder).await
    }

    /// A proxy of any upstream, on a data folder that stays.
    pub async fn start_over(
        upstream: impl Upstream + Credentials,
        folder: &Path,
        setup: Setup,
    ) -> Self {
        let upstream = Arc::new(upstream);
        Self::run(
            upstream.clone(),
            upstream,
            setup,
            Folder::Given(folder.to_owned()),
        )
        .await
    }

    async fn run(
        upstream: Arc<dyn Upstream>,
        credentials: Arc<dyn Credentials>,
        setup: Setup,
        folder: Folder,
    ) -> Self {
        let data = match &folder {
            Folder::Own(folder) => folder.path().to_owned(),
            Folder::Given(folder) => folder.clone(),
        };
        let store = Arc::new(Store::open_with(&data, setup.limits).expect("a store"));
        let anonymous = setup.token.map(|_| credentials.with_token(None));
        let mode = setup.gate.as_ref().map(|gate| &gate.mode);
        let proof = matches!(mode, Some(Mode::HuggingFace | Mode::Public));
        let gate = setup.gate.map(|gate| {
            Gate::new(gate, upstream.clone(), credentials, store.clone()).expect("a gate")
        });
        let fill = FillSettings {
            proof,
            ..setup.fill
        };
        let images = Images::new(upstream, Arc::clone(&store), fill);
        let images = Arc::new(match anonymous {
            Some(anonymous) => images.with_credentials(anonymous),
            None => images,
        });
        let registry = Registry::new(Arc::clone(&images), Arc::clone(&store), setup.registry);
        let registry = Arc::new(match gate {
            Some(gate) => registry.behind(gate),
            None => registry,
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let shutdown = Shutdown::new();
        let settings = ServerSettings::default();
        let serving = tokio::spawn(server::run(
            vec![listener],
            registry,
            settings,
            None,
            shutdown.clone(),
        ));
        Self {
            images,
            store,
            base,
            client: http(),
            folder,
            shutdown,
            serving,
        }
    }

    /// Stops the proxy and lets go of its data folder.
    pub async fn stop(self) {
        self.shutdown.stop_at_once();
        self.images.shutdown().await;
        self.serving.await.expect("a clean end");
    }

    /// `http://127.0.0.1:PORT`
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        match &self.folder {
            Folder::Own(folder) => folder.path(),
            Folder::Given(folder) => folder,
        }
    }

    /// A request with headers.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer")
    }

    /// A plain GET.
    pub async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, &[]).await
    }

    /// The status and the OCI error of a GET that must fail.
    pub async fn error(&self, path: &str) -> OciError {
        OciError::of(self.get(path).await).await
    }

    /// The index of an image: its digest and what it says.
    pub async fn index(&self, name: &str, tag: &str) -> (Digest, Index) {
        let response = self.get(&format!("/v2/{name}/manifests/{tag}")).await;
        let status = response.status();
        let told = header(&response, "docker-content-digest");
        let bytes = response.bytes().await.expect("a body");
        assert_eq!(
            status,
            StatusCode::OK,
            "{name}:{tag}: {}",
            String::from_utf8_lossy(&bytes)
        );
        let digest = Digest::of(&bytes);
        assert_eq!(told, Some(digest.to_string()));
        (digest, serde_json::from_slice(&bytes).expect("an index"))
    }

    /// A blob, held against its descriptor.
    pub async fn blob(&self, name: &str, wanted: &Descriptor) -> Vec<u8> {
        let response = self
            .get(&format!("/v2/{name}/blobs/{}", wanted.digest))
            .await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            header(&response, CONTENT_LENGTH.as_str()),
            Some(wanted.size.to_string())
        );
        assert_eq!(header(&response, "content-encoding"), None);
        let bytes = response.bytes().await.expect("a body").to_vec();
        assert_eq!(Digest::of(&bytes), wanted.digest);
        bytes
    }

    /// The manifest and config of the first platform of an image.
    pub async fn manifest(&self, name: &str, tag: &str) -> (Manifest, Config) {
        let (_, index) = self.index(name, tag).await;
        let first = &index.manifests[0];
        let response = self
            .get(&format!("/v2/{name}/manifests/{}", first.digest))
            .await;
        assert_eq!(
            header(&response, CONTENT_TYPE.as_str()).as_ref(),
            Some(&first.media_type)
        );
        let bytes = response.bytes().await.expect("a body");
        assert_eq!(Digest::of(&bytes), first.digest);
        let manifest: Manifest = serde_json::from_slice(&bytes).expect("a manifest");
        let config = self.blob(name, &manifest.config).await;
        (manifest, serde_json::from_slice(&config).expect("a config"))
    }

    /// Pulls an image as the strictest client does: every digest and diff id is checked. Gives its files.
    pub async fn files(&self, name: &str, tag: &str) -> BTreeMap<String, Vec<u8>> {
        let (manifest, config) = self.manifest(name, tag).await;
        assert_eq!(manifest.layers.len(), config.rootfs.diff_ids.len());
        let mut files = BTreeMap::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            let blob = self.blob(name, layer).await;
            let mut stream = Vec::new();
            flate2::read::MultiGzDecoder::new(&blob[..])
                .read_to_end(&mut stream)
                .expect("gzip");
            assert_eq!(Digest::of(&stream), *diff_id);
            unpack(&stream, &mut files);
        }
        files
    }

    /// Names of what lies in staging.
    pub fn staged(&self) -> Vec<String> {
        names(&self.data().join("staging"))
    }

    /// Names of the published blobs.
    pub fn blobs(&self) -> Vec<String> {
        names(&self.data().join("blobs/sha256"))
    }
}

/// A client of plain HTTP; it wants to be told of a TLS library all the same.
pub fn http() -> reqwest::Client {
    // An error says that another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// An error as the registry tells it.
#[derive(Debug, PartialEq, Eq)]
pub struct OciError {
    pub status: u16,
    pub code: String,
    pub message: String,
}

impl OciError {
    /// The error that an answer tells of.
    pub async fn of(response: Response) -> Self {
        let status = response.status();
        let text = response.text().await.expect("a body");
        let value: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: {text}"));
        let first = &value["errors"][0];
        Self {
            status: status.as_u16(),
            code: first["code"].as_str().expect("a code").to_owned(),
            message: first["message"].as_str().expect("a message").to_owned(),
        }
    }
}

/// A header's text.
pub fn header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?;
    Some(value.to_str().expect("text").to_owned())
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|e| {
            e.expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort_unstable();
    names
}

fn unpack(stream: &[u8], files: &mut BTreeMap<String, Vec<u8>>) {
    let mut archive = tar::Archive::new(stream);
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().expect("a path").display().to_string();
        let mut data = Vec::new();
        entry.read_to_end(&mut data).expect("content");
        assert!(
            files.insert(path.clone(), data).is_none(),
            "{path} is in two layers"
        );
    }
}

/// What the simulator holds of a revision.
pub fn wanted(hub: &Hub, repo: &str, revision: &str) -> BTreeMap<String, Vec<u8>> {
    let commit = hub.at(repo, revision);
    commit
        .files
        .iter()
        .map(|(path, entry)| (path.clone(), entry.content.to_bytes().to_vec()))
        .collect()
}

/// A small model: git and LFS files, folders, an empty file, a file of several chunks.
pub fn small() -> Files {
    Files::new()
        .file("README.md", "---\nlicense: apache-2.0\n---\n# Demo\n")
        .file("config.json", "{\"model_type\":\"demo\"}\n")
        .file("empty.txt", "")
        .pattern("model.safetensors", 9_000_001, 1)
        .pattern("onnx/model.onnx", 5_000_000, 2)
        .file("sub dir/été #1%?.txt", "hello")
}

/// A hub with one small model, `Org/Demo`.
pub async fn demo() -> Hub {
    Hub::start(World::new().repo(Repo::model("Org/Demo").commit(small()))).await
}
