//! Which rooms a client gets.

use serde_json::{Value, json};

use super::{Connection, bodies, public, rooms, sorted};
use crate::support::{TestServer, User};

/// The rooms of a list with these filters.
async fn filtered(user: &User, filters: Value) -> Vec<String> {
    let mut client = Connection::new(
        user,
        json!({ "conn_id": "f", "lists": { "all": { "ranges": [[0, 99]], "timeline_limit": 0, "filters": filters } } }),
    );
    let answer = client.next().await;
    let found: Vec<String> = rooms(&answer).into_iter().map(str::to_owned).collect();
    assert_eq!(answer["lists"]["all"]["count"], found.len());
    found
}

async fn put_global(user: &User, event_type: &str, content: Value) {
    user.put(&format!("/v3/user/{}/account_data/{event_type}", user.id), content).await.ok();
}

#[tokio::test]
async fn a_list_has_the_rooms_of_the_last_events_first() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (a, b, c) = (public(&alice).await, public(&alice).await, public(&alice).await);
    alice.say(&a, "newest").await;
    let mut client = Connection::with_list(&alice, [0, 1]);
    let first = client.next().await;
    assert_eq!(rooms(&first), sorted([&a, &c]));
    assert_eq!(first["lists"]["all"]["count"], 3);
    assert!(first["rooms"][&a]["bump_stamp"].as_u64() > first["rooms"][&c]["bump_stamp"].as_u64());
    client.list()["ranges"] = json!([[0, 9]]);
    assert_eq!(rooms(&client.next().await), [&b], "the others were told already");
}

#[tokio::test]
async fn a_list_may_have_several_ranges_or_none() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(public(&alice).await);
    }
    let mut client = Connection::with_list(&alice, [0, 0]);
    client.list()["ranges"] = json!([[0, 0], [2, 3]]);
    assert_eq!(rooms(&client.next().await), sorted([&all[4], &all[2], &all[1]]));
    client.list().as_object_mut().unwrap().remove("ranges");
    assert_eq!(rooms(&client.next().await), sorted([&all[3], &all[0]]));
    client.pos = None;
    client.list()["ranges"] = json!([[7, 9]]);
    let beyond = client.next().await;
    assert_eq!((rooms(&beyond).len(), &beyond["lists"]["all"]["count"]), (0, &json!(5)));
}

#[tokio::test]
async fn a_room_that_comes_back_into_the_window_tells_what_happened_meanwhile() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (a, b) = (public(&alice).await, public(&alice).await);
    let mut client = Connection::with_list(&alice, [0, 1]);
    client.next().await;
    client.list()["ranges"] = json!([[0, 0]]);
    alice.say(&a, "one").await;
    alice.set(&a, "m.room.topic", "", json!({ "topic": "new" })).await;
    alice.say(&b, "two").await;
    client.list()["required_state"] = json!([["m.room.topic", ""]]);
    assert_eq!(rooms(&client.next().await), [&b], "only one room is wanted");
    assert!(rooms(&client.next().await).is_empty());
    client.list()["ranges"] = json!([[0, 1]]);
    let back = client.next().await;
    let shown = &back["rooms"][&a];
    assert_eq!((rooms(&back), shown.get("initial")), (vec![a.as_str()], None));
    assert_eq!(bodies(shown), ["one"]);
    assert_eq!(super::required(shown), [("m.room.topic", "")]);
    assert_eq!(shown["num_live"], 0, "it came before the last answer");
    assert!(rooms(&client.next().await).is_empty());
}

