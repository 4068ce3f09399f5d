//! Joining rooms: <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use std::sync::Arc;

use axum::{Router, extract::State, response::Response, routing::put};
use ruma::{
    OwnedServerName,
    api::federation::membership::{create_join_event, prepare_join_event},
};

use super::{streamed, streamed_with_status};
use crate::{
    Server,
    error::Result,
    federation::resident::{
        answer::Pieces,
        handshake::{self, Wish},
        state,
    },
    http::{
        endpoint,
        extract::{Federation, Matrix},
    },
    room::Membership,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<prepare_join_event::v1::Request, _, _>(make_join))
        .merge(endpoint::<create_join_event::v2::Request, _, _>(send_join))
        .route("/_matrix/federation/v1/send_join/{room_id}/{event_id}", put(send_join_v1))
}

/// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_joinroomiduserid>
async fn make_join(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<prepare_join_event::v1::Request>,
) -> Result<Matrix<prepare_join_event::v1::Response>> {
    let wish = Wish { origin, room_id: body.room_id, membership: Membership::Join };
    let template = handshake::make(&server, wish, body.user_id, Some(body.ver)).await?;
    let mut response = prepare_join_event::v1::Response::new(template.event);
    response.room_version = Some(template.version);
    Ok(Matrix(response))
}

/// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>
async fn send_join(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<create_join_event::v2::Request>,
) -> Result<Response> {
    Ok(streamed(let_in(&server, origin, body).await?))
}

/// `PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}`, which the specification had up to version 1.15.
/// <https://spec.matrix.org/v1.15/server-server-api/#put_matrixfederationv1send_joinroomideventid>
async fn send_join_v1(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<create_join_event::v2::Request>,
) -> Result<Response> {
    Ok(streamed_with_status(let_in(&server, origin, body).await?))
}

async fn let_in(server: &Arc<Server>, origin: OwnedServerName, body: create_join_event::v2::Request) -> Result<Pieces> {
    let wish = Wish { origin, room_id: body.room_id, membership: Membership::Join };
    state::let_in(server, wish, body.event_id, body.pdu, body.omit_members).await
}
