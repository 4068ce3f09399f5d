//! The client-server API: a file per section of the specification, each with a `router()`.

use std::sync::Arc;

use axum::Router;

use crate::Server;

pub fn router() -> Router<Arc<Server>> {
    Router::new()
}
