//! Memberships in rooms that we are not in: invites from there, knocks that we sent there, and their ends. Of such a room
//! the server knows no state but the little that it was told with the invite or the knock.

use std::sync::Arc;

use ruma::{OwnedServerName, OwnedUserId, RoomId, RoomVersionId, UInt, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    Membership, View, member_change, membership, outliers, partial,
    plan::check_against,
    remote,
    tables::{EventIds, EventPlace, Events, RoomIds, UserRooms},
};
use crate::{
    Server, appservice,
    error::{Error, Result},
    event::{Flags, Pdu, Placement, StoredEvent, Verified},
    plain_json, push,
    store::{EventNid, Family, Record, RoomNid, Snapshot, Table, Transaction, unknown_version},
    user::account,
};

/// The events that tell somebody who is not in a room what it is. Others that a server tells are not kept.
/// <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
const TELLING: [&str; 8] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.member",
];

/// How many events of a room's state are kept of what another server tells with an invite.
const MAX_STRIPPED: usize = 100;

/// The most bytes of all of them. Source: our choice; a create event, which may be as large as any event, always fits.
const MAX_STRIPPED_BYTES: usize = 65_536;

/// How many invites to rooms that we are not in may wait for a user: of the users of one server, and of all. Source: our
/// choice.
const MAX_WAITING_OF_SERVER: usize = 100;
const MAX_WAITING: usize = 1_000;

/// What users are shown of rooms that they are invited to, or knock on, and that this server is not in. Goes with the
/// membership.
pub struct StrippedStates;
impl Table for StrippedStates {
    const NAME: &'static str = "stripped_states";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 122;
    type Key<'a> = (RoomNid, &'a UserId);
    type Value = Told;
}

/// What another server told of a room.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// A list of stripped state events, as JSON.
    pub state: String,
    /// The server that took the knock: often the only one that we know to be in the room. `None` for an invite, and for
    /// a knock from before this was kept.
    pub through: Option<OwnedServerName>,
}

impl Record for Told {
    const VERSION: u8 = 2;

    fn upgrade(version: u8, body: &[u8]) -> Result<Self, String> {
        if version != 1 {
            return Err(unknown_version(version));
        }
        // The first version was the list alone.
        let state = String::from_utf8(body.to_vec()).map_err(|error| error.to_string())?;
        Ok(Self { state, through: None })
    }
}

/// A stripped state event, as clients see it; nothing else of what a server tells is kept.
#[derive(Serialize, Deserialize)]
struct Stripped {
    content: Box<RawValue>,
    /// Of the create event only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin_server_ts: Option<UInt>,
    sender: OwnedUserId,
    state_key: String,
    r#type: String,
}

/// Takes an invite of one of our users, which another server sent us and which has our signature by now. `state` is what
/// that server tells of the room. What the room does not allow as we know it, being in it, leaves the user what he is.
///
/// Errors: `M_NOT_FOUND` if there is no such user, `M_INVITE_BLOCKED`, `M_FORBIDDEN` if too many invites wait for him,
/// `M_UNSUPPORTED_ROOM_VERSION`.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2inviteroomideventid>
pub async fn receive(
    server: &Arc<Server>,
    version: RoomVersionId,
    event: Verified,
    state: Vec<Box<RawValue>>,
) -> Result<()> {
    let user = event.pdu().state_key.as_deref().and_then(|user| UserId::parse(user).ok());
    let user = user.filter(|user| server.is_ours(user)).ok_or_else(|| Error::invalid_param("Not a user of ours"))?;
    appservice::query::user_exists(server, &user).await?; // an application service may make him only now
    let (inviter, invited) = (event.pdu().sender.clone(), user.clone());
    let room_id = event.pdu().room_id.clone();
    server
        .blocking(move |server| {
            let snapshot = server.store.snapshot();
            let account = account::get(&snapshot, &invited)?;
            if account.is_none_or(|account| !account.is_active()) {
                return Err(Error::not_found("There is no such user here"));
            }
            membership::check_invite(server, &snapshot, &inviter, &invited)?;
            check_waiting(&snapshot, &room_id, &inviter, &invited)
        })
        .await?;
    let room = remote::claim(server, event.pdu().room_id.clone(), version).await?;
    let told = Told { state: stripped(state, Some(&event.pdu().sender)), through: None };
    if !set(server, room, user.clone(), Membership::Invite, event, Some(told)).await? {
        return Ok(());
    }
    appservice::invited(server, &user, room).await?;
    push::reader::invited(server, &user, room).await
}

