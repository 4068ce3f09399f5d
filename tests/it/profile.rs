//! Profiles: <https://spec.matrix.org/v1.19/client-server-api/#profiles>

use std::time::Duration;

use futures_util::FutureExt;
use http::Method;
use serde_json::{Value, json};

use crate::support::{TestServer, User};

fn field(user: &User, name: &str) -> String {
    format!("/v3/profile/{}/{name}", user.id)
}

#[tokio::test]
async fn everybody_may_read_a_profile_and_its_user_change_it() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    alice.put(&field(&alice, "displayname"), json!({ "displayname": "Alice" })).await.ok();
    alice.put(&field(&alice, "m.tz"), json!({ "m.tz": "Europe/Paris" })).await.ok();
    alice.put(&field(&alice, "org.example.job"), json!({ "org.example.job": { "title": null } })).await.ok();
    let profile = json!({ "displayname": "Alice", "m.tz": "Europe/Paris", "org.example.job": { "title": null } });
    assert_eq!(server.get(&format!("/v3/profile/{}", alice.id)).await.ok(), profile);
    assert_eq!(server.get(&field(&alice, "displayname")).await.ok(), json!({ "displayname": "Alice" }));
    assert_eq!(bob.get(&field(&alice, "m.tz")).await.ok(), json!({ "m.tz": "Europe/Paris" }));
    assert_eq!(server.get(&field(&alice, "avatar_url")).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(server.get(&format!("/v3/profile/{}", bob.id)).await.ok(), json!({}));
    alice.delete(&field(&alice, "org.example.job")).await.ok();
    alice.delete(&field(&alice, "org.example.job")).await.ok();
    assert_eq!(server.get(&field(&alice, "org.example.job")).await.error(), (404, "M_NOT_FOUND"));
    for path in [field(&alice, "displayname"), field(&alice, "org.x")] {
        assert_eq!(bob.put(&path, json!({ "displayname": "Eve", "org.x": 1 })).await.error(), (403, "M_FORBIDDEN"));
        assert_eq!(bob.delete(&path).await.error(), (403, "M_FORBIDDEN"));
    }
    for (nobody, expected) in
        [("@nobody:example.org", (404, "M_NOT_FOUND")), ("@alice:elsewhere.org", (502, "M_UNKNOWN"))]
    {
        assert_eq!(server.get(&format!("/v3/profile/{nobody}")).await.error(), expected);
    }
}

#[tokio::test]
async fn where_profiles_are_for_those_who_are_logged_in_nobody_else_learns_who_has_one() {
    let server = TestServer::with(|config| config.require_auth_for_profile_requests = true).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    alice.put(&field(&alice, "displayname"), json!({ "displayname": "Alice" })).await.ok();
    for user in [alice.id.as_str(), "@nobody:example.org", "@alice:elsewhere.org"] {
        for path in [format!("/v3/profile/{user}"), format!("/v3/profile/{user}/displayname")] {
            assert_eq!(server.get(&path).await.error(), (401, "M_MISSING_TOKEN"), "{path}");
        }
    }
    assert_eq!(bob.get(&format!("/v3/profile/{}", alice.id)).await.ok(), json!({ "displayname": "Alice" }));
    assert_eq!(bob.get(&field(&alice, "displayname")).await.ok(), json!({ "displayname": "Alice" }));
}

#[tokio::test]
async fn what_does_not_belong_in_a_profile_is_refused() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let put = async |name: &str, body| alice.put(&field(&alice, name), body).await;
    assert_eq!(put("displayname", json!({})).await.error(), (400, "M_MISSING_PARAM"));
    assert_eq!(put("displayname", json!({ "avatar_url": "mxc://x/y" })).await.error(), (400, "M_MISSING_PARAM"));
    assert_eq!(put("displayname", json!({ "displayname": "A", "org.x": 1 })).await.error(), (400, "M_BAD_JSON"));
    assert_eq!(put("displayname", json!({ "displayname": 1 })).await.error(), (400, "M_BAD_JSON"));
    assert_eq!(put("displayname", json!([])).await.error(), (400, "M_BAD_JSON"));
    let broken = server.request_bytes(Method::PUT, &field(&alice, "displayname"), Some(&alice.token), "{").await;
    assert_eq!(broken.error(), (400, "M_BAD_JSON"));
    assert_eq!(put("displayname", json!({ "displayname": "x".repeat(257) })).await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(put("Upper", json!({ "Upper": 1 })).await.error(), (400, "M_INVALID_PARAM"));
    let long = "x".repeat(256);
    assert_eq!(put(&long, json!({ &long: 1 })).await.error(), (400, "M_KEY_TOO_LARGE"));
    let half = "x".repeat(32 << 10);
    put("org.a", json!({ "org.a": half })).await.ok();
    assert_eq!(put("org.b", json!({ "org.b": half })).await.error(), (400, "M_PROFILE_TOO_LARGE"));
    put("org.a", json!({ "org.a": "small" })).await.ok();
    put("org.b", json!({ "org.b": half })).await.ok();
}

