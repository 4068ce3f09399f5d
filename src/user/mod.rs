//! One account: its sessions, devices and data.

pub mod profile;
pub mod session;
pub mod tables;