#[tokio::test]
async fn a_subscription_gets_its_room_wherever_it_is() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    alice.say(&room, "hi").await;
    let mut client = Connection::new(&alice, json!({}));
    assert!(rooms(&client.next().await).is_empty());
    client.body["room_subscriptions"] = json!({ &room: { "timeline_limit": 1 } });
    let first = client.next().await;
    assert_eq!((first["rooms"][&room]["initial"].as_bool(), bodies(&first["rooms"][&room])), (Some(true), vec!["hi"]));
    client.body["room_subscriptions"] = json!({});
    alice.say(&room, "missed").await;
    assert!(rooms(&client.next().await).is_empty());
    client.body["room_subscriptions"] = json!({ &room: { "timeline_limit": 1 } });
    assert_eq!(bodies(&client.next().await["rooms"][&room]), ["missed"]);
}

#[tokio::test]
async fn subscriptions_to_rooms_of_others_tell_nothing() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let foreign = alice.create_public_room("world_readable").await;
    let left = public(&alice).await;
    bob.join(&left).await;
    bob.leave(&left).await;
    bob.post(&format!("/v3/rooms/{left}/forget"), json!({})).await.ok();
    let subscriptions = json!({
        foreign: { "timeline_limit": 5 }, "!unknown:example.org": { "timeline_limit": 5 },
        "nonsense": { "timeline_limit": 5 }, left: { "timeline_limit": 5 },
    });
    let mut client = Connection::new(&bob, json!({ "room_subscriptions": subscriptions }));
    assert!(rooms(&client.next().await).is_empty());
}

#[tokio::test]
async fn filters_by_direct_chats_and_tags() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (a, b, c) = (public(&alice).await, public(&alice).await, public(&alice).await);
    put_global(&alice, "m.direct", json!({ "@bob:example.org": [&a], "@x:example.org": "nonsense" })).await;
    for (room, tag) in [(&a, "m.favourite"), (&b, "m.favourite"), (&b, "m.lowpriority")] {
        alice.put(&format!("/v3/user/{}/rooms/{room}/tags/{tag}", alice.id), json!({})).await.ok();
    }
    assert_eq!(filtered(&alice, json!({ "is_dm": true })).await, [a.as_str()]);
    assert_eq!(filtered(&alice, json!({ "is_dm": false })).await, sorted([&b, &c]));
    assert_eq!(filtered(&alice, json!({ "tags": ["m.favourite", "u.x"] })).await, sorted([&a, &b]));
    assert_eq!(filtered(&alice, json!({ "not_tags": ["m.lowpriority"] })).await, sorted([&a, &c]));
    let both = json!({ "tags": ["m.favourite"], "not_tags": ["m.lowpriority"] });
    assert_eq!(filtered(&alice, both).await, [a.as_str()]);
    assert_eq!(filtered(&alice, json!({ "tags": [] })).await, Vec::<String>::new());
}

#[tokio::test]
async fn filters_by_encryption_type_and_name() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let encryption = json!([{ "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" } }]);
    let secret = alice.create_room(json!({ "initial_state": encryption, "name": "Le Ministère" })).await;
    let space = alice.create_room(json!({ "creation_content": { "type": "m.space" }, "name": "Towers" })).await;
    let plain = alice.create_room(json!({})).await;
    assert_eq!(filtered(&alice, json!({ "is_encrypted": true })).await, [secret.as_str()]);
    assert_eq!(filtered(&alice, json!({ "is_encrypted": false })).await, sorted([&space, &plain]));
    assert_eq!(filtered(&alice, json!({ "room_types": ["m.space"] })).await, [space.as_str()]);
    assert_eq!(filtered(&alice, json!({ "room_types": [null] })).await, sorted([&secret, &plain]));
    assert_eq!(filtered(&alice, json!({ "room_types": [null, "m.space"] })).await.len(), 3);
    assert_eq!(filtered(&alice, json!({ "not_room_types": ["m.space"] })).await, sorted([&secret, &plain]));
    let contradiction = json!({ "room_types": ["m.space"], "not_room_types": ["m.space"] });
    assert_eq!(filtered(&alice, contradiction).await, Vec::<String>::new());
    assert_eq!(filtered(&alice, json!({ "room_name_like": "MINIST" })).await, [secret.as_str()]);
    assert_eq!(filtered(&alice, json!({})).await.len(), 3);
}

