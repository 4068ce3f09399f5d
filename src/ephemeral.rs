//! The order of what is told to clients and kept in memory only: typing and presence.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Clock;

/// Numbers changes. It starts at the microseconds since the Unix epoch, so that the numbers of one run of the server are
/// greater than those of earlier runs, which clients still have in their tokens.
#[derive(Debug)]
pub struct Order(AtomicU64);

impl Order {
    pub fn new(clock: &Clock) -> Self {
        Self(AtomicU64::new(clock.now_ms().saturating_mul(1_000)))
    }

    /// The newest change.
    pub fn newest(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// A number for a new change. Take it under the lock of what changes: whoever reads [`Self::newest`] first and then
    /// looks must find the change.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::AcqRel) + 1
    }
}
