//! Layer format 1: ordinary eStargz made only of stored deflate blocks, so that every offset is known from the file sizes alone.
//!
//! *Plan* a layer from its files ([`Plan`]), feed the files' chunks in order ([`Sealer`]), get its digests ([`Sealed`]). Pure: bytes go
//! to a [`Sink`]. The bytes are frozen by golden digests; a change of any of them is another format number. `docs/layer-format.md`
//! describes every byte.

mod contents;
mod member;
mod plan;
mod seal;
mod tarfile;
mod toc;

pub use contents::{Content, FOOTER_LEN, contents, toc_offset};
pub use plan::{ChunkRef, Plan};
pub use seal::{SealError, Sealed, Sealer, Sink};

/// The number of the format, part of every recipe.
pub const FORMAT: u32 = 1;

/// Bytes of a chunk: the unit of lazy reading and of verification, one gzip member each.
pub const CHUNK: u64 = 4 << 20;
