//! Rooms: ids, timelines, graphs, states and members agree with each other.

use std::collections::{BTreeMap, HashSet};

use ruma::{OwnedServerName, OwnedUserId};

use super::Checker;
use crate::{
    event::{Flags, StateRoot},
    room::{
        Membership, View,
        by_time::EventTimes,
        servers::{InvitedServers, RemoteRooms, RoomServers},
        tables::{
            EventIds, EventPlace, EventTransactions, Events, Members, Origin, ReceiptChanges, Receipts, RoomIds, Rooms,
            StateChanges, StateKeyNames, StateKeys, Timeline, Transactions, UserRooms,
        },
        view::membership_in,
    },
    store::{EventNid, Result, RoomNid, RoomPos},
};

pub fn check(checker: &mut Checker<'_>) {
    checker.run("room ids", room_ids);
    checker.run("event ids", event_ids);
    checker.run("receipts", receipts);
    checker.run("rooms of other servers' users", remote_rooms);
    checker.run("transactions", transactions);
    checker.run("rooms", |checker| {
        let snapshot = checker.snapshot;
        for row in snapshot.list::<Rooms>(&()) {
            let row = row?;
            let view = View::of(checker.rooms, snapshot, row.key()?)?;
            checker.run("events of a room", |checker| events(checker, &view));
            checker.run("states", |checker| states(checker, &view));
            checker.run("members", |checker| members(checker, &view));
            checker.run("servers of a room", |checker| servers(checker, &view));
        }
        Ok(())
    });
}

fn room_ids(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<Rooms>(&()) {
        let row = row?;
        let (nid, room_id) = (row.key()?, &row.value.room_id);
        let back = checker.snapshot.get::<RoomIds>(&&**room_id)?;
        checker.expect("room ids", back == Some(nid), || format!("room {nid} is {room_id}, which is room {back:?}"));
    }
    for row in checker.snapshot.list::<RoomIds>(&()) {
        let row = row?;
        let room = checker.snapshot.get::<Rooms>(&row.value)?;
        let agrees = room.is_some_and(|room| row.key().is_ok_and(|id| id == room.room_id));
        checker.expect("room ids", agrees, || format!("{:?} is room {}, which is not it", row.key(), row.value));
    }
    Ok(())
}

fn event_ids(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<Events>(&()) {
        let row = row?;
        let (room, event) = row.key()?;
        let back = checker.snapshot.get::<EventIds>(&&*row.value.event_id)?;
        checker.expect("event ids", back == Some(EventPlace { room, event }), || {
            format!("event {event} of room {room} is {}, which is {back:?}", row.value.event_id)
        });
    }
    for row in checker.snapshot.list::<EventIds>(&()) {
        let row = row?;
        let event = checker.snapshot.get::<Events>(&(row.value.room, row.value.event))?;
        let agrees = event.is_some_and(|event| row.key().is_ok_and(|id| id == event.event_id));
        checker.expect("event ids", agrees, || format!("{:?} is {:?}, which is not it", row.key(), row.value));
    }
    Ok(())
}

/// The timeline has exactly the events with a place in it.
fn events(checker: &mut Checker<'_>, view: &View<'_>) -> Result<()> {
    let name = "events of a room";
    for row in checker.snapshot.list::<Timeline>(&view.nid) {
        let row = row?;
        let (_, pos) = row.key()?;
        let event = view.event(row.value)?;
        let is_shown = !event.flags.rejected && !event.flags.soft_failed;
        checker.expect(name, event.room_pos == pos.0 && is_shown, || {
            format!("{} is at {pos} of its timeline, but it should be at {}", event.event_id, event.room_pos)
        });
    }
    for row in checker.snapshot.list::<Events>(&view.nid) {
        let row = row?;
        let (_, nid) = row.key()?;
        let Flags { purged, redacted, .. } = row.value.flags;
        let id = &row.value.event_id;
        checker.expect(name, redacted || !purged, || format!("{id} was removed and has its content"));
        // A purged event keeps its place only where something is missing before it.
        if row.value.room_pos != 0 && !purged {
            let is_timed = checker.snapshot.contains::<EventTimes>(&(view.nid, row.value.origin_server_ts, nid))?;
            checker.expect(name, is_timed, || format!("{id} can't be found by its time"));
            let there = checker.snapshot.get::<Timeline>(&(view.nid, RoomPos(row.value.room_pos)))?;
            checker.expect(name, there == Some(nid), || format!("{id} is not at its place in the timeline"));
        }
        for other in [row.value.replaces, row.value.redacted_by].into_iter().flatten() {
            let is_there = checker.snapshot.contains::<Events>(&(view.nid, EventNid(other)))?;
            checker.expect(name, is_there, || format!("{id} refers to event {other}, which is not there"));
        }
    }
    for row in checker.snapshot.list::<EventTimes>(&view.nid) {
        let (_, ts, nid) = row?.key()?;
        let event = view.event(nid)?;
        checker.expect(name, event.origin_server_ts == ts && event.room_pos != 0, || {
            format!("{} is listed by the time {ts}, which is not its own, or has no place", event.event_id)
        });
    }
    Ok(())
}

