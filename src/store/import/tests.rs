use std::io::{Seek, Write};
use std::time::Duration;

use super::*;
use crate::bundle::{Piece, Source};
use crate::image::{Document, LayerRecord, documents_labelled};
use crate::layer::Sealed;
use crate::oci::{Descriptor, Index};
use crate::repo::Visibility;

const COMMIT: &str = "0123456789012345678901234567890123456789";

/// A bundle as another tool writes it: images by their names, and blobs, of which nobody says that they are true.
#[derive(Default)]
struct Bundle {
    entries: Vec<Descriptor>,
    blobs: Vec<(Digest, Vec<u8>)>,
}

impl Bundle {
    /// An image of one layer, which is said to have `digest`; its documents come behind it.
    fn image(name: &str, digest: Digest, layer: &[u8]) -> Self {
        let mut bundle = Self::default();
        let all = made(name, digest, layer.len() as u64, "");
        let top = all.last().expect("an index").descriptor.clone();
        bundle.list(&format!("{name}:main"), top);
        bundle.blobs.push((digest, layer.to_vec()));
        bundle.documents(all);
        bundle
    }

    fn list(&mut self, title: &str, mut top: Descriptor) {
        top.platform = None;
        let name = "org.opencontainers.image.ref.name".to_owned();
        top.annotations.insert(name, title.to_owned());
        self.entries.push(top);
    }

    fn documents(&mut self, all: impl IntoIterator<Item = Document>) {
        let all = all.into_iter().map(|d| (d.descriptor.digest, d.bytes));
        self.blobs.extend(all);
    }

