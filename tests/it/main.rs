//! Promises of the whole, one file each.

mod rings;
