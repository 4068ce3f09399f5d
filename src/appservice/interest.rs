//! Which rooms and events a service is told of.

use std::collections::HashSet;

use ruma::{OwnedUserId, UserId};

use super::Appservice;
use crate::{
    Server,
    error::Result,
    event::StoredEvent,
    room::{View, aliases::RoomAliases},
};

/// Whether an event concerns a service: by its room, its sender or the member that it speaks of.
pub fn in_event(server: &Server, view: &View<'_>, event: &StoredEvent, service: &Appservice) -> Result<bool> {
    if service.has_user(&event.sender) {
        return Ok(true);
    }
    let member = event.state_key.as_deref().filter(|_| event.event_type == "m.room.member");
    if member.is_some_and(|member| <&UserId>::try_from(member).is_ok_and(|member| service.has_user(member))) {
        return Ok(true);
    }
    in_room(server, view, service)
}

/// Whether all of a room concerns a service: by its id, by one of its aliases, or by a member.
pub fn in_room(server: &Server, view: &View<'_>, service: &Appservice) -> Result<bool> {
    if service.has_room(view.room_id()) {
        return Ok(true);
    }
    let any_of_its_users = |members: &HashSet<OwnedUserId>| members.iter().any(|member| service.has_user(member));
    if server.local_members.look(server, view.nid, any_of_its_users)? {
        return Ok(true);
    }
    if service.has_aliases() {
        for row in view.snapshot.list::<RoomAliases>(&view.nid) {
            if service.alias(row?.key()?.1) > super::Interest::None {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
