//! The state of a room, whole and by key.

use std::sync::Arc;

use axum::{Router, extract::State, response::Response, routing::get};
use ruma::{
    api::client::state::{
        get_state_event_for_key::{self, v3::StateEventFormat},
        get_state_events,
    },
    events::StateEventType,
};

use super::streamed::{listed, write_event};
use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{GuestClient, Matrix},
    },
    room::{
        history, partial,
        show::{Format, Reader},
        state_list::{Form, StateList},
        visibility::not_in_room,
    },
};

pub fn router() -> Router<Arc<Server>> {
    let without_key = ["r0", "v3"].into_iter().fold(Router::new(), |all, version| {
        // ruma knows the path with a state key only; without one it is empty.
        let path = format!("/_matrix/client/{version}/rooms/{{room_id}}/state/{{event_type}}");
        all.route(&format!("{path}/"), get(state_event)).route(&path, get(state_event))
    });
    without_key.merge(endpoint::<get_state_event_for_key::v3::Request, _, _>(state_event)).merge(endpoint::<
        get_state_events::v3::Request,
        _,
        _,
    >(state))
}

/// `GET /rooms/{roomId}/state`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstate>
async fn state(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<get_state_events::v3::Request>,
) -> Result<Response> {
    partial::until_whole(&server, &sender.user_id, &body.room_id).await?;
    let select = |reader: &Reader<'_, '_>, _| {
        let state = reader.view().state(reader.sight.readable_state()?)?;
        Ok(state.into_iter().map(|(_, nid)| nid).collect())
    };
    const FORM: Form = Form { begin: "[", write: write_event, end: "]" };
    StateList::open(&server, sender, body.room_id, FORM, select).await.map(listed)
}

/// `GET /rooms/{roomId}/state/{eventType}/{stateKey}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidstateeventtypestatekey>
async fn state_event(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<get_state_event_for_key::v3::Request>,
) -> Result<Matrix<get_state_event_for_key::v3::Response>> {
    let is_whole = match body.format {
        StateEventFormat::Content => false,
        StateEventFormat::Event => true,
        _ => return Err(Error::invalid_param("`format` is neither `content` nor `event`")),
    };
    if body.event_type == StateEventType::RoomMember && body.state_key != sender.user_id.as_str() {
        partial::until_whole(&server, &sender.user_id, &body.room_id).await?;
    }
    let answer = history::read(&server, sender, body.room_id, move |reader, _| {
        let state = reader.sight.readable_state()?;
        let found = reader.view().state_nid(state, &body.event_type, &body.state_key)?;
        let nid = found.ok_or_else(|| Error::not_found("The room has no such state"))?;
        let event = reader.view().event(nid)?;
        let shown = if is_whole { reader.show(nid, &event, Format::WithRoomId)? } else { reader.content(&event)? };
        Ok(get_state_event_for_key::v3::Response::new(shown))
    });
    answer.await?.map(Matrix).ok_or_else(not_in_room)
}
