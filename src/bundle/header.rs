//! One block of a tar: the header of an entry, read strictly and written in one way.

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;

/// The longest size that fits a header's octal digits.
const MAX_OCTAL: u64 = (1 << 33) - 1;

const NAME: std::ops::Range<usize> = 0..100;
const SIZE: std::ops::Range<usize> = 124..136;
const SUM: std::ops::Range<usize> = 148..156;
const KIND: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
/// Of ustar the first part of a long name, of GNU's form times and a map of holes: a bundle has neither.
const PREFIX: std::ops::Range<usize> = 345..500;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// Says more of the next entry.
    Extended,
}

/// A header that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) size: u64,
}

/// Whether a block is the mark of the end.
pub(super) fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// Reads a header, or tells what is wrong with it.
pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Header, String> {
    if checksum(&block[SUM]) != Some(sum(block)) {
        return Err("its header's checksum is wrong".to_owned());
    }
    if !matches!(&block[MAGIC], b"ustar\x0000" | b"ustar  \0") {
        return Err("its header is not that of a tar".to_owned());
    }
    let name = text(&block[NAME]).ok_or("its name is not plain text")?;
    let kind = match block[KIND] {
        b'0' | 0 => Kind::File,
        b'5' => Kind::Folder,
        b'x' => Kind::Extended,
        other => return Err(format!("it is {}", odd(other))),
    };
    if !is_zero(&block[LINK]) {
        return Err("it names another file".to_owned());
    }
    if !is_zero(&block[PREFIX]) {
        return Err("its header has parts that no bundle needs".to_owned());
    }
    let size = number(&block[SIZE]).ok_or("its size is not a number")?;
    if kind == Kind::Folder && size != 0 {
        return Err("it is a folder with a size".to_owned());
    }
    Ok(Header { name, kind, size })
}

/// What a type of entry is called that no bundle has.
fn odd(kind: u8) -> &'static str {
    match kind {
        b'1' => "a hard link",
        b'2' => "a symbolic link",
        b'3' | b'4' => "a device",
        b'6' => "a pipe",
        b'g' => "a global header",
        b'L' | b'K' => "a long name",
        b'S' => "a sparse file",
        _ => "of a type that no bundle has",
    }
}

/// The sum of all bytes, its own place taken for spaces.
fn sum(block: &[u8; BLOCK]) -> u64 {
    let all: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = block[SUM].iter().map(|byte| u64::from(*byte)).sum();
    all - own + 8 * u64::from(b' ')
}

/// The two ways in which tools write a checksum.
fn checksum(field: &[u8]) -> Option<u64> {
    match field {
        [digits @ .., 0, b' '] | [digits @ .., 0] => octal(digits),
        _ => None,
    }
}

fn octal(digits: &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value = value.checked_mul(8)? + u64::from(digit - b'0');
    }
    (!digits.is_empty()).then_some(value)
}

/// Octal digits with an end, or, with the highest bit set, a binary number.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] == 0x80 {
        let (high, low) = field[1..].split_at(field.len() - 9);
        let low = low.try_into().ok()?;
        return is_zero(high).then(|| u64::from_be_bytes(low));
    }
    match field {
        [digits @ .., 0 | b' '] => octal(digits),
        _ => None,
    }
}

/// Printable ASCII up to the first NUL, and nothing but NULs after it.
fn text(field: &[u8]) -> Option<String> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let (text, rest) = field.split_at(end);
    let plain = text.iter().all(|b| (b' '..=b'~').contains(b)) && is_zero(rest);
    plain.then(|| text.iter().copied().map(char::from).collect())
}

/// Writes the header of a file: without a time or an owner, readable by all.
pub(super) fn render(name: &str, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(NAME.start, name.as_bytes());
    put(100, b"0000644\x000000000\x000000000\0");
    put(136, b"00000000000\0");
    put(KIND, b"0");
    if size <= MAX_OCTAL {
        put(SIZE.start, format!("{size:011o}\0").as_bytes());
        put(MAGIC.start, b"ustar\x0000");
    } else {
        put(SIZE.start, &[0x80]);
        put(SIZE.end - 8, &size.to_be_bytes());
        put(MAGIC.start, b"ustar  \0");
    }
    let sum = sum(&block);
    block[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_whatever_its_size() {
        for size in [0, 1, MAX_OCTAL, MAX_OCTAL + 1, 1 << 42] {
            let header = parse(&render("blobs/sha256/00", size)).expect("a header");
            assert_eq!((header.size, header.kind), (size, Kind::File));
            assert_eq!(header.name, "blobs/sha256/00");
        }
    }

    #[test]
    fn no_flipped_bit_of_a_header_goes_unseen() {
        for size in [5, MAX_OCTAL + 5] {
            let good = render("index.json", size);
            for bit in 0..BLOCK * 8 {
                let mut bad = good;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(parse(&bad).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn odd_entries_are_called_by_their_kind() {
        for (kind, word) in [
            (b'1', "hard link"),
            (b'2', "symbolic link"),
            (b'L', "long name"),
            (b'S', "sparse"),
            (b'?', "of a type"),
        ] {
            let mut block = render("a", 0);
            block[KIND] = kind;
            let sum = sum(&block);
            block[SUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let why = parse(&block).expect_err("odd");
            assert!(why.contains(word), "{why}");
        }
    }
}
