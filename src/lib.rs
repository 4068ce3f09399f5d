//! Chappe: a Matrix homeserver in one binary, with RocksDB inside. `docs/architecture.md` says how it hangs together.

// What comes from outside or from the disk may be wrong in any way, and must never end the server.
#![cfg_attr(
    not(test),
    warn(clippy::dbg_macro, clippy::panic, clippy::todo, clippy::unimplemented, clippy::unwrap_used)
)]

pub mod appservice;
pub mod background;
pub mod check;
pub mod clock;
pub mod config;
pub mod cores;
pub mod ephemeral;
pub mod error;
pub mod event;
pub mod federation;
pub mod http;
pub mod keyed_locks;
pub mod log;
pub mod logging;
pub mod long_answers;
pub mod mail;
pub mod media;
pub mod memory;
pub mod metrics;
pub mod oauth;
pub mod outgoing;
pub mod permits;
pub mod plain_json;
pub mod push;
pub mod quick;
pub mod random;
pub mod rate_limit;
pub mod rendezvous;
pub mod reports;
pub mod restored;
pub mod room;
pub mod server;
pub mod sso;
pub mod store;
pub mod sweep;
pub mod sync;
pub mod tables;
pub mod user;

pub use self::server::Server;
