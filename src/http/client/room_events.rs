//! One event, and what is around it.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
};
use ruma::{
    api::client::{context::get_context, room::get_room_event},
    events::{AnyStateEvent, AnyTimelineEvent},
    serde::Raw,
};
use serde::Serialize;

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{GuestClient, Json, Matrix},
    },
    room::{
        history::{self, event_not_found},
        show::Format,
        visibility::not_in_room,
    },
    sync::token::TimelineToken,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_context::v3::Request, _, _>(context)).merge(endpoint::<
        get_room_event::v3::Request,
        _,
        _,
    >(event))
}

/// `GET /rooms/{roomId}/event/{eventId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomideventeventid>
async fn event(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<get_room_event::v3::Request>,
) -> Result<Matrix<get_room_event::v3::Response>> {
    let answer = history::read(&server, sender, body.room_id, move |reader, _| {
        let (nid, event) = history::visible(reader, &body.event_id)?.ok_or_else(event_not_found)?;
        Ok(get_room_event::v3::Response::new(reader.raw(nid, &event, Format::WithRoomId)?))
    });
    answer.await?.map(Matrix).ok_or_else(event_not_found)
}

/// `GET /rooms/{roomId}/context/{eventId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidcontexteventid>
async fn context(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<get_context::v3::Request>,
) -> Result<Response> {
    let _turn = server.long_answers.turn().await?;
    let answer = history::read(&server, sender, body.room_id, move |reader, newest| {
        let limit = usize::try_from(body.limit).unwrap_or(usize::MAX);
        let found = history::around(reader, newest, &body.event_id, limit, &body.filter)?;
        let Some(found) = found else {
            reader.sight.readable_state()?; // who may read nothing of the room is told that, whatever he asks for
            return Err(event_not_found());
        };
        Ok(Context {
            start: TimelineToken(found.start).to_string(),
            end: TimelineToken(found.end).to_string(),
            events_before: reader.raw_entries(&found.before)?,
            event: reader.raw(found.event.nid, &found.event.event, Format::WithRoomId)?,
            events_after: reader.raw_entries(&found.after)?,
            state: reader.raw_events(&found.state)?,
        })
    });
    Ok(Json(answer.await?.ok_or_else(not_in_room)?).into_response())
}

/// An event with what is around it. ruma's type leaves out empty lists, and matrix-js-sdk reads all three unasked.
#[derive(Serialize)]
struct Context {
    start: String,
    end: String,
    events_before: Vec<Raw<AnyTimelineEvent>>,
    event: Raw<AnyTimelineEvent>,
    events_after: Vec<Raw<AnyTimelineEvent>>,
    state: Vec<Raw<AnyStateEvent>>,
}
