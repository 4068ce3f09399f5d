//! The state of a room at an event.

pub mod resolve_v1;
