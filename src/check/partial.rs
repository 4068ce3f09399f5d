//! Rooms whose state is not whole, and what is kept for the sake of completing them.

use super::Checker;
use crate::{
    room::{
        partial::tables::{Completions, Introductions, LeftRooms, PartialDevices, PartialEvents, PartialRooms},
        state::trie::Tries,
        tables::{Events, Rooms},
    },
    store::{Result, RoomNid},
};

const NAME: &str = "rooms without members";

pub fn check(checker: &mut Checker<'_>) {
    checker.run(NAME, rooms);
    checker.run(NAME, events);
    checker.run(NAME, devices);
}

/// Each is a room, and is not among those that were left as well.
fn rooms(checker: &mut Checker<'_>) -> Result<()> {
    let snapshot = checker.snapshot;
    for row in snapshot.list::<PartialRooms>(&()) {
        let room = row?.key()?;
        expect_room(checker, room)?;
        let was_left = snapshot.contains::<LeftRooms>(&room)?;
        checker.expect(NAME, !was_left, || format!("room {room} was left and is completed all the same"));
    }
    for row in snapshot.list::<LeftRooms>(&()) {
        expect_room(checker, row?.key()?)?;
    }
    for row in snapshot.list::<Completions>(&()) {
        expect_room(checker, row?.key()?)?;
    }
    for row in snapshot.list::<Introductions>(&()) {
        expect_room(checker, row?.key()?)?;
    }
    Ok(())
}

fn expect_room(checker: &mut Checker<'_>, room: RoomNid) -> Result<()> {
    let is_there = checker.snapshot.contains::<Rooms>(&room)?;
    checker.expect(NAME, is_there, || format!("room {room} is to be completed and is not there"));
    Ok(())
}

/// The events and states by which such a room is worked out anew are there.
fn events(checker: &mut Checker<'_>) -> Result<()> {
    let snapshot = checker.snapshot;
    for row in snapshot.list::<PartialEvents>(&()) {
        let row = row?;
        let room = row.key()?.0;
        let is_partial = snapshot.contains::<PartialRooms>(&room)?;
        checker.expect(NAME, is_partial, || format!("event {} waits for room {room}, which is whole", row.value.event));
        for &event in row.value.follows.iter().chain([&row.value.event]) {
            let has_state = snapshot.get::<Events>(&(room, event))?.is_some_and(|event| event.state_after.is_some());
            checker.expect(NAME, has_state, || format!("event {event} of room {room} has no place in it"));
        }
        if let Some(given) = row.value.given {
            Tries::new(snapshot, &checker.rooms.state_nodes, room).list(given)?;
        }
    }
    Ok(())
}

fn devices(checker: &mut Checker<'_>) -> Result<()> {
    let snapshot = checker.snapshot;
    for row in snapshot.list::<PartialDevices>(&()) {
        let row = row?;
        let (room, user) = row.key()?;
        let is_partial = snapshot.contains::<PartialRooms>(&room)?;
        checker.expect(NAME, is_partial, || format!("devices of {user} wait for room {room}, which is whole"));
    }
    Ok(())
}
