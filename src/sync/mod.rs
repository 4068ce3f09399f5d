//! What is new for a user: `/sync`, and who to wake for it.

pub mod token;
mod wake;

pub use self::wake::Wakers;
