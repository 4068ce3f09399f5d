//! One room: its events, state and members.

pub mod append;
mod lock;
pub mod state;
pub mod tables;
mod view;

pub use self::{lock::Rooms, tables::Membership, view::View};
