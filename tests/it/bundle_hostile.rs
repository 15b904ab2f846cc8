//! Promise: a bundle that is damaged or hostile is refused with a reason, and the data folder is byte for byte what it was.

use std::fs;
use std::path::{Path, PathBuf};

use hf_oci::bundle::{Claims, Contents, Listed, Shape, check};
use hf_oci::image::{ImageName, Selection};
use hf_oci::oci::{Descriptor, Digest};
use hf_oci::repo::Visibility;
use hf_oci::store::Store;

use crate::bundle::{Site, command, done, run, text, tree};
use crate::harness::{Proxy, Setup, http};
use crate::hub::{Files, Hub, Repo, World};
use crate::logins::gate;

/// A folder with an image, and a bundle with another one.
async fn site() -> (Site, Vec<u8>) {
    let site = Site::new().await;
    let first = site.export("first.tar", &["org/demo/sub:v1"]);
    done(&site.offline(), &["import", text(&first)]);
    let bundle = site.export("a.tar", &["org/demo:v2"]);
    let bytes = fs::read(bundle).expect("a bundle");
    (site, bytes)
}

/// Imports bytes that must be refused, and tells why they were.
fn refused(site: &Site, bytes: &[u8]) -> String {
    let path = site.path("bad.tar");
    fs::write(&path, bytes).expect("written");
    let (code, said) = run(&site.offline(), &["import", text(&path)]);
    assert_eq!(code, 1, "{said}");
    said
}

