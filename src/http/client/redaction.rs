//! Redactions.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::redact::redact_event::v3::{Request, Response};

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    room::redact,
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<Request, _, _>(redact_event)
}

/// `PUT /rooms/{roomId}/redact/{eventId}/{txnId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid>
async fn redact_event(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<Request>,
) -> Result<Matrix<Response>> {
    server.limits.message(&sender.user_id)?;
    let Request { room_id, event_id, txn_id, reason, .. } = body;
    let event_id = redact::redact(&server, &sender, &room_id, event_id, reason, txn_id.as_str()).await?;
    Ok(Matrix(Response::new(event_id)))
}
