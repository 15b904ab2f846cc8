//! Integration tests, one file per promise.

#[path = "../hub/mod.rs"]
mod hub;

mod hub_client;