/// Numbers that look random, and are the same every time.
fn numbers(below: usize) -> impl Iterator<Item = usize> {
    (0_u64..).map(move |n| {
        let digest = Digest::of(&n.to_be_bytes());
        let bytes: [u8; 8] = digest.as_bytes()[..8].try_into().expect("8 bytes");
        (u64::from_be_bytes(bytes) % below as u64) as usize
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_changes_nothing() {
    let (site, bytes) = site().await;
    let before = tree(&site.offline());
    // The first ones are in headers and documents, which are few.
    let near = numbers(20_000).take(60);
    for at in near.chain(numbers(bytes.len()).skip(60).take(60)) {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        let said = refused(&site, &bad);
        assert!(said.contains("the bundle is refused"), "{at}: {said}");
        assert!(tree(&site.offline()) == before, "byte {at}: {said}");
    }
    fs::write(site.path("good.tar"), bytes).expect("written");
    done(&site.offline(), &["import", text(&site.path("good.tar"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_cut_off_anywhere_changes_nothing() {
    let (site, bytes) = site().await;
    let before = tree(&site.offline());
    let ends = [0, 1, 511, 512, 1024, bytes.len() - 1, bytes.len() - 1024];
    for length in ends.into_iter().chain(numbers(bytes.len()).take(15)) {
        let said = refused(&site, &bytes[..length]);
        assert!(said.contains("cut off"), "{length}: {said}");
        // From a pipe the end is not known before it comes.
        let file = fs::File::open(site.path("bad.tar")).expect("a bundle");
        let pipe = std::process::Command::new("cat")
            .stdin(file)
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut pipe = pipe.expect("cat");
        let mut import = command(&site.offline(), &["import", "-"]);
        let import = import.stdin(pipe.stdout.take().expect("a pipe"));
        assert!(!import.output().expect("it runs").status.success());
        pipe.wait().expect("gone");
        assert!(tree(&site.offline()) == before, "{length}: {said}");
    }
}

/// Names and contents.
type Entries = Vec<(String, Vec<u8>)>;

/// The entries of a bundle.
fn entries(bytes: &[u8]) -> Entries {
    use std::io::Read;
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().expect("an archive");
    entries
        .map(|entry| {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a path").display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            (name, content)
        })
        .collect()
}

fn pack(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        builder
            .append(
                &header(name, tar::EntryType::Regular, content.len()),
                &content[..],
            )
            .expect("an entry");
    }
    builder.into_inner().expect("an archive")
}

/// A header with any name.
fn header(name: &str, kind: tar::EntryType, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_archives_change_nothing() {
    let (site, bytes) = site().await;
    let before = tree(&site.offline());
    let all = entries(&bytes);
    let with = |name: &str, kind: tar::EntryType, size: usize| {
        let mut bad = header(name, kind, size).as_bytes().to_vec();
        bad.extend(&bytes);
        bad
    };
    let changed = |change: &dyn Fn(&mut Entries)| {
        let mut entries = all.clone();
        change(&mut entries);
        pack(&entries)
    };
    let stray = format!("blobs/sha256/{}", Digest::of(b"stray").hex());
    let file = tar::EntryType::Regular;
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "a path outside",
            with("../../etc/cron.d/x", file, 0),
            "a bundle has only",
        ),
        (
            "an absolute path",
            with("/etc/passwd", file, 0),
            "a bundle has only",
        ),
        (
            "another file",
            with("blobs/sha256/../../lock", file, 0),
            "a bundle has only",
        ),
        (
            "a symbolic link",
            with("blobs", tar::EntryType::Symlink, 0),
            "a symbolic link",
        ),
        (
            "a hard link",
            with("index.json", tar::EntryType::Link, 0),
            "a hard link",
        ),
        (
            "a device",
            with("index.json", tar::EntryType::Block, 0),
            "a device",
        ),
        (
            "a folder",
            with("lock", tar::EntryType::Directory, 0),
            "no such folder",
        ),
        (
            "a blob of 8 GiB that is not there",
            with(&stray, file, (8 << 30) - 1),
            "cut off",
        ),
        (
            "an index of 1 GiB",
            with("index.json", file, 1 << 30),
            "are the most",
        ),
        (
            "a digest that lies",
            changed(&|all| all[9].1.push(b' ')),
            "its bytes are those of",
        ),
        (
            "the same twice",
            changed(&|all| all.push(all[0].clone())),
            "it is there twice",
        ),
        (
            "a blob too many",
            changed(&|all| all.push((stray.clone(), b"stray".to_vec()))),
            "belongs to no image",
        ),
        (
            "a blob too few",
            changed(&|all| drop(all.pop())),
            "is missing",
        ),
        (
            "no index",
            changed(&|all| drop(all.remove(1))),
            "no oci-layout or no index.json",
        ),
        (
            "no layout",
            changed(&|all| drop(all.remove(0))),
            "no oci-layout or no index.json",
        ),
        (
            "another layout",
            changed(&|all| all[0].1 = br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec()),
            "not that of an OCI layout",
        ),
        (
            "an open seal",
            changed(&|all| all[1].1 = replaced(&all[1].1, "org/demo:v2", "org/demo:v3")),
            "its seal is not of it",
        ),
        (
            "something else",
            b"PK\x03\x04 a zip".repeat(100),
            "checksum",
        ),
        ("nothing", Vec::new(), "cut off"),
    ];
    for (what, bad, why) in cases {
        let said = refused(&site, &bad);
        assert!(said.contains(why), "{what}: {said}");
        assert!(tree(&site.offline()) == before, "{what}: {said}");
    }
}

fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = std::str::from_utf8(bytes).expect("text");
    text.replace(from, to).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_does_not_fit_is_refused_with_figures() {
    let (site, _) = site().await;
    let before = tree(&site.offline());
    let bundle = site.path("a.tar");
    let args = ["import", text(&bundle)];
    let import = |limit: &str| {
        let mut import = command(&site.offline(), &args);
        import.env("HF_OCI_CACHE_MAX_SIZE", limit);
        import.output().expect("it runs")
    };
    let output = import("6MiB");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "5.7 MiB are needed",
        "can be had under cache.max_size of 6.0 MiB",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(tree(&site.offline()) == before, "{said}");
    assert!(import("20MiB").status.success());
}

/// A bundle of one image of a cache under another name, which names its blobs and has none of them.
fn names_only(data: &Path, name: &str) -> Vec<u8> {
    let index = fs::read(data.join("index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    let mut entry: Descriptor =
        serde_json::from_value(index["manifests"][0].clone()).expect("a descriptor");
    let notes = std::mem::take(&mut entry.annotations);
    let note = |key: &str| notes[&format!("io.hf-oci.{key}")].clone();
    let image = Listed {
        name: Some(ImageName::parse(name).expect("a name")),
        tag: Some("main".parse().expect("a tag")),
        top: entry,
        claims: Some(Claims {
            repo: note("repository").parse().expect("an id"),
            commit: note("commit").parse().expect("a commit"),
            layout: note("layout").parse().expect("a layout"),
            selection: Selection::default(),
            visibility: Some(Visibility::Public),
        }),
    };
    let read = |digest: &Digest| fs::read(data.join("blobs/sha256").join(digest.hex()));
    let checked = check::<hf_oci::bundle::Refusal>(&image, &mut |digest| {
        Ok(read(digest).expect("a document"))
    });
    let blobs = checked.expect("an image").blobs;
    let former = hf_oci::bundle::List(blobs.clone());
    let contents = Contents {
        images: vec![image],
        omits: None,
    };
    let shape = Shape::new(contents, blobs, Some(&former)).expect("a bundle");
    let mut bytes = Vec::new();
    for piece in &shape.pieces {
        bytes.extend(piece.header());
        let hf_oci::bundle::Source::Bytes(content) = &piece.source else {
            panic!("a blob");
        };
        bytes.extend(content);
        bytes.resize(piece.end() as usize, 0);
    }
    bytes.resize(shape.size() as usize, 0);
    bytes
}

async fn private() -> (Hub, tempfile::TempDir, PathBuf) {
    let files = Files::new().file("secret.txt", "hidden");
    let repo = Repo::model("org/private").commit(files).private();
    let hub = Hub::start(World::new().user("hf_in", "in").repo(repo.allow("hf_in"))).await;
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("online");
    let setup = Setup {
        token: Some("hf_in"),
        ..Setup::default()
    };
    let proxy = Proxy::start_on_with(&hub, &data, setup).await;
    proxy.index("org/private", "main").await;
    proxy.stop().await;
    (hub, folder, data)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_only_names_blobs_opens_none_of_them() {
    let (_hub, folder, data) = private().await;
    let path = folder.path().join("bad.tar");
    fs::write(&path, names_only(&data, "evil/open")).expect("written");
    // The index is opened to find out, so that only its own files may differ.
    let without_index = || {
        let mut all = tree(&data);
        all.retain(|path, _| !path.starts_with(data.join("index")));
        all
    };
    let before = without_index();
    let (code, said) = run(&data, &["import", text(&path)]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("not everybody may read"), "{said}");
    assert!(without_index() == before);
    // Under its own name it says nothing new, and does not become public either.
    fs::write(&path, names_only(&data, "org/private")).expect("written");
    done(&data, &["import", text(&path)]);
    let store = Store::open(&data).expect("a store");
    let repo = "org/private".parse().expect("an id");
    assert_eq!(store.visibility(&repo), Some(Visibility::Private));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_private_is_private_at_the_other_site_too() {
    let (hub, folder, data) = private().await;
    let bundle = folder.path().join("a.tar");
    done(&data, &["export", "org/private:main", "-o", text(&bundle)]);
    let other = folder.path().join("other");
    done(&other, &["import", "--public", text(&bundle)]);
    let setup = Setup {
        offline: true,
        gate: Some(gate(hf_oci::auth::Mode::Public, std::time::Duration::ZERO)),
        ..Setup::default()
    };
    let proxy = Proxy::start_on_with(&hub, &other, setup).await;
    let url = format!("{}/v2/org/private/manifests/main", proxy.base());
    let answer = http().get(url).send().await.expect("an answer");
    assert_ne!(answer.status().as_u16(), 200);
    let repo = "org/private".parse().expect("an id");
    assert_eq!(proxy.store.visibility(&repo), Some(Visibility::Private));
}
