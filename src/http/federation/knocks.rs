//! Knocking upon rooms: <https://spec.matrix.org/v1.19/server-server-api/#knocking-rooms>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::federation::membership::{RawStrippedState, create_knock_event, prepare_knock_event};

use crate::{
    Server,
    error::Result,
    federation::resident::handshake::{self, Wish},
    http::{
        endpoint,
        extract::{Federation, Matrix},
    },
    room::Membership,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<prepare_knock_event::v1::Request, _, _>(make_knock)).merge(endpoint::<
        create_knock_event::v1::Request,
        _,
        _,
    >(send_knock))
}

/// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1make_knockroomiduserid>
async fn make_knock(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<prepare_knock_event::v1::Request>,
) -> Result<Matrix<prepare_knock_event::v1::Response>> {
    let wish = Wish { origin, room_id: body.room_id, membership: Membership::Knock };
    let template = handshake::make(&server, wish, body.user_id, Some(body.ver)).await?;
    Ok(Matrix(prepare_knock_event::v1::Response::new(template.version, template.event)))
}

/// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_knockroomideventid>
async fn send_knock(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<create_knock_event::v1::Request>,
) -> Result<Matrix<create_knock_event::v1::Response>> {
    let wish = Wish { origin, room_id: body.room_id, membership: Membership::Knock };
    let admitted = handshake::send(&server, wish, body.event_id, body.pdu).await?;
    let told = handshake::knocked_on(&server, admitted).await?;
    let told = told.into_iter().map(RawStrippedState::Pdu).collect();
    Ok(Matrix(create_knock_event::v1::Response::new(told)))
}
