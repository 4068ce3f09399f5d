//! Rooms that the user is invited to, or knocks on: what he may know of them.

use super::{
    answer::Context,
    changes::Room,
    json::{self, Object, put},
};
use crate::{
    error::{Error, Result},
    room::{View, show},
    user::invite_permission::{self, Permission},
};

/// Invites by users whom the reader ignores are not shown.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-14>
pub fn write_invited(context: &Context<'_>, view: &View<'_>, room: &Room, out: &mut Vec<u8>) -> Result<bool> {
    let inviter = view.event(room.row.event)?.sender;
    let is_wanted = invite_permission::of(view.snapshot, &context.request.user_id, &inviter)? == Permission::Allowed;
    if context.ignored.contains(&inviter) || !is_wanted {
        return Ok(false);
    }
    write(view, room, "invite_state", out)
}

pub fn write_knocked(view: &View<'_>, room: &Room, out: &mut Vec<u8>) -> Result<bool> {
    write(view, room, "knock_state", out)
}

fn write(view: &View<'_>, room: &Room, key: &str, out: &mut Vec<u8>) -> Result<bool> {
    let state = show::stripped_state(view, room.row.event)?;
    let mut object = Object::begin(out);
    json::events(object.key(key), &state, |out, event| {
        put(out, event);
        Ok::<_, Error>(())
    })?;
    object.end();
    Ok(true)
}
