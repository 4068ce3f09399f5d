//! Administration by scripts, in the form that Synapse gave it.

mod accounts;
mod event_reports;
mod federation;
mod register;
mod server_notices;

use std::sync::Arc;

use axum::Router;

use crate::Server;

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(accounts::router())
        .merge(event_reports::router())
        .merge(federation::router())
        .merge(register::router())
        .merge(server_notices::router())
}
