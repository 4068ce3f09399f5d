//! Requests between servers: who may ask whom, signed how, and with which keys.

mod keys;
mod queries;
mod requests;
mod rotation;
mod status;
