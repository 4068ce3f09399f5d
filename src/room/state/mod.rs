//! The state of a room: kept as tries, resolved where the event graph forks.

pub mod auth_chain;
pub mod reset;
mod resolve;
mod resolve_owned;
mod resolve_v1;
pub mod trie;

pub use self::resolve::resolve;

#[cfg(test)]
mod tests;
