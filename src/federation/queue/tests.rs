use std::collections::BTreeSet;

use ruma::{
    EventId, OwnedServerName, ServerName, api::federation::transactions::edu::Edu, serde::Raw, server_name, user_id,
};
use serde_json::{Value, json};

use super::{
    Additions,
    tables::{Destinations, Item, Queue},
    transaction::{Ephemeral, Prepared},
};
use crate::{
    federation::tables::{Deliveries, Delivery},
    room::{
        partial::{Partial, tables::PartialRooms},
        receipts::{Remote, Thread},
        testing::{TestRoom, user},
    },
    store::{EventNid, RoomNid, Row, StreamPos, look_ups, steps},
};

const OTHER: &str = "b.test";

fn other() -> OwnedServerName {
    server_name!("b.test").to_owned()
}

/// Puts things into the queue of [`OTHER`], each in a transaction of its own.
fn fill(room: &TestRoom, items: Vec<Item>) {
    for item in items {
        room.change(move |tx| {
            let mut additions = Additions::default();
            additions.add(other(), item);
            additions.write(tx).unwrap();
        });
    }
}

fn rows(room: &TestRoom) -> Vec<Item> {
    let snapshot = room.server.store.snapshot();
    let rows = snapshot.list::<Queue>(&&*other());
    let rows: Vec<Row<Queue>> = rows.map(|row| row.unwrap()).collect();
    let backlog = snapshot.get::<Destinations>(&&*other()).unwrap();
    assert_eq!(rows.len() as u64, backlog.map_or(0, |backlog| backlog.rows), "rows are counted");
    let first = rows.first().map(|row| row.key().unwrap().1);
    assert_eq!(first, backlog.map(|backlog| backlog.first), "it is known where they begin");
    rows.into_iter().map(|row| row.value).collect()
}

