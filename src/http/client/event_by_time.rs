//! The event nearest to a time.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::{Direction as RumaDirection, client::room::get_event_by_timestamp},
};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
    room::{by_time, history, visibility::not_in_room},
    store::Direction,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_event_by_timestamp::v1::Request, _, _>(event_by_time))
}

/// `GET /rooms/{roomId}/timestamp_to_event`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event>
async fn event_by_time(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<get_event_by_timestamp::v1::Request>,
) -> Result<Matrix<get_event_by_timestamp::v1::Response>> {
    let direction = match body.dir {
        RumaDirection::Forward => Direction::Forward,
        RumaDirection::Backward => Direction::Backward,
    };
    let found = history::read(&server, sender, body.room_id, move |reader, _| {
        reader.sight.readable_state()?; // who has no business in the room learns nothing of it
        let may_see = |nid, event: &_| reader.sight.may_see(nid, event);
        by_time::nearest(reader.view(), body.ts.get().into(), direction, may_see)
    });
    let not_found = || Error::not_found("There is no event of that time that you may see");
    let (_, event) = found.await?.ok_or_else(not_in_room)?.ok_or_else(not_found)?;
    let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(event.origin_server_ts));
    Ok(Matrix(get_event_by_timestamp::v1::Response::new(event.event_id, ts)))
}
