//! Trees of replies: <https://github.com/matrix-org/matrix-spec-proposals/pull/2836>

use std::sync::Arc;

use axum::{Router, extract::State, routing::post};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    Server,
    error::Result,
    http::extract::{Json, UntypedClient},
    room::relationships::page,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().route("/_matrix/client/unstable/event_relationships", post(event_relationships))
}

#[derive(Serialize)]
struct Response {
    events: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    limited: bool,
}

/// `POST …/event_relationships`
async fn event_relationships(State(server): State<Arc<Server>>, request: UntypedClient) -> Result<Json<Response>> {
    let query = request.json()?;
    let page::Answer { events, next_batch, is_limited } = page::page(&server, request.sender, query).await?;
    Ok(Json(Response { events, next_batch, limited: is_limited }))
}
