//! Rooms that the user is invited to, or knocks on: what he may know of them.

use ruma::UserId;

use super::{
    answer::Context,
    changes::Room,
    json::{self, Object, put},
};
use crate::{
    Server,
    error::{Error, Result},
    room::{View, show, tables::UserRoom},
    user::invite_permission::{self, Permission},
};

/// Whether the invite of `user` that `row` tells of is shown to him: not if he ignores the sender, or accepts none of his.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#server-behaviour-14>
pub fn is_wanted(server: &Server, view: &View<'_>, user: &UserId, row: &UserRoom) -> Result<bool> {
    let inviter = view.event(row.event)?.sender;
    Ok(!server.unread.ignores(server, view.snapshot, user, &inviter)?
        && invite_permission::of(view.snapshot, user, &inviter)? == Permission::Allowed)
}

pub fn write_invited(context: &Context<'_>, view: &View<'_>, room: &Room, out: &mut Vec<u8>) -> Result<bool> {
    if !is_wanted(context.server, view, context.user_id(), &room.row)? {
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
