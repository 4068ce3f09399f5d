//! What a client is told of rooms, by what its user is to them.

use serde_json::{Value, json};

use super::{Connection, bodies, public, required, rooms};
use crate::support::TestServer;

#[tokio::test]
async fn a_room_has_name_avatar_and_counts() {
    let server = TestServer::new().await;
    let (alice, bob, carol) = (server.user("alice").await, server.user("bob").await, server.user("carol").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Tower" })).await;
    alice.set(&room, "m.room.avatar", "", json!({ "url": "mxc://example.org/a" })).await;
    bob.join(&room).await;
    alice.invite(&room, &carol).await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    let answer = client.next().await;
    let shown = &answer["rooms"][&room];
    assert_eq!((&shown["name"], &shown["avatar"]), (&json!("Tower"), &json!("mxc://example.org/a")));
    assert_eq!((&shown["joined_count"], &shown["invited_count"]), (&json!(2), &json!(1)));
    assert_eq!((shown.get("heroes"), &shown["is_dm"]), (None, &json!(false)));

    alice.say(&room, "x").await;
    let shown = client.next().await["rooms"][&room].take();
    for key in ["name", "avatar", "joined_count", "invited_count", "initial"] {
        assert_eq!(shown.get(key), None, "{key} has not changed");
    }
    alice.set(&room, "m.room.name", "", json!({ "name": "" })).await;
    alice.set(&room, "m.room.avatar", "", json!({})).await;
    bob.leave(&room).await;
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!((&shown["name"], &shown["avatar"], &shown["joined_count"]), (&Value::Null, &Value::Null, &json!(1)));
    assert!(shown.as_object().unwrap().contains_key("name"), "a name that is gone is told");
    assert_eq!(shown["heroes"], json!([{ "user_id": carol.id }]));
}

#[tokio::test]
async fn a_room_without_a_name_has_heroes() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    for (field, value) in [("avatar_url", "mxc://example.org/b"), ("displayname", "Bob")] {
        bob.put(&format!("/v3/profile/{}/{field}", bob.id), json!({ field: value })).await.ok();
    }
    let room = public(&alice).await;
    bob.join(&room).await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    let hero = json!({ "user_id": bob.id, "displayname": "Bob", "avatar_url": "mxc://example.org/b" });
    assert_eq!(client.next().await["rooms"][&room]["heroes"], json!([hero]));
    alice.set(&room, "m.room.name", "", json!({ "name": "Named" })).await;
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!((&shown["name"], shown.get("heroes")), (&json!("Named"), None));
}

#[tokio::test]
async fn direct_chats_are_told_as_such() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "is_direct": true, "invite": [bob.id] })).await;
    let call_direct = async |rooms: &[&String]| {
        let path = format!("/v3/user/{}/account_data/m.direct", alice.id);
        alice.put(&path, json!({ &bob.id: rooms })).await.ok();
    };
    call_direct(&[&room]).await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    assert_eq!(client.next().await["rooms"][&room]["is_dm"], true);
    call_direct(&[]).await;
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!((&shown["is_dm"], shown.get("initial")), (&json!(false), None));
    assert!(rooms(&client.next().await).is_empty(), "it is told once");
    client.list()["ranges"] = json!([[5, 9]]);
    call_direct(&[&room]).await;
    assert!(rooms(&client.next().await).is_empty(), "it is not wanted");
    client.list()["ranges"] = json!([[0, 9]]);
    assert_eq!(client.next().await["rooms"][&room]["is_dm"], true);
    assert!(rooms(&client.next().await).is_empty());
}

