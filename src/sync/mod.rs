//! What is new for a user: `/sync`, and who to wake for it.

mod wake;

pub use self::wake::Wakers;
