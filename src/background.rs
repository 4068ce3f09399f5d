//! What goes on without a request: one line for each.

use std::sync::Arc;

use crate::{Server, sweep};

/// Starts it all; it ends with the server's `shutdown`.
pub fn start(server: &Arc<Server>) {
    tokio::spawn(sweep::run(Arc::clone(server)));
}