/// Refuses an invite to `room_id` if as many as may wait for the user do so. One that comes again is none more.
fn check_waiting(snapshot: &Snapshot<'_>, room_id: &RoomId, inviter: &UserId, invited: &UserId) -> Result<()> {
    let room = snapshot.get::<RoomIds>(&room_id)?;
    let (mut all, mut of_server) = (0, 0);
    for row in snapshot.list::<UserRooms>(&invited) {
        let row = row?;
        let (_, other) = row.key()?;
        if row.value.membership != Membership::Invite || Some(other) == room {
            continue;
        }
        let invite = snapshot.get::<Events>(&(other, row.value.event))?;
        if let Some(invite) = invite.filter(|invite| invite.flags.outlier) {
            all += 1;
            of_server += usize::from(invite.sender.server_name() == inviter.server_name());
        }
    }
    if all >= MAX_WAITING || of_server >= MAX_WAITING_OF_SERVER {
        return Err(Error::forbidden("Too many invites wait for this user's answer"));
    }
    Ok(())
}

/// Whether the user is invited, or knocks, only by an event that has no place in the room as we know it.
pub async fn is_out_of_band(server: &Arc<Server>, user: &UserId, room: RoomNid) -> Result<bool> {
    let user = user.to_owned();
    server
        .blocking(move |server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            let row = snapshot.get::<UserRooms>(&(&user, room))?;
            let waiting = row.filter(|row| matches!(row.membership, Membership::Invite | Membership::Knock));
            let Some(row) = waiting else { return Ok(false) };
            // Where we learn what happens, whoever else invites him does not undo the invite that the room knows of.
            let membership = view.membership(view.current_state(), &user)?;
            let is_known = view.is_resident()? && membership == Some(Membership::Invite);
            // As long as the members are not known, an earlier invite has no place either.
            let is_unknown = membership.is_none() && partial::is_partial(&snapshot, room)?;
            let is_unplaced = view.event(row.event)?.flags.outlier || is_unknown;
            Ok(!is_known && is_unplaced || !remote::is_resident(&view)?)
        })
        .await
}

