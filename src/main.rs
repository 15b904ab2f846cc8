//! The `hf-oci` binary.
fn main() {}