#[tokio::test]
async fn a_new_name_is_in_all_rooms_before_the_answer() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let mut rooms = Vec::new();
    for _ in 0..20 {
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        rooms.push(room);
    }
    let left = rooms.pop().unwrap();
    bob.leave(&left).await;
    let token = alice.now().await;
    bob.put(&field(&bob, "displayname"), json!({ "displayname": "Robert" })).await.ok();
    bob.put(&field(&bob, "avatar_url"), json!({ "avatar_url": "mxc://example.org/bob" })).await.ok();
    for room in &rooms {
        let member = alice.state(room, "m.room.member", &bob.id).await.ok();
        let expected = json!({ "membership": "join", "displayname": "Robert", "avatar_url": "mxc://example.org/bob" });
        assert_eq!(member, expected);
    }
    assert_eq!(alice.state(&left, "m.room.member", &bob.id).await.ok(), json!({ "membership": "leave" }));
    let news = alice.sync(&token).await;
    assert_eq!(news["rooms"]["join"].as_object().unwrap().len(), rooms.len());

    // The same again changes nothing, an empty name removes it.
    let token = alice.now().await;
    bob.put(&field(&bob, "displayname"), json!({ "displayname": "Robert" })).await.ok();
    assert!(alice.sync(&token).await.get("rooms").is_none());
    bob.put(&field(&bob, "displayname"), json!({ "displayname": "" })).await.ok();
    bob.delete(&field(&bob, "avatar_url")).await.ok();
    assert_eq!(alice.state(&rooms[0], "m.room.member", &bob.id).await.ok(), json!({ "membership": "join" }));
    assert_eq!(server.get(&format!("/v3/profile/{}", bob.id)).await.ok(), json!({}));
}

#[tokio::test]
async fn a_changed_name_gets_into_all_rooms_even_if_the_client_hangs_up() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let mut rooms = Vec::new();
    for _ in 0..3 {
        rooms.push(alice.create_room(json!({})).await);
    }
    let path = field(&alice, "displayname");
    let set = alice.put(&path, json!({ "displayname": "Alice" })).now_or_never();
    assert!(set.is_none(), "the client hangs up before it is answered");
    until_named(&alice, &rooms, &json!("Alice")).await;
    let removed = alice.delete(&path).now_or_never();
    assert!(removed.is_none(), "the client hangs up before it is answered");
    until_named(&alice, &rooms, &Value::Null).await;
}

/// Until this is the user's name in his rooms.
async fn until_named(user: &User, rooms: &[String], name: &Value) {
    let named = async {
        for room in rooms {
            while user.state(room, "m.room.member", &user.id).await.ok()["displayname"] != *name {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), named).await.expect("the rooms hear of it");
}

#[tokio::test]
async fn two_changes_at_once_end_with_the_profile_in_all_rooms() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let mut rooms = Vec::new();
    for _ in 0..5 {
        rooms.push(alice.create_room(json!({})).await);
    }
    let path = field(&alice, "displayname");
    let (one, two) = tokio::join!(
        alice.put(&path, json!({ "displayname": "One" })),
        alice.put(&path, json!({ "displayname": "Two" })),
    );
    one.ok();
    two.ok();
    let name = server.get(&path).await.ok()["displayname"].clone();
    for room in &rooms {
        assert_eq!(alice.state(room, "m.room.member", &alice.id).await.ok()["displayname"], name);
    }
}
