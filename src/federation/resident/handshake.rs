//! Letting users of other servers into rooms that we are in, and out of them: a template for the member event is made
//! here, signed there, and made part of the room here.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#joining-rooms>

use std::sync::Arc;

use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, UserId,
    api::error::{ErrorKind, IncompatibleRoomVersionErrorData},
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::{approach, check_allowed};
use crate::{
    Server,
    error::{Error, Result},
    event::{Draft, FormatError, Pdu, Received, Verified, format},
    federation::{keys, policy_server, relay},
    room::{
        Membership, View,
        append::{self, Verdict},
        local_event,
        restricted::{self, Admission},
        show,
        view::membership_in,
    },
    store::{EventNid, RoomNid},
};

/// What a user of another server wants of a room, and who asks for him.
#[derive(Clone, Debug)]
pub struct Wish {
    pub origin: OwnedServerName,
    pub room_id: OwnedRoomId,
    /// `Join`, `Leave` or `Knock`.
    pub membership: Membership,
}

impl Wish {
    /// `M_LIMIT_EXCEEDED` if the server lets too many users in; who wants out is not held up.
    fn check_server_rate(&self, server: &Server) -> Result<()> {
        if self.membership == Membership::Leave { Ok(()) } else { server.limits.join_of_server(&self.origin) }
    }

    fn check_room_rate(&self, server: &Server) -> Result<()> {
        if self.membership == Membership::Leave { Ok(()) } else { server.limits.join_to_room(&self.room_id) }
    }
}

/// A member event for the user's own server to complete and sign.
#[derive(Debug)]
pub struct Template {
    pub version: RoomVersionId,
    pub event: Box<RawValue>,
}

/// A member event that is part of its room now.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub room: RoomNid,
    pub event: EventNid,
}

/// The template of the member event by which `user` gets what he wants. `versions` are the room versions that his server
/// knows, where it says so.
///
/// Errors: `M_NOT_FOUND`, `M_FORBIDDEN`, `M_INCOMPATIBLE_ROOM_VERSION`; for restricted rooms `M_UNABLE_TO_AUTHORISE_JOIN`
/// and `M_UNABLE_TO_GRANT_JOIN`.
pub async fn make(
    server: &Arc<Server>,
    wish: Wish,
    user: OwnedUserId,
    versions: Option<Vec<RoomVersionId>>,
) -> Result<Template> {
    if user.server_name() != wish.origin {
        return Err(Error::forbidden("That is not a user of your server"));
    }
    wish.check_server_rate(server)?;
    super::answer::read(server, move |server, snapshot| {
        let view = approach(server, snapshot, &wish.room_id, &wish.origin)?;
        wish.check_room_rate(server)?;
        let version = view.room.version.clone();
        if versions.is_some_and(|versions| !versions.contains(&version)) {
            return Err(incompatible(version));
        }
        let mut content = json!({ "membership": wish.membership.to_state() });
        if wish.membership == Membership::Join
            && let Some(authorizer) = authorizer(server, &view, &user)?
        {
            content["join_authorised_via_users_server"] = authorizer.as_str().into();
        }
        let content = to_raw_value(&content).map_err(Error::internal)?;
        let draft = Draft::state(StateEventType::RoomMember, user.as_str(), content);
        let mut template = local_event::template_next(server, &view, &user, draft)?;
        check_allowed(&view, &template.pdu)?;
        template.json.insert("origin".to_owned(), server.name().as_str().to_owned().into());
        Ok(Template { version, event: to_raw_value(&template.json).map_err(Error::internal)? })
    })
    .await
}

pub fn incompatible(version: RoomVersionId) -> Error {
    let kind = ErrorKind::IncompatibleRoomVersion(IncompatibleRoomVersionErrorData::new(version));
    Error::refused(kind, "The room is of a version that one of our servers does not know")
}

