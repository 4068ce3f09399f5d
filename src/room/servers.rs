//! Which servers take part in a room, and in which rooms the users of other servers are: kept beside the members, so that
//! sending an event costs as much as there are servers, not members.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedServerName, ServerName, UserId};
use serde::{Deserialize, Serialize};

use super::{
    Membership, partial,
    tables::{Members, Origin},
};
use crate::{
    Server,
    store::{self, Family, Record, RoomNid, Snapshot, StreamPos, Table, Transaction},
};

/// Up to how many servers are looked up one by one, instead of in the list of a room's. Source: our choice.
const FEW: usize = 16;

/// The servers that have, or had, joined members in each room, ours too.
pub struct RoomServers;
impl Table for RoomServers {
    const NAME: &'static str = "room_servers";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 140;
    type Key<'a> = (RoomNid, &'a ServerName);
    type Value = Presence;
}

/// How a server stands to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// How many of its users are joined.
    pub joined: u64,
    /// Since when it has any, or since when it has none any more.
    pub since: StreamPos,
}

impl Record for Presence {}

/// The rooms that users of other servers are joined to, and since when.
pub struct RemoteRooms;
impl Table for RemoteRooms {
    const NAME: &'static str = "remote_rooms";
    const FAMILY: Family = Family::User;
    const ID: u8 = 140;
    type Key<'a> = (&'a UserId, RoomNid);
    type Value = StreamPos;
}

/// The other servers whose users are invited to each room, and how many of them are.
pub struct InvitedServers;
impl Table for InvitedServers {
    const NAME: &'static str = "invited_servers";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 210;
    type Key<'a> = (RoomNid, &'a ServerName);
    type Value = u64;
}

/// Notes how memberships of one room change, `(user, before, after)`: all those of a transaction at once. `since`: from
/// when on servers are there that come with it, if that was earlier.
pub fn note<'a>(
    tx: &mut Transaction<'_>,
    room: RoomNid,
    changes: impl Iterator<Item = (&'a UserId, Origin, Option<Membership>, Option<Membership>)>,
    since: Option<StreamPos>,
) -> store::Result<()> {
    let pos = tx.pos();
    let mut joined = BTreeMap::<&ServerName, i64>::new();
    let mut invited = BTreeMap::<&ServerName, i64>::new();
    for (user, origin, before, after) in changes {
        if origin == Origin::Remote {
            let (was, is) = (before == Some(Membership::Invite), after == Some(Membership::Invite));
            *invited.entry(user.server_name()).or_default() += i64::from(is) - i64::from(was);
        }
        let (was, is) = (before == Some(Membership::Join), after == Some(Membership::Join));
        if was == is {
            continue;
        }
        *joined.entry(user.server_name()).or_default() += if is { 1 } else { -1 };
        match (origin, is) {
            (Origin::Remote, true) => tx.put::<RemoteRooms>(&(user, room), &pos),
            (Origin::Remote, false) => tx.delete::<RemoteRooms>(&(user, room)),
            (Origin::Local, _) => {}
        }
    }
    for (server, change) in joined.into_iter().filter(|(_, change)| *change != 0) {
        let before = tx.get::<RoomServers>(&(room, server))?;
        let count = before.map_or(0, |before| before.joined);
        let joined = count.saturating_add_signed(change);
        let changed_at = since.filter(|_| joined > 0).unwrap_or(pos);
        let since = before.filter(|_| (count == 0) == (joined == 0)).map_or(changed_at, |before| before.since);
        tx.put::<RoomServers>(&(room, server), &Presence { joined, since });
    }
    for (server, change) in invited.into_iter().filter(|(_, change)| *change != 0) {
        let before = tx.get::<InvitedServers>(&(room, server))?.unwrap_or_default();
        match before.saturating_add_signed(change) {
            0 => tx.delete::<InvitedServers>(&(room, server)),
            count => tx.put::<InvitedServers>(&(room, server), &count),
        }
    }
    Ok(())
}

/// Whether a user of another server is invited to a room.
pub fn is_invited(snapshot: &Snapshot<'_>, room: RoomNid, server: &ServerName) -> store::Result<bool> {
    snapshot.contains::<InvitedServers>(&(room, server))
}

/// The other servers whose users are invited to a room.
fn invited_to(snapshot: &Snapshot<'_>, room: RoomNid) -> store::Result<Vec<OwnedServerName>> {
    let rows = snapshot.list::<InvitedServers>(&room);
    rows.map(|row| row.and_then(|row| Ok(row.key()?.1.to_owned()))).collect()
}

