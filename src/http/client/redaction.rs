//! Redactions.

use std::{collections::BTreeSet, sync::Arc};

use axum::{Router, extract::State};
use ruma::api::client::redact::redact_event::v3::{Request, Response};
use serde::Deserialize;

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        error::unreadable,
        extract::{Client, Matrix},
    },
    room::{redact, related_redactions::Wish},
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<Request, _, _>(redact_event)
}

/// `PUT /rooms/{roomId}/redact/{eventId}/{txnId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid>
async fn redact_event(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<Request>,
) -> Result<Matrix<Response>> {
    /// What MSC3912 adds.
    #[derive(Deserialize)]
    struct Body {
        #[serde(default, alias = "org.matrix.msc3912.with_relations")]
        with_rel_types: BTreeSet<String>,
    }
    server.limits.message(&sender)?;
    let Request { room_id, event_id, txn_id, reason, .. } = body;
    let raw: &[u8] = if raw.is_empty() { b"{}" } else { &raw };
    let Body { with_rel_types } = serde_json::from_slice(raw).map_err(|e| unreadable(e.into()))?;
    let event_id = if with_rel_types.is_empty() {
        redact::redact(&server, &sender, &room_id, event_id, reason, txn_id.as_str()).await?
    } else {
        let wish = Wish::new(with_rel_types, reason)?;
        redact::redact_with_related(&server, &sender, &room_id, event_id, wish, txn_id.as_str()).await?
    };
    Ok(Matrix(Response::new(event_id)))
}