    fn bytes(&self) -> Vec<u8> {
        let index = Index {
            schema_version: 2,
            media_type: String::new(),
            manifests: self.entries.clone(),
            annotations: BTreeMap::new(),
        };
        let index = serde_json::to_vec(&index).expect("JSON");
        let fixed = [
            ("oci-layout".to_owned(), OCI_LAYOUT.as_bytes().to_vec()),
            ("index.json".to_owned(), index),
        ];
        let blobs = self.blobs.iter();
        let blobs = blobs.map(|(d, b)| (format!("blobs/sha256/{}", d.hex()), b.clone()));
        let mut bytes = Vec::new();
        for (name, content) in fixed.into_iter().chain(blobs) {
            let piece = Piece {
                at: bytes.len() as u64,
                name,
                size: content.len() as u64,
                source: Source::Bytes(Vec::new()),
            };
            bytes.extend(piece.header());
            bytes.extend(content);
            bytes.resize(piece.end() as usize, 0);
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

/// The documents of an image of one layer.
fn made(name: &str, digest: Digest, size: u64, more: &str) -> Vec<Document> {
    let labels = [
        ("org.opencontainers.image.revision", COMMIT.to_owned()),
        (
            "org.opencontainers.image.source",
            format!("https://huggingface.co/{name}"),
        ),
        ("org.opencontainers.image.title", name.to_owned()),
        ("zz", more.to_owned()),
    ];
    let labels = labels.map(|(k, v)| (k.to_owned(), v)).into();
    let sealed = Sealed {
        digest,
        size,
        diff_id: Digest::of(b"diff"),
        toc: Digest::of(b"toc"),
        uncompressed: 9,
    };
    let layers = [LayerRecord::new(&sealed, Digest::of(b"recipe"))];
    documents_labelled(&labels, &layers).expect("JSON")
}

struct Site {
    _folder: tempfile::TempDir,
    store: Store,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("a store");
        Self {
            _folder: folder,
            store,
        }
    }

    fn import(&self, bytes: &[u8], resume: bool) -> Result<Imported, ImportError> {
        self.watched(bytes, resume, &mut |_, _| true)
    }

    fn watched(
        &self,
        bytes: &[u8],
        resume: bool,
        tell: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Imported, ImportError> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        file.rewind().expect("a file");
        let options = ImportOptions {
            resume,
            public: true,
            limits: Limits::default(),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        self.store.import(file, options, now, tell)
    }

    /// Imports what is to be refused, and tells why it was.
    fn refused(&self, bytes: &[u8], resume: bool) -> String {
        let refused = self.import(bytes, resume);
        refused.expect_err("a refusal").to_string()
    }

    /// Has an import cut off after its first blob was verified.
    fn cut_off(&self, bundle: &Bundle) {
        let bytes = bundle.bytes();
        let first = bundle.blobs[0].1.len().next_multiple_of(512);
        // It ends where a pipe would: a file is looked at to its end before.
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let cut = bytes[..4 * 512 + 2048 + first].to_vec();
        let writing = std::thread::spawn(move || writer.write_all(&cut));
        let options = ImportOptions {
            resume: true,
            public: true,
            limits: Limits::default(),
        };
        let file = File::from(std::os::fd::OwnedFd::from(reader));
        let cut = self
            .store
            .import(file, options, SystemTime::UNIX_EPOCH, &mut |_, _| true);
        assert!(cut.expect_err("its end").to_string().contains("cut off"));
        writing.join().expect("no panic").expect("written");
        let (digest, layer) = &bundle.blobs[0];
        assert!(self.is_staged(digest, layer.len() as u64));
    }

    fn is_staged(&self, digest: &Digest, size: u64) -> bool {
        staging::is_verified(&self.store.root, &key(digest), digest, size)
    }
}

#[test]
fn what_was_verified_is_so_no_more_once_other_bytes_were_begun() {
    let site = Site::new();
    let layer = vec![b'v'; 300_000];
    let digest = Digest::of(&layer);
    site.cut_off(&Bundle::image("org/model", digest, &layer));
    for size in [200_000, 300_000] {
        // A process that dies leaves it so.
        let mut begun = site.store.stage(&key(&digest), size).expect("room");
        begun.write(0, &[b"other"]).expect("room");
        begun.keep();
        drop(begun);
        assert!(!site.is_staged(&digest, size), "{size}");
        assert!(!staging::has_verified(&site.store.root, &key(&digest)));
    }
}

#[test]
fn an_import_that_goes_on_believes_no_bytes_that_are_there() {
    let site = Site::new();
    let layer = vec![b'v'; 300_000];
    let digest = Digest::of(&layer);
    site.cut_off(&Bundle::image("org/model", digest, &layer));
    let other = vec![b'w'; 200_000];
    let mut begun = site.store.stage(&key(&digest), 200_000).expect("room");
    begun.write(0, &[&other]).expect("room");
    begun.keep();
    drop(begun);
    let bad = Bundle::image("org/model", digest, &other).bytes();
    let why = site.refused(&bad, true);
    assert!(why.contains("its bytes are those of"), "{why}");
    assert!(!blobs::has(&site.store.root, &digest, 200_000));
}

#[test]
fn a_bundle_without_the_bytes_of_a_staged_blob_does_not_get_it() {
    let site = Site::new();
    let secret = vec![b's'; 300_000];
    let digest = Digest::of(&secret);
    site.cut_off(&Bundle::image("org/private", digest, &secret));
    let mut evil = Bundle::image("evil/open", digest, &secret);
    evil.blobs[0].1.fill(0);
    let why = site.refused(&evil.bytes(), true);
    assert!(why.contains("its bytes are those of"), "{why}");
    assert!(!blobs::has(&site.store.root, &digest, 300_000));
    // Who has them goes on.
    let good = Bundle::image("org/private", digest, &secret).bytes();
    site.import(&good, true).expect("imported");
    assert!(blobs::has(&site.store.root, &digest, 300_000));
}

#[test]
fn a_bundle_without_the_bytes_of_a_blob_that_is_here_does_not_get_it() {
    let site = Site::new();
    let secret = vec![b's'; 300_000];
    let digest = Digest::of(&secret);
    let good = Bundle::image("org/private", digest, &secret).bytes();
    site.import(&good, false).expect("imported");
    let mut evil = Bundle::image("evil/open", digest, &secret);
    evil.blobs[0].1.fill(0);
    let why = site.refused(&evil.bytes(), true);
    assert!(why.contains("its bytes are those of"), "{why}");
    let repo = "evil/open".parse().expect("an id");
    assert_ne!(site.store.visibility(&repo), Some(Visibility::Public));
}

/// A bundle of images of one platform each, with labels of this length.
fn of_one_platform(images: usize, labels: usize) -> Bundle {
    let layer = b"layer";
    let digest = Digest::of(layer);
    let mut bundle = Bundle::default();
    bundle.blobs.push((digest, layer.to_vec()));
    for image in 0..images {
        let name = format!("org/m{image}");
        let all = made(&name, digest, layer.len() as u64, &"z".repeat(labels));
        bundle.list(&format!("{name}:main"), all[1].descriptor.clone());
        bundle.documents(all.into_iter().take(2));
    }
    bundle
}

#[test]
fn a_small_bundle_does_not_become_many_documents() {
    let site = Site::new();
    // Two documents of 60,000 bytes each are there, and seventeen would be made of them.
    let bytes = of_one_platform(70, 60_000).bytes();
    let why = site.refused(&bytes, false);
    assert!(why.contains("too many images of one platform"), "{why}");
    site.import(&of_one_platform(20, 60_000).bytes(), false)
        .expect("imported");
}

#[test]
fn many_tags_of_one_platform_cost_what_one_does() {
    let site = Site::new();
    let mut bundle = of_one_platform(1, 60_000);
    let top = bundle.entries[0].clone();
    for tag in 0..100 {
        bundle.list(&format!("org/m0:t{tag}"), top.clone());
    }
    let imported = site.import(&bundle.bytes(), false).expect("imported");
    assert_eq!(imported.images.len(), 101);
}

#[test]
fn a_name_means_one_image() {
    let site = Site::new();
    let mut bundle = of_one_platform(1, 1);
    let other = made("org/m0", Digest::of(b"layer"), 5, "other");
    bundle.list("org/m0:main", other[1].descriptor.clone());
    bundle.documents(other.into_iter().take(2));
    let why = site.refused(&bundle.bytes(), false);
    assert!(why.contains("the name of two images"), "{why}");
}

#[test]
fn an_import_can_be_given_up_while_its_images_are_looked_at() {
    let site = Site::new();
    let bytes = of_one_platform(3, 1).bytes();
    let mut asked = 0;
    let given_up = site.watched(&bytes, false, &mut |_, _| {
        asked += 1;
        asked < 2
    });
    assert!(matches!(given_up, Err(ImportError::GivenUp)));
    assert!(!blobs::has(&site.store.root, &Digest::of(b"layer"), 5));
}
