//! The state of a room, and who is in it.

use serde_json::{Value, json};

use crate::support::{TestServer, User, query};

async fn members(user: &User, room: &str, parameters: &[(&str, &str)]) -> Vec<(String, String)> {
    let answer = user.get(&format!("/v3/rooms/{room}/members{}", query(parameters))).await.ok();
    let member = |event: &Value| {
        assert_eq!((&event["type"], &event["room_id"]), (&json!("m.room.member"), &json!(room)));
        let text = |value: &Value| value.as_str().unwrap().trim_end_matches(":example.org").to_owned();
        (text(&event["state_key"]), text(&event["content"]["membership"]))
    };
    let mut members: Vec<_> = answer["chunk"].as_array().unwrap().iter().map(member).collect();
    members.sort();
    members
}

fn named(members: &[(&str, &str)]) -> Vec<(String, String)> {
    members.iter().map(|(user, membership)| ((*user).to_owned(), (*membership).to_owned())).collect()
}

#[tokio::test]
async fn state_is_read_by_key_as_content_or_as_event() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({ "name": "first" })).await;
    let id = alice.set(&room, "m.room.name", "", json!({ "name": "second" })).await;
    alice.set(&room, "com.example.x", "a%20key", json!({ "x": 1 })).await;
    for path in ["m.room.name", "m.room.name/", "m.room.name?format=content", "m.room.name/?format=content"] {
        let content = alice.get(&format!("/v3/rooms/{room}/state/{path}")).await.ok();
        assert_eq!(content, json!({ "name": "second" }), "{path}");
    }
    let old_path = format!("/_matrix/client/r0/rooms/{room}/state/m.room.name");
    assert_eq!(alice.get(&old_path).await.ok(), json!({ "name": "second" }));
    assert_eq!(alice.get(&format!("/v3/rooms/{room}/state/com.example.x/a%20key")).await.ok(), json!({ "x": 1 }));
    let event = alice.get(&format!("/v3/rooms/{room}/state/m.room.name?format=event")).await.ok();
    assert_eq!((&event["event_id"], &event["room_id"], &event["sender"]), (&json!(id), &json!(room), &json!(alice.id)));
    assert_eq!(event["unsigned"]["prev_content"], json!({ "name": "first" }));

    for path in ["m.room.topic", "com.example.x", "com.example.x/another", "m.room.member/@bob:example.org"] {
        let answer = alice.get(&format!("/v3/rooms/{room}/state/{path}")).await;
        assert_eq!(answer.error(), (404, "M_NOT_FOUND"), "{path}");
    }
    let answer = alice.get(&format!("/v3/rooms/{room}/state/m.room.name?format=xml")).await;
    assert_eq!(answer.error(), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn the_whole_state_is_each_key_once() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({ "name": "first", "topic": "t" })).await;
    alice.set(&room, "m.room.name", "", json!({ "name": "second" })).await;
    alice.say(&room, "no state").await;
    let state = alice.get(&format!("/v3/rooms/{room}/state")).await.ok();
    let state = state.as_array().unwrap();
    let mut keys: Vec<_> = state.iter().map(|event| (event["type"].as_str(), event["state_key"].as_str())).collect();
    keys.sort_unstable();
    let count = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), count);
    for event_type in ["m.room.create", "m.room.member", "m.room.power_levels", "m.room.name", "m.room.topic"] {
        assert!(keys.iter().any(|(found, _)| *found == Some(event_type)), "{event_type}");
    }
    let name = state.iter().find(|event| event["type"] == "m.room.name").unwrap();
    assert_eq!(name["content"], json!({ "name": "second" }));
}

#[tokio::test]
async fn who_left_reads_the_state_of_when_he_left() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let room = alice.create_public_room("joined").await;
    bob.join(&room).await;
    alice.set(&room, "com.example.x", "", json!({ "when": "then" })).await;
    bob.leave(&room).await;
    alice.set(&room, "com.example.x", "", json!({ "when": "later" })).await;
    alice.set(&room, "com.example.new", "", json!({})).await;
    carol.join(&room).await;
    let path = format!("/v3/rooms/{room}/state");
    let whole = bob.get(&path).await.ok();
    let found = whole.as_array().unwrap().iter().find(|event| event["type"] == "com.example.x").unwrap();
    assert_eq!(found["content"]["when"], "then");
    assert_eq!(bob.get(&format!("{path}/com.example.x")).await.ok()["when"], "then");
    assert_eq!(bob.get(&format!("{path}/com.example.new")).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(members(&bob, &room, &[]).await, named(&[("@alice", "join"), ("@bob", "leave")]));
    assert_eq!(bob.get(&format!("/v3/rooms/{room}/joined_members")).await.error(), (403, "M_FORBIDDEN"));
    let now = members(&alice, &room, &[]).await;
    assert_eq!(now, named(&[("@alice", "join"), ("@bob", "leave"), ("@carol", "join")]));
}

#[tokio::test]
async fn members_are_chosen_by_membership() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let room = alice.create_public_room("shared").await;
    bob.join(&room).await;
    bob.leave(&room).await;
    alice.invite(&room, &carol).await;
    let (joined, left, invited) = (("@alice", "join"), ("@bob", "leave"), ("@carol", "invite"));
    let cases = [
        (vec![], vec![joined, left, invited]),
        (vec![("membership", "join")], vec![joined]),
        (vec![("membership", "ban")], vec![]),
        (vec![("not_membership", "leave")], vec![joined, invited]),
        (vec![("membership", "leave"), ("not_membership", "join")], vec![left, invited]),
        (vec![("membership", "leave"), ("not_membership", "leave")], vec![joined, left, invited]),
    ];
    for (parameters, expected) in cases {
        assert_eq!(members(&alice, &room, &parameters).await, named(&expected), "{parameters:?}");
    }
    let answer = alice.get(&format!("/v3/rooms/{room}/members?membership=guest")).await;
    assert_eq!(answer.error(), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn members_are_told_as_of_a_place() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("joined").await;
    alice.say(&room, "alone").await;
    let page = alice.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=1")).await.ok();
    let before = page["start"].as_str().unwrap();
    bob.join(&room).await;
    assert_eq!(members(&alice, &room, &[("at", before)]).await, named(&[("@alice", "join")]));
    assert_eq!(members(&alice, &room, &[]).await, named(&[("@alice", "join"), ("@bob", "join")]));
    assert_eq!(members(&alice, &room, &[("at", "t0")]).await, named(&[("@alice", "join")]), "before there was a room");
    let answer = bob.get(&format!("/v3/rooms/{room}/members{}", query(&[("at", before)]))).await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN"), "he may not see what was there");
    let answer = bob.get(&format!("/v3/rooms/{room}/members{}", query(&[("at", "YWxsCgpOb25lLDM1ODcwOA")]))).await;
    assert_eq!(answer.error(), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn joined_members_are_told_with_their_profiles() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("shared").await;
    bob.join(&room).await;
    let content = json!({ "membership": "join", "displayname": "Alice A.", "avatar_url": "mxc://example.org/a" });
    alice.set(&room, "m.room.member", &alice.id, content).await;
    bob.set(&room, "m.room.member", &bob.id, json!({ "membership": "join", "displayname": 1 })).await;
    let joined = alice.get(&format!("/v3/rooms/{room}/joined_members")).await.ok()["joined"].clone();
    let expected = json!({ "display_name": "Alice A.", "avatar_url": "mxc://example.org/a" });
    assert_eq!(joined, json!({ &alice.id: expected, &bob.id: { "display_name": null, "avatar_url": null } }));
}
