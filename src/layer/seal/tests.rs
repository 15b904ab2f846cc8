use std::convert::Infallible;
use std::io::Read;

use proptest::prelude::*;

use super::*;
use crate::layer::CHUNK;

/// A blob in memory that holds the sealer to writing in order.
#[derive(Default)]
struct Blob(Vec<u8>);

impl Sink for Blob {
    type Error = Infallible;

    fn write(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), Infallible> {
        assert_eq!(offset, self.0.len() as u64);
        self.0.extend(parts.iter().copied().flatten());
        Ok(())
    }
}

/// `n` bytes, byte i = (31·i + 7) mod 251.
fn pat(n: usize) -> Vec<u8> {
    (0..n).map(|i| ((31 * i + 7) % 251) as u8).collect()
}

fn git(data: &[u8]) -> ContentId {
    let hash = Sha1::new_with_prefix(format!("blob {}\0", data.len())).chain_update(data);
    ContentId::Git(hash.finalize().into())
}

fn entry(path: &str, data: &[u8]) -> Entry {
    Entry {
        path: FilePath::new(path).expect("a path"),
        size: data.len() as u64,
        content: git(data),
    }
}

fn seal(files: &[(&str, Vec<u8>)]) -> (Arc<Plan>, Vec<u8>, Sealed) {
    let plan = Arc::new(Plan::new(files.iter().map(|(p, d)| entry(p, d)).collect()));
    let mut blob = Blob::default();
    let mut sealer = Sealer::new(Arc::clone(&plan));
    for chunk in plan.chunks() {
        let data = &files[chunk.file].1[chunk.start as usize..][..chunk.len as usize];
        sealer
            .chunk(chunk, data, &mut blob)
            .expect("promised bytes");
    }
    let sealed = sealer.finish(&mut blob).expect("promised bytes");
    (plan, blob.0, sealed)
}

fn vector() -> Vec<(&'static str, Vec<u8>)> {
    let long: &'static str = Box::leak(format!("tokenizer/{}.json", "n".repeat(120)).into());
    vec![
        ("config.json", b"{\"model_type\":\"demo\"}\n".to_vec()),
        ("empty.txt", vec![]),
        ("model.safetensors", pat(5_000_000)),
        ("sub/dir/ÿé.txt", b"hello".to_vec()),
        (long, b"{}".to_vec()),
        ("z.bin", pat(4_194_304)),
    ]
}

#[test]
fn the_test_vector_of_format_1_comes_out_byte_for_byte() {
    let (plan, blob, sealed) = seal(&vector());
    assert_eq!(blob.len(), 9_208_858);
    assert_eq!(plan.toc_offset(), 9_204_688);
    assert_eq!(
        sealed.digest.hex(),
        "33cbf2d892a7429cd24825e7105011575fe547f253024a6607cdbb95f0ae924d"
    );
    assert_eq!(
        sealed.diff_id.hex(),
        "da90a4ee7c207253f4c4a9935f624b28b36de31723a8c68107a98fecc840a340"
    );
    assert_eq!(
        sealed.toc.hex(),
        "b06a1f9f6eb9f54fb3d445bb73bd614ef3b6a5898d79050c44033e8c2d5fe00a"
    );
}

#[test]
fn wrong_bytes_of_a_file_are_refused_by_its_name() {
    let plan = Arc::new(Plan::new(vec![entry("a", b"right")]));
    let chunk = plan.chunks().next().expect("a chunk");
    let end = Sealer::new(plan).chunk(chunk, b"wrong", &mut Blob::default());
    assert!(matches!(end, Err(SealError::Content { path, .. }) if path.as_str() == "a"));
}

#[test]
fn an_empty_file_that_was_promised_content_is_refused() {
    let mut file = entry("a", b"");
    file.content = git(b"x");
    let end = Sealer::new(Arc::new(Plan::new(vec![file]))).finish(&mut Blob::default());
    assert!(matches!(end, Err(SealError::Content { .. })));
}

fn unpack(blob: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut stream = Vec::new();
    flate2::read::MultiGzDecoder::new(blob)
        .read_to_end(&mut stream)
        .expect("gzip");
    let mut archive = tar::Archive::new(&stream[..]);
    let entries = archive.entries().expect("an archive");
    entries
        .map(|e| e.expect("an entry"))
        .filter(|e| e.header().entry_type().is_file())
        .map(|mut e| {
            let mut data = Vec::new();
            e.read_to_end(&mut data).expect("content");
            (e.path().expect("a path").display().to_string(), data)
        })
        .collect()
}

#[test]
fn files_around_the_chunk_and_block_sizes_come_back() {
    let chunk = CHUNK as usize;
    let sizes = [
        0,
        1,
        511,
        512,
        513,
        65_535,
        65_536,
        chunk - 1,
        chunk,
        chunk + 1,
        2 * chunk,
    ];
    let names: Vec<String> = (0..sizes.len()).map(|i| format!("f{i:02}")).collect();
    let files: Vec<_> = names
        .iter()
        .zip(sizes)
        .map(|(n, s)| (n.as_str(), pat(s)))
        .collect();
    let (plan, blob, sealed) = seal(&files);
    assert_eq!(plan.blob_len(), blob.len() as u64);
    assert_eq!(sealed.digest, Digest::of(&blob));
    for ((path, data), (wanted, content)) in unpack(&blob).into_iter().zip(&files) {
        assert_eq!(path, *wanted);
        assert!(data == *content, "{path}");
    }
}

#[test]
fn a_file_can_be_read_back_from_its_pieces() {
    let files = [
        ("a", pat(10)),
        ("b", pat(CHUNK as usize + 70_000)),
        ("c", pat(3)),
    ];
    let (plan, blob, _) = seal(&files);
    for (at, (_, data)) in files.iter().enumerate() {
        let read: Vec<u8> = plan
            .pieces(at)
            .flat_map(|p| blob[p.start as usize..p.end as usize].to_vec())
            .collect();
        assert!(read == *data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_small_tree_has_the_planned_length_and_comes_back(
        tree in prop::collection::btree_map("[a-c]{1,2}(/[a-cé\"]{1,3}){0,3}", prop::collection::vec(any::<u8>(), 0..2000), 0..12)
    ) {
        let files: Vec<(&str, Vec<u8>)> = tree.iter().map(|(p, d)| (p.as_str(), d.clone())).collect();
        let entries = files.iter().map(|(p, d)| entry(p, d)).collect();
        prop_assume!(crate::repo::Snapshot::new(entries).is_ok());
        let (plan, blob, sealed) = seal(&files);
        prop_assert_eq!(plan.blob_len(), blob.len() as u64);
        let mut stream = Vec::new();
        flate2::read::MultiGzDecoder::new(&blob[..]).read_to_end(&mut stream).expect("gzip");
        prop_assert_eq!(sealed.uncompressed, stream.len() as u64);
        prop_assert_eq!(sealed.diff_id, Digest::of(&stream));
        let read = unpack(&blob);
        let wanted: Vec<_> = files.iter().map(|(p, d)| ((*p).to_owned(), d.clone())).collect();
        prop_assert_eq!(read, wanted);
    }
}