/// Every node of every state is there, and holds under each key an event of that key.
fn states(checker: &mut Checker<'_>, view: &View<'_>) -> Result<()> {
    let name = "states";
    for row in checker.snapshot.list::<StateKeyNames>(&view.nid) {
        let row = row?;
        let (_, nid) = row.key()?;
        let back = view.state_key_nid(&row.value.event_type, &row.value.state_key)?;
        checker.expect(name, back == Some(nid), || format!("state key {nid} is {:?}, which is {back:?}", row.value));
    }
    for row in checker.snapshot.list::<StateKeys>(&view.nid) {
        let row = row?;
        let (_, event_type, state_key) = row.key()?;
        let found = view.state_key_name(row.value)?;
        let agrees = found.event_type == event_type && found.state_key == state_key;
        checker.expect(name, agrees, || format!("({event_type}, {state_key}) is {}, which is {found:?}", row.value));
    }
    for row in checker.snapshot.list::<StateChanges>(&view.nid) {
        let row = row?;
        for event in [row.value.old, row.value.new].into_iter().flatten() {
            let is_there = checker.snapshot.contains::<Events>(&(view.nid, event))?;
            checker.expect(name, is_there, || format!("{:?} changed to {event}, which is not there", row.key()));
        }
    }
    every_state(checker, view)
}

fn every_state(checker: &mut Checker<'_>, view: &View<'_>) -> Result<()> {
    let tries = view.tries();
    let mut seen = HashSet::from([StateRoot::EMPTY]);
    let mut last = StateRoot::EMPTY;
    let mut roots = vec![view.current_state()];
    for row in checker.snapshot.list::<Events>(&view.nid) {
        let row = row?;
        roots.extend(row.value.state_after);
        let is_outlier = row.value.flags.outlier;
        let has_state = row.value.state_after.is_some();
        checker.expect("states", has_state != is_outlier, || format!("{} has no state", row.value.event_id));
    }
    for root in roots {
        if !seen.insert(root) {
            continue;
        }
        // What two states share was looked at with the first of them.
        for (key, _, event) in tries.diff(last, root)? {
            let Some(event) = event else { continue };
            let (name, event) = (view.state_key_name(key)?, view.event(event)?);
            let agrees = event.event_type == name.event_type && event.state_key.as_ref() == Some(&name.state_key);
            checker.expect("states", agrees, || format!("a state has {} for {name:?}", event.event_id));
        }
        last = root;
    }
    Ok(())
}

/// The members, their counts and the rooms of local users are those of the current state.
fn members(checker: &mut Checker<'_>, view: &View<'_>) -> Result<()> {
    let name = "members";
    let mut expected: BTreeMap<OwnedUserId, (Membership, EventNid)> = BTreeMap::new();
    for (_, event) in view.state(view.current_state())? {
        let pdu = view.pdu(event)?;
        let member = (pdu.event_type == ruma::events::TimelineEventType::RoomMember)
            .then(|| Some((OwnedUserId::try_from(pdu.state_key.clone()?).ok()?, membership_in(pdu.content.get())?)))
            .flatten();
        if let Some((user_id, membership)) = member {
            expected.insert(user_id, (membership, event));
        }
    }
    let mut found = BTreeMap::new();
    for row in checker.snapshot.list::<Members>(&view.nid) {
        let row = row?;
        let (_, membership, origin, user_id) = row.key()?;
        let is_local = user_id.server_name() == checker.server_name;
        checker.expect(name, is_local == (origin == Origin::Local), || format!("{user_id} counts as {origin:?}"));
        found.insert(user_id.to_owned(), (membership, row.value));
    }
    checker.expect(name, found == expected, || format!("the members of {} are not those of its state", view.room_id()));
    let count = |counted| expected.values().filter(|(membership, _)| *membership == counted).count() as u64;
    let counts = (count(Membership::Join), count(Membership::Invite));
    checker.expect(name, counts == (view.room.joined, view.room.invited), || {
        format!("{} has {counts:?} joined and invited, not {:?}", view.room_id(), (view.room.joined, view.room.invited))
    });
    for (user_id, (membership, event)) in expected {
        if user_id.server_name() != checker.server_name {
            continue;
        }
        let row = checker.snapshot.get::<UserRooms>(&(&user_id, view.nid))?;
        // What came without its place in the room is newer than what we know of that.
        let is_known_otherwise = match row {
            Some(row) => {
                checker.snapshot.get::<Events>(&(view.nid, row.event))?.is_some_and(|event| event.flags.outlier)
            }
            None => false,
        };
        let agrees = is_known_otherwise || row.is_some_and(|row| row.membership == membership && row.event == event);
        checker.expect(name, agrees, || format!("{user_id} has {row:?} for {}, not {membership:?}", view.room_id()));
    }
    Ok(())
}

