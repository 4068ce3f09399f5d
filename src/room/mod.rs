//! One room: its events, state and members.

pub mod acl;
mod aggregations;
pub mod aliases;
pub mod append;
pub mod by_time;
pub mod children;
pub mod create;
pub mod delayed;
pub mod directory;
pub mod ends;
pub mod event_filter;
pub mod founding;
pub mod gaps;
pub mod hierarchy;
pub mod history;
pub mod invited;
pub mod known_state;
pub mod local_event;
pub mod local_members;
mod lock;
pub mod member_change;
pub mod member_profile;
pub mod membership;
pub mod mutual;
pub mod outliers;
pub mod partial;
mod plan;
pub mod policy_server;
mod power_levels;
pub mod read;
pub mod read_markers;
pub mod receipts;
pub mod redact;
pub mod redaction;
pub mod related_redactions;
pub mod relations;
pub mod relationships;
pub mod remote;
pub mod restricted;
pub mod retention;
pub mod search;
pub mod send;
pub mod server_notices;
pub mod servers;
pub mod show;
pub mod state;
pub mod state_list;
pub mod sticky;
pub mod summary;
pub mod tables;
pub mod threads;
pub mod timeline;
pub mod typing;
pub mod upgrade;
pub mod view;
pub mod visibility;
pub mod visibility_of_server;

#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
pub(crate) mod testing;

pub use self::{lock::Rooms, power_levels::power_levels, tables::Membership, view::View};
