//! One room: its events, state and members.

pub mod append;
mod local_event;
mod lock;
mod power_levels;
pub mod relations;
pub mod state;
pub mod tables;
pub mod view;

pub use self::{lock::Rooms, power_levels::power_levels, tables::Membership, view::View};
