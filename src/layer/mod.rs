//! Layer format 1.
