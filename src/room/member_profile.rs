//! The names and avatars that member events carry.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#events-on-change-of-profile-information>

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use ruma::{UserId, events::StateEventType};
use serde_json::{Map, Value, value::to_raw_value};
use tracing::error;

use super::{
    Membership, View,
    append::{self, Step},
    tables::UserRooms,
    view::membership_in,
    visibility::not_in_room,
};
use crate::{
    Server,
    error::{Error, Result},
    event::Draft,
    store::{self, RoomNid, Snapshot},
    user::profile::{self, AVATAR_URL, DISPLAY_NAME},
};

/// In how many rooms a change is written at once: enough to share the fsyncs.
const ROOMS_AT_ONCE: usize = 16;

/// What belongs to one membership event and must not be repeated by the next.
const NOT_KEPT: [&str; 4] = ["reason", "is_direct", "third_party_invite", "join_authorised_via_users_server"];

/// Brings the member events of `user` in all rooms that he is joined to in line with his profile, and returns when all
/// are durable. A room that refuses the change keeps the old one. Should the server stop in the middle, the client was not
/// answered, and the same request again changes the rooms that are left.
pub async fn propagate(server: &Arc<Server>, user: &UserId) -> Result<()> {
    loop {
        let fields = shown_fields(&server.store.snapshot(), user)?;
        let rooms = joined_rooms(&server.store.snapshot(), user)?;
        stream::iter(rooms).for_each_concurrent(ROOMS_AT_ONCE, |room| update(server, room, user, &fields)).await;
        // A newer change may have been written to some rooms before this one: the last profile must stay.
        if shown_fields(&server.store.snapshot(), user)? == fields {
            return Ok(());
        }
    }
}

/// The fields of a profile that member events carry, as they are in their content.
pub fn shown_fields(snapshot: &Snapshot<'_>, user: &UserId) -> Result<Map<String, Value>> {
    let mut fields = Map::new();
    for field in [DISPLAY_NAME, AVATAR_URL] {
        if let Some(value) = profile::get(snapshot, user, field)? {
            fields.insert(field.to_owned(), value.parse().map_err(Error::internal)?);
        }
    }
    Ok(fields)
}

fn joined_rooms(snapshot: &Snapshot<'_>, user: &UserId) -> store::Result<Vec<RoomNid>> {
    let mut rooms = Vec::new();
    for row in snapshot.list::<UserRooms>(&user) {
        let row = row?;
        if row.value.membership == Membership::Join {
            rooms.push(row.key()?.1);
        }
    }
    Ok(rooms)
}

/// Writes the change in one room, if it is one there.
async fn update(server: &Arc<Server>, room: RoomNid, user: &UserId, fields: &Map<String, Value>) {
    let (member, fields) = (user.to_owned(), fields.clone());
    let sent = append::act(server, room, user, None, move |_, view| step(view, &member, fields)).await;
    match sent {
        Ok(_) | Err(Error::Refused { .. }) => {}
        Err(error) => error!(%user, room = room.0, ?error, "a room did not get the new profile of a member"),
    }
}

/// The member event that shows `fields`, if the present one does not. Refused if the user is not joined any more.
fn step(view: &View<'_>, user: &UserId, fields: Map<String, Value>) -> Result<Step> {
    let state = view.current_state();
    let present = view.state_pdu(state, &StateEventType::RoomMember, user.as_str())?;
    let present = present.filter(|event| membership_in(event.content.get()) == Some(Membership::Join));
    let present = present.ok_or_else(not_in_room)?;
    let before: Map<String, Value> = serde_json::from_str(present.content.get()).map_err(Error::internal)?;
    let content = with_fields(before.clone(), fields);
    if content == before {
        return Ok(Step::Done(present.event_id.clone()));
    }
    let content = to_raw_value(&content).map_err(Error::internal)?;
    Ok(Step::Send(Draft::state(StateEventType::RoomMember, user.as_str(), content)))
}

fn with_fields(mut content: Map<String, Value>, fields: Map<String, Value>) -> Map<String, Value> {
    let is_shown = |content: &Map<String, Value>| {
        [DISPLAY_NAME, AVATAR_URL].iter().all(|field| content.get(*field) == fields.get(*field))
    };
    if is_shown(&content) {
        return content;
    }
    for field in NOT_KEPT.iter().chain(&[DISPLAY_NAME, AVATAR_URL]) {
        content.remove(*field);
    }
    content.extend(fields);
    content
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_member_event_that_shows_the_profile_stays_as_it_is() {
        let content = object(json!({ "membership": "join", "displayname": "A", "reason": "why not" }));
        assert_eq!(with_fields(content.clone(), object(json!({ "displayname": "A" }))), content);
    }

    #[test]
    fn a_changed_one_loses_what_was_said_of_the_join() {
        let content = json!({
            "membership": "join", "displayname": "A", "avatar_url": "mxc://a/a", "reason": "r", "x": 1,
            "join_authorised_via_users_server": "@a:b",
        });
        let changed = with_fields(object(content), object(json!({ "displayname": "B" })));
        assert_eq!(Value::Object(changed), json!({ "membership": "join", "displayname": "B", "x": 1 }));
    }
}