#[tokio::test]
async fn unread_counts_come_with_news_and_with_what_was_read() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    bob.join(&room).await;
    let mut client = Connection::with_list(&alice, [0, 9]);
    client.next().await;
    let event = bob.say(&room, "look").await;
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!((&shown["notification_count"], &shown["highlight_count"]), (&json!(1), &json!(0)));
    client.list()["timeline_limit"] = json!(20);
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!(
        (&shown["notification_count"], bodies(&shown)),
        (&json!(1), vec!["look"]),
        "nothing new, but older events"
    );
    alice.post(&format!("/v3/rooms/{room}/receipt/m.read/{event}"), json!({})).await.ok();
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!(shown["notification_count"], 0, "she read it on another device");
    bob.post(&format!("/v3/rooms/{room}/receipt/m.read/{event}"), json!({})).await.ok();
    assert!(rooms(&client.next().await).is_empty(), "how far others read changes no counts");
}

#[tokio::test]
async fn an_invite_shows_what_the_invited_may_know() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "name": "Tower" })).await;
    alice.say(&room, "secret").await;
    let mut client = Connection::with_list(&bob, [0, 9]);
    client.next().await;
    alice.invite(&room, &bob).await;
    let answer = client.next().await;
    let shown = &answer["rooms"][&room];
    let state = shown["invite_state"].as_array().unwrap();
    assert!(state.iter().any(|event| event["type"] == "m.room.name" && event["content"]["name"] == "Tower"));
    assert!(state.iter().any(|event| event["state_key"] == bob.id && event["content"]["membership"] == "invite"));
    for key in ["timeline", "required_state", "joined_count", "heroes", "prev_batch", "notification_count"] {
        assert_eq!(shown.get(key), None, "{key}");
    }
    assert!(rooms(&client.next().await).is_empty(), "it is told once");
    alice.say(&room, "more").await;
    assert!(rooms(&client.next().await).is_empty(), "what happens in the room is not his to know");

    bob.join(&room).await;
    let joined = client.next().await["rooms"][&room].take();
    assert_eq!((&joined["initial"], joined.get("invite_state")), (&json!(true), None));
    assert_eq!(bodies(&joined), ["secret", "more"]);
}

#[tokio::test]
async fn a_declined_invite_is_told_by_the_own_member_event_alone() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({})).await;
    alice.say(&room, "secret").await;
    alice.invite(&room, &bob).await;
    let mut client = Connection::with_list(&bob, [0, 9]);
    client.list()["required_state"] = json!([["*", "*"]]);
    client.next().await;
    bob.leave(&room).await;
    alice.set(&room, "m.room.topic", "", json!({ "topic": "secret" })).await;
    let answer = client.next().await;
    let shown = &answer["rooms"][&room];
    assert_eq!(required(shown), [("m.room.member", &*bob.id)]);
    assert_eq!(shown["required_state"][0]["content"]["membership"], "leave");
    assert_eq!(shown["timeline"].as_array().unwrap().len(), 1);
    assert!(!answer.to_string().contains("secret"), "{answer}");
    assert!(rooms(&client.next().await).is_empty());
}

#[tokio::test]
async fn a_knock_shows_what_the_knocking_may_know() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let room = alice.create_room(json!({ "initial_state": rules, "name": "Tower" })).await;
    bob.post(&format!("/v3/knock/{room}"), json!({})).await.ok();
    let shown = Connection::with_list(&bob, [0, 9]).next().await["rooms"][&room].take();
    let state = shown["invite_state"].as_array().unwrap();
    assert!(state.iter().any(|event| event["content"]["membership"] == "knock"), "{shown}");
}

