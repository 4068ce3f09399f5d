//! Clients made of the library of Element X, against the real binary.

#![recursion_limit = "256"] // matrix-sdk's futures are nested that deeply

mod device;
mod encrypted_chat;
mod sliding_chat;
