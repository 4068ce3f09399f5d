//! What users would notice: the whole server in this process, with its HTTP interface and without a network.

mod login;
mod registration;
mod support;
