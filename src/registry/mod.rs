//! The pull side of the distribution specification over HTTP.
