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
    federation::{self, by_time::Wanted},
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
    let ts_ms = body.ts.get().into();
    let look = || {
        let read = history::read(&server, sender.clone(), body.room_id.clone(), move |reader, _| {
            reader.sight.readable_state()?; // who has no business in the room learns nothing of it
            let may_see = |nid, event: &_| reader.sight.may_see(nid, event);
            Ok((reader.view().nid, by_time::nearest(reader.view(), ts_ms, direction, may_see)?))
        });
        async { read.await?.ok_or_else(not_in_room) }
    };
    let (room, mut found) = look().await?;
    let nearest_here = found.as_ref().map(|(_, event)| event.origin_server_ts);
    if federation::by_time::fetch(&server, Wanted { room, ts_ms, direction, nearest_here }).await? {
        (_, found) = look().await?;
    }
    let (_, event) = found.ok_or_else(|| Error::not_found("There is no event of that time that you may see"))?;
    let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(event.origin_server_ts));
    Ok(Matrix(get_event_by_timestamp::v1::Response::new(event.event_id, ts)))
}
