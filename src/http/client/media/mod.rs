//! <https://spec.matrix.org/v1.19/client-server-api/#content-repository>

mod answer;
mod config;
mod download;
mod frozen;
mod preview;
mod range;
mod thumbnail;
mod upload;

use std::sync::Arc;

use axum::Router;

use crate::Server;

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(config::router())
        .merge(download::router())
        .merge(frozen::router())
        .merge(preview::router())
        .merge(thumbnail::router())
        .merge(upload::router())
}
