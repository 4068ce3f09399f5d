//! Chappe: a Matrix homeserver in one binary, with RocksDB inside. `docs/architecture.md` says how it hangs together.

pub mod check;
pub mod clock;
pub mod config;
pub mod error;
pub mod event;
pub mod http;
pub mod logging;
pub mod random;
pub mod room;
mod server;
pub mod store;
pub mod sync;
pub mod tables;
pub mod user;

pub use self::server::Server;
