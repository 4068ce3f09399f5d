//! All that a user has, in the deprecated form of before `/sync`.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3initialsync>

use std::sync::Arc;

use ruma::{OwnedDeviceId, OwnedUserId, api::client::filter::FilterDefinition};
use serde_json::Value;

use super::{
    account_data,
    answer::{Answer, Context},
    changes::{Changes, Room},
    invited,
    json::{self, Object},
    presence,
    request::Request,
    stream::{self, HandOn, Reply},
    token::{TimelineToken, Token},
};
use crate::{
    Server,
    error::{Error, Result},
    room::{
        Membership, history,
        read::Found,
        show::{Format, Reader},
        visibility::Standing,
    },
};

/// What the client asks for.
pub struct Wanted {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    /// How many events of each room.
    pub limit: usize,
    /// Rooms that the user left, too.
    pub archived: bool,
}

pub async fn first_answer(server: &Arc<Server>, wanted: Wanted) -> Result<Reply> {
    stream::make(server, move |server, hand_on| assemble(server, &wanted, hand_on)).await?.reply(server).await
}

fn assemble(server: &Server, wanted: &Wanted, hand_on: &mut HandOn<'_>) -> Result<Answer> {
    let mut filter = FilterDefinition::default();
    filter.room.include_leave = wanted.archived;
    let request =
        Request { filter: Arc::new(filter), ..Request::new(wanted.user_id.clone(), wanted.device_id.clone(), None) };
    let snapshot = server.store.snapshot();
    let context = Context::open(server, &snapshot, &request)?;
    let changes = Changes::find(&context)?;
    let next = Token::new(context.now, context.ephemeral_now);
    let mut body = Vec::with_capacity(4 << 10);
    let mut answer = Object::begin(&mut body);
    answer.member("end", &TimelineToken::from(next).to_string());
    answer.member("presence", &present(&context, &changes)?);
    let data = account_data::global(&context, None)?;
    let Ok(()) = json::list(answer.key("account_data"), &data, account_data::write_event);
    let mut invites = Vec::with_capacity(changes.invited.len());
    for room in &changes.invited {
        if invited::is_wanted(server, &context.view(room.nid)?, context.user_id(), &room.row)? {
            invites.push(room);
        }
    }
    let rooms = changes.joined.iter().chain(invites).chain(&changes.left);
    let limit = wanted.limit;
    json::list(answer.key("rooms"), rooms, |out, room| {
        write_room(&context, room, limit, out)?;
        if out.len() >= stream::PIECE_BYTES { hand_on(out) } else { Ok(()) }
    })?;
    answer.end();
    Ok(Answer { body, next, has_news: true })
}

/// The presence of those who share a room with the user.
fn present(context: &Context<'_>, changes: &Changes) -> Result<Value> {
    let mut events = Vec::new();
    presence::write(context, changes, &mut events)?;
    let mut events: Value = serde_json::from_slice(&events).map_err(Error::internal)?;
    Ok(events["events"].take())
}

fn write_room(context: &Context<'_>, room: &Room, limit: usize, out: &mut Vec<u8>) -> Result<()> {
    let view = context.view(room.nid)?;
    let reader = context.reader(&view)?;
    let mut object = Object::begin(out);
    object.member("room_id", view.room_id());
    object.member("membership", room.row.membership.to_state().as_str());
    // Invited, or no longer: of the room itself the user sees nothing.
    let is_stranger = reader.sight.standing == Standing::Stranger;
    if is_stranger || room.row.membership == Membership::Invite {
        let event = view.event(room.row.event)?;
        reader.write(object.key("invite"), room.row.event, &event, Format::WithRoomId)?;
    }
    if is_stranger {
        object.end();
        return Ok(());
    }
    let found = history::first_look(&reader, context.now.into(), limit)?;
    let mut messages = Object::begin(object.key("messages"));
    if let Some(start) = found.start {
        messages.member("start", &TimelineToken(start).to_string());
    }
    messages.member("end", &TimelineToken(found.end).to_string());
    let entries = found.entries.iter().map(|entry| (entry.nid, &entry.event));
    json::list(messages.key("chunk"), entries, |out, (nid, event)| reader.write(out, nid, event, Format::WithRoomId))?;
    messages.end();
    write_state(&reader, &found.state, &mut object)?;
    object.member("visibility", if found.is_listed { "public" } else { "private" });
    let Ok(()) = json::list(object.key("account_data"), found.account_data, |out, (event_type, datum)| {
        account_data::write_event(out, &(event_type, datum.content))
    });
    object.end();
    Ok(())
}

fn write_state(reader: &Reader<'_, '_>, state: &[Found], room: &mut Object<'_>) -> Result<()> {
    json::list(room.key("state"), state, |out, (nid, event)| reader.write(out, *nid, event, Format::WithRoomId))
}
