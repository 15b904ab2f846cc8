//! Integration tests, one file a promise.

mod cli;
mod config;
mod docs;