fn to_device(size: usize) -> Item {
    Item::ToDevice { content: format!(r#"{{"n":"{}"}}"#, "x".repeat(size)) }
}

#[test]
fn a_long_queue_keeps_the_newest_of_each_kind() {
    let room = TestRoom::new();
    let receipt = |n: u32| Item::Receipt { room: room.nid, user: user("alice"), thread: format!("${}", n % 2) };
    let device =
        |n: u64| Item::Device { user: user("alice"), device: "D".into(), stream_id: n, prev_id: n.checked_sub(1) };
    let mut items = Vec::new();
    for n in 0..300 {
        // None of these events is an end of the room.
        items.extend([Item::Event { room: room.nid, event: EventNid(1_000 + n) }, receipt(n), device(n.into())]);
    }
    items.push(to_device(1));
    items.extend((0..100).map(|n| Item::Event { room: room.nid, event: EventNid(2_000 + n) }));
    fill(&room, items);
    let left = rows(&room);
    assert!(left.len() < 10, "{left:?}");
    assert!(left.contains(&device(299)) && left.contains(&receipt(298)) && left.contains(&receipt(299)));
    assert!(left.contains(&to_device(1)), "what nothing newer tells again is kept");
    assert!(left.contains(&Item::Event { room: room.nid, event: EventNid(2_099) }));
}

#[test]
fn a_long_queue_keeps_who_is_not_invited_any_more_to_a_room_that_the_server_is_not_in() {
    let room = TestRoom::new();
    let item = |event_id: &EventId| {
        let event = room.read("alice", |reader, _| reader.view().event_nid(event_id).unwrap().unwrap());
        Item::Event { room: room.nid, event }
    };
    let set = |user: &str, membership: &str| {
        item(&room.state("alice", "m.room.member", user, &json!({ "membership": membership })))
    };
    // Brings the queue to 1,000 rows, then to one more, with which it is shortened.
    let shorten = |mut items: Vec<Item>| {
        items.resize(1_000, Item::Event { room: RoomNid(u64::MAX), event: EventNid(1) });
        room.change(move |tx| {
            let mut additions = Additions::default();
            items.into_iter().for_each(|item| additions.add(other(), item));
            additions.write(tx).unwrap();
        });
        fill(&room, vec![to_device(1)]);
        rows(&room)
    };
    for user in ["@u1:b.test", "@u2:b.test", "@u3:c.test"] {
        set(user, "invite");
    }
    let message = item(&room.message("alice", "hello"));
    let [first, second, third] = ["@u1:b.test", "@u2:b.test", "@u3:c.test"].map(|user| set(user, "leave"));
    room.message("alice", "nobody else comes");
    let kept = shorten(vec![message, first.clone(), second.clone(), third.clone()]);
    assert_eq!(kept[..3], [first, second, third], "the last is the newest of the room");
    assert_eq!(kept.len(), 5, "{kept:?}");
}

#[test]
fn a_transaction_is_bounded_in_number_and_size() {
    let room = TestRoom::new();
    for _ in 0..60 {
        room.message("alice", "hello");
    }
    fill(&room, vec![Item::Event { room: room.nid, event: EventNid(1) }; 60]);
    let read = |at_most| Prepared::read(&room.server, &other(), Ephemeral::default(), at_most).unwrap().unwrap();
    let all = read(usize::MAX);
    assert_eq!((all.request.unwrap().pdus.len(), all.rows.len()), (50, 50));
    assert_eq!(read(3).rows.len(), 3);

    let room = TestRoom::new();
    fill(&room, vec![to_device(60_000); 120]);
    let prepared = Prepared::read(&room.server, &other(), Ephemeral::default(), usize::MAX).unwrap().unwrap();
    let request = prepared.request.unwrap();
    assert!(request.edus.len() < 40 && request.edus.len() == prepared.rows.len(), "{}", request.edus.len());
}

#[test]
fn a_message_that_cannot_be_signed_holds_up_nothing() {
    let room = TestRoom::new();
    let unsignable = Item::ToDevice { content: r#"{"n":1.5}"#.to_owned() };
    fill(&room, vec![to_device(1), unsignable, to_device(2)]);
    let prepared = Prepared::read(&room.server, &other(), Ephemeral::default(), usize::MAX).unwrap().unwrap();
    assert_eq!((prepared.request.unwrap().edus.len(), prepared.rows.len()), (2, 3));
}

#[test]
fn what_was_read_is_told_only_while_the_user_and_the_server_are_in_the_room() {
    let room = TestRoom::new();
    let (carol, read) = (user_id!("@carol:b.test"), room.message("alice", "hello"));
    room.receive_member(carol, "join");
    let nid = room.nid;
    let receipt = Remote { room: nid, user: user("alice"), thread: Thread::Any, event_id: read.to_string(), ts_ms: 5 };
    room.change(move |tx| assert!(receipt.put(tx).unwrap()));
    fill(&room, vec![Item::Receipt { room: nid, user: user("alice"), thread: String::new() }]);
    let is_told = || {
        let prepared = Prepared::read(&room.server, &other(), Ephemeral::default(), usize::MAX).unwrap().unwrap();
        assert_eq!(prepared.rows.len(), 1, "it is done with, told or not");
        prepared.request.is_some()
    };
    assert!(is_told());
    room.receive_member(carol, "leave");
    assert!(!is_told(), "the server has left");
    room.receive_member(carol, "join");
    assert!(is_told());
    room.member("alice", "alice", "leave");
    assert!(!is_told(), "the user has left");
}

#[test]
fn a_repeated_transaction_has_the_same_id_and_no_other_has() {
    let room = TestRoom::new();
    let read = |destination: &ServerName, ephemeral: Ephemeral, at_most: usize| {
        let prepared = Prepared::read(&room.server, destination, ephemeral, at_most).unwrap().unwrap();
        prepared.request.unwrap().transaction_id
    };
    let typing = || {
        let mut ephemeral = Ephemeral::default();
        ephemeral.typing(room.nid, user("alice"), true);
        ephemeral
    };
    fill(&room, vec![to_device(1)]);
    let first = read(&other(), typing(), usize::MAX);
    assert_eq!(read(&other(), Ephemeral::default(), usize::MAX), first, "what was ephemeral is old by then");
    fill(&room, vec![to_device(1)]);
    assert_eq!(read(&other(), Ephemeral::default(), 1), first);
    assert_ne!(read(&other(), Ephemeral::default(), usize::MAX), first);
    let alone = || read(server_name!("c.test"), typing(), usize::MAX);
    assert_ne!(alone(), alone(), "typing again after a pause is something new");
}

/// The types and contents of the EDUs of a transaction, and what there was no room for.
fn edus(prepared: Prepared) -> (Vec<(String, Value)>, Ephemeral) {
    let read = |edu: &Raw<Edu>| {
        let mut edu: Value = serde_json::from_str(edu.json().get()).unwrap();
        (edu["edu_type"].as_str().unwrap().to_owned(), edu["content"].take())
    };
    (prepared.request.unwrap().edus.iter().map(read).collect(), prepared.left)
}

#[test]
fn what_is_ephemeral_and_has_no_room_in_a_transaction_waits_for_the_next() {
    let room = TestRoom::new();
    let mut ephemeral = Ephemeral::default();
    for n in 0..1_200 {
        ephemeral.presence(user(&format!("user{n}")));
    }
    ephemeral.typing(room.nid, user("carol"), true);
    for n in 0..600 {
        ephemeral.typing(room.nid, user(&format!("user{n}")), true);
    }
    ephemeral.typing(room.nid, user("carol"), false);
    let (mut presence, mut typing) = (Vec::new(), Vec::new());
    while let Some(prepared) = Prepared::read(&room.server, &other(), ephemeral, usize::MAX).unwrap() {
        let (told, left) = edus(prepared);
        for (edu_type, content) in told {
            match edu_type.as_str() {
                "m.presence" => presence.push(content["push"].as_array().unwrap().len()),
                _ => typing.push(content),
            }
        }
        ephemeral = left;
    }
    assert_eq!(presence, [500, 500, 200]);
    assert_eq!(typing.len(), 500);
    let stopped = json!({ "room_id": room.room_id(), "user_id": user("carol"), "typing": false });
    assert_eq!(typing[0], stopped, "there is a place for whom one was taken");
}

#[test]
fn what_is_ephemeral_is_told_as_it_came_last() {
    let room = TestRoom::new();
    let (mut older, mut newer) = (Ephemeral::default(), Ephemeral::default());
    older.typing(room.nid, user("alice"), true);
    older.presence(user("alice"));
    newer.typing(room.nid, user("alice"), false);
    newer.put_back(older);
    let read = |ephemeral| Prepared::read(&room.server, &other(), ephemeral, usize::MAX).unwrap().map(edus);
    let (told, _) = read(newer).unwrap();
    let [(first, _), (second, content)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((first.as_str(), second.as_str()), ("m.presence", "m.typing"));
    assert_eq!(content["typing"], false);

    let mut closed = Ephemeral::default();
    closed.presence(user("alice"));
    closed.close();
    closed.presence(user("alice"));
    closed.typing(room.nid, user("alice"), true);
    assert!(read(closed).is_none(), "it would be old when the server can be reached again");
}

#[test]
fn rows_that_are_gone_already_are_not_counted_twice() {
    let room = TestRoom::new();
    fill(&room, vec![to_device(1), to_device(2)]);
    let prepared = Prepared::read(&room.server, &other(), Ephemeral::default(), 1).unwrap().unwrap();
    let sent = prepared.rows;
    for _ in 0..2 {
        let sent = sent.clone();
        room.change(move |tx| super::additions::remove(tx, OTHER.try_into().unwrap(), &sent).unwrap());
    }
    assert_eq!(rows(&room), [to_device(2)]);
    room.change(|tx| {
        let last: Vec<(StreamPos, u32)> = tx
            .before()
            .list::<Queue>(&&*other())
            .map(|row| row.unwrap())
            .map(|row| (row.key().unwrap().1, row.key().unwrap().2))
            .collect();
        super::additions::remove(tx, OTHER.try_into().unwrap(), &last).unwrap();
    });
    assert!(room.server.store.snapshot().get::<Destinations>(&&*other()).unwrap().is_none());
}

#[test]
fn what_was_sent_before_costs_the_next_transaction_nothing() {
    let room = TestRoom::new();
    let read = |at_most| {
        let read = || Prepared::read(&room.server, &other(), Ephemeral::default(), at_most).unwrap();
        let (prepared, steps) = steps(read);
        (prepared.map(|prepared| prepared.rows).unwrap_or_default(), steps)
    };
    let remove = |sent: Vec<(StreamPos, u32)>| {
        room.change(move |tx| super::additions::remove(tx, OTHER.try_into().unwrap(), &sent).unwrap());
    };
    fill(&room, vec![to_device(1); 300]);
    loop {
        let (sent, steps) = read(90);
        assert!(steps <= 91, "{steps} rows were looked at");
        if sent.is_empty() {
            break;
        }
        remove(sent);
        rows(&room);
    }
    fill(&room, vec![to_device(2)]);
    let (sent, steps) = read(usize::MAX);
    assert!(sent.len() == 1 && steps < 5, "{steps} rows were looked at");
}

#[test]
fn a_row_that_belongs_before_those_that_wait_is_found() {
    let room = TestRoom::new();
    fill(&room, vec![to_device(1), to_device(2)]);
    let event = Item::Event { room: room.nid, event: EventNid(1) };
    let (before, first) = (StreamPos(1), event.clone());
    let sent = Prepared::read(&room.server, &other(), Ephemeral::default(), usize::MAX).unwrap().unwrap().rows;
    room.change(move |tx| {
        let mut additions = Additions::default();
        additions.add_event(other(), before, first);
        additions.write(tx).unwrap();
    });
    // What was read before that is what was sent.
    room.change(move |tx| super::additions::remove(tx, OTHER.try_into().unwrap(), &sent).unwrap());
    assert_eq!(rows(&room), [event]);
    let prepared = Prepared::read(&room.server, &other(), Ephemeral::default(), usize::MAX).unwrap().unwrap();
    assert_eq!(prepared.rows, [(before, 0)]);
}

#[test]
fn who_may_be_made_up_is_found_without_a_look_up_for_each_name_and_room() {
    let room = TestRoom::new();
    let nid = room.nid;
    room.receive_member(user_id!("@bob:b.test"), "join");
    let entry = room.state("alice", "m.room.member", "@carol:c.test", &json!({ "membership": "invite" }));
    room.change(move |tx| {
        let servers = vec![server_name!("d.test").to_owned()];
        tx.put::<PartialRooms>(&nid, &Partial { entry, servers, failures: 0 });
        let pos = tx.pos();
        tx.put::<Deliveries>(&server_name!("e.test"), &Delivery { at_ms: 1, pos });
    });
    let named = |name: &str| OwnedServerName::try_from(name).unwrap();
    let known = ["b.test", "c.test", "d.test", "e.test"].map(named);
    for (made_up, most) in [(10, 45), (1_000, 1_100)] {
        let made_up: BTreeSet<_> = (0..made_up).map(|n| named(&format!("n{n}.test"))).collect();
        let snapshot = room.server.store.snapshot();
        let find = || super::strangers(&snapshot, &user("alice"), known.iter().chain(&made_up)).unwrap();
        let (found, look_ups) = look_ups(find);
        assert_eq!(found, made_up);
        assert!(look_ups <= most, "{look_ups} keys were looked up");
    }
}

#[test]
fn only_a_server_that_may_be_made_up_is_given_up() {
    let room = TestRoom::new();
    let give_up = || room.server.store.commit_blocking(|tx| super::additions::give_up(tx, &other())).unwrap();
    assert!(!give_up(), "nothing waits");
    fill(&room, vec![to_device(1), to_device(2)]);
    assert!(give_up());
    assert!(rows(&room).is_empty());
    fill(&room, vec![to_device(1)]);
    room.change(|tx| {
        let pos = tx.pos();
        tx.put::<Deliveries>(&&*other(), &Delivery { at_ms: 1, pos });
    });
    assert!(!give_up(), "it took something");
    room.change(|tx| tx.delete::<Deliveries>(&&*other()));
    fill(&room, vec![Item::SigningKeys { user: user("alice") }]);
    assert!(!give_up(), "alice has a room with it");
    assert_eq!(rows(&room).len(), 2);
}