/// CVE-2024-53867.
#[tokio::test]
async fn who_left_is_told_nothing_of_what_came_later() {
    let server = TestServer::new().await;
    for how in ["leave", "kick", "ban"] {
        let (alice, bob) = (server.user(&format!("alice.{how}")).await, server.user(&format!("bob.{how}")).await);
        let room = alice.create_room(json!({ "preset": "public_chat", "name": "before" })).await;
        bob.join(&room).await;
        let mut client = Connection::with_list(&bob, [0, 9]);
        client.list()["required_state"] = json!([["*", "*"]]);
        client.next().await;
        alice.say(&room, "still there").await;
        match how {
            "leave" => bob.leave(&room).await,
            _ => drop(alice.act(&room, how, json!({ "user_id": bob.id })).await.ok()),
        }
        alice.set(&room, "m.room.name", "", json!({ "name": "secret" })).await;
        alice.set(&room, "m.room.topic", "", json!({ "topic": "secret" })).await;
        alice.say(&room, "secret").await;
        let answer = client.next().await;
        assert!(!answer.to_string().contains("secret"), "{how}: {answer}");
        let shown = &answer["rooms"][&room];
        assert_eq!(bodies(shown), ["still there"], "{how}");
        assert_eq!(required(shown), [("m.room.member", &*bob.id)], "{how}");
        let expected = if how == "ban" { "ban" } else { "leave" };
        assert_eq!(shown["required_state"][0]["content"]["membership"], expected);
        for key in ["joined_count", "notification_count", "heroes"] {
            assert_eq!(shown.get(key), None, "{key}");
        }
        alice.say(&room, "secret").await;
        assert!(rooms(&client.next().await).is_empty(), "{how}: not even that something happened");
        // Asking for more does not help.
        client.list()["timeline_limit"] = json!(100);
        client.body["room_subscriptions"] =
            json!({ &room: { "timeline_limit": 100, "required_state": [["m.room.topic", ""]] } });
        let answer = client.next().await;
        assert!(!answer.to_string().contains("secret"));
        assert_eq!(required(&answer["rooms"][&room]), [("m.room.member", &*bob.id)], "{how}: he still is out");
        client.pos = None;
        let anew = client.next().await;
        assert!(!anew.to_string().contains("secret"), "{how}: {anew}");
    }
}

#[tokio::test]
async fn rooms_that_the_user_left_are_for_clients_who_knew_them_and_kicks_for_all() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (left, kicked, banned_unseen) = (public(&alice).await, public(&alice).await, public(&alice).await);
    for room in [&left, &kicked] {
        bob.join(room).await;
    }
    bob.leave(&left).await;
    alice.act(&kicked, "kick", json!({ "user_id": bob.id })).await.ok();
    alice.act(&banned_unseen, "ban", json!({ "user_id": bob.id })).await.ok();
    let mut client = Connection::with_list(&bob, [0, 9]);
    let answer = client.next().await;
    assert_eq!(rooms(&answer), [&kicked]);
    assert_eq!(answer["rooms"][&kicked]["initial"], true);
    client.body["room_subscriptions"] = json!({ &left: { "timeline_limit": 1 } });
    assert_eq!(rooms(&client.next().await), [&left], "who asks for a room that he left gets it as it was");
    bob.post(&format!("/v3/rooms/{kicked}/forget"), json!({})).await.ok();
    let mut anew = Connection::with_list(&bob, [0, 9]);
    assert!(rooms(&anew.next().await).is_empty());
}

#[tokio::test]
async fn who_comes_back_gets_the_room_from_the_start() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    bob.join(&room).await;
    let mut client = Connection::with_list(&bob, [0, 9]);
    client.next().await;
    bob.leave(&room).await;
    client.next().await;
    alice.say(&room, "between").await;
    bob.join(&room).await;
    let shown = client.next().await["rooms"][&room].take();
    assert_eq!(shown["initial"], true);
    assert_eq!(bodies(&shown), ["between"]);
    assert_eq!(shown["joined_count"], 2);
}

#[tokio::test]
async fn messages_of_ignored_users_are_left_out() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = public(&alice).await;
    bob.join(&room).await;
    let ignored = json!({ "ignored_users": { &bob.id: {} } });
    alice.put(&format!("/v3/user/{}/account_data/m.ignored_user_list", alice.id), ignored).await.ok();
    let mut client = Connection::with_list(&alice, [0, 9]);
    client.next().await;
    bob.say(&room, "noise").await;
    alice.say(&room, "signal").await;
    assert_eq!(bodies(&client.next().await["rooms"][&room]), ["signal"]);
}
