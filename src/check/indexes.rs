//! What is kept beside the events of rooms: aliases, the directory, relations.

use super::Checker;
use crate::{
    room::{
        aliases::{Aliases, RoomAliases},
        directory::ListedRooms,
        relations::{Annotations, Relations},
        relationships::{Children, Parents, Relationship, told::ToldChildren},
        retention::purge::PurgeLater,
        search::index::{SearchWords, Words},
        sticky::{StickyChanges, StickyEnds, StickyEvents, StickyWaiting},
        tables::{Events, Rooms},
        threads::ThreadEvents,
    },
    store::{Result, RoomPos},
};

pub fn check(checker: &mut Checker<'_>) {
    checker.run("aliases", aliases);
    checker.run("listed rooms", listed_rooms);
    checker.run("relations", relations);
    checker.run("annotations", annotations);
    checker.run("threads", threads);
    checker.run("relationships", relationships);
    checker.run("search", search);
    checker.run("sticky events", sticky_events);
    checker.run("retention", retention);
}

/// Each alias belongs to one room that there is, and the room knows it.
fn aliases(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<Aliases>(&()) {
        let row = row?;
        let (alias, room) = (row.key()?, row.value.room);
        let is_known = checker.snapshot.contains::<RoomAliases>(&(room, alias))?;
        let is_there = checker.snapshot.contains::<Rooms>(&room)?;
        checker.expect("aliases", is_known && is_there, || format!("{alias} is room {room}, which does not know it"));
        count += 1;
    }
    let by_room = checker.snapshot.list::<RoomAliases>(&()).count();
    checker.expect("aliases", count == by_room, || format!("{count} aliases, but rooms have {by_room}"));
    Ok(())
}

fn listed_rooms(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<ListedRooms>(&()) {
        let room = row?.key()?;
        let is_there = checker.snapshot.contains::<Rooms>(&room)?;
        checker.expect("listed rooms", is_there, || format!("room {room} is listed and not there"));
    }
    Ok(())
}

/// What is to be removed later is there.
fn retention(checker: &mut Checker<'_>) -> Result<()> {
    let name = "retention";
    for row in checker.snapshot.list::<PurgeLater>(&()) {
        let row = row?;
        let (room, sent_ms, event) = row.key()?;
        let event = checker.snapshot.get::<Events>(&(room, event))?;
        let agrees = event.is_some_and(|event| event.origin_server_ts == sent_ms && event.state_key.is_none());
        checker.expect(name, agrees, || format!("{:?} is no message that could be removed", row.key()));
    }
    Ok(())
}

/// Each sticky event that clients may be told of is among the changes, the others wait, and all are known to end.
fn sticky_events(checker: &mut Checker<'_>) -> Result<()> {
    let (mut told, mut waiting) = (0, 0);
    for row in checker.snapshot.list::<StickyEvents>(&()) {
        let row = row?;
        let (room, event) = row.key()?;
        let is_listed = match row.value.since {
            Some(since) => checker.snapshot.contains::<StickyChanges>(&(room, since, event))?,
            None => checker.snapshot.contains::<StickyWaiting>(&(room, event))?,
        };
        told += usize::from(row.value.since.is_some());
        waiting += usize::from(row.value.since.is_none());
        let ends = checker.snapshot.contains::<StickyEnds>(&(row.value.ends_ms, room, event))?;
        checker.expect("sticky events", is_listed && ends, || format!("{:?} is not listed", row.key()));
    }
    let listed = [
        checker.snapshot.list::<StickyChanges>(&()).count(),
        checker.snapshot.list::<StickyWaiting>(&()).count(),
        checker.snapshot.list::<StickyEnds>(&()).count(),
    ];
    let expected = [told, waiting, told + waiting];
    checker.expect("sticky events", listed == expected, || format!("{expected:?} have {listed:?} rows in lists"));
    Ok(())
}

/// The rows of relations are those of the events that are shown and relate to others.
fn relations(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<Relations>(&()) {
        let row = row?;
        let (room, parent, rel_type, pos) = row.key()?;
        let event = checker.snapshot.get::<Events>(&(room, row.value.event))?;
        let agrees = event.is_some_and(|event| {
            let relation = event.relation.as_ref().map(|relation| (&*relation.event_id, relation.rel_type.as_str()));
            relation == Some((parent, rel_type))
                && event.room_pos == pos.0
                && event.event_type == row.value.event_type
                && event.sender == row.value.sender
        });
        checker.expect("relations", agrees, || format!("event {} does not relate to {parent}", row.value.event));
        count += 1;
    }
    let mut expected = 0;
    for row in checker.snapshot.list::<Events>(&()) {
        let event = row?.value;
        expected += usize::from(event.relation.is_some() && event.room_pos != 0);
    }
    checker.expect("relations", count == expected, || format!("{count} relations of {expected} events that have one"));
    Ok(())
}

