//! One event: parse, check, build, sign, redact, authorize, store, show. Pure functions: no store, no HTTP, no clock.
//!
//! What a peer sends becomes [`Received`], then [`Verified`]; what a local user sends starts as a [`Draft`] and also
//! becomes [`Verified`]. Only a [`Verified`] event can become part of a room. On disk it is a [`StoredEvent`], read
//! through an [`EventView`].

pub mod authorize;
pub mod build;
pub mod client_form;
pub mod fields;
pub mod format;
pub mod hash;
mod pdu;
pub mod redact;
pub mod rules;
pub mod stored;

pub use authorize::Refusal;
pub use build::{Context, Draft};
pub use format::{FormatError, Received};
pub use hash::Verified;
pub use pdu::Pdu;
pub use stored::{EventView, Flags, StateRoot, StoredEvent};
