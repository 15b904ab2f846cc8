use super::super::Store;
use super::*;

#[test]
fn a_layer_is_written_even_if_no_thread_can_be_started() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path()).expect("a store");
    let mut staging = store.stage(&Digest::of(b"recipe"), 6).expect("room");
    // No address space has room for its stack.
    let thread = std::thread::Builder::new().stack_size(usize::MAX >> 8);
    let mut worked = false;
    staging
        .put_during(thread, 0, &[b"abc", b"def"], || worked = true)
        .expect("written");
    assert!(worked);
    let path = staging.folder.join("layer");
    assert_eq!(fs::read(path).expect("a file"), b"abcdef");
}

/// Bytes for a layer, in parts that no alignment fits; and how many of the parts go through the cache first.
fn parts() -> (Vec<Vec<u8>>, usize) {
    let part = |at: usize| (0..1_000_003).map(|i| ((i * 7 + at) % 251) as u8).collect();
    ((0..10).map(part).collect(), 2)
}

/// Writes the parts, all but the first ones past the cache; gives all bytes.
fn write(staging: &mut Staging) -> Vec<u8> {
    let (parts, cached) = parts();
    let mut at = 0;
    for (number, part) in parts.iter().enumerate() {
        if number == cached {
            staging.past_cache(at, 0);
            assert!(staging.direct.is_some(), "a file system that can");
        }
        staging.write(at, &[part]).expect("written");
        at += part.len() as u64;
    }
    parts.concat()
}

#[test]
fn a_layer_that_goes_on_past_the_cache_is_published_whole() {
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let store = Store::open(folder.path()).expect("a store");
    let size = parts().0.concat().len() as u64;
    let mut staging = store.stage(&Digest::of(b"recipe"), size).expect("room");
    let bytes = write(&mut staging);
    let digest = Digest::of(&bytes);
    staging.publish(&digest).expect("published");
    let blob = fs::read(folder.path().join(blobs::place(&digest))).expect("a blob");
    assert!(blob == bytes);
}

#[test]
fn what_was_written_past_the_cache_is_kept_whole_for_a_later_fill() {
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let store = Store::open(folder.path()).expect("a store");
    let size = parts().0.concat().len() as u64 + 1;
    let mut staging = store.stage(&Digest::of(b"recipe"), size).expect("room");
    let bytes = write(&mut staging);
    staging.keep();
    let path = staging.folder.join("layer");
    drop(staging);
    assert!(fs::read(path).expect("a layer")[..bytes.len()] == bytes);
}

#[test]
fn a_layer_written_somewhere_else_than_at_its_end_goes_back_to_the_cache() {
    let folder = tempfile::tempdir_in(".").expect("a folder");
    let store = Store::open(folder.path()).expect("a store");
    let mut staging = store.stage(&Digest::of(b"recipe"), 10).expect("room");
    staging.past_cache(0, 0);
    staging.write(0, &[b"abc"]).expect("held");
    staging.write(5, &[b"fg"]).expect("written");
    let path = staging.folder.join("layer");
    assert_eq!(fs::read(path).expect("a layer"), b"abc\0\0fg\0\0\0");
}
