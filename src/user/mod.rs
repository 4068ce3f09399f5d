//! One account: its sessions, devices and data.

pub mod erasure;
pub mod filter;
pub mod ignored;
pub mod profile;
pub mod session;
pub mod tables;
