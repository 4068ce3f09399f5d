//! Typing: <https://spec.matrix.org/v1.19/client-server-api/#typing-notifications>

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, TestServer, User};

async fn typing(user: &User, room: &str, body: Value) -> Answer {
    user.put(&format!("/v3/rooms/{room}/typing/{}", user.id), body).await
}

/// The users who type, if that is news, and the next token.
async fn news(user: &User, room: &str, since: &str) -> (Option<Value>, String) {
    let answer = user.sync(since).await;
    let events = answer["rooms"]["join"][room]["ephemeral"]["events"].as_array().cloned().unwrap_or_default();
    let typing = events.into_iter().find(|event| event["type"] == "m.typing");
    (typing.map(|event| event["content"]["user_ids"].clone()), answer["next_batch"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn members_hear_who_types_and_who_stops() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let token = bob.now().await;
    typing(&alice, &room, json!({ "typing": true, "timeout": 10_000 })).await.ok();
    let (users, token) = news(&bob, &room, &token).await;
    assert_eq!(users, Some(json!([alice.id])));
    let (users, token) = news(&bob, &room, &token).await;
    assert_eq!(users, None);
    typing(&alice, &room, json!({ "typing": false })).await.ok();
    typing(&alice, &room, json!({ "typing": false })).await.ok();
    let (users, token) = news(&bob, &room, &token).await;
    assert_eq!(users, Some(json!([])));

    typing(&alice, &room, json!({ "typing": true })).await.ok();
    typing(&bob, &room, json!({ "typing": true, "timeout": 1_000_000_000 })).await.ok();
    let (users, token) = news(&bob, &room, &token).await;
    assert_eq!(users, Some(json!([alice.id, bob.id])));
    server.advance(Duration::from_secs(30));
    let (users, token) = news(&bob, &room, &token).await;
    assert_eq!(users, Some(json!([bob.id])), "30 seconds if she does not say");
    server.advance(Duration::from_secs(90));
    assert_eq!(news(&bob, &room, &token).await.0, Some(json!([])), "two minutes at most");
}

#[tokio::test]
async fn typing_wakes_those_who_wait() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let token = bob.now().await;
    let waiting = tokio::spawn(async move { bob.sync_with(&format!("since={token}&timeout=60000")).await });
    server.until_waiting(1).await;
    typing(&alice, &room, json!({ "typing": true })).await.ok();
    let answer = waiting.await.unwrap();
    let event = &answer["rooms"]["join"][&room]["ephemeral"]["events"][0];
    assert_eq!(event, &json!({ "type": "m.typing", "content": { "user_ids": [alice.id] } }));
}

#[tokio::test]
async fn only_members_type_and_only_they_see_it() {
    let server = TestServer::new().await;
    let (alice, bob, eve) = (server.user("alice").await, server.user("bob").await, server.user("eve").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let token = eve.now().await;
    assert_eq!(typing(&eve, &room, json!({ "typing": true })).await.error(), (403, "M_FORBIDDEN"));
    let as_alice = eve.put(&format!("/v3/rooms/{room}/typing/{}", alice.id), json!({ "typing": true })).await;
    assert_eq!(as_alice.error(), (403, "M_FORBIDDEN"));
    typing(&alice, &room, json!({ "typing": true })).await.ok();
    typing(&bob, &room, json!({ "typing": true })).await.ok();
    assert!(eve.sync(&token).await.get("rooms").is_none());
    bob.leave(&room).await;
    let whole = alice.sync_with("").await;
    let event = whole["rooms"]["join"][&room]["ephemeral"]["events"][0].clone();
    assert_eq!(event["content"]["user_ids"], json!([alice.id]), "who left does not type");
}

#[tokio::test]
async fn what_is_no_typing_is_refused() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    assert_eq!(typing(&alice, &room, json!({})).await.error(), (400, "M_MISSING_PARAM"));
    for body in [json!({ "typing": "yes" }), json!({ "typing": true, "timeout": -1 }), json!([])] {
        assert_eq!(typing(&alice, &room, body).await.error(), (400, "M_BAD_JSON"));
    }
    assert_eq!(typing(&alice, "room", json!({ "typing": true })).await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(typing(&alice, "!room:x.org", json!({ "typing": true })).await.error(), (403, "M_FORBIDDEN"));
}
