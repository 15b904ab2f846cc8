use std::time::{Duration, SystemTime};

use super::*;
use crate::image::{Layout, Selection, Subject, documents};
use crate::layer::{Sealed, Sink};

const COMMIT: &str = "0123456789012345678901234567890123456789";

fn name(text: &str) -> ImageName {
    ImageName::parse(text).expect("a name")
}

fn tag(text: &str) -> Tag {
    text.parse().expect("a tag")
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn layer(store: &Store, content: &[u8]) -> LayerRecord {
    let sealed = Sealed {
        digest: Digest::of(content),
        size: content.len() as u64,
        diff_id: Digest::of(b"diff"),
        toc: Digest::of(b"toc"),
        uncompressed: 9,
    };
    let recipe = Digest::of(&[b"recipe ", content].concat());
    let record = LayerRecord::new(&sealed, recipe);
    let mut staging = store.stage(&recipe, sealed.size).expect("room");
    staging
        .write(0, &[&content[..1], &content[1..]])
        .expect("room");
    store
        .publish_layer(staging, &recipe, &record)
        .expect("published");
    record
}

fn image(store: &Store, commit: &str, content: &[u8]) -> NewImage {
    let layers = vec![layer(store, content)];
    let subject = Subject {
        repo: "Org/Model".parse().expect("an id"),
        commit: commit.parse().expect("a commit"),
        path: String::new(),
        license: None,
        restricted: Vec::new(),
    };
    NewImage {
        key: ImageKey {
            name: name("org/model"),
            layout: Layout::Split,
            selection: Selection::default(),
            commit: subject.commit,
        },
        repo: subject.repo.clone(),
        documents: documents(&subject, &layers).expect("JSON"),
        layers,
    }
}

fn publish(root: &Path) -> (NewImage, Stored) {
    let store = Store::open(root).expect("a store");
    let image = image(&store, COMMIT, b"layer one");
    let stored = store
        .publish_image(&image, &tag("main"), now())
        .expect("published");
    (image, stored)
}

fn assert_whole(root: &Path, image: &NewImage, stored: Stored) {
    let store = Store::open(root).expect("a store");
    assert_eq!(store.image(&image.key).expect("an index"), Some(stored));
    let folded = image.repo.folded();
    for document in &image.documents {
        let member = store
            .member(&folded, &document.descriptor.digest)
            .expect("an index");
        assert_eq!(
            member.map(|m| m.media_type.clone()).as_ref(),
            Some(&document.descriptor.media_type)
        );
    }
    let recipe = Digest::of(b"recipe layer one");
    assert_eq!(
        store
            .layer(&recipe)
            .expect("an index")
            .map(|(record, _)| record)
            .as_ref(),
        Some(&image.layers[0])
    );
    assert_eq!(store.catalog().expect("names"), ["org/model"]);
}

#[test]
fn a_published_image_is_there_after_a_restart() {
    let root = tempfile::tempdir().expect("a folder");
    let (image, stored) = publish(root.path());
    assert_whole(root.path(), &image, stored);
}

#[test]
fn an_image_that_a_tag_leaves_stays_listed_also_if_its_commit_means_another_one() {
    let root = tempfile::tempdir().expect("a folder");
    let store = Store::open(root.path()).expect("a store");
    let newer = COMMIT.replace('0', "f");
    let mut kept = Vec::new();
    for (commit, layout, content) in [
        (COMMIT, Layout::Split, b"one"),
        (COMMIT, Layout::Single, b"two"),
        (&newer, Layout::Single, b"new"),
    ] {
        let mut image = image(&store, commit, content);
        image.key.layout = layout;
        kept.push(
            store
                .publish_image(&image, &tag("main"), now())
                .expect("published"),
        );
    }
    let second = format!("{COMMIT}-{}", &kept[1].index.hex()[..12]);
    assert_eq!(
        store.tags_of("org/model"),
        [COMMIT.to_owned(), second.clone(), "main".to_owned()]
    );
    let index = |t: &str| {
        store
            .reference(&name("org/model"), &tag(t))
            .map(|r| r.index)
    };
    let indexes: Vec<_> = kept.iter().map(|kept| Some(kept.index)).collect();
    assert_eq!([index(COMMIT), index(&second), index("main")], indexes[..]);
}

#[test]
fn a_deleted_index_is_rebuilt() {
    let root = tempfile::tempdir().expect("a folder");
    let (image, stored) = publish(root.path());
    fs::remove_dir_all(root.path().join("index")).expect("removed");
    assert_whole(root.path(), &image, stored);
}

#[test]
fn a_finished_layer_outlives_the_index_before_an_image_has_it() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    let record = layer(&Store::open(root).expect("a store"), b"layer one");
    let recipe = Digest::of(b"recipe layer one");
    fs::remove_dir_all(root.join("index")).expect("removed");
    let store = Store::open(root).expect("a store");
    store
        .collect(&Sweep::GENTLE, &mut || true)
        .expect("collected");
    let known = store.layer(&recipe).expect("an index");
    assert_eq!(known.map(|(record, _)| record), Some(record));
    let staged = || {
        fs::read_dir(root.join("staging"))
            .expect("a folder")
            .count()
    };
    assert_eq!(staged(), 1);
    // From here on its image tells of it.
    let image = image(&store, COMMIT, b"layer one");
    store
        .publish_image(&image, &tag("main"), now())
        .expect("published");
    assert_eq!(staged(), 0);
}

