//! Clients made of the library of Element X, against the real binary.

#![recursion_limit = "256"] // matrix-sdk's futures are nested that deeply

mod conversation;
mod device;
mod encrypted_chat;
mod encrypted_peers;
mod sliding_chat;
