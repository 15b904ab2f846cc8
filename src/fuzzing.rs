//! What the fuzz targets need of the private parsers. Built by `cargo fuzz` only.

pub use crate::bundle::fuzz as bundle;
pub use crate::hub::fuzz as hub_answer;
pub use crate::registry::fuzz as range;
pub use crate::store::fuzz as layout;
