//! Trees of replies: <https://github.com/matrix-org/matrix-spec-proposals/pull/2836>

use std::sync::Arc;

use axum::{Router, extract::State, response::Response, routing::post};

use super::streamed;
use crate::{
    Server,
    error::Result,
    federation::{relationships::PATH, resident::relationships},
    http::extract::FederationJson,
    room::relationships::walk::Query,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().route(PATH, post(event_relationships))
}

/// `POST …/event_relationships`
async fn event_relationships(
    State(server): State<Arc<Server>>,
    FederationJson { origin, body }: FederationJson<Query>,
) -> Result<Response> {
    Ok(streamed(relationships::tree(&server, origin, body).await?))
}