/// Servers are counted as their users are joined, and invited, and the rooms of users of other servers are those.
fn servers(checker: &mut Checker<'_>, view: &View<'_>) -> Result<()> {
    let name = "servers of a room";
    let mut expected = BTreeMap::<OwnedServerName, u64>::new();
    for (user_id, _) in view.members(Membership::Join)? {
        *expected.entry(user_id.server_name().to_owned()).or_default() += 1;
        if user_id.server_name() != checker.server_name {
            let is_listed = checker.snapshot.contains::<RemoteRooms>(&(&user_id, view.nid))?;
            checker.expect(name, is_listed, || format!("{} is no room of {user_id}", view.room_id()));
        }
    }
    let mut found = BTreeMap::new();
    for row in checker.snapshot.list::<RoomServers>(&view.nid) {
        let row = row?;
        if row.value.joined > 0 {
            found.insert(row.key()?.1.to_owned(), row.value.joined);
        }
    }
    checker.expect(name, found == expected, || format!("{} has {expected:?}, not {found:?}", view.room_id()));
    let mut invited = BTreeMap::<OwnedServerName, u64>::new();
    for (user_id, _) in view.members(Membership::Invite)? {
        if user_id.server_name() != checker.server_name {
            *invited.entry(user_id.server_name().to_owned()).or_default() += 1;
        }
    }
    let mut found = BTreeMap::new();
    for row in checker.snapshot.list::<InvitedServers>(&view.nid) {
        let row = row?;
        found.insert(row.key()?.1.to_owned(), row.value);
    }
    checker.expect(name, found == invited, || format!("{} invited {invited:?}, not {found:?}", view.room_id()));
    Ok(())
}

fn remote_rooms(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<RemoteRooms>(&()) {
        let row = row?;
        let (user_id, room) = row.key()?;
        let is_joined = checker.snapshot.contains::<Members>(&(room, Membership::Join, Origin::Remote, user_id))?;
        checker.expect("rooms of other servers' users", is_joined, || format!("{user_id} is not in room {room}"));
    }
    Ok(())
}

fn receipts(checker: &mut Checker<'_>) -> Result<()> {
    let name = "receipts";
    let mut count = 0;
    for row in checker.snapshot.list::<Receipts>(&()) {
        let row = row?;
        let (room, user_id, receipt_type, thread) = row.key()?;
        let index = (room, row.value.changed, user_id, receipt_type, thread);
        let is_indexed = checker.snapshot.contains::<ReceiptChanges>(&index)?;
        checker.expect(name, is_indexed, || format!("{:?} is not among the changes", row.key()));
        count += 1;
    }
    let indexed = checker.snapshot.list::<ReceiptChanges>(&()).count();
    checker.expect(name, count == indexed, || format!("{count} receipts have {indexed} rows of changes"));
    Ok(())
}

fn transactions(checker: &mut Checker<'_>) -> Result<()> {
    let name = "transactions";
    let expect_event = |checker: &mut Checker<'_>, room: RoomNid, event: EventNid| -> Result<()> {
        let is_there = checker.snapshot.contains::<Events>(&(room, event))?;
        checker
            .expect(name, is_there, || format!("a transaction made event {event} of room {room}, which is not there"));
        Ok(())
    };
    for row in checker.snapshot.list::<Transactions>(&()) {
        let row = row?;
        expect_event(checker, row.key()?.0, row.value.event)?;
    }
    for row in checker.snapshot.list::<EventTransactions>(&()) {
        let row = row?;
        let (room, event) = row.key()?;
        expect_event(checker, room, event)?;
    }
    Ok(())
}
