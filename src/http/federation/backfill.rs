//! Backfilling and retrieving missing events:
//! <https://spec.matrix.org/v1.19/server-server-api/#backfilling-and-retrieving-missing-events>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    UInt,
    api::federation::{backfill::get_backfill, event::get_missing_events},
};

use crate::{
    Server,
    error::Result,
    federation::resident::history::{self, Question},
    http::{
        endpoint,
        extract::{Federation, Matrix},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_backfill::v1::Request, _, _>(backfill)).merge(endpoint::<
        get_missing_events::v1::Request,
        _,
        _,
    >(missing_events))
}

/// `GET /_matrix/federation/v1/backfill/{roomId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1backfillroomid>
async fn backfill(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<get_backfill::v1::Request>,
) -> Result<Matrix<get_backfill::v1::Response>> {
    let question = Question { origin, room_id: body.room_id, from: body.v, limit: size(body.limit) };
    let events = history::backfill(&server, question).await?;
    Ok(Matrix(get_backfill::v1::Response::new(server.owned_name(), server.clock.now(), events)))
}

/// `POST /_matrix/federation/v1/get_missing_events/{roomId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1get_missing_eventsroomid>
async fn missing_events(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<get_missing_events::v1::Request>,
) -> Result<Matrix<get_missing_events::v1::Response>> {
    let question = Question { origin, room_id: body.room_id, from: body.latest_events, limit: size(body.limit) };
    let events = history::missing(&server, question, body.earliest_events, body.min_depth.into()).await?;
    Ok(Matrix(get_missing_events::v1::Response::new(events)))
}

fn size(limit: UInt) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}
