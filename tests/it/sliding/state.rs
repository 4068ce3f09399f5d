//! The state events that come with rooms.

use serde_json::{Value, json};

use super::{Connection, public, required};
use crate::support::{TestServer, User};

const MEMBER: &str = "m.room.member";

/// A client with one list of all rooms and this required state.
fn client(user: &User, limit: u64, state: Value) -> Connection {
    let list = json!({ "ranges": [[0, 9]], "timeline_limit": limit, "required_state": state });
    Connection::new(user, json!({ "lists": { "all": list } }))
}

/// The users whose member events are there.
fn members(room: &Value) -> Vec<&str> {
    required(room).into_iter().filter(|(kind, _)| *kind == MEMBER).map(|(_, user)| user).collect()
}

#[tokio::test]
async fn required_state_is_what_was_asked_for() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "N", "topic": "T" })).await;
    bob.join(&room).await;
    for key in ["a", "b"] {
        alice.set(&room, "org.test", key, json!({})).await;
    }
    let alices = (MEMBER, &*alice.id);
    let cases: [(Value, Vec<(&str, &str)>); 7] = [
        (json!([]), vec![]),
        (json!([["m.room.name", ""], ["m.room.avatar", ""], ["m.none", "*"]]), vec![("m.room.name", "")]),
        (json!([["org.test", "*"]]), vec![("org.test", "a"), ("org.test", "b")]),
        (json!([["org.test", "b"]]), vec![("org.test", "b")]),
        (json!([[MEMBER, "$ME"]]), vec![alices]),
        (json!([[MEMBER, "*"]]), vec![alices, (MEMBER, &*bob.id)]),
        (json!([["*", "a"]]), vec![("org.test", "a")]),
    ];
    for (state, expected) in cases {
        let answer = client(&alice, 0, state.clone()).next().await;
        assert_eq!(required(&answer["rooms"][&room]), expected, "{state}");
    }
    let all = client(&alice, 0, json!([["*", "*"]])).next().await;
    assert!(required(&all["rooms"][&room]).len() >= 10);
    assert_eq!(members(&all["rooms"][&room]).len(), 2);
    let lazy = client(&alice, 0, json!([["*", "*"], [MEMBER, "$LAZY"]])).next().await;
    let lazy = required(&lazy["rooms"][&room]);
    assert_eq!(lazy.len(), required(&all["rooms"][&room]).len() - 2, "everything but members: {lazy:?}");
}

#[tokio::test]
async fn changed_state_is_told_if_it_is_required() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = public(&alice).await;
    let mut client = client(&alice, 0, json!([["m.room.topic", ""]]));
    client.next().await;
    alice.set(&room, "m.room.topic", "", json!({ "topic": "1" })).await;
    alice.set(&room, "m.room.topic", "", json!({ "topic": "2" })).await;
    alice.set(&room, "m.room.name", "", json!({ "name": "N" })).await;
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!(required(&shown), [("m.room.topic", "")]);
    assert_eq!(shown["required_state"][0]["content"]["topic"], "2");
    assert_eq!(shown["name"], "N");
    assert_eq!(shown.get("timeline"), None, "no timeline was asked for");
}

#[tokio::test]
async fn who_asks_for_more_state_gets_it_at_once_and_only_that() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({ "name": "N", "topic": "T" })).await;
    let mut client = client(&alice, 1, json!([["m.room.name", ""]]));
    client.next().await;
    client.list()["required_state"] = json!([["m.room.name", ""], ["m.room.topic", ""]]);
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!(required(&shown), [("m.room.topic", "")]);
    assert_eq!(shown.get("initial"), None);
    assert!(super::rooms(&client.next().await).is_empty());
    client.list()["required_state"] = json!([]);
    assert!(super::rooms(&client.next().await).is_empty(), "less is nothing new");
    alice.set(&room, "m.room.topic", "", json!({ "topic": "2" })).await;
    assert_eq!(required(&client.next().await["rooms"][&room]), []);
    client.list()["required_state"] = json!([["m.room.topic", ""]]);
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!(shown["required_state"][0]["content"]["topic"], "2", "it had changed while it was not wanted");
}

#[tokio::test]
async fn an_answer_that_got_lost_has_told_no_state() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({ "name": "N", "topic": "T" })).await;
    let mut client = client(&alice, 1, json!([]));
    client.next().await;
    let seen = client.pos.clone();
    client.list()["required_state"] = json!([["m.room.topic", ""]]);
    client.next().await; // lost
    client.pos = seen;
    client.list()["required_state"] = json!([["m.room.name", ""]]);
    assert_eq!(required(&client.next().await["rooms"][&room]), [("m.room.name", "")]);
    client.list()["required_state"] = json!([["m.room.name", ""], ["m.room.topic", ""]]);
    assert_eq!(required(&client.next().await["rooms"][&room]), [("m.room.topic", "")]);
}

#[tokio::test]
async fn lazy_members_are_those_of_the_timeline() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let room = public(&alice).await;
    bob.join(&room).await;
    carol.join(&room).await;
    bob.say(&room, "1").await;
    let mut client = client(&alice, 1, json!([[MEMBER, "$LAZY"], [MEMBER, "$ME"]]));
    assert_eq!(members(&client.next().await["rooms"][&room]), [&*alice.id, &*bob.id]);
    bob.say(&room, "2").await;
    assert_eq!(members(&client.next().await["rooms"][&room]), Vec::<&str>::new(), "he was told");
    carol.say(&room, "3").await;
    assert_eq!(members(&client.next().await["rooms"][&room]), [&*carol.id]);
    carol.say(&room, "4").await;
    assert_eq!(members(&client.next().await["rooms"][&room]), Vec::<&str>::new());
}

#[tokio::test]
async fn member_events_name_the_members_that_they_are_about() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    alice.invite(&room, &bob).await;
    let shown = client(&alice, 1, json!([[MEMBER, "$LAZY"]])).next().await["rooms"][&room].take();
    assert_eq!(members(&shown), [&*alice.id, &*bob.id]);
}

#[tokio::test]
async fn without_a_gap_all_members_who_changed_are_told() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    bob.join(&room).await;
    let mut client = client(&alice, 3, json!([[MEMBER, "$LAZY"]]));
    client.next().await;
    bob.put(&format!("/v3/profile/{}/displayname", bob.id), json!({ "displayname": "B" })).await.ok();
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!((members(&shown), &shown["limited"]), (vec![&*bob.id], &json!(false)));
    assert_eq!(shown["required_state"][0]["content"]["displayname"], "B");

    bob.put(&format!("/v3/profile/{}/displayname", bob.id), json!({ "displayname": "C" })).await.ok();
    for n in 0..3 {
        alice.say(&room, &n.to_string()).await;
    }
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!((members(&shown), &shown["limited"]), (vec![], &json!(true)), "with a gap only who is seen");
    bob.say(&room, "hi").await;
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!(members(&shown), [&*bob.id], "what the client had of him is old");
}

#[tokio::test]
async fn without_a_timeline_all_members_who_changed_are_told() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    let mut client = client(&alice, 0, json!([[MEMBER, "$LAZY"]]));
    assert_eq!(members(&client.next().await["rooms"][&room]), Vec::<&str>::new());
    bob.join(&room).await;
    assert_eq!(members(&client.next().await["rooms"][&room]), [&*bob.id]);
    bob.leave(&room).await;
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!(members(&shown), [&*bob.id]);
    assert_eq!(shown["required_state"][0]["content"]["membership"], "leave");
}
