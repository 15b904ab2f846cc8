//! hf-oci: a pull-through caching registry whose images are Hugging Face repositories.
//!
//! The crate is built in rings; an inner ring knows nothing of an outer one (a test holds the rule):
//!
//! * pure: [`oci`], [`repo`], [`layer`], [`image`], [`bundle`] (no runtime, file or socket)
//! * effects: [`hub`] (where files come from), [`store`] (the OCI image layout on disk), [`push`] (other registries)
//! * work: [`fill`] (reference to image; the cold path, read from top to bottom)
//! * [`auth`]: who asks, and what they may read
//! * edges: [`registry`] (HTTP `/v2`), [`server`], [`control`] (operators), [`cli`], [`config`], [`telemetry`]

pub mod auth;
pub mod bundle;
pub mod cli;
pub mod config;
pub mod control;
pub mod error;
pub mod fill;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod hub;
pub mod image;
pub mod layer;
pub mod oci;
pub mod push;
pub mod registry;
pub mod repo;
pub mod server;
pub mod store;
pub mod telemetry;

pub use error::{Error, Kind};
