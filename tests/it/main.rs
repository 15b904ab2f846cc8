//! The promises, a file each.

#[path = "../hub/mod.rs"]
mod hub;

mod hub_simulator;