#[test]
fn an_index_full_of_garbage_is_rebuilt() {
    for seed in 0..12_u8 {
        let root = tempfile::tempdir().expect("a folder");
        let (image, stored) = publish(root.path());
        garble(&root.path().join("index"), seed);
        assert_whole(root.path(), &image, stored);
    }
}

/// Overwrites every file below `folder` with noise of its length, or of another.
fn garble(folder: &Path, seed: u8) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            garble(&path, seed);
            continue;
        }
        let len = fs::metadata(&path).expect("a file").len() as usize;
        let len = if seed.is_multiple_of(3) {
            len / 2 + 7
        } else {
            len.min(1 << 20)
        };
        let mut state = u32::from(seed) + 1;
        let noise: Vec<u8> = (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        fs::write(&path, noise).expect("written");
    }
}

#[test]
fn a_digest_is_only_known_under_its_repository() {
    let root = tempfile::tempdir().expect("a folder");
    let (image, stored) = publish(root.path());
    let store = Store::open(root.path()).expect("a store");
    let other: RepoId = "org/other".parse().expect("an id");
    assert_eq!(store.member(&other, &stored.index).expect("an index"), None);
    assert!(
        store
            .member(&image.repo.folded(), &stored.index)
            .expect("an index")
            .is_some()
    );
}

#[test]
fn an_image_whose_layer_is_gone_is_not_there() {
    let root = tempfile::tempdir().expect("a folder");
    let (image, _) = publish(root.path());
    let blob = image.layers[0].descriptor.digest.hex();
    fs::remove_file(root.path().join("blobs/sha256").join(blob)).expect("removed");
    let store = Store::open(root.path()).expect("a store");
    assert_eq!(store.image(&image.key).expect("an index"), None);
}

#[test]
fn a_moved_tag_leaves_the_old_image_under_its_commit() {
    let root = tempfile::tempdir().expect("a folder");
    let (old, stored) = publish(root.path());
    let store = Store::open(root.path()).expect("a store");
    let new = image(&store, &COMMIT.replace('0', "f"), b"layer two");
    store
        .publish_image(&new, &tag("main"), now())
        .expect("published");
    let main = store
        .reference(&name("org/model"), &tag("main"))
        .expect("known");
    assert_eq!(main.commit, new.key.commit);
    let by_commit = store
        .reference(&name("org/model"), &tag(COMMIT))
        .expect("known");
    assert_eq!(
        (by_commit.commit, by_commit.index),
        (old.key.commit, stored.index)
    );
}

#[test]
fn entries_of_other_tools_in_index_json_are_kept() {
    let root = tempfile::tempdir().expect("a folder");
    fs::write(
        root.path().join("index.json"),
        r#"{"schemaVersion":2,"manifests":[{"mediaType":"x/y","digest":"sha256:00","size":1,"more":true}]}"#,
    )
    .expect("written");
    publish(root.path());
    let text = fs::read_to_string(root.path().join("index.json")).expect("text");
    assert!(
        text.contains(r#""more":true"#) && text.contains("org/model:main"),
        "{text}"
    );
}

#[test]
fn a_second_server_on_the_folder_is_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let _first = Store::open(root.path()).expect("a store");
    assert!(matches!(
        Store::open(root.path()),
        Err(StoreError::Locked(_))
    ));
}

#[test]
fn a_dropped_staging_file_leaves_nothing() {
    let root = tempfile::tempdir().expect("a folder");
    let store = Store::open(root.path()).expect("a store");
    drop(store.stage(&Digest::of(b"x"), 1 << 20).expect("room"));
    assert_eq!(
        fs::read_dir(root.path().join("staging"))
            .expect("a folder")
            .count(),
        0
    );
}

#[test]
fn more_than_the_disk_has_is_told_as_full() {
    let root = tempfile::tempdir().expect("a folder");
    let store = Store::open(root.path()).expect("a store");
    assert!(matches!(
        store.stage(&Digest::of(b"x"), 1 << 42),
        Err(StoreError::Full { needed, free }) if needed == 1 << 42 && free > 0
    ));
    assert_eq!(
        fs::read_dir(root.path().join("staging"))
            .expect("a folder")
            .count(),
        0
    );
}

