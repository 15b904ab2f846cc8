//! Tar headers, byte for byte as the format says.

use tar::{EntryType, Header};

/// Bytes of a header, and what payloads are padded to.
pub(super) const BLOCK: u64 = 512;

/// Zero bytes at the end of an archive.
pub(super) const END: usize = 1024;

/// From this size on, a size is told by a PAX record.
const PAX_SIZE: u64 = 8 << 30;

/// Longest name of a plain header.
const NAME: usize = 100;

/// Zero bytes that pad a payload of `size` bytes.
pub(super) const fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File { size: u64 },
}

/// Appends an entry's headers: a PAX header if it needs one, and its own. `name` of a folder ends with `/`.
pub(super) fn push_entry(out: &mut Vec<u8>, name: &str, kind: Kind) {
    let (entry_type, mode, size) = match kind {
        Kind::Folder => (EntryType::Directory, 0o755, 0),
        Kind::File { size } => (EntryType::Regular, 0o644, size),
    };
    let records = pax_records(name, size);
    if records.is_empty() {
        push_header(out, name.as_bytes(), entry_type, mode, size);
        return;
    }
    let len = records.len() as u64;
    push_header(out, b"././@PaxHeader", EntryType::XHeader, 0o644, len);
    out.extend_from_slice(&records);
    out.resize(out.len() + padding(len) as usize, 0);
    let plain: Vec<u8> = name
        .bytes()
        .map(|b| if b.is_ascii() { b } else { b'_' })
        .take(NAME)
        .collect();
    let size = if size >= PAX_SIZE { 0 } else { size };
    push_header(out, &plain, entry_type, mode, size);
}

/// Bytes that [`push_entry`] appends, without appending them.
pub(super) fn entry_len(name: &str, kind: Kind) -> u64 {
    let size = match kind {
        Kind::Folder => 0,
        Kind::File { size } => size,
    };
    match pax_records(name, size).len() as u64 {
        0 => BLOCK,
        records => 2 * BLOCK + records + padding(records),
    }
}

fn pax_records(name: &str, size: u64) -> Vec<u8> {
    let mut out = Vec::new();
    if name.len() > NAME || !name.is_ascii() {
        push_record(&mut out, "path", name);
    }
    if size >= PAX_SIZE {
        push_record(&mut out, "size", &size.to_string());
    }
    out
}

/// `LEN key=value\n`, LEN counting itself.
fn push_record(out: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + digits(len) != len {
        len = rest + digits(len);
    }
    out.extend_from_slice(format!("{len} {key}={value}\n").as_bytes());
}

const fn digits(n: usize) -> usize {
    n.ilog10() as usize + 1
}

fn push_header(out: &mut Vec<u8>, name: &[u8], kind: EntryType, mode: u32, size: u64) {
    let mut header = Header::new_ustar();
    if let Some(ustar) = header.as_ustar_mut() {
        ustar.name[..name.len()].copy_from_slice(name);
        ustar
            .mode
            .copy_from_slice(format!("{mode:07o}\0").as_bytes());
        ustar.uid = *b"0000000\0";
        ustar.gid = *b"0000000\0";
        ustar
            .size
            .copy_from_slice(format!("{size:011o}\0").as_bytes());
        ustar.mtime = *b"00000000000\0";
        ustar.typeflag = [kind.as_byte()];
        ustar.dev_major = *b"0000000\0";
        ustar.dev_minor = *b"0000000\0";
        ustar.cksum = *b"        ";
    }
    let sum: u32 = header.as_bytes().iter().map(|b| u32::from(*b)).sum();
    if let Some(ustar) = header.as_ustar_mut() {
        ustar
            .cksum
            .copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    out.extend_from_slice(header.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(key: &str, value: &str) -> String {
        let mut out = Vec::new();
        push_record(&mut out, key, value);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_record_counts_its_own_digits() {
        assert_eq!(record("path", "a"), "9 path=a\n");
        assert_eq!(record("path", &"x".repeat(90)).len(), 99);
        assert_eq!(record("path", &"x".repeat(91)).len(), 101);
    }

    #[test]
    fn the_tar_crate_reads_the_headers_back() {
        let mut bytes = Vec::new();
        let long = format!("{}/ÿ", "d".repeat(140));
        push_entry(&mut bytes, "a/", Kind::Folder);
        push_entry(&mut bytes, &long, Kind::File { size: 0 });
        push_entry(&mut bytes, "big", Kind::File { size: 9 << 30 });
        let mut archive = tar::Archive::new(&bytes[..]);
        let read: Vec<_> = archive
            .entries()
            .expect("an archive")
            // There are headers only: past the last one comes no content.
            .take(3)
            .map(|e| e.expect("an entry"))
            .map(|e| (e.path().expect("a path").display().to_string(), e.size()))
            .collect();
        assert_eq!(read, [("a/".into(), 0), (long, 0), ("big".into(), 9 << 30)]);
    }

    proptest! {
        #[test]
        fn an_entrys_length_is_known_before(name in "[a-zé/]{1,300}", size in prop_oneof![0u64..10, Just(8u64 << 30)]) {
            let mut out = Vec::new();
            push_entry(&mut out, &name, Kind::File { size });
            prop_assert_eq!(out.len() as u64, entry_len(&name, Kind::File { size }));
        }

        #[test]
        fn a_record_tells_its_length(value in "[a-z]{1,1200}") {
            let text = record("path", &value);
            let told: usize = text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
            prop_assert_eq!(told, text.len());
        }
    }
}