/// The servers with joined members in a room, ours too; where members are not known, those that are said to have some.
pub fn servers_in(snapshot: &Snapshot<'_>, room: RoomNid) -> store::Result<Vec<OwnedServerName>> {
    with_unknown(snapshot, room, select(snapshot, room, |presence| presence.joined > 0)?)
}

/// Whether a server has joined members in a room, or is said to.
pub fn is_in(snapshot: &Snapshot<'_>, room: RoomNid, server: &ServerName) -> store::Result<bool> {
    Ok(has_joined(snapshot, room, server)? || partial::has_server(snapshot, room, server)?)
}

/// Whether a server has joined members in a room that are known.
fn has_joined(snapshot: &Snapshot<'_>, room: RoomNid, server: &ServerName) -> store::Result<bool> {
    Ok(snapshot.get::<RoomServers>(&(room, server))?.is_some_and(|presence| presence.joined > 0))
}

/// Those of `names`, which may be many and made up, that neither are in a room nor have anybody invited to it. What is
/// read does not grow with names times rooms.
pub fn outside(
    snapshot: &Snapshot<'_>,
    room: RoomNid,
    mut names: BTreeSet<OwnedServerName>,
) -> store::Result<BTreeSet<OwnedServerName>> {
    if names.len() > FEW {
        for name in servers_in(snapshot, room)?.into_iter().chain(invited_to(snapshot, room)?) {
            names.remove(&name);
        }
        return Ok(names);
    }
    let mut outside = BTreeSet::new();
    for name in names {
        if !has_joined(snapshot, room, &name)? && !is_invited(snapshot, room, &name)? {
            outside.insert(name);
        }
    }
    if !outside.is_empty() {
        for name in partial::servers_in(snapshot, room)? {
            outside.remove(&name);
        }
    }
    Ok(outside)
}

/// The servers that an event concerns whose place in the order of all changes is `at`: those that were in the room
/// before it or after it. Must be asked soon after: who left later counts, who came later does not.
pub fn servers_at(snapshot: &Snapshot<'_>, room: RoomNid, at: StreamPos) -> store::Result<Vec<OwnedServerName>> {
    let known = select(
        snapshot,
        room,
        |presence| if presence.joined > 0 { presence.since <= at } else { presence.since >= at },
    );
    with_unknown(snapshot, room, known?)
}

/// Adds the servers of those members of a room that are not known.
fn with_unknown(
    snapshot: &Snapshot<'_>,
    room: RoomNid,
    mut servers: Vec<OwnedServerName>,
) -> store::Result<Vec<OwnedServerName>> {
    let said = partial::servers_in(snapshot, room)?;
    if !said.is_empty() {
        let known: BTreeSet<OwnedServerName> = servers.iter().cloned().collect();
        servers.extend(said.into_iter().filter(|server| !known.contains(server)));
    }
    Ok(servers)
}

/// The servers that came into a room with the event whose place in the order of all changes is `at`.
pub fn servers_since(snapshot: &Snapshot<'_>, room: RoomNid, at: StreamPos) -> store::Result<Vec<OwnedServerName>> {
    select(snapshot, room, |presence| presence.joined > 0 && presence.since == at)
}

fn select(
    snapshot: &Snapshot<'_>,
    room: RoomNid,
    is_wanted: impl Fn(&Presence) -> bool,
) -> store::Result<Vec<OwnedServerName>> {
    let mut servers = Vec::new();
    for row in snapshot.list::<RoomServers>(&room) {
        let row = row?;
        if is_wanted(&row.value) {
            servers.push(row.key()?.1.to_owned());
        }
    }
    Ok(servers)
}

/// Removes the rows of servers that left a room up to `passed`: nobody asks for them any more.
pub fn forget_gone(tx: &mut Transaction<'_>, room: RoomNid, passed: StreamPos) -> store::Result<()> {
    let rows: Vec<_> = tx.before().list::<RoomServers>(&room).collect::<store::Result<_>>()?;
    for row in rows.iter().filter(|row| row.value.joined == 0 && row.value.since <= passed) {
        tx.delete::<RoomServers>(&row.key()?);
    }
    Ok(())
}

/// The rooms that a user of another server shares with us now, and since when without a break.
pub fn shared_rooms(
    server: &Server,
    snapshot: &Snapshot<'_>,
    user: &UserId,
) -> store::Result<Vec<(RoomNid, StreamPos)>> {
    let mut rooms = Vec::new();
    for row in snapshot.list::<RemoteRooms>(&user) {
        let row = row?;
        let room = row.key()?.1;
        let ours = snapshot.get::<RoomServers>(&(room, server.name()))?;
        if let Some(ours) = ours.filter(|ours| ours.joined > 0) {
            rooms.push((room, ours.since.max(row.value)));
        }
    }
    Ok(rooms)
}

