//! Rooms that this server has come into without their members (MSC3706, MSC3902): what is kept of one until its state is
//! whole, and what can be said of it meanwhile.
//!
//! The members that are not known are absent from its states. Those that an event names among its auth events are put
//! into the state before it, so they become known as they do something. Everything that got a place meanwhile has a row,
//! by which it is worked out anew when the state is whole ([`completion`]).
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid>

pub mod completion;
pub mod tables;
pub mod waiting;

use ruma::{OwnedEventId, OwnedServerName, ServerName, UserId, events::TimelineEventType};

use self::tables::{Completions, Introductions, LeftRooms, PartialDevices, PartialEvents, PartialRooms};
pub use self::{
    tables::{Partial, PartialEvent},
    waiting::{Waiting, until_whole, until_whole_for},
};
use super::{
    Membership, View, outliers,
    servers::is_joined,
    state::{resolve, trie::Tries},
    tables::{Members, Origin},
    view::membership_in,
};
use crate::{
    Server,
    error::{Error, Result},
    event::{Pdu, StateRoot},
    store::{self, RoomNid, Snapshot, StreamPos, Transaction},
};

/// What is known of a room whose state is not whole yet; `None` for all others.
pub fn of(snapshot: &Snapshot<'_>, room: RoomNid) -> store::Result<Option<Partial>> {
    snapshot.get::<PartialRooms>(&room)
}

pub fn is_partial(snapshot: &Snapshot<'_>, room: RoomNid) -> store::Result<bool> {
    snapshot.contains::<PartialRooms>(&room)
}

/// When the state of a room last became whole, if that was not so from the start.
pub fn completed_at(snapshot: &Snapshot<'_>, room: RoomNid) -> store::Result<Option<StreamPos>> {
    snapshot.get::<Completions>(&room)
}

/// Whether the servers in a room are yet to be told of the devices of those of ours who are there: the room's state is not
/// whole, or has become so only now.
pub fn has_strangers(snapshot: &Snapshot<'_>, room: RoomNid) -> store::Result<bool> {
    Ok(is_partial(snapshot, room)? || snapshot.contains::<Introductions>(&room)?)
}

/// Whether all of our users left a room before its state was whole: what is known of it then says nothing.
pub fn was_left(snapshot: &Snapshot<'_>, room: RoomNid) -> store::Result<bool> {
    snapshot.contains::<LeftRooms>(&room)
}

/// The servers that are, or were a moment ago, in a room whose state is not whole.
pub fn servers_in(snapshot: &Snapshot<'_>, room: RoomNid) -> store::Result<Vec<OwnedServerName>> {
    Ok(of(snapshot, room)?.map(|partial| partial.servers).unwrap_or_default())
}

/// Whether a server is said to be in a room whose state is not whole.
pub fn has_server(snapshot: &Snapshot<'_>, room: RoomNid, server: &ServerName) -> store::Result<bool> {
    Ok(of(snapshot, room)?.is_some_and(|partial| partial.has(server)))
}

