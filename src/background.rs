//! What goes on without a request: one line for each.

use std::sync::Arc;

use crate::{
    Server, appservice,
    federation::{completing, inbox, introducing, queue},
    push,
    room::{delayed, related_redactions, sticky, upgrade::carry_over},
    sweep,
    user::{directory, guests},
};

/// Starts it all; it ends with the server's `shutdown`.
pub fn start(server: &Arc<Server>) {
    queue::start(server);
    tokio::spawn(appservice::sender::run(Arc::clone(server)));
    tokio::spawn(inbox::resume(Arc::clone(server)));
    tokio::spawn(completing::resume(Arc::clone(server)));
    tokio::spawn(introducing::resume(Arc::clone(server)));
    tokio::spawn(push::reader::run(Arc::clone(server)));
    tokio::spawn(sweep::run(Arc::clone(server)));
    tokio::spawn(delayed::run(Arc::clone(server)));
    tokio::spawn(sticky::run(Arc::clone(server)));
    tokio::spawn(carry_over::run(Arc::clone(server)));
    tokio::spawn(related_redactions::run(Arc::clone(server)));
    tokio::spawn(directory::remote::run(Arc::clone(server)));
    tokio::spawn(guests::run(Arc::clone(server)));
}
