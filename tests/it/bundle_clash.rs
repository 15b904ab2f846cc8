//! Promise: a bundle speaks for the tags that it lists and for no others, and one that fails leaves what is here as it was.

use std::fs::{self, File};
use std::path::Path;
use std::time::SystemTime;

use hf_oci::image::{ImageName, LayerRecord, Layout, Selection, Subject, documents};
use hf_oci::layer::{Sealed, Sink};
use hf_oci::oci::Digest;
use hf_oci::store::{ImageKey, ImportOptions, Limits, NewImage, Store, Stored};

use crate::bundle::{Site, command, done, offline, run, text, tree};

/// Puts an image of `org/demo` into a folder whose one layer is `content`, whatever the Hub has of that commit.
fn craft(folder: &Path, commit: &str, content: &[u8], tag: &str) -> (ImageKey, Stored) {
    let store = Store::open(folder).expect("a store");
    let sealed = Sealed {
        digest: Digest::of(content),
        size: content.len() as u64,
        diff_id: Digest::of(b"diff"),
        toc: Digest::of(b"toc"),
        uncompressed: 9,
    };
    let recipe = Digest::of(b"recipe");
    let layers = vec![LayerRecord::new(&sealed, recipe)];
    let mut staging = store.stage(&recipe, sealed.size).expect("room");
    staging.write(0, &[content]).expect("room");
    let lease = store.publish_layer(staging, &recipe, &layers[0]);
    let _lease = lease.expect("published");
    let subject = Subject {
        repo: "Org/Demo".parse().expect("an id"),
        commit: commit.parse().expect("a commit"),
        path: String::new(),
        license: None,
        restricted: Vec::new(),
    };
    let image = NewImage {
        key: ImageKey {
            name: ImageName::parse("org/demo").expect("a name"),
            layout: Layout::Split,
            selection: Selection::default(),
            commit: subject.commit,
        },
        repo: subject.repo.clone(),
        documents: documents(&subject, &layers).expect("JSON"),
        layers,
    };
    let tag = tag.parse().expect("a tag");
    let stored = store.publish_image(&image, &tag, SystemTime::now());
    (image.key, stored.expect("published"))
}

fn export(data: &Path, image: &str, to: &Path) {
    done(data, &["export", image, "-o", text(to)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_a_bundle_does_not_list_means_what_it_meant() {
    let site = Site::new().await;
    let first = site.export("first.tar", &["org/demo:v1"]);
    done(&site.offline(), &["import", text(&first)]);
    let commit = site.hub.sha("Org/Demo", "v1");
    let (_, other) = craft(&site.path("evil"), &commit, b"something else", "x");
    let evil = site.path("evil.tar");
    export(&site.path("evil"), "org/demo:x", &evil);

    let before = tree(&site.offline());
    let (code, said) = run(&site.offline(), &["import", text(&evil)]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&other.index.to_string()), "{said}");
    assert!(said.contains("hf-oci rm org/demo:v1"), "{said}");
    assert!(tree(&site.offline()) == before, "{said}");
    let proxy = offline(&site).await;
    for tag in ["v1", commit.as_str()] {
        let (here, _) = proxy.index("org/demo", tag).await;
        assert!(said.contains(&here.to_string()), "{said}");
        assert_ne!(here, other.index);
    }
    proxy.stop().await;

    done(&site.offline(), &["rm", "org/demo:v1"]);
    done(&site.offline(), &["import", text(&evil)]);
    let proxy = offline(&site).await;
    assert_eq!(proxy.index("org/demo", "x").await.0, other.index);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_cannot_be_listed_is_not_there_and_does_not_come_later() {
    let site = Site::new().await;
    let first = site.export("first.tar", &["org/demo/sub:v1"]);
    done(&site.offline(), &["import", text(&first)]);
    let bundle = site.export("a.tar", &["org/demo:v2"]);
    let store = Store::open(&site.offline()).expect("a store");
    // A folder in the place of index.json: it can be neither replaced nor read.
    let (place, aside) = (site.offline().join("index.json"), site.path("aside"));
    fs::rename(&place, &aside).expect("moved");
    fs::create_dir(&place).expect("a folder");
    let options = ImportOptions {
        resume: false,
        public: false,
        limits: Limits::default(),
    };
    let source = File::open(bundle).expect("a bundle");
    let import = store.import(source, options, SystemTime::now(), &mut |_, _| true);
    assert!(import.is_err(), "{import:?}");
    assert_eq!(store.catalog().expect("names"), ["org/demo/sub"]);

    fs::remove_dir(&place).expect("removed");
    fs::rename(&aside, &place).expect("moved");
    assert!(store.pin("org/demo/sub", "v1", true).expect("written"));
    let listed = fs::read_to_string(&place).expect("text");
    assert!(!listed.contains("org/demo:v2"), "{listed}");
    drop(store);
    let said = done(&site.offline(), &["gc"]);
    let blobs = fs::read_dir(site.offline().join("blobs/sha256")).expect("a folder");
    assert_eq!(blobs.count(), 20, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_carried_although_its_repository_is_called_otherwise_now() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (key, stored) = craft(&path("online"), &"a".repeat(40), b"content", "main");
    let store = Store::open(&path("online")).expect("a store");
    let renamed = "Org/Renamed".parse().expect("an id");
    let tag = "v1".parse().expect("a tag");
    let noted = store.set_tag(&key, &renamed, stored, &tag, SystemTime::now());
    noted.expect("noted");
    drop(store);

    export(&path("online"), "org/demo:v1", &path("a.tar"));
    done(&path("offline"), &["import", text(&path("a.tar"))]);

    let store = Store::open(&path("offline")).expect("a store");
    let here = store.reference(&key.name, &tag).expect("a reference");
    assert_eq!((here.index, here.repo), (stored.index, renamed));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_images_of_one_commit_in_one_bundle_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    craft(&path("online"), &"a".repeat(40), b"one", "x");
    craft(&path("online"), &"a".repeat(40), b"another", "y");
    let args = ["export", "org/demo:x", "org/demo:y", "-o", "-"];
    let output = command(&path("online"), &args).output().expect("it runs");
    fs::write(path("a.tar"), output.stdout).expect("written");

    let (code, said) = run(&path("offline"), &["import", text(&path("a.tar"))]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("two images of one commit"), "{said}");
}
