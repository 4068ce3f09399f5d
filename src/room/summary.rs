//! What somebody who is not in a room may be told of it, and who may be told.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1room_summaryroomidoralias>

use ruma::{
    OwnedRoomId, RoomId, ServerName, UserId,
    events::{
        StateEventType,
        room::{encryption::RoomEncryptionEventContent, join_rules::RoomJoinRulesEventContent},
    },
    room::{AllowRule, JoinRule, JoinRuleSummary, RestrictedSummary, RoomSummary},
};

use super::{Membership, View, aliases, directory, servers, tables, visibility_of_server::is_in_room};
use crate::{
    Server,
    error::Result,
    store::{self, Snapshot},
};

/// What the room is, in short.
pub fn of(view: &View<'_>) -> Result<RoomSummary> {
    let listed = directory::describe(view)?;
    let join_rule = shown_rule(&join_rule(view)?);
    let mut summary = RoomSummary::new(
        listed.room_id,
        join_rule,
        listed.guest_can_join,
        listed.num_joined_members,
        listed.world_readable,
    );
    summary.canonical_alias = listed.canonical_alias;
    summary.name = listed.name;
    summary.topic = listed.topic;
    summary.avatar_url = listed.avatar_url;
    summary.room_type = listed.room_type;
    summary.room_version = Some(view.room.version.clone());
    let encryption: Option<RoomEncryptionEventContent> =
        view.state_content(view.current_state(), &StateEventType::RoomEncryption, "")?;
    summary.encryption = encryption.map(|content| content.algorithm);
    Ok(summary)
}

/// `invite` if the room says nothing that its version knows: that is what its rules make of it.
fn join_rule(view: &View<'_>) -> Result<JoinRule> {
    let content: Option<RoomJoinRulesEventContent> =
        view.state_content(view.current_state(), &StateEventType::RoomJoinRules, "")?;
    let rules = &view.rules.authorization;
    Ok(match content.map(|content| content.join_rule) {
        Some(JoinRule::Knock) if !rules.knocking => JoinRule::Invite,
        Some(JoinRule::Restricted(_)) if !rules.restricted_join_rule => JoinRule::Invite,
        Some(JoinRule::KnockRestricted(_)) if !rules.knock_restricted_join_rule => JoinRule::Invite,
        Some(rule) => rule,
        None => JoinRule::Invite,
    })
}

fn shown_rule(rule: &JoinRule) -> JoinRuleSummary {
    match rule {
        JoinRule::Public => JoinRuleSummary::Public,
        JoinRule::Knock => JoinRuleSummary::Knock,
        JoinRule::Private => JoinRuleSummary::Private,
        JoinRule::Restricted(_) => JoinRuleSummary::Restricted(RestrictedSummary::new(allowed_rooms(rule))),
        JoinRule::KnockRestricted(_) => JoinRuleSummary::KnockRestricted(RestrictedSummary::new(allowed_rooms(rule))),
        _ => JoinRuleSummary::Invite,
    }
}

/// The rooms whose members may join.
fn allowed_rooms(rule: &JoinRule) -> Vec<OwnedRoomId> {
    let (JoinRule::Restricted(restricted) | JoinRule::KnockRestricted(restricted)) = rule else { return Vec::new() };
    let room = |rule: &AllowRule| match rule {
        AllowRule::RoomMembership(membership) => Some(membership.room_id.clone()),
        _ => None,
    };
    restricted.allow.iter().filter_map(room).collect()
}

/// Whether `user`, or who is not logged in if `None`, may know of a room of ours: he is in it, could join or knock, or
/// could read it.
pub fn is_open_to(server: &Server, view: &View<'_>, user: Option<&UserId>) -> Result<bool> {
    let membership = match user {
        Some(user) => view.membership(view.current_state(), user)?,
        None => None,
    };
    match membership {
        Some(Membership::Join | Membership::Invite) => return Ok(true),
        Some(Membership::Ban) => return aliases::is_world_readable(view),
        Some(Membership::Knock | Membership::Leave) | None => {}
    }
    let rule = shown_rule(&join_rule(view)?);
    is_open(server, view.snapshot, user, &rule, aliases::is_world_readable(view)?)
}

/// As [`is_open_to`], for a room that another server told us of.
pub fn is_remote_open_to(
    server: &Server,
    snapshot: &Snapshot<'_>,
    user: Option<&UserId>,
    room: &RoomSummary,
) -> Result<bool> {
    if let Some(user) = user
        && is_joined_or_invited(snapshot, user, &room.room_id)?
    {
        return Ok(true);
    }
    is_open(server, snapshot, user, &room.join_rule, room.world_readable)
}

/// Whether `user` is in a room or invited to it, be it one of other servers.
pub fn is_joined_or_invited(snapshot: &Snapshot<'_>, user: &UserId, room_id: &RoomId) -> store::Result<bool> {
    let Some(nid) = snapshot.get::<tables::RoomIds>(&room_id)? else { return Ok(false) };
    let row = snapshot.get::<tables::UserRooms>(&(user, nid))?;
    Ok(row.is_some_and(|row| matches!(row.membership, Membership::Join | Membership::Invite)))
}

fn is_open(
    server: &Server,
    snapshot: &Snapshot<'_>,
    user: Option<&UserId>,
    rule: &JoinRuleSummary,
    is_world_readable: bool,
) -> Result<bool> {
    if is_world_readable {
        return Ok(true);
    }
    match rule {
        JoinRuleSummary::Public | JoinRuleSummary::Knock | JoinRuleSummary::KnockRestricted(_) => Ok(true),
        JoinRuleSummary::Restricted(restricted) => match user {
            Some(user) => Ok(is_in_any(server, snapshot, user, &restricted.allowed_room_ids)?),
            None => Ok(false),
        },
        _ => Ok(false),
    }
}

fn is_in_any(server: &Server, snapshot: &Snapshot<'_>, user: &UserId, rooms: &[OwnedRoomId]) -> store::Result<bool> {
    for room in rooms {
        if let Some(view) = View::open(&server.rooms, snapshot, room)?
            && view.membership(view.current_state(), user)? == Some(Membership::Join)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// As [`is_open_to`], for a server that asks on behalf of its users. What we knew of an allowed room before all of us
/// left it proves nothing.
pub fn is_open_to_server(server: &Server, view: &View<'_>, asking: &ServerName) -> Result<bool> {
    if aliases::is_world_readable(view)? || is_in_room(view, asking)? {
        return Ok(true);
    }
    let rule = join_rule(view)?;
    match &rule {
        JoinRule::Public | JoinRule::Knock | JoinRule::KnockRestricted(_) => return Ok(true),
        JoinRule::Restricted(_) => {
            for room in allowed_rooms(&rule) {
                if let Some(allowed) = View::open(&server.rooms, view.snapshot, &room)?
                    && allowed.is_resident()?
                    && is_in_room(&allowed, asking)?
                {
                    return Ok(true);
                }
            }
        }
        _ => {}
    }
    Ok(servers::is_invited(view.snapshot, view.nid, asking)?)
}
