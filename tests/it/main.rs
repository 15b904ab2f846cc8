//! Promises of the whole, one file each.

#[path = "../hub/mod.rs"]
mod hub;

mod binary;
mod harness;

mod access;
mod bad_input;
mod bundle;
mod bundle_clash;
mod bundle_hostile;
mod cli;
mod cold;
mod commands;
mod config;
mod copy;
mod crash;
mod data_folder;
mod determinism;
mod disk_full;
mod docs;
mod elsewhere;
mod eviction;
mod faults;
mod freshness;
mod gate;
mod gguf;
mod hub_client;
mod hub_faults;
mod hub_simulator;
mod listing;
mod logins;
mod offline;
mod private;
mod pull;
mod range;
mod references;
mod renamed;
mod resume;
mod reuse;
mod rings;
mod rules;
mod secrets;
mod single_flight;
mod tls;
mod upstreams;
mod waiting;
