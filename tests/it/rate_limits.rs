//! `[global.rate_limits]`, as clients meet them.

use std::time::Duration;

use serde_json::json;

use crate::support::TestServer;

#[tokio::test]
async fn a_user_who_sends_too_much_is_told_to_wait_and_others_are_not() {
    let server = TestServer::with(|config| config.rate_limits.enabled = true).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = |answer: serde_json::Value| answer["room_id"].as_str().unwrap().to_owned();
    let alices = room(alice.post("/v3/createRoom", json!({})).await.ok());
    let bobs = room(bob.post("/v3/createRoom", json!({})).await.ok());
    let message = |room: &str, number: usize| format!("/v3/rooms/{room}/send/m.room.message/{number}");
    let text = json!({"msgtype": "m.text", "body": "hello"});
    // The room was the first of fifty.
    for number in 1..50 {
        alice.put(&message(&alices, number), text.clone()).await.ok();
    }
    let refused = alice.put(&message(&alices, 50), text.clone()).await;
    assert_eq!(refused.error(), (429, "M_LIMIT_EXCEEDED"));
    let topic = alice.put(&format!("/v3/rooms/{alices}/state/m.room.topic"), json!({"topic": "tea"})).await;
    assert_eq!(topic.error(), (429, "M_LIMIT_EXCEEDED"), "state events count too");
    for (path, body) in [
        ("/v3/createRoom".to_owned(), json!({})),
        (format!("/v3/rooms/{alices}/invite"), json!({"user_id": bob.id})),
        (format!("/v3/rooms/{alices}/leave"), json!({})),
        (format!("/v3/join/{bobs}"), json!({})),
    ] {
        assert_eq!(alice.post(&path, body).await.error(), (429, "M_LIMIT_EXCEEDED"), "{path}");
    }
    bob.put(&message(&bobs, 0), text.clone()).await.ok();
    server.advance(Duration::from_secs(1));
    alice.put(&message(&alices, 50), text).await.ok();
}
