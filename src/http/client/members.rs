//! Who is in a room.

use std::sync::Arc;

use axum::{Router, extract::State, response::Response};
use ruma::{
    OwnedMxcUri, RoomId,
    api::client::membership::{get_member_events, joined_members},
    events::room::member::MembershipState,
};
use serde::Serialize;

use super::streamed::{listed, write_event};
use crate::{
    Server, appservice,
    error::{Error, Result},
    event::StoredEvent,
    http::{
        endpoint,
        extract::{Client, GuestClient},
    },
    room::{
        Membership, View, history, partial,
        read::{self, Profile},
        servers::is_joined,
        show::Reader,
        state_list::{Form, StateList},
        visibility::{Standing, not_in_room},
    },
    store::EventNid,
    sync::token::TimelineToken,
    user::session::Caller,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_member_events::v3::Request, _, _>(members)).merge(endpoint::<
        joined_members::v3::Request,
        _,
        _,
    >(joined))
}

/// `GET /rooms/{roomId}/members`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmembers>
async fn members(
    State(server): State<Arc<Server>>,
    GuestClient { sender, body, .. }: GuestClient<get_member_events::v3::Request>,
) -> Result<Response> {
    let at = body.at.as_deref().map(str::parse::<TimelineToken>).transpose()?.map(|token| token.0);
    let (wanted, unwanted) = (membership(body.membership.as_ref())?, membership(body.not_membership.as_ref())?);
    let wants = move |membership| match (wanted, unwanted) {
        (None, None) => true,
        (Some(wanted), None) => membership == wanted,
        (None, Some(unwanted)) => membership != unwanted,
        (Some(wanted), Some(unwanted)) => membership == wanted || membership != unwanted,
    };
    partial::until_whole(&server, &sender.user_id, &body.room_id).await?;
    let select = move |reader: &Reader<'_, '_>, newest| {
        let state = history::state_at(reader, newest, at)?;
        read::members(reader.view(), state, wants)
    };
    const FORM: Form = Form { begin: "{\"chunk\":[", write: write_event, end: "]}" };
    StateList::open(&server, sender, body.room_id, FORM, select).await.map(listed)
}

fn membership(asked: Option<&MembershipState>) -> Result<Option<Membership>> {
    let known = |state| Membership::of(state).ok_or_else(|| Error::invalid_param("That is no membership"));
    asked.map(known).transpose()
}

/// `GET /rooms/{roomId}/joined_members`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidjoined_members>
async fn joined(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<joined_members::v3::Request>,
) -> Result<Response> {
    let sender = as_member(&server, sender, &body.room_id).await?;
    partial::until_whole(&server, &sender.user_id, &body.room_id).await?;
    let select = |reader: &Reader<'_, '_>, _| match reader.sight.standing {
        Standing::Joined => read::members(reader.view(), reader.view().current_state(), |of| of == Membership::Join),
        Standing::Left(_) => Err(Error::forbidden("You are not in this room any more")),
        Standing::Stranger => Err(not_in_room()),
    };
    const FORM: Form = Form { begin: "{\"joined\":{", write: write_profile, end: "}}" };
    StateList::open(&server, sender, body.room_id, FORM, select).await.map(listed)
}

/// The caller; if that is an application service as a user who is not in the room, it asks as any of its users who is.
async fn as_member(server: &Arc<Server>, mut caller: Caller, room_id: &RoomId) -> Result<Caller> {
    let Some(service) = caller.appservice.clone() else { return Ok(caller) };
    let (user_id, room_id) = (caller.user_id.clone(), room_id.to_owned());
    let other = server.blocking(move |server| {
        let snapshot = server.store.snapshot();
        let Some(view) = View::open(&server.rooms, &snapshot, &room_id)? else { return Ok(None) };
        let is_member = is_joined(server, &snapshot, view.nid, &user_id)?;
        Ok(if is_member { None } else { appservice::any_member(&view, &service)? })
    });
    if let Some(other) = other.await? {
        caller.user_id = other;
    }
    Ok(caller)
}

fn write_profile(_: &Reader<'_, '_>, out: &mut Vec<u8>, _: EventNid, event: &StoredEvent) -> Result<()> {
    let Profile { displayname, avatar_url } = read::profile(event)?;
    serde_json::to_writer(&mut *out, event.state_key.as_deref().unwrap_or_default()).map_err(Error::internal)?;
    out.push(b':');
    let member = Member { display_name: displayname, avatar_url };
    serde_json::to_writer(out, &member).map_err(Error::internal)
}

/// NOTSPEC: what a user has not set is `null` and not left out, as ruma's type has it: Complement wants both members.
#[derive(Serialize)]
struct Member {
    display_name: Option<String>,
    avatar_url: Option<OwnedMxcUri>,
}
