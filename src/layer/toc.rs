//! The table of contents: JSON without white space, its keys in a fixed order.

use std::fmt::{self, Write};

use super::plan::new_folders;
use super::{CHUNK, Plan};
use crate::oci::Digest;

/// The TOC's name in its archive.
pub(super) const NAME: &str = "stargz.index.json";

/// Renders the TOC. `files` has a digest for each file (an empty file's is not used), `chunks` one for each chunk in order.
pub(super) fn render(plan: &Plan, files: &[Digest], chunks: &[Digest]) -> Vec<u8> {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(plan, &mut out, |at| files[at], |at| chunks[at]);
    out.into_bytes()
}

/// The TOC's length in bytes, known before any digest is: all digests are equally long.
pub(super) fn length(plan: &Plan) -> u64 {
    struct Count(u64);
    impl Write for Count {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 += text.len() as u64;
            Ok(())
        }
    }
    let zero = Digest::from_bytes([0; 32]);
    let mut count = Count(0);
    let _ = write(plan, &mut count, |_| zero, |_| zero);
    count.0
}

fn write(
    plan: &Plan,
    out: &mut impl Write,
    file_digest: impl Fn(usize) -> Digest,
    chunk_digest: impl Fn(usize) -> Digest,
) -> fmt::Result {
    out.write_str(r#"{"version":1,"entries":["#)?;
    let mut chunks = plan.chunks().enumerate().peekable();
    let mut before = None;
    for (at, file) in plan.files().iter().enumerate() {
        if at > 0 {
            out.write_char(',')?;
        }
        for folder in new_folders(before, &file.path) {
            write_folder(out, folder)?;
            out.write_char(',')?;
        }
        before = Some(&file.path);
        let name = quoted(file.path.as_str());
        write!(out, r#"{{"name":{name},"type":"reg""#)?;
        if file.size > 0 {
            write!(out, r#","size":{}"#, file.size)?;
        }
        out.write_str(r#","modtime":"1970-01-01T00:00:00Z","mode":420,"uid":0,"gid":0"#)?;
        while let Some((index, chunk)) = chunks.next_if(|(_, chunk)| chunk.file == at) {
            if chunk.start == 0 {
                write!(out, r#","digest":"{}""#, file_digest(at))?;
            } else {
                write!(out, r#"}},{{"name":{name},"type":"chunk""#)?;
            }
            write!(out, r#","offset":{}"#, plan.member_offset(chunk))?;
            if chunk.start > 0 {
                write!(out, r#","chunkOffset":{}"#, chunk.start)?;
            }
            if chunk.start + chunk.len < file.size {
                write!(out, r#","chunkSize":{CHUNK}"#)?;
            }
            write!(out, r#","chunkDigest":"{}""#, chunk_digest(index))?;
        }
        out.write_char('}')?;
    }
    out.write_str("]}")
}

fn write_folder(out: &mut impl Write, folder: &str) -> fmt::Result {
    let name = quoted(folder);
    write!(
        out,
        r#"{{"name":{name},"type":"dir","modtime":"1970-01-01T00:00:00Z","mode":493,"uid":0,"gid":0}}"#
    )
}

/// A JSON string. Paths have no control characters, so only `"` and `\` are escaped.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}
