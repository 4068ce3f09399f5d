//! Invites of our users into rooms of other servers. They become part of the room there; we sign that we were told.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room>

use std::sync::Arc;

use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, UserId,
    events::TimelineEventType, room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue;

use super::handshake::{incompatible, malformed, parse, verify};
use crate::{
    Server,
    error::{Error, Result},
    event::{Pdu, Received, format, rules},
    room::{Membership, View, acl, invited, view::membership_in},
};

/// An invite as another server tells of it.
#[derive(Debug)]
pub struct Invite {
    pub origin: OwnedServerName,
    pub room_id: OwnedRoomId,
    pub event_id: OwnedEventId,
    /// `None` if the request does not say: then it is 1 or 2, of which the events look alike.
    pub version: Option<RoomVersionId>,
    pub event: Box<RawValue>,
    /// What that server tells of the room.
    pub room_state: Vec<Box<RawValue>>,
}

/// Takes an invite, and answers with the event, which then has our signature too.
///
/// Errors: `M_INVALID_PARAM` if the event is not what the request is for, `M_MISSING_PARAM` if nothing proves which room it
/// is of, `M_INCOMPATIBLE_ROOM_VERSION`, `M_FORBIDDEN`, `M_LIMIT_EXCEEDED`, and those of [`invited::receive`].
pub async fn receive(server: &Arc<Server>, invite: Invite) -> Result<CanonicalJsonObject> {
    server.limits.invite_of_server(&invite.origin)?;
    let version = match invite.version.clone() {
        Some(version) => version,
        None => {
            let room_id = invite.room_id.clone();
            server.blocking(move |server| unsaid_version(server, &room_id)).await?
        }
    };
    let rules = rules::rules(&version).ok_or_else(|| incompatible(version.clone()))?;
    let of_version = version.clone();
    let (received, room_state) = server.blocking(move |server| check(server, &of_version, rules, invite)).await?;
    let verified = verify(server, rules, &received).await?;
    let signed = verified.json().clone();
    invited::receive(server, version, verified, room_state).await?;
    Ok(signed)
}

/// The version of a room of which a request does not say it.
fn unsaid_version(server: &Server, room_id: &RoomId) -> Result<RoomVersionId> {
    let snapshot = server.store.snapshot();
    let known = View::open(&server.rooms, &snapshot, room_id)?.map(|view| view.room.version.clone());
    Ok(known.filter(|version| *version == RoomVersionId::V2).unwrap_or(RoomVersionId::V1))
}

/// Signs the event if it is an invite of one of our users to that room, by a user of that server, and nothing else.
fn check(
    server: &Server,
    version: &RoomVersionId,
    rules: &'static RoomVersionRules,
    invite: Invite,
) -> Result<(Received, Vec<Box<RawValue>>)> {
    let mut received = parse(&invite.event, rules)?;
    check_event(server, received.pdu(), &invite)?;
    let snapshot = server.store.snapshot();
    // What we know of a room that we left may be long out of date, its ACL too.
    if let Some(view) = View::open(&server.rooms, &snapshot, &invite.room_id)?
        && view.is_resident()?
    {
        if view.room.version != *version {
            return Err(Error::invalid_param("The room is not of that version"));
        }
        acl::check(&view, &invite.origin)?;
    }
    check_room_state(&invite.room_state, &invite.room_id, rules)?;
    received.cosign(server.name(), &server.key, rules).map_err(|error| malformed(&error))?;
    Ok((received, invite.room_state))
}

fn check_event(server: &Server, pdu: &Pdu, invite: &Invite) -> Result<()> {
    let refuse = |reason: &'static str| Err(Error::invalid_param(reason));
    let is_ours = |user: &str| <&UserId>::try_from(user).is_ok_and(|user| server.is_ours(user));
    if pdu.event_type != TimelineEventType::RoomMember {
        return refuse("The event is no m.room.member event");
    }
    if membership_in(pdu.content.get()) != Some(Membership::Invite) {
        return refuse("The event is no invite");
    }
    if pdu.room_id != invite.room_id {
        return refuse("The event is of another room than the path");
    }
    if pdu.event_id != invite.event_id {
        return refuse("The event has another id than the path");
    }
    // In the first room versions: our signature, which is still to come, would stand for the one that the id asks for.
    if pdu.event_id.server_name() == Some(server.name()) {
        return refuse("The event has an id of this server");
    }
    if pdu.sender.server_name() != invite.origin {
        return refuse("The sender of the event is not a user of your server");
    }
    if !pdu.state_key.as_deref().is_some_and(is_ours) {
        return refuse("The event invites nobody of this server");
    }
    Ok(())
}

/// Since version 12 the create event proves which room it is, and must be there.
///
/// NOTSPEC: other entries may be stripped state, although they should be whole events: Synapse sends them so, in rooms of
/// all versions. No more than that is kept of them anyway.
fn check_room_state(state: &[Box<RawValue>], room_id: &RoomId, rules: &RoomVersionRules) -> Result<()> {
    if !rules.authorization.room_create_event_id_as_room_id {
        return Ok(());
    }
    let mut has_create = false;
    for event in state {
        let Ok(event) = format::parse(event.get().as_bytes(), rules) else { continue };
        if event.pdu().room_id != room_id {
            return Err(Error::missing_param("`invite_room_state` has an event of another room"));
        }
        has_create |= event.pdu().event_type == TimelineEventType::RoomCreate
            && event.pdu().event_id.as_str().strip_prefix('$') == Some(room_id.strip_sigil());
    }
    match has_create {
        true => Ok(()),
        false => Err(Error::missing_param("`invite_room_state` lacks the create event of the room")),
    }
}