/// Keeps a membership in a room that we are not in, and the `event` that made it, whose auth events we do not know.
/// `false` if it is an invite that the room does not allow as we know it.
pub async fn set(
    server: &Arc<Server>,
    room: RoomNid,
    user: OwnedUserId,
    to: Membership,
    event: Verified,
    told: Option<Told>,
) -> Result<bool> {
    let server = Arc::clone(server);
    Server::detached(async move {
        let mut numbers = server.rooms.lock(room).await;
        let known = *numbers;
        let (member, id) = (user.clone(), event.pdu().event_id.clone());
        let work = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            if view.takes_id_away(&id)? {
                return Err(Error::bad_json(format!("{id} is the id of an event of another room")));
            }
            let is_allowed = to != Membership::Invite || !is_refused(&view, event.pdu())?;
            let row = snapshot.get::<UserRooms>(&(&member, room))?;
            // Who is joined already is in a room whose state we have, and that state says what becomes of him.
            let is_joined = row.is_some_and(|row| row.membership == Membership::Join);
            // A server that did not get our answer sends its invite again, which he may have rejected by then.
            let is_answered = match row {
                Some(row) if to == Membership::Invite => view.pdu(row.event)?.auth_events.contains(&id),
                _ => false,
            };
            let is_known = view.event_nid(&id)?.is_some() || is_joined || is_answered;
            let before = row.map(|row| view.event(row.event).map(|event| (row.event, event))).transpose()?;
            // What ended an earlier invite or knock does not end one that came while its signatures were looked at.
            let ends_another = matches!(to, Membership::Leave | Membership::Ban)
                && event.pdu().sender != member
                && before.as_ref().is_none_or(|(_, before)| !event.pdu().auth_events.contains(&before.event_id));
            // When he left, if he was there once, is found from what he is now.
            let (replaces, deleted) = match before {
                Some((nid, before)) if outliers::is_out_of_band(&view, nid, &before)? => {
                    (before.replaces, Some((nid, before.event_id)))
                }
                before => (before.map(|(nid, _)| nid.0), None),
            };
            let flags = Flags { outlier: true, ..Flags::default() };
            let stored = StoredEvent::new(&event, view.rules, Placement { flags, replaces, ..Placement::default() });
            let is_kept = is_allowed && !is_known && !ends_another;
            Ok((is_allowed, is_kept.then_some((stored, deleted, known.get(&snapshot, room)?))))
        };
        let (is_allowed, kept) = server.blocking(work).await?;
        let Some((stored, deleted, mut next)) = kept else { return Ok(is_allowed) };
        numbers.set(None);
        let (nid, member) = (next.event, user.clone());
        let write = move |tx: &mut Transaction<'_>| {
            write(tx, room, &member, to, nid, &stored, told.as_ref())?;
            if let Some((old, id)) = deleted {
                tx.delete::<Events>(&(room, old));
                tx.delete::<EventIds>(&&*id);
            }
            Ok::<_, Error>(())
        };
        let written = server.store.write(write).await?;
        next.event.0 += 1;
        numbers.set(Some(next));
        drop(numbers);
        written.durable().await?;
        server.wakers.user(&server, &user);
        Ok(true)
    })
    .await
}

/// Whether the room does not allow an event, if we are in it and know all of its state. That an inviter has come in may
/// not be known here yet; but his invite comes once more, as an event of the room.
fn is_refused(view: &View<'_>, pdu: &Pdu) -> Result<bool> {
    if !view.is_resident()? || partial::is_partial(view.snapshot, view.nid)? {
        return Ok(false);
    }
    Ok(check_against(view, &view.tries(), pdu, view.current_state())?.is_err())
}

fn write(
    tx: &mut Transaction<'_>,
    room: RoomNid,
    user: &UserId,
    to: Membership,
    event: EventNid,
    stored: &StoredEvent,
    told: Option<&Told>,
) -> Result<()> {
    tx.put::<Events>(&(room, event), stored);
    tx.put::<EventIds>(&&*stored.event_id, &EventPlace { room, event });
    let before = tx.get::<UserRooms>(&(user, room))?;
    tx.put::<UserRooms>(&(user, room), &member_change::user_room(before, to, event, tx.pos()));
    match told {
        Some(told) => tx.put::<StrippedStates>(&(room, user), told),
        None => tx.delete::<StrippedStates>(&(room, user)),
    }
    Ok(())
}

/// What is kept of the state that another server tells, as JSON: well-formed events by which the room may be known, in
/// the form that clients see. Of too many the first are kept, but before all others the create event and who invites.
pub fn stripped(state: Vec<Box<RawValue>>, inviter: Option<&UserId>) -> String {
    let mut events: Vec<Stripped> = state
        .into_iter()
        .filter_map(|event| serde_json::from_str::<Stripped>(event.get()).ok())
        .filter(|event| TELLING.contains(&event.r#type.as_str()))
        .filter(|event| plain_json::object(event.content.get().as_bytes()).is_ok())
        .map(|event| match event.r#type.as_str() {
            "m.room.create" => event,
            _ => Stripped { origin_server_ts: None, ..event },
        })
        .collect();
    events.sort_by_key(|event| match event.r#type.as_str() {
        "m.room.create" => 0,
        "m.room.member" if inviter.is_some_and(|inviter| event.state_key == inviter.as_str()) => 1,
        _ => 2,
    });
    let mut left = MAX_STRIPPED_BYTES;
    let kept: Vec<Box<RawValue>> = events
        .iter()
        .filter_map(|event| to_raw_value(event).ok())
        .filter(|event| {
            let rest = left.checked_sub(event.get().len());
            left = rest.unwrap_or(left);
            rest.is_some()
        })
        .take(MAX_STRIPPED)
        .collect();
    serde_json::to_string(&kept).expect("a list of JSON serializes")
}

