//! The client-server API: a file per section of the specification, each with a `router()`.

mod filter;
mod members;
mod messages;
mod room_events;
mod room_state_get;
mod sync;

use std::sync::Arc;

use axum::Router;

use crate::Server;

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(filter::router())
        .merge(members::router())
        .merge(messages::router())
        .merge(room_events::router())
        .merge(room_state_get::router())
        .merge(sync::router())
}
