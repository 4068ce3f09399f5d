//! What goes on without a request: one line for each.

use std::sync::Arc;

use crate::{Server, room::upgrade::carry_over, sweep};

/// Starts it all; it ends with the server's `shutdown`.
pub fn start(server: &Arc<Server>) {
    tokio::spawn(sweep::run(Arc::clone(server)));
    tokio::spawn(carry_over::run(Arc::clone(server)));
}
