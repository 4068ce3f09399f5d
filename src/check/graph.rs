//! The graph of each room's events: its ends, its auth edges, where it has gaps, and what waits for events to come.

use super::Checker;
use crate::{
    event::{StateRoot, Verified, rules},
    federation::inbox::Staged,
    room::{
        Membership, View,
        gaps::{self, Gaps},
        invited::StrippedStates,
        redaction::EarlyRedactions,
        tables::{AuthEdges, EventIds, Events, Members, Origin, Rooms, Timeline, UserRooms},
    },
    store::Result,
};

pub fn check(checker: &mut Checker<'_>) {
    checker.run("event graph", |checker| {
        let snapshot = checker.snapshot;
        for row in snapshot.list::<Rooms>(&()) {
            let row = row?;
            let view = View::of(checker.rooms, snapshot, row.key()?)?;
            checker.run("event graph", |checker| ends(checker, &view));
            checker.run("auth edges", |checker| auth_edges(checker, &view));
            checker.run("gaps", |checker| gaps(checker, &view));
        }
        Ok(())
    });
    checker.run("early redactions", early_redactions);
    checker.run("stripped states", stripped_states);
    checker.run("staged events", staged_events);
    checker.run("rooms of users", user_rooms);
}

/// Every room whose state we have has ends, all accepted; others have none.
fn ends(checker: &mut Checker<'_>, view: &View<'_>) -> Result<()> {
    let name = "event graph";
    let ends = view.forward_extremities();
    let has_state = view.current_state() != StateRoot::EMPTY;
    checker.expect(name, ends.is_empty() != has_state, || {
        format!("{} has {} forward extremities and {} state", view.room_id(), ends.len(), u8::from(has_state))
    });
    for end in view.events(ends)? {
        checker.expect(name, end.room_pos != 0, || format!("{} is an end of the graph and not accepted", end.event_id));
    }
    Ok(())
}

/// Auth edges go to older events only, and all state events with a place have them.
fn auth_edges(checker: &mut Checker<'_>, view: &View<'_>) -> Result<()> {
    let name = "auth edges";
    for row in checker.snapshot.list::<AuthEdges>(&view.nid) {
        let row = row?;
        let (_, event) = row.key()?;
        let is_there = checker.snapshot.contains::<Events>(&(view.nid, event))?;
        checker.expect(name, is_there, || format!("{}: {event} has auth edges and is not there", view.room_id()));
        for &auth_event in &row.value.0 {
            let is_older = auth_event < event && checker.snapshot.contains::<Events>(&(view.nid, auth_event))?;
            checker.expect(name, is_older, || format!("{}: {event} has the auth event {auth_event}", view.room_id()));
        }
    }
    for row in checker.snapshot.list::<Events>(&view.nid) {
        let row = row?;
        let key = row.key()?;
        if row.value.state_key.is_some() && !row.value.flags.outlier {
            let has_edges = checker.snapshot.contains::<AuthEdges>(&key)?;
            checker.expect(name, has_edges, || format!("the state event {} has no auth edges", row.value.event_id));
        }
    }
    Ok(())
}

/// There is a gap before exactly those events of the timeline whose previous events have no place.
fn gaps(checker: &mut Checker<'_>, view: &View<'_>) -> Result<()> {
    let name = "gaps";
    for row in checker.snapshot.list::<Timeline>(&view.nid) {
        let row = row?;
        let pos = row.key()?.1;
        let missing = !gaps::missing_before(view, row.value)?.is_empty();
        let is_noted = gaps::is_at(view, pos)?;
        // Events may come that fill a gap without anybody asking for them, so that one may be noted in vain.
        checker.expect(name, is_noted || !missing, || format!("{}: events are missing before {pos}", view.room_id()));
    }
    for row in checker.snapshot.list::<Gaps>(&view.nid) {
        let (_, pos) = row?.key()?;
        let is_there = checker.snapshot.contains::<Timeline>(&(view.nid, pos))?;
        checker.expect(name, is_there, || format!("{} has a gap at {pos}, where no event is", view.room_id()));
    }
    Ok(())
}

/// A redaction waits for events that are not in its room, and is there itself.
fn early_redactions(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<EarlyRedactions>(&()) {
        let row = row?;
        let (room, target, redaction) = row.key()?;
        // One that is in another room is none of those that may still come.
        let waits = checker.snapshot.get::<EventIds>(&target)?.is_none_or(|place| place.room != room);
        let event = checker.snapshot.get::<Events>(&(room, redaction))?;
        let agrees = waits && event.is_some_and(|event| event.redacts.as_deref() == Some(target));
        checker.expect("early redactions", agrees, || format!("event {redaction} waits to redact {target}"));
    }
    Ok(())
}

fn stripped_states(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<StrippedStates>(&()) {
        let row = row?;
        let (room, user) = row.key()?;
        let membership = checker.snapshot.get::<UserRooms>(&(user, room))?.map(|row| row.membership);
        let is_asked_for = matches!(membership, Some(Membership::Invite | Membership::Knock));
        checker
            .expect("stripped states", is_asked_for, || format!("{user} has one of room {room}, being {membership:?}"));
    }
    Ok(())
}

/// What waits to be part of a room waits for one that is there, and can be read by its rules.
fn staged_events(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<Staged>(&()) {
        let row = row?;
        let room = row.key()?.0;
        let is_event = match checker.snapshot.get::<Rooms>(&room)?.and_then(|room| rules::rules(&room.version)) {
            Some(rules) => Verified::kept(row.value.json.as_bytes(), rules).is_ok(),
            None => false,
        };
        checker.expect("staged events", is_event, || format!("{:?} is no event of its room", row.key()));
    }
    Ok(())
}

/// The member events of our users are there, and who counts as joined is a member.
fn user_rooms(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<UserRooms>(&()) {
        let row = row?;
        let (user, room) = row.key()?;
        let event = checker.snapshot.get::<Events>(&(room, row.value.event))?;
        let is_his = event.is_some_and(|event| event.state_key.as_deref() == Some(user.as_str()));
        checker.expect("rooms of users", is_his, || format!("the member event of {user} in room {room} is not there"));
        let member = (room, Membership::Join, Origin::Local, user);
        let is_member = row.value.membership != Membership::Join || checker.snapshot.contains::<Members>(&member)?;
        checker.expect("rooms of users", is_member, || format!("{user} is joined to room {room} and no member of it"));
    }
    Ok(())
}
