//! One account: its sessions, devices and data.

pub mod session;
pub mod tables;
