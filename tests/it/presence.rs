//! Presence: <https://spec.matrix.org/v1.19/client-server-api/#presence>

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, TestServer, User, room::path};

fn status(user: &User) -> String {
    format!("/v3/presence/{}/status", user.id)
}

async fn set(user: &User, presence: &str, message: Option<&str>) -> Answer {
    user.put(&status(user), json!({ "presence": presence, "status_msg": message })).await
}

/// What a user hears of another, if anything, since a token.
async fn heard(by: &User, since: &str, of: &User) -> Option<Value> {
    let answer = by.sync_with(&format!("since={since}&set_presence=offline")).await;
    let events = answer["presence"]["events"].as_array().cloned().unwrap_or_default();
    events.into_iter().find(|event| event["sender"] == of.id).map(|event| event["content"].clone())
}

async fn quiet_now(user: &User) -> String {
    user.sync_with("set_presence=offline").await["next_batch"].as_str().unwrap().to_owned()
}

async fn chat(server: &TestServer) -> (User, User, String) {
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    (alice, bob, room)
}

#[tokio::test]
async fn what_a_user_says_is_told_to_those_who_share_a_room() {
    let server = TestServer::new().await;
    let (alice, bob, _) = chat(&server).await;
    let eve = server.user("eve").await;
    let (token, eves) = (quiet_now(&bob).await, quiet_now(&eve).await);
    set(&alice, "online", Some("in a meeting")).await.ok();
    let content = heard(&bob, &token, &alice).await.unwrap();
    let expected = json!({
        "presence": "online", "currently_active": true, "last_active_ago": 0, "status_msg": "in a meeting",
    });
    assert_eq!(content, expected);
    assert_eq!(bob.get(&status(&alice)).await.ok(), expected);
    assert_eq!(heard(&eve, &eves, &alice).await, None);
    assert_eq!(eve.get(&status(&alice)).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(eve.get("/v3/presence/@nobody:example.org/status").await.error(), (403, "M_FORBIDDEN"));
    let token = quiet_now(&bob).await;
    set(&alice, "unavailable", None).await.ok();
    let content = heard(&bob, &token, &alice).await.unwrap();
    assert_eq!((&content["presence"], &content["currently_active"]), (&json!("unavailable"), &json!(false)));
    assert!(content.get("status_msg").is_none());
    // An initial sync tells of everybody who is there.
    let whole = bob.sync_with("set_presence=offline").await;
    assert_eq!(whole["presence"]["events"][0]["sender"], alice.id);
}

#[tokio::test]
async fn presence_is_ones_own_and_one_of_three() {
    let server = TestServer::new().await;
    let (alice, bob, _) = chat(&server).await;
    let answer = bob.put(&status(&alice), json!({ "presence": "offline" })).await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN"));
    assert_eq!(set(&alice, "busy", None).await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(alice.put(&status(&alice), json!({})).await.error(), (400, "M_BAD_JSON"));
    assert_eq!(set(&alice, "online", Some(&"x".repeat(2_000))).await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(alice.get("/v3/sync?set_presence=busy").await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(alice.get(&status(&bob)).await.ok()["presence"], "offline");
}

#[tokio::test]
async fn syncing_makes_a_user_present_and_time_absent() {
    let server = TestServer::new().await;
    let (alice, bob, room) = chat(&server).await;
    let token = quiet_now(&bob).await;
    alice.sync_with("").await;
    assert_eq!(heard(&bob, &token, &alice).await.unwrap()["presence"], "online");
    let presence = async || bob.get(&status(&alice)).await.ok()["presence"].as_str().unwrap().to_owned();
    // Her client goes on asking, but she does nothing.
    for _ in 0..15 {
        assert_eq!(presence().await, "online");
        server.advance(Duration::from_secs(20));
        alice.sync_with("").await;
    }
    assert_eq!(presence().await, "unavailable");
    let event = alice.say(&room, "back").await;
    assert_eq!(presence().await, "online");
    set(&alice, "unavailable", None).await.ok();
    alice.post(&format!("/v3/rooms/{room}/read_markers"), json!({ "m.read": event })).await.ok();
    assert_eq!(presence().await, "online");
    let token = quiet_now(&bob).await;
    server.advance(Duration::from_secs(31));
    assert_eq!(presence().await, "offline");
    assert_eq!(server.inside().presence.expire(), [alice.id.as_str()]);
    assert_eq!(heard(&bob, &token, &alice).await.unwrap()["presence"], "offline");
}

#[tokio::test]
async fn a_sync_can_be_quiet_or_idle() {
    let server = TestServer::new().await;
    let (alice, bob, _) = chat(&server).await;
    let token = quiet_now(&bob).await;
    quiet_now(&alice).await;
    assert_eq!(heard(&bob, &token, &alice).await, None);
    alice.sync_with("set_presence=unavailable").await;
    assert_eq!(heard(&bob, &token, &alice).await.unwrap()["presence"], "unavailable");
    alice.sync_with("").await;
    assert_eq!(bob.get(&status(&alice)).await.ok()["presence"], "online");
    // In the final form of sliding sync it stands in the body.
    let sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    alice.post(sliding, json!({ "set_presence": "unavailable" })).await.ok();
    assert_eq!(bob.get(&status(&alice)).await.ok()["presence"], "unavailable");
    alice.post(sliding, json!({})).await.ok();
    assert_eq!(bob.get(&status(&alice)).await.ok()["presence"], "online");
    assert_eq!(alice.post(sliding, json!({ "set_presence": "busy" })).await.error(), (400, "M_INVALID_PARAM"));
    // What she chose herself stays, though her client asks for news.
    set(&alice, "unavailable", None).await.ok();
    alice.sync_with("").await;
    assert_eq!(bob.get(&status(&alice)).await.ok()["presence"], "unavailable");
}

#[tokio::test]
async fn who_says_that_he_is_away_was_active_but_is_not_back_on_another_device() {
    let server = TestServer::new().await;
    let (alice, bob, _) = chat(&server).await;
    let laptop = server.log_in("alice").await;
    for _ in 0..15 {
        laptop.sync_with("").await;
        server.advance(Duration::from_secs(20));
    }
    laptop.sync_with("").await;
    let shown = async || {
        let shown = bob.get(&status(&alice)).await.ok();
        (shown["presence"].clone(), shown["last_active_ago"].clone())
    };
    assert_eq!(shown().await, (json!("unavailable"), json!(300_000)), "idle");
    set(&alice, "unavailable", None).await.ok();
    assert_eq!(shown().await, (json!("unavailable"), json!(0)));
}

#[tokio::test]
async fn a_new_name_and_a_new_room_bring_presence() {
    let server = TestServer::new().await;
    let (alice, bob, room) = chat(&server).await;
    set(&alice, "online", None).await.ok();
    let token = quiet_now(&bob).await;
    alice.put(&format!("/v3/profile/{}/displayname", alice.id), json!({ "displayname": "A" })).await.ok();
    assert_eq!(heard(&bob, &token, &alice).await.unwrap()["displayname"], "A");
    let eve = server.user("eve").await;
    let token = quiet_now(&eve).await;
    eve.join(&room).await;
    assert_eq!(heard(&eve, &token, &alice).await.unwrap()["presence"], "online");
}

#[tokio::test]
async fn who_is_not_back_after_a_restart_is_offline() {
    let server = TestServer::new().await;
    let (alice, bob, _) = chat(&server).await;
    let eve = server.user("eve").await;
    let (token, eves) = (quiet_now(&bob).await, quiet_now(&eve).await);
    assert_eq!(heard(&bob, &token, &alice).await, None);
    server.advance(Duration::from_secs(30));
    server.inside().presence.expire();
    assert_eq!(heard(&bob, &token, &alice).await.unwrap()["presence"], "offline");
    assert_eq!(heard(&eve, &eves, &alice).await, None);
    let filter = r#"{"presence":{"types":[]}}"#;
    let answer = bob.sync_with(&format!("since={token}&set_presence=offline&filter={}", path(filter))).await;
    assert!(answer.get("presence").is_none());
    let next = bob.sync_with(&format!("since={token}&set_presence=offline")).await["next_batch"].clone();
    assert_eq!(heard(&bob, next.as_str().unwrap(), &alice).await, None, "once");
}

#[tokio::test]
async fn a_server_without_presence_has_none() {
    let server = TestServer::with(|config| config.allow_presence = false).await;
    let (alice, bob, _) = chat(&server).await;
    let token = quiet_now(&bob).await;
    assert_eq!(set(&alice, "online", None).await.error(), (403, "M_FORBIDDEN"));
    alice.sync_with("").await;
    assert_eq!(heard(&bob, &token, &alice).await, None);
    assert_eq!(bob.get(&status(&alice)).await.error(), (404, "M_NOT_FOUND"));
}
