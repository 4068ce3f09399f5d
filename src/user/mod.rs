//! One account: its sessions, devices and data.

pub mod account;
pub mod account_data;
pub mod backup;
pub mod deactivate;
pub mod device;
pub mod direct;
pub mod directory;
pub mod email;
pub mod erasure;
pub mod expiring;
pub mod filter;
pub mod ignored;
pub mod invite_permission;
pub mod keys;
pub mod moderation;
pub mod password;
pub mod presence;
pub mod profile;
pub mod push_rules;
pub mod registration;
pub mod session;
pub mod shared_secret;
pub mod tables;
pub mod tags;
pub mod to_device;
pub mod uiaa;