fn annotations(checker: &mut Checker<'_>) -> Result<()> {
    for row in checker.snapshot.list::<Annotations>(&()) {
        let row = row?;
        let (room, sender, _) = row.key()?;
        let event = checker.snapshot.get::<Events>(&(room, row.value))?;
        let agrees = event.is_some_and(|event| event.sender == sender && event.relation.is_some());
        checker.expect("annotations", agrees, || format!("event {} of room {room} is no annotation", row.value));
    }
    Ok(())
}

/// The events of threads are the relations of that type, in another order.
fn threads(checker: &mut Checker<'_>) -> Result<()> {
    let mut count = 0;
    for row in checker.snapshot.list::<ThreadEvents>(&()) {
        let row = row?;
        let (room, pos, root) = row.key()?;
        let related = checker.snapshot.get::<Relations>(&(room, root, "m.thread", pos))?;
        let agrees = related.is_some_and(|related| related.event == row.value);
        checker.expect("threads", agrees, || format!("event {} of room {room} is not in the thread {root}", row.value));
        count += 1;
    }
    let mut expected = 0;
    for row in checker.snapshot.list::<Relations>(&()) {
        expected += usize::from(row?.key()?.2 == "m.thread");
    }
    checker.expect("threads", count == expected, || format!("{count} rows of {expected} events in threads"));
    Ok(())
}

/// Each event that is shown and names a parent is among its children; whatever is, knows its parent; and what other servers
/// said is of events that are there. (Redacted events no longer say what they are kept as.)
fn relationships(checker: &mut Checker<'_>) -> Result<()> {
    let name = "relationships";
    let mut count = 0;
    for row in checker.snapshot.list::<Children>(&()) {
        let row = row?;
        let (room, parent, event) = row.key()?;
        let named = checker.snapshot.get::<Parents>(&(room, event))?;
        let is_there = checker.snapshot.contains::<Events>(&(room, event))?;
        let agrees = is_there && named.is_some_and(|named| named.event_id == parent);
        checker.expect(name, agrees, || format!("event {event} of room {room} is no child of {parent}"));
        count += 1;
    }
    let by_child = checker.snapshot.list::<Parents>(&()).count();
    checker.expect(name, count == by_child, || format!("{count} children, but {by_child} have a parent"));
    for row in checker.snapshot.list::<Events>(&()) {
        let row = row?;
        let (room, nid) = row.key()?;
        let relationship = Relationship::of(&row.value, nid).filter(|_| row.value.room_pos != 0);
        if let Some(relationship) = relationship {
            let is_noted = checker.snapshot.contains::<Children>(&(room, &relationship.parent, nid))?;
            checker.expect(name, is_noted, || format!("{} is not noted as a reply", row.value.event_id));
        }
    }
    for row in checker.snapshot.list::<ToldChildren>(&()) {
        let key = row?.key()?;
        let is_there = checker.snapshot.contains::<Events>(&key)?;
        checker.expect(name, is_there, || format!("children of event {key:?} are told, which is not there"));
    }
    Ok(())
}

/// The words of all events that are shown are those that are searched.
fn search(checker: &mut Checker<'_>) -> Result<()> {
    let mut expected = 0;
    for row in checker.snapshot.list::<Events>(&()) {
        let row = row?;
        let ((room, nid), event) = (row.key()?, &row.value);
        let Some(words) = Words::of(event, nid).filter(|_| event.room_pos != 0) else { continue };
        for word in words.words() {
            let found = checker.snapshot.get::<SearchWords>(&(room, word, RoomPos(event.room_pos)))?;
            checker
                .expect("search", found == Some(words.said()), || format!("{} is not found by {word}", event.event_id));
            expected += 1;
        }
    }
    let count = checker.snapshot.list::<SearchWords>(&()).count();
    checker.expect("search", count == expected, || format!("{count} words of {expected} that events say"));
    Ok(())
}
