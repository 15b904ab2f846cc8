//! Promises of the whole, one file each.

#[path = "../hub/mod.rs"]
mod hub;

mod cli;
mod config;
mod rings;
