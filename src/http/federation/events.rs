//! Retrieving events and states:
//! <https://spec.matrix.org/v1.19/server-server-api/#retrieving-events>,
//! <https://spec.matrix.org/v1.19/server-server-api/#retrieving-event-authorisation-information>

use std::sync::Arc;

use axum::{Router, extract::State, response::Response};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::{
        Direction as RumaDirection,
        federation::{
            authorization::get_event_authorization,
            event::{get_event, get_event_by_timestamp, get_room_state, get_room_state_ids},
        },
    },
};

use super::streamed;
use crate::{
    Server,
    error::Result,
    federation::resident::{
        history,
        state::{self, Form, Question},
    },
    http::{
        endpoint,
        extract::{Federation, Matrix},
    },
    store::Direction,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<get_event::v1::Request, _, _>(event))
        .merge(endpoint::<get_room_state::v1::Request, _, _>(room_state))
        .merge(endpoint::<get_room_state_ids::v1::Request, _, _>(state_ids))
        .merge(endpoint::<get_event_authorization::v1::Request, _, _>(event_auth))
        .merge(endpoint::<get_event_by_timestamp::v1::Request, _, _>(timestamp_to_event))
}

/// `GET /_matrix/federation/v1/event/{eventId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1eventeventid>
async fn event(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<get_event::v1::Request>,
) -> Result<Matrix<get_event::v1::Response>> {
    let event = history::event(&server, origin, body.event_id).await?;
    Ok(Matrix(get_event::v1::Response::new(server.owned_name(), server.clock.now(), event)))
}

/// `GET /_matrix/federation/v1/state/{roomId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1stateroomid>
async fn room_state(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<get_room_state::v1::Request>,
) -> Result<Response> {
    let question = Question { origin, room_id: body.room_id, event_id: body.event_id };
    Ok(streamed(state::before(&server, question, Form::Events).await?))
}

/// `GET /_matrix/federation/v1/state_ids/{roomId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1state_idsroomid>
async fn state_ids(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<get_room_state_ids::v1::Request>,
) -> Result<Response> {
    let question = Question { origin, room_id: body.room_id, event_id: body.event_id };
    Ok(streamed(state::before(&server, question, Form::Ids).await?))
}

/// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1event_authroomideventid>
async fn event_auth(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<get_event_authorization::v1::Request>,
) -> Result<Response> {
    let question = Question { origin, room_id: body.room_id, event_id: body.event_id };
    Ok(streamed(state::auth_chain_of(&server, question).await?))
}

/// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid>
async fn timestamp_to_event(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<get_event_by_timestamp::v1::Request>,
) -> Result<Matrix<get_event_by_timestamp::v1::Response>> {
    let direction = match body.dir {
        RumaDirection::Forward => Direction::Forward,
        RumaDirection::Backward => Direction::Backward,
    };
    let event = history::by_time(&server, origin, body.room_id, body.ts.get().into(), direction).await?;
    let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(event.origin_server_ts));
    Ok(Matrix(get_event_by_timestamp::v1::Response::new(event.event_id, ts)))
}