/// Who of ours vouches that `user` may join. `None` if nobody need do that.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#restricted-rooms>
fn authorizer(server: &Server, view: &View<'_>, user: &UserId) -> Result<Option<OwnedUserId>> {
    match restricted::admission(server, view, user)? {
        Admission::NotAsked => Ok(None),
        Admission::Vouched(authorizer) => Ok(Some(authorizer)),
        Admission::NoVoucher => {
            let message = "None of this server's users may let that user in; another server may";
            Err(Error::refused(ErrorKind::UnableToGrantJoin, message))
        }
        Admission::Undecidable => {
            let message = "This server is not in all of the rooms whose members may join this one";
            Err(Error::refused(ErrorKind::UnableToAuthorizeJoin, message))
        }
        Admission::Refused => {
            Err(Error::forbidden("That user is in none of the rooms whose members may join this one"))
        }
    }
}

/// Makes the member event that another server signed part of the room. Sent again, it is answered again: a join as long
/// as the room would allow it.
///
/// Errors: `M_INVALID_PARAM` if it is not an event of this wish, or not signed as it must be; `M_FORBIDDEN` if the room
/// does not allow it; and those of [`make`].
pub async fn send(server: &Arc<Server>, wish: Wish, event_id: OwnedEventId, event: Box<RawValue>) -> Result<Admitted> {
    wish.check_server_rate(server)?;
    let origin = wish.origin.clone();
    let read = move |server: &Server| check(server, &wish, &event_id, &event);
    let (room, rules, received) = match server.blocking(read).await? {
        Checked::New(room, rules, received) => (room, rules, received),
        Checked::Known(admitted) => return server.store.commit(move |_| Ok(admitted)).await,
    };
    let verified = verify(server, rules, &received).await?;
    let event_id = verified.pdu().event_id.clone();
    let append = async {
        let verified = policy_server::complete(server, room, verified).await?;
        append::append(server, room, verified).await
    };
    let (event, verdict) = relay::marked(server, &event_id, &origin, append).await?;
    match verdict {
        Verdict::Accepted => Ok(Admitted { room, event }),
        Verdict::SoftFailed(reason) | Verdict::Rejected(reason) => {
            relay::unmark(server, &event_id).await?;
            Err(Error::forbidden(format!("The rules of the room do not allow this: {reason}")))
        }
    }
}