/// Whether a user, of whatever server, is joined to a room.
pub fn is_joined(server: &Server, snapshot: &Snapshot<'_>, room: RoomNid, user: &UserId) -> store::Result<bool> {
    let origin = if server.is_ours(user) { Origin::Local } else { Origin::Remote };
    snapshot.contains::<Members>(&(room, Membership::Join, origin, user))
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};
    use serde_json::json;

    use super::*;
    use crate::{
        room::{View, summary, testing::TestRoom},
        store::steps,
    };

    fn servers(room: &TestRoom) -> Vec<OwnedServerName> {
        servers_in(&room.server.store.snapshot(), room.nid).unwrap()
    }

    #[test]
    fn a_server_is_in_a_room_as_long_as_one_of_its_users_is() {
        let room = TestRoom::new();
        let (bob, carol) = (user_id!("@bob:b.test"), user_id!("@carol:b.test"));
        assert_eq!(servers(&room), ["chappe.test"]);
        room.receive_member(bob, "join");
        room.receive_member(carol, "join");
        assert_eq!(servers(&room), ["b.test", "chappe.test"]);
        room.receive_member(bob, "leave");
        assert_eq!(servers(&room), ["b.test", "chappe.test"]);
        let snapshot = room.server.store.snapshot();
        assert!(shared_rooms(&room.server, &snapshot, bob).unwrap().is_empty());
        assert_eq!(shared_rooms(&room.server, &snapshot, carol).unwrap().len(), 1);
        room.receive_member(carol, "leave");
        assert_eq!(servers(&room), ["chappe.test"]);
        let last = room.server.store.durable_pos();
        let snapshot = room.server.store.snapshot();
        assert!(servers_at(&snapshot, room.nid, last).unwrap().contains(&server_name!("b.test").to_owned()));
        assert_eq!(servers_at(&snapshot, room.nid, last.next()).unwrap(), ["chappe.test"]);
    }

    #[test]
    fn who_comes_after_an_event_is_not_concerned_by_it() {
        let room = TestRoom::new();
        room.message("alice", "before");
        let before = room.server.store.durable_pos();
        room.receive_member(user_id!("@bob:b.test"), "join");
        let snapshot = room.server.store.snapshot();
        assert_eq!(servers_at(&snapshot, room.nid, before).unwrap(), ["chappe.test"]);
        assert_eq!(servers_at(&snapshot, room.nid, before.next()).unwrap().len(), 2);
    }

    #[test]
    fn a_server_that_left_is_forgotten_once_it_was_told() {
        let room = TestRoom::new();
        let bob = user_id!("@bob:b.test");
        room.receive_member(bob, "join");
        room.receive_member(bob, "leave");
        let (nid, left) = (room.nid, room.server.store.durable_pos());
        room.change(move |tx| forget_gone(tx, nid, StreamPos(left.0 - 1)).unwrap());
        assert_eq!(servers_at(&room.server.store.snapshot(), room.nid, left).unwrap().len(), 2);
        room.change(move |tx| forget_gone(tx, nid, left).unwrap());
        assert_eq!(servers_at(&room.server.store.snapshot(), room.nid, left).unwrap(), ["chappe.test"]);
    }

    #[test]
    fn a_server_whose_user_is_invited_is_found_by_one_look_up_as_long_as_he_is() {
        let room = TestRoom::new();
        room.state("alice", "m.room.join_rules", "", &json!({ "join_rule": "invite" }));
        let set = |user: &str, membership: &str| {
            room.state("alice", "m.room.member", user, &json!({ "membership": membership }));
        };
        let is_open = |server: &str| {
            let snapshot = room.server.store.snapshot();
            let view = View::of(&room.server.rooms, &snapshot, room.nid).unwrap();
            let server = server.try_into().unwrap();
            steps(|| summary::is_open_to_server(&room.server, &view, server).unwrap())
        };
        for n in 0..100 {
            set(&format!("@user{n}:c.test"), "invite");
        }
        assert!(!is_open("b.test").0);
        set("@bob:b.test", "invite");
        set("@carol:b.test", "invite");
        set("@carol:b.test", "leave");
        let (is_found, steps) = is_open("b.test");
        assert!(is_found && steps < 50, "{steps} rows were looked at");
        let (is_found, steps) = is_open("d.test");
        assert!(!is_found && steps < 50, "{steps} rows were looked at");
        set("@bob:b.test", "leave");
        assert!(!is_open("b.test").0, "nobody of it is invited any more");
    }
}
