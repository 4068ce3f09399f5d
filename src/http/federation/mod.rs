//! The server-server API: a file per section of the specification, each with a `router()`.

mod keys;
mod query;
mod transactions;
mod version;

use std::sync::Arc;

use axum::Router;

use crate::Server;

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(keys::router()).merge(query::router()).merge(transactions::router()).merge(version::router())
}