#[tokio::test]
async fn filters_by_space() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let space_body = json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } });
    let (space, foreign) = (alice.create_room(space_body.clone()).await, bob.create_room(space_body).await);
    let (inside, removed, outside) = (public(&alice).await, public(&alice).await, public(&alice).await);
    for room in [&inside, &removed] {
        alice.set(&space, "m.space.child", room, json!({ "via": ["example.org"] })).await;
    }
    alice.set(&space, "m.space.child", &removed, json!({})).await;
    bob.set(&foreign, "m.space.child", &outside, json!({ "via": ["example.org"] })).await;
    let filter = json!({ "spaces": [space, foreign, "nonsense"] });
    assert_eq!(filtered(&alice, filter).await, [inside.as_str()], "only of spaces that she is in");
}

#[tokio::test]
async fn filters_by_invite() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (own, invited) = (public(&bob).await, alice.create_room(json!({ "name": "Secret" })).await);
    alice.invite(&invited, &bob).await;
    assert_eq!(filtered(&bob, json!({ "is_invite": true })).await, [invited.as_str()]);
    assert_eq!(filtered(&bob, json!({ "is_invited": true })).await, [invited.as_str()]);
    assert_eq!(filtered(&bob, json!({ "is_invite": false })).await, [own.as_str()]);
    assert_eq!(filtered(&bob, json!({})).await, sorted([&own, &invited]));
    assert_eq!(filtered(&bob, json!({ "room_name_like": "secret" })).await, [invited.as_str()], "by what he was told");
    let ignored = json!({ "ignored_users": { &alice.id: {} } });
    put_global(&bob, "m.ignored_user_list", ignored).await;
    assert_eq!(filtered(&bob, json!({})).await, [own.as_str()]);
}

#[tokio::test]
async fn an_unwanted_invite_is_not_told_even_of_a_known_room() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({})).await;
    alice.invite(&room, &bob).await;
    let mut client = Connection::with_list(&bob, [0, 9]);
    client.body["room_subscriptions"] = json!({ &room: { "timeline_limit": 1, "required_state": [] } });
    assert_eq!(rooms(&client.next().await), [room.as_str()]);
    bob.leave(&room).await;
    assert_eq!(rooms(&client.next().await), [room.as_str()]);
    put_global(&bob, "m.ignored_user_list", json!({ "ignored_users": { &alice.id: {} } })).await;
    alice.invite(&room, &bob).await;
    let answer = client.next().await;
    assert_eq!((rooms(&answer).len(), &answer["lists"]["all"]["count"]), (0, &json!(0)));
    bob.leave(&room).await;
    assert_eq!(rooms(&client.next().await), [room.as_str()], "that it is over");
}

#[tokio::test]
async fn a_room_in_several_lists_gets_all_that_they_ask_for() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({ "name": "N", "topic": "T" })).await;
    for n in 0..5 {
        alice.say(&room, &n.to_string()).await;
    }
    let list =
        |limit: u64, state: Value| json!({ "ranges": [[0, 9]], "timeline_limit": limit, "required_state": state });
    let mut client = Connection::new(
        &alice,
        json!({
            "lists": { "a": list(1, json!([["m.room.name", ""]])), "b": list(2, json!([])) },
            "room_subscriptions": { &room: { "timeline_limit": 3, "required_state": [["m.room.topic", ""]] } },
        }),
    );
    let answer = client.next().await;
    assert_eq!(bodies(&answer["rooms"][&room]), ["2", "3", "4"]);
    assert_eq!(super::required(&answer["rooms"][&room]), [("m.room.name", ""), ("m.room.topic", "")]);
    assert_eq!((&answer["lists"]["a"]["count"], &answer["lists"]["b"]["count"]), (&json!(1), &json!(1)));
}
