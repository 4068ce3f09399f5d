//! One room: its timeline, its state, its members.

pub mod state;