/// The stripped state that `user` is shown of a room that we are not in.
pub fn stripped_state_of(view: &View<'_>, user: &UserId) -> Result<Vec<Box<RawValue>>> {
    let Some(told) = view.snapshot.get::<StrippedStates>(&(view.nid, user))? else { return Ok(Vec::new()) };
    serde_json::from_str(&told.state).map_err(|e| Error::internal(format!("unreadable stripped state: {e}")))
}

/// The server that took the knock of `user` on a room that we are not in.
pub fn knocked_through(view: &View<'_>, user: &UserId) -> Result<Option<OwnedServerName>> {
    Ok(view.snapshot.get::<StrippedStates>(&(view.nid, user))?.and_then(|told| told.through))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Value;

    #[test]
    fn what_was_told_before_the_servers_of_knocks_were_kept_can_be_read() {
        let told = <Told as Value>::read(1, b"[]").unwrap();
        assert_eq!((&*told.state, told.through), ("[]", None));
        <Told as Value>::read(3, b"[]").unwrap_err();
    }

    #[test]
    fn of_what_another_server_tells_only_what_everybody_can_read_is_kept() {
        let event = |content: &str| {
            let json = format!(r#"{{"type":"m.room.name","state_key":"","sender":"@a:b","content":{content}}}"#);
            RawValue::from_string(json).unwrap()
        };
        let nested = format!(r#"{{"a":{}{}}}"#, "[".repeat(110), "]".repeat(110));
        let bad = ["1", "[]", r#"{"a":{"$serde_json::private::RawValue":"no JSON"}}"#, &nested];
        let told = bad.into_iter().chain([r#"{"name":"x"}"#]).map(event).collect();
        let kept: Vec<serde_json::Value> = serde_json::from_str(&stripped(told, None)).unwrap();
        assert_eq!(
            kept,
            [json!({ "type": "m.room.name", "state_key": "", "sender": "@a:b", "content": { "name": "x" } })]
        );
    }

    #[test]
    fn of_too_much_that_another_server_tells_the_create_event_and_who_invites_are_kept() {
        let event = |event_type: &str, state_key: &str, content: &str| {
            let content = json!({ "x": content });
            let event = json!({ "type": event_type, "state_key": state_key, "sender": "@a:b", "content": content });
            to_raw_value(&event).unwrap()
        };
        let large = "x".repeat(40_000);
        let mut told = vec![event("com.example.other", "", ""), event("m.room.topic", "", &large)];
        told.extend((0..200).map(|number| event("m.room.member", &format!("@{number}:b"), "")));
        told.extend([event("m.room.member", "@a:b", &large), event("m.room.create", "", "")]);
        let kept = stripped(told, Some(<&UserId>::try_from("@a:b").unwrap()));
        assert!(kept.len() < MAX_STRIPPED_BYTES + 2 * MAX_STRIPPED);
        let kept: Vec<serde_json::Value> = serde_json::from_str(&kept).unwrap();
        let names: Vec<_> = kept.iter().map(|event| (&event["type"], &event["state_key"])).collect();
        assert_eq!(names.len(), MAX_STRIPPED);
        assert_eq!(names[0], (&json!("m.room.create"), &json!("")));
        assert_eq!(names[1], (&json!("m.room.member"), &json!("@a:b")));
        assert_eq!(names[2], (&json!("m.room.member"), &json!("@0:b")), "the topic has no room");
    }
}
