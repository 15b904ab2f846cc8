//! Listeners, limits and the drain at the end.
