//! Leaving rooms, and rejecting invites:
//! <https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites>

use std::sync::Arc;

use axum::{Router, extract::State, routing::put};
use ruma::{
    OwnedServerName,
    api::federation::membership::{create_leave_event, prepare_leave_event},
};
use serde_json::{Value, json};

use crate::{
    Server,
    error::Result,
    federation::resident::handshake::{self, Wish},
    http::{
        endpoint,
        extract::{Federation, Json, Matrix},
    },
    room::Membership,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<prepare_leave_event::v1::Request, _, _>(make_leave))
        .merge(endpoint::<create_leave_event::v2::Request, _, _>(send_leave))
        .route("/_matrix/federation/v1/send_leave/{room_id}/{event_id}", put(send_leave_v1))
}

/// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_leaveroomiduserid>
async fn make_leave(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<prepare_leave_event::v1::Request>,
) -> Result<Matrix<prepare_leave_event::v1::Response>> {
    let wish = Wish { origin, room_id: body.room_id, membership: Membership::Leave };
    let template = handshake::make(&server, wish, body.user_id, None).await?;
    Ok(Matrix(prepare_leave_event::v1::Response::new(Some(template.version), template.event)))
}

/// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_leaveroomideventid>
async fn send_leave(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<create_leave_event::v2::Request>,
) -> Result<Matrix<create_leave_event::v2::Response>> {
    let_go(&server, origin, body).await?;
    Ok(Matrix(create_leave_event::v2::Response::new()))
}

/// `PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}`, which the specification had up to version 1.15.
/// <https://spec.matrix.org/v1.15/server-server-api/#put_matrixfederationv1send_leaveroomideventid>
async fn send_leave_v1(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<create_leave_event::v2::Request>,
) -> Result<Json<Value>> {
    let_go(&server, origin, body).await?;
    Ok(Json(json!([200, {}])))
}

async fn let_go(server: &Arc<Server>, origin: OwnedServerName, body: create_leave_event::v2::Request) -> Result<()> {
    let wish = Wish { origin, room_id: body.room_id, membership: Membership::Leave };
    handshake::send(server, wish, body.event_id, body.pdu).await?;
    Ok(())
}
