//! What users would notice: the whole server in this process, with its HTTP interface and without a network.

mod filter;
mod history;
mod login;
mod rate_limits;
mod registration;
mod state;
mod support;
mod visibility;
