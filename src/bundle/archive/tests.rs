use super::*;
use crate::bundle::{Contents, OCI_LAYOUT, Shape};

/// An archive that `tar` writes: names and contents.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(1_700_000_000);
        builder
            .append_data(&mut header, name, *bytes)
            .expect("an entry");
    }
    builder.into_inner().expect("an archive")
}

fn read(bytes: &[u8]) -> Result<Vec<(Part, Vec<u8>)>, ArchiveError> {
    let mut archive = Archive::new(bytes);
    let mut all = Vec::new();
    while let Some(entry) = archive.next_entry()? {
        let mut content = Vec::new();
        archive
            .read_to_end(&mut content)
            .map_err(|error| archive.failed(error))?;
        all.push((entry.part, content));
    }
    Ok(all)
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(bytes).hex())
}

#[test]
fn what_other_tools_write_is_read_with_its_folders_and_times() {
    let name = blob(b"x");
    let mut builder = tar::Builder::new(Vec::new());
    let mut folder = tar::Header::new_gnu();
    folder.set_entry_type(tar::EntryType::Directory);
    folder.set_size(0);
    for path in ["./", "./blobs/", "blobs/sha256/"] {
        builder
            .append_data(&mut folder, path, io::empty())
            .expect("a folder");
    }
    let times = [("mtime", &b"1.5"[..])];
    builder.append_pax_extensions(times).expect("a header");
    let mut bytes = builder.into_inner().expect("an archive");
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(archive(&[(&name, b"x"), ("./oci-layout", b"{}")]));
    let all = read(&bytes).expect("a bundle");
    assert_eq!(all[0], (Part::Blob(Digest::of(b"x")), b"x".to_vec()));
    assert_eq!(all[1], (Part::Layout, b"{}".to_vec()));
}

#[test]
fn an_extended_size_counts() {
    let mut builder = tar::Builder::new(Vec::new());
    builder
        .append_pax_extensions([("size", &b"3"[..])])
        .expect("a header");
    let mut bytes = builder.into_inner().expect("an archive");
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(archive(&[("index.json", b"abc")]));
    assert_eq!(read(&bytes).expect("a bundle")[0].1, b"abc");
}

#[test]
fn names_that_no_bundle_has_are_refused() {
    let upper = blob(b"x").to_uppercase().replace("BLOBS/SHA", "blobs/sha");
    for name in [
        "manifest.json",
        "blobs/sha256/xyz",
        "blobs/sha512/00",
        "index.json/",
        upper.as_str(),
    ] {
        let error = read(&archive(&[(name, b"x")])).expect_err(name);
        assert!(matches!(error, ArchiveError::Entry { .. }), "{name}");
    }
    for raw in [
        "../index.json",
        "/index.json",
        "./././index.json",
        "blobs/../../etc/passwd",
    ] {
        let mut bytes = archive(&[("index.json", b"x")]);
        bytes[..512].copy_from_slice(&header::render(raw, 1));
        let error = read(&bytes).expect_err(raw).to_string();
        assert!(error.contains("a bundle has only"), "{error}");
    }
}

#[test]
fn links_devices_and_long_names_are_refused() {
    for kind in [b'1', b'2', b'3', b'4', b'6', b'7', b'g', b'L', b'K', b'S'] {
        let mut header = tar::Header::new_ustar();
        header.set_path("index.json").expect("a path");
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(0);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend([0; 1024]);
        assert!(read(&bytes).is_err(), "{}", char::from(kind));
    }
}

#[test]
fn absurd_sizes_are_refused_before_a_byte_is_read() {
    for (name, size) in [
        ("oci-layout", MAX_LAYOUT + 1),
        ("index.json", MAX_DOCUMENT + 1),
        (&blob(b"x"), MAX_BLOB + 1),
        (&blob(b"x"), u64::MAX),
    ] {
        let error = read(&header::render(name, size)).expect_err(name);
        assert!(error.to_string().contains("are the most"), "{error}");
    }
}

#[test]
fn nothing_comes_twice_and_nothing_after_the_end() {
    let twice = archive(&[("index.json", b"a"), ("./index.json", b"a")]);
    let error = read(&twice).expect_err("twice").to_string();
    assert!(error.contains("twice"), "{error}");
    let mut more = archive(&[("index.json", b"a")]);
    more.extend(archive(&[("oci-layout", b"a")]));
    let error = read(&more).expect_err("more").to_string();
    assert!(error.contains("something follows"), "{error}");
}

#[test]
fn an_archive_that_is_cut_anywhere_is_cut_off() {
    let whole = archive(&[("oci-layout", OCI_LAYOUT.as_bytes()), ("index.json", b"a")]);
    read(&whole).expect("a bundle");
    for length in 0..whole.len() {
        let error = read(&whole[..length]).expect_err("cut");
        assert!(matches!(error, ArchiveError::CutOff { .. }), "{length}");
    }
}

#[test]
fn no_flipped_bit_outside_of_the_contents_goes_unseen() {
    let contents = Contents {
        images: Vec::new(),
        omits: None,
    };
    let shape = Shape::new(contents, [].into(), None).expect("a bundle");
    let mut bytes = Vec::new();
    let mut inside = Vec::new();
    for piece in &shape.pieces {
        bytes.extend(piece.header());
        let crate::bundle::Source::Bytes(content) = &piece.source else {
            panic!("a blob");
        };
        bytes.extend(content);
        inside.push(piece.content()..piece.content() + piece.size);
        bytes.resize(piece.end() as usize, 0);
    }
    bytes.extend([0; Shape::END]);
    assert_eq!(bytes.len() as u64, shape.size());
    read(&bytes).expect("a bundle");
    for at in (0..bytes.len()).filter(|at| !inside.iter().any(|r| r.contains(&(*at as u64)))) {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        assert!(read(&bad).is_err(), "byte {at}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(
        blocks in proptest::collection::vec((0..4_u8, 0..512_usize, 0..=255_u8), 0..12),
    ) {
        // Blocks that are headers, nearly headers, zeros and something else, in any order.
        let name = blob(b"x");
        let mut bytes = Vec::new();
        for (kind, at, byte) in blocks {
            let mut block = match kind {
                0 => header::render(&name, at as u64),
                1 => header::render("index.json", u64::from(byte)),
                2 => [0; BLOCK],
                _ => [byte; BLOCK],
            };
            if kind == 3 || byte < 32 {
                block[at] ^= byte;
            }
            bytes.extend(block);
        }
        let _ = read(&bytes);
    }
}
