//! What users would notice: the whole server in this process, with its HTTP interface and without a network.

mod account;
mod aliases;
mod backup;
mod cross_signing;
mod devices;
mod directory;
mod filter;
mod fuzz;
mod history;
mod keys;
mod login;
mod membership;
mod rate_limits;
mod refresh;
mod registration;
mod rooms;
mod sending;
mod shared_secret;
mod state;
mod support;
mod sync;
mod to_device;
mod uiaa;
mod visibility;
