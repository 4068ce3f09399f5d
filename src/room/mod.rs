//! One room: its events, state and members.

pub mod append;
pub mod event_filter;
pub mod history;
mod local_event;
mod lock;
mod power_levels;
pub mod read;
pub mod relations;
pub mod show;
pub mod state;
pub mod tables;
pub mod timeline;
pub mod view;
pub mod visibility;

pub use self::{lock::Rooms, power_levels::power_levels, tables::Membership, view::View};