#[test]
fn what_was_asked_for_is_remembered_until_its_image_is_removed() {
    let root = tempfile::tempdir().expect("a folder");
    let (image, stored) = publish(root.path());
    let store = Store::open(root.path()).expect("a store");
    let repo = image.repo.folded();
    let layer = image.layers[0].descriptor.digest;
    let size = image.layers[0].descriptor.size;
    let remembered = |store: &Store| {
        [
            store.known_image(&image.key).is_some(),
            store.known_member(&repo, &layer).is_some(),
            store.known_blob(&layer, size).is_some(),
            store.known_document(&stored.index).is_some(),
        ]
    };
    assert_eq!(remembered(&store), [false; 4]);

    store.image(&image.key).expect("an index");
    store.member(&repo, &layer).expect("an index");
    drop(store.open_blob(&layer).expect("a file"));
    store.read_blob(&stored.index).expect("a file");
    assert_eq!(remembered(&store), [true; 4]);

    store
        .note_visibility(&repo, Visibility::Public)
        .expect("noted");
    store.remove("org/model", None).expect("removed");
    assert_eq!(remembered(&store), [false; 4]);
    assert_eq!(store.visibility(&repo), None);
}

#[test]
fn a_blob_that_is_published_again_while_it_is_deleted_stays_known() {
    let root = tempfile::tempdir().expect("a folder");
    let store = Store::open(root.path()).expect("a store");
    let digest = layer(&store, b"layer one").descriptor.digest;
    let recipe = Digest::of(b"recipe layer one");
    let known = || {
        store
            .indexed(|index| index.layer(&recipe))
            .expect("an index")
    };
    let mut gone = evict::Gone::default();
    store
        .take_out(&[(digest, 9)], u64::MAX, &mut gone)
        .expect("taken out");
    // Whoever publishes has a lease, from before the rename on.
    let lease = store.lease(&digest);
    store.delete(&gone);
    assert!(known().is_some());
    drop(lease);
    store.delete(&gone);
    assert!(known().is_none());
}

#[test]
fn a_collection_that_fails_forgets_nothing_that_is_left_to_collect() {
    let root = tempfile::tempdir().expect("a folder");
    let store = Store::open(root.path()).expect("a store");
    let digest = layer(&store, b"layer one").descriptor.digest;
    lock(&store.left).insert(digest);
    let (staging, away) = (root.path().join("staging"), root.path().join("away"));
    fs::rename(&staging, &away).expect("renamed");
    assert!(store.collect_left().is_err());
    fs::rename(&away, &staging).expect("renamed");
    assert_eq!(store.collect_left().expect("collected").blobs, 1);
}

/// Two images of one key, the second one in the place of the first.
fn two_of_a_key(store: &Store) -> (NewImage, Stored, Stored) {
    let first = image(store, COMMIT, b"layer one");
    let one = store.publish_image(&first, &tag("one"), now());
    let second = image(store, COMMIT, b"layer two");
    let two = store.publish_image(&second, &tag("two"), now());
    (first, one.expect("published"), two.expect("published"))
}

#[test]
fn an_image_is_found_again_when_the_one_that_took_its_place_is_removed() {
    let root = tempfile::tempdir().expect("a folder");
    let store = Store::open(root.path()).expect("a store");
    let (image, one, two) = two_of_a_key(&store);
    assert_eq!(store.image(&image.key).expect("an index"), Some(two));
    store.remove("org/model", Some("two")).expect("removed");
    assert_eq!(store.image(&image.key).expect("an index"), Some(one));
    store.remove("org/model", Some("one")).expect("removed");
    assert_eq!(store.image(&image.key).expect("an index"), None);
}

#[test]
fn a_reference_means_its_own_image_although_its_commit_has_another_one() {
    let root = tempfile::tempdir().expect("a folder");
    let store = Store::open(root.path()).expect("a store");
    let (image, one, _) = two_of_a_key(&store);
    let reference = store.reference(&image.key.name, &tag("one"));
    let reference = reference.expect("a reference");
    assert_eq!(store.image_of(&reference).expect("documents"), Some(one));
    let layer = image.layers[0].descriptor.digest;
    fs::remove_file(root.path().join(blobs::place(&layer))).expect("removed");
    assert_eq!(store.image_of(&reference).expect("documents"), None);
}

#[test]
fn an_image_of_which_nothing_tells_where_it_came_from_counts_as_imported() {
    let root = tempfile::tempdir().expect("a folder");
    let (image, stored) = publish(root.path());
    let store = Store::open(root.path()).expect("a store");
    store.remove("org/model", None).expect("removed");
    // As a crash leaves it between the index and index.json.
    store
        .indexed(|index| index.put_image(&image, stored))
        .expect("an index");
    let noted = store.set_tag(&image.key, &image.repo, stored, &tag("main"), now());
    noted.expect("noted");
    let reference = store.reference(&image.key.name, &tag("main"));
    assert!(reference.expect("a reference").imported);
}
