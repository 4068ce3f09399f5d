//! The client-server API: a file per section of the specification, each with a `router()`.

mod account;
mod filter;
mod login;
mod logout;
mod members;
mod messages;
pub(super) mod registration;
mod room_events;
mod room_state_get;
mod sync;
mod versions;

use std::sync::Arc;

use axum::Router;

use crate::Server;

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(account::router())
        .merge(filter::router())
        .merge(login::router())
        .merge(logout::router())
        .merge(members::router())
        .merge(messages::router())
        .merge(registration::router())
        .merge(room_events::router())
        .merge(room_state_get::router())
        .merge(sync::router())
        .merge(versions::router())
}