/// Whether a user may be in the room, as far as we know: he is, or his membership is among those that are not known.
pub fn may_be_joined(server: &Server, snapshot: &Snapshot<'_>, room: RoomNid, user: &UserId) -> store::Result<bool> {
    if is_joined(server, snapshot, room, user)? {
        return Ok(true);
    }
    if server.is_ours(user) || !has_server(snapshot, room, user.server_name())? {
        return Ok(false);
    }
    for membership in Membership::ALL {
        if snapshot.contains::<Members>(&(room, membership, Origin::Remote, user))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Notes that devices of a user changed who may be in rooms whose state is not whole: those who are there with him are
/// told when it is. Whether there are any such rooms.
pub fn note_devices(tx: &mut Transaction<'_>, user: &UserId) -> store::Result<bool> {
    let mut rooms = Vec::new();
    for row in tx.before().list::<PartialRooms>(&()) {
        let row = row?;
        if row.value.has(user.server_name()) {
            rooms.push(row.key()?);
        }
    }
    rooms.iter().for_each(|room| tx.put::<PartialDevices>(&(*room, user), &()));
    Ok(!rooms.is_empty())
}

/// The state before an event, with the members whom the event names among its auth events. Where that state has something
/// else of one of them, both are resolved: what it has may have been accepted for lack of members.
pub(super) fn with_named_members(
    view: &View<'_>,
    tries: &mut Tries<'_>,
    mut state: StateRoot,
    pdu: &Pdu,
) -> Result<StateRoot> {
    let mut contested = Vec::new();
    for id in &pdu.auth_events {
        if !outliers::is_in_auth_graph(view, id)? {
            continue;
        }
        let Some(nid) = view.event_nid(id)? else { continue };
        let named = view.pdu(nid)?;
        let Some(user) = named.state_key.as_deref() else { continue };
        if named.event_type != TimelineEventType::RoomMember
            || named.rejected
            || membership_in(named.content.get()).is_none()
        {
            continue;
        }
        let Some(key) = view.state_key_nid("m.room.member", user)? else { continue };
        match tries.get(state, key)? {
            None => state = tries.set(state, key, Some(nid))?,
            Some(known) if known != nid => contested.push((key, nid)),
            Some(_) => {}
        }
    }
    if contested.is_empty() {
        return Ok(state);
    }
    let mut named = state;
    for (key, event) in contested {
        named = tries.set(named, key, Some(event))?;
    }
    resolve(view, tries, &[state, named])
}

/// Begins to keep what comes into a room that is about to be entered, or of which more servers become known.
pub async fn begin(server: &Server, room: RoomNid, partial: Partial) -> Result<()> {
    let begin = move |tx: &mut Transaction<'_>| {
        clear(tx, room)?;
        tx.put::<PartialRooms>(&room, &partial);
        Ok::<_, Error>(())
    };
    server.store.write(begin).await?; // durable with the event, which is written after it
    Ok(())
}

/// Adds servers that are in a room whose state is not whole.
pub async fn add_servers(server: &Server, room: RoomNid, servers: Vec<OwnedServerName>) -> Result<()> {
    let add = move |tx: &mut Transaction<'_>| {
        let Some(mut partial) = tx.get::<PartialRooms>(&room)? else { return Ok(()) };
        let new: Vec<_> = servers.into_iter().filter(|name| !partial.has(name)).collect();
        partial.servers.extend(new);
        partial.servers.truncate(tables::MAX_SERVERS);
        tx.put::<PartialRooms>(&room, &partial);
        Ok::<_, Error>(())
    };
    server.store.write(add).await?;
    Ok(())
}

/// Forgets that a room's state is not whole: it is entered anew, or was not entered after all.
pub async fn forget(server: &Server, room: RoomNid) -> Result<()> {
    let forget = move |tx: &mut Transaction<'_>| {
        clear(tx, room)?;
        Ok::<_, Error>(())
    };
    server.store.write(forget).await?;
    server.partial.tell();
    Ok(())
}

/// Gives up a room that nobody of ours is in any more, and of whose state nobody tells us. Whoever calls this is the one
/// who joins it.
pub async fn give_up(server: &Server, room: RoomNid) -> Result<()> {
    let give_up = move |tx: &mut Transaction<'_>| {
        clear(tx, room)?;
        tx.put::<LeftRooms>(&room, &());
        Ok::<_, Error>(())
    };
    server.store.write(give_up).await?;
    server.partial.tell();
    Ok(())
}

/// As [`give_up`], if nobody came in since the room was looked at and was entered by `entry`; whether it is given up.
pub async fn give_up_left(server: &Server, room: RoomNid, entry: OwnedEventId) -> Result<bool> {
    let give_up = move |tx: &mut Transaction<'_>| {
        let is_same = tx.get::<PartialRooms>(&room)?.is_some_and(|partial| partial.entry == entry);
        let ours = (room, Membership::Join, Origin::Local);
        if !is_same || tx.before().list::<Members>(&ours).next().transpose()?.is_some() {
            return Ok(false);
        }
        clear(tx, room)?;
        tx.put::<LeftRooms>(&room, &());
        Ok::<_, Error>(true)
    };
    let is_given_up = server.store.write(give_up).await?.value;
    server.partial.tell();
    Ok(is_given_up)
}

/// Removes everything that is kept for the sake of completing a room.
fn clear(tx: &mut Transaction<'_>, room: RoomNid) -> store::Result<()> {
    if tx.before().contains::<PartialRooms>(&room)? {
        tx.delete::<PartialRooms>(&room);
        tx.delete_all::<PartialEvents>(&room);
        tx.delete_all::<PartialDevices>(&room);
    }
    if tx.before().contains::<LeftRooms>(&room)? {
        tx.delete::<LeftRooms>(&room);
    }
    Ok(())
}