enum Checked {
    New(RoomNid, &'static RoomVersionRules, Box<Received>),
    /// It is part of the room already.
    Known(Admitted),
}

/// Everything that can be said of the event before its signatures are looked at.
fn check(server: &Server, wish: &Wish, event_id: &EventId, event: &RawValue) -> Result<Checked> {
    let snapshot = server.store.snapshot();
    let view = approach(server, &snapshot, &wish.room_id, &wish.origin)?;
    wish.check_room_rate(server)?;
    let mut received = parse(event, view.rules)?;
    check_member_event(received.pdu(), wish, event_id)?;
    if let Some(known) = view.event_nid(event_id)? {
        let event = view.event(known)?;
        // In room versions 1 and 2 anybody can give an event the id of another.
        let is_same = event.sender == received.pdu().sender && event.state_key == received.pdu().state_key;
        // The answer to a join tells who is in the room now, which is nothing for whoever was banned since.
        let is_current = wish.membership != Membership::Join
            || view.state_nid(view.current_state(), &StateEventType::RoomMember, event.sender.as_str())? == Some(known);
        let is_accepted = event.state_after.is_some() && !event.flags.rejected && !event.flags.soft_failed;
        if is_same && is_current && is_accepted {
            return Ok(Checked::Known(Admitted { room: view.nid, event: known }));
        }
    }
    check_known(&view, received.pdu())?;
    if wish.membership == Membership::Join {
        let sender = received.pdu().sender.clone();
        let vouching = authorizing_server(&view, received.pdu());
        // The rule is asked again: the room may have changed since the template was made, if we made it at all.
        if vouching.as_ref().is_none_or(|by| by == server.name()) {
            authorizer(server, &view, &sender)?;
        }
        if vouching.is_some_and(|by| by == server.name()) {
            received.cosign(server.name(), &server.key, view.rules).map_err(|error| malformed(&error))?;
        }
    }
    check_allowed(&view, received.pdu())?;
    Ok(Checked::New(view.nid, view.rules, Box::new(received)))
}

/// An event as another server sent it. `M_BAD_JSON` if it has not the format of the room's version.
///
/// <https://spec.matrix.org/v1.19/rooms/v6/#canonical-json>
pub(super) fn parse(event: &RawValue, rules: &RoomVersionRules) -> Result<Received> {
    format::parse(event.get().as_bytes(), rules).map_err(|error| malformed(&error))
}

pub(super) fn malformed(error: &FormatError) -> Error {
    match error {
        FormatError::TooLarge(reason) => Error::too_large(format!("The event is too large: {reason}")),
        FormatError::BadJson(reason) => Error::bad_json(format!("The event is malformed: {reason}")),
    }
}

/// `M_INVALID_PARAM` unless the event is, field by field, what the request is for.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>
fn check_member_event(pdu: &Pdu, wish: &Wish, event_id: &EventId) -> Result<()> {
    let refuse = |reason: &'static str| Err(Error::invalid_param(reason));
    if pdu.room_id != wish.room_id {
        return refuse("The event is of another room than the path");
    }
    if pdu.event_id != event_id {
        return refuse("The event has another id than the path");
    }
    if pdu.event_type != TimelineEventType::RoomMember {
        return refuse("The event is no m.room.member event");
    }
    if membership_in(pdu.content.get()) != Some(wish.membership) {
        return refuse("The event has another membership than this endpoint is for");
    }
    if pdu.sender.server_name() != wish.origin {
        return refuse("The sender of the event is not a user of your server");
    }
    if pdu.state_key.as_deref() != Some(pdu.sender.as_str()) {
        return refuse("The state key of the event is not its sender");
    }
    Ok(())
}

/// `M_INVALID_PARAM` unless the events that it refers to are there. The template named none that are not.
fn check_known(view: &View<'_>, pdu: &Pdu) -> Result<()> {
    for id in &pdu.prev_events {
        let event = view.event_by_id(id)?;
        if event.is_none_or(|event| event.state_after.is_none()) {
            return Err(Error::invalid_param(format!("The previous event {id} is not known here")));
        }
    }
    for id in &pdu.auth_events {
        if view.event_nid(id)?.is_none() {
            return Err(Error::invalid_param(format!("The auth event {id} is not known here")));
        }
    }
    match pdu.prev_events.is_empty() {
        true => Err(Error::invalid_param("The event follows no other")),
        false => Ok(()),
    }
}

/// The server of whoever vouches for a join to a restricted room. Where there are none, nobody does.
fn authorizing_server(view: &View<'_>, pdu: &Pdu) -> Option<OwnedServerName> {
    #[derive(serde::Deserialize)]
    struct Content {
        join_authorised_via_users_server: OwnedUserId,
    }
    let may_vouch = view.rules.authorization.restricted_join_rule;
    let content: Content = may_vouch.then(|| serde_json::from_str(pdu.content.get()).ok()).flatten()?;
    Some(content.join_authorised_via_users_server.server_name().to_owned())
}

/// `M_INVALID_PARAM` if a signature is missing or wrong.
pub(super) async fn verify(
    server: &Arc<Server>,
    rules: &'static RoomVersionRules,
    event: &Received,
) -> Result<Verified> {
    let event = to_raw_value(event.json()).map_err(Error::internal)?;
    let verified = keys::verify(server, rules, event).await?;
    verified.map_err(|error| Error::invalid_param(format!("The event is not signed as it must be: {error}")))
}

/// What the server of a user who knocked is told of the room.
pub async fn knocked_on(server: &Arc<Server>, admitted: Admitted) -> Result<Vec<Box<RawValue>>> {
    super::answer::read(server, move |server, snapshot| {
        let view = View::of(&server.rooms, snapshot, admitted.room)?;
        let knock = view.event(admitted.event)?;
        show::telling_pdus(&view, knock.state_after.unwrap_or(view.current_state()), None)
    })
    .await
}
