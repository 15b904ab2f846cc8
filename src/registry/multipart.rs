//! What an answer's body is made of: stretches of a file, and the text between them (RFC 9110, section 14.6). Pure.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use crate::oci::Digest;

/// Media type of every blob, and of every part of one.
pub const OCTETS: &str = "application/octet-stream";

/// A piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// These bytes.
    Text(Bytes),
    /// These bytes of the file.
    File(Range<u64>),
}

/// The pieces of a body in order, and their length together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    segments: VecDeque<Segment>,
    length: u64,
}

impl Layout {
    /// One stretch of the file.
    pub fn file(range: Range<u64>) -> Self {
        let mut layout = Self::default();
        layout.push(Segment::File(range));
        layout
    }

    /// Several stretches as `multipart/byteranges`, each with its type and place in a blob of `size` bytes.
    pub fn multipart(boundary: &str, parts: &[Range<u64>], size: u64) -> Self {
        let mut layout = Self::default();
        let mut open = "";
        for part in parts {
            let head = format!(
                "{open}--{boundary}\r\nContent-Type: {OCTETS}\r\nContent-Range: {}\r\n\r\n",
                content_range(part, size)
            );
            layout.push(Segment::Text(head.into()));
            layout.push(Segment::File(part.clone()));
            open = "\r\n";
        }
        layout.push(Segment::Text(format!("\r\n--{boundary}--\r\n").into()));
        layout
    }

    /// The length of the whole in bytes.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The pieces.
    pub fn into_segments(self) -> VecDeque<Segment> {
        self.segments
    }

    fn push(&mut self, segment: Segment) {
        self.length += segment.length();
        self.segments.push_back(segment);
    }
}

impl Segment {
    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::File(range) => range.end - range.start,
        }
    }
}

/// The boundary between the parts of a blob: the hex digits of its own digest.
///
/// Some clients look for the boundary instead of counting bytes. A constant could be written into a file on purpose; a blob that contains
/// its own SHA-256 cannot be made. And equal requests get equal answers.
pub fn boundary(digest: &Digest) -> String {
    digest.hex()
}

/// `bytes FIRST-LAST/SIZE`; `range` is not empty.
pub fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body that a layout describes, for a file of these bytes.
    fn rendered(layout: Layout, file: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for segment in layout.into_segments() {
            match segment {
                Segment::Text(text) => out.extend_from_slice(&text),
                Segment::File(range) => {
                    out.extend_from_slice(&file[range.start as usize..range.end as usize]);
                }
            }
        }
        out
    }

    /// Reads a multipart body the way Go's `mime/multipart` does: by its boundary. Gives first byte, size and content of each part.
    pub fn parse(body: &[u8], boundary: &str) -> Vec<(u64, u64, Vec<u8>)> {
        let find = |hay: &[u8], needle: &[u8]| hay.windows(needle.len()).position(|w| w == needle);
        let delimiter = format!("\r\n--{boundary}").into_bytes();
        let mut rest = body
            .strip_prefix(&delimiter[2..])
            .expect("the first boundary");
        let mut parts = Vec::new();
        while let Some(part) = rest.strip_prefix(b"\r\n") {
            let head_end = find(part, b"\r\n\r\n").expect("the end of a part's head");
            let head = std::str::from_utf8(&part[..head_end]).expect("a part's head");
            let (kind, place) = head.split_once("\r\n").expect("two headers");
            assert_eq!(kind, "Content-Type: application/octet-stream");
            let (range, size) = place
                .strip_prefix("Content-Range: bytes ")
                .and_then(|p| p.split_once('/'))
                .expect("a place");
            let (first, last) = range.split_once('-').expect("a range");
            let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
            let content = &part[head_end + 4..];
            let end = find(content, &delimiter).expect("the next boundary");
            assert_eq!(end as u64, last - first + 1);
            parts.push((first, size.parse().unwrap(), content[..end].to_vec()));
            rest = &content[end + delimiter.len()..];
        }
        assert_eq!(rest, b"--\r\n");
        parts
    }

    #[test]
    fn the_bytes_on_the_wire_are_these() {
        let layout = Layout::multipart("b", &[4..6, 0..1], 9);
        let wanted = "--b\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 4-5/9\r\n\r\n45\r\n\
            --b\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-0/9\r\n\r\n0\r\n--b--\r\n";
        assert_eq!(layout.length(), wanted.len() as u64);
        assert_eq!(
            String::from_utf8(rendered(layout, b"012345678")).unwrap(),
            wanted
        );
    }

    #[test]
    fn a_boundary_fits_the_70_characters_of_its_grammar() {
        assert!(boundary(&Digest::of(b"x")).len() <= 70);
    }

    proptest! {
        #[test]
        fn a_layout_reads_back_as_its_slices(
            file in prop::collection::vec(any::<u8>(), 1..300),
            cuts in prop::collection::vec((0..300_usize, 1..50_usize), 1..20),
        ) {
            let parts: Vec<Range<u64>> = cuts.into_iter()
                .map(|(start, len)| { let start = start % file.len(); start as u64..(start + len).min(file.len()) as u64 })
                .collect();
            let boundary = boundary(&Digest::of(&file));
            let layout = Layout::multipart(&boundary, &parts, file.len() as u64);
            let length = layout.length();
            let body = rendered(layout, &file);
            prop_assert_eq!(body.len() as u64, length);
            let wanted: Vec<_> = parts.iter()
                .map(|p| (p.start, file.len() as u64, file[p.start as usize..p.end as usize].to_vec()))
                .collect();
            prop_assert_eq!(parse(&body, &boundary), wanted);
        }
    }
}
