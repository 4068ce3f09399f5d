//! Events that the server sends later: <https://github.com/matrix-org/matrix-spec-proposals/pull/4140>

use std::{sync::Arc, time::Duration};

use chappe::room::delayed;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestNetwork, TestServer, User};

const PATH: &str = "/_matrix/client/unstable/org.matrix.msc4140";
const DELAY: &str = "org.matrix.msc4140.delay";

async fn try_delay(user: &User, room: &str, txn: &str, delay: &str, body: &str) -> Answer {
    let path = format!("/v3/rooms/{room}/send/m.room.message/{txn}?{DELAY}={delay}");
    let content = json!({ "msgtype": "m.text", "body": body });
    user.put(&path, content).await
}

#[track_caller]
fn delay_id(answer: Answer) -> String {
    answer.ok()["delay_id"].as_str().expect("a delay id").to_owned()
}

async fn delay(user: &User, room: &str, ms: u64, body: &str) -> String {
    delay_id(try_delay(user, room, body, &ms.to_string(), body).await)
}

async fn act(user: &User, delay_id: &str, action: &str) -> Answer {
    user.server.post(&format!("{PATH}/delayed_events/{delay_id}/{action}"), json!({})).await
}

async fn waiting(user: &User) -> Vec<Value> {
    user.get(&format!("{PATH}/delayed_events")).await.ok()["delayed_events"].as_array().unwrap().clone()
}

async fn get(user: &User, delay_id: &str) -> Answer {
    user.get(&format!("{PATH}/delayed_events/{delay_id}")).await
}

async fn advance(server: &TestServer, ms: u64) {
    server.advance(Duration::from_millis(ms));
    delayed::send_due(server.inside()).await.unwrap();
}

async fn said(user: &User, room: &str) -> Vec<String> {
    let history = user.history(room).await;
    history.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
}

fn assert_clean(server: &TestServer) {
    let report = chappe::check::check(&server.inside().store, server.inside().name()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test]
async fn an_event_is_sent_when_its_time_has_come_and_not_before() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let late = delay(&alice, &room, 2_000, "late").await;
    let early = delay(&alice, &room, 1_000, "early").await;
    let listed = waiting(&alice).await;
    let ids: Vec<_> = listed.iter().map(|event| event["delay_id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&early, &late], "the next one first");
    let first = &listed[0];
    assert_eq!(
        (&first["room_id"], &first["type"], &first["delay"]),
        (&json!(room), &json!("m.room.message"), &json!(1_000))
    );
    assert_eq!(first["content"]["body"], "early");
    assert!(waiting(&bob).await.is_empty());
    assert_eq!(get(&bob, &early).await.error(), (404, "M_NOT_FOUND"));
    assert_clean(&server);
    advance(&server, 999).await;
    assert!(said(&bob, &room).await.is_empty());
    advance(&server, 1).await;
    assert_eq!(said(&bob, &room).await, ["early"]);
    advance(&server, 5_000).await;
    assert_eq!(said(&bob, &room).await, ["early", "late"]);
    assert!(waiting(&alice).await.is_empty());
    let sent = get(&alice, &late).await.ok();
    let event = alice.history(&room).await.pop().unwrap();
    assert_eq!(sent["event_id"], event["event_id"]);
    assert_eq!(event["unsigned"]["org.matrix.msc4140.delay_id"], late.as_str());
    assert_eq!(event["unsigned"].get("transaction_id"), None);
    let for_bob = bob.history(&room).await.pop().unwrap();
    assert_eq!(for_bob["unsigned"].get("org.matrix.msc4140.delay_id"), None, "that is hers");
    assert_clean(&server);
}

#[tokio::test]
async fn state_is_sent_later_too() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let path = format!("/v3/rooms/{room}/state/m.room.topic/?{DELAY}=1000");
    let id = delay_id(alice.put(&path, json!({ "topic": "later" })).await);
    assert_eq!(waiting(&alice).await[0]["state_key"], "");
    assert_eq!(alice.state(&room, "m.room.topic", "").await.error(), (404, "M_NOT_FOUND"));
    advance(&server, 1_000).await;
    assert_eq!(alice.state(&room, "m.room.topic", "").await.ok()["topic"], "later");
    assert!(get(&alice, &id).await.ok()["event_id"].is_string());
}

#[tokio::test]
async fn the_endpoint_of_its_own_takes_messages_and_state() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let path = |kind: &str, txn: &str| format!("{PATH}/rooms/{room}/delayed_event/{kind}/{txn}");
    let message = json!({ "delay": 1_000, "content": { "msgtype": "m.text", "body": "hi" } });
    let id = delay_id(alice.put(&path("m.room.message", "1"), message.clone()).await);
    assert_eq!(delay_id(alice.put(&path("m.room.message", "1"), message).await), id, "the same transaction");
    let state = json!({ "delay_ms": 1_000, "state_key": "", "content": { "topic": "T" } });
    delay_id(alice.put(&path("m.room.topic", "2"), state).await);
    advance(&server, 1_000).await;
    assert_eq!(said(&alice, &room).await, ["hi"]);
    assert_eq!(alice.state(&room, "m.room.topic", "").await.ok()["topic"], "T");
    for bad in [json!({ "delay": 1 }), json!({ "content": {} }), json!({ "delay": -1, "content": {} })] {
        assert_eq!(alice.put(&path("m.x", "3"), bad).await.error(), (400, "M_BAD_JSON"));
    }
}

#[tokio::test]
async fn whoever_knows_the_id_restarts_sends_or_cancels() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let [restarted, sent, cancelled] = [
        delay(&alice, &room, 1_000, "a").await,
        delay(&alice, &room, 1_000, "b").await,
        delay(&alice, &room, 1_000, "c").await,
    ];
    advance(&server, 600).await;
    act(&alice, &restarted, "restart").await.ok();
    act(&alice, &sent, "send").await.ok();
    act(&alice, &cancelled, "cancel").await.ok();
    assert_eq!(said(&alice, &room).await, ["b"]);
    advance(&server, 600).await;
    assert_eq!(said(&alice, &room).await, ["b"], "one is cancelled, one begins anew");
    advance(&server, 400).await;
    assert_eq!(said(&alice, &room).await, ["b", "a"]);
    // Again is no error where it comes to the same.
    act(&alice, &sent, "send").await.ok();
    act(&alice, &cancelled, "cancel").await.ok();
    for (id, action) in [(&sent, "cancel"), (&sent, "restart"), (&cancelled, "send"), (&cancelled, "restart")] {
        assert_eq!(act(&alice, id, action).await.error(), (409, "M_UNKNOWN"), "{action}");
    }
    let end = get(&alice, &cancelled).await.ok();
    assert!(end["finalised_ts"].is_u64() && end.get("event_id").is_none() && end.get("error").is_none());
    assert_eq!(act(&alice, "delay_nothing", "send").await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(act(&alice, &sent, "explode").await.error(), (404, "M_UNRECOGNIZED"));
    assert_clean(&server);
}

#[tokio::test]
async fn the_earlier_form_needs_the_users_token() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({})).await;
    let id = delay(&alice, &room, 1_000, "x").await;
    let path = format!("{PATH}/delayed_events/{id}");
    assert_eq!(server.post(&path, json!({ "action": "cancel" })).await.error(), (401, "M_MISSING_TOKEN"));
    assert_eq!(bob.post(&path, json!({ "action": "cancel" })).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(alice.post(&path, json!({})).await.error(), (400, "M_BAD_JSON"));
    assert_eq!(alice.post(&path, json!({ "action": "explode" })).await.error(), (400, "M_INVALID_PARAM"));
    alice.post(&path, json!({ "action": "cancel" })).await.ok();
    assert!(waiting(&alice).await.is_empty());
}

#[tokio::test]
async fn what_is_not_allowed_when_its_time_has_come_is_not_sent() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let id = delay(&bob, &room, 1_000, "x").await;
    bob.leave(&room).await;
    assert_eq!(act(&bob, &id, "send").await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(waiting(&bob).await.len(), 1, "it waits on");
    advance(&server, 1_000).await;
    let end = get(&bob, &id).await.ok();
    assert_eq!((&end["error"]["errcode"], end.get("event_id")), (&json!("M_FORBIDDEN"), None));
    assert!(said(&alice, &room).await.is_empty());
}

#[tokio::test]
async fn nothing_of_a_locked_account_is_sent() {
    let server = TestServer::new().await;
    let (boss, mallory) = (server.administrator("boss").await, server.user("mallory").await);
    let room = mallory.create_room(json!({})).await;
    let id = delay(&mallory, &room, 1_000, "x").await;
    let lock = format!("/v1/admin/lock/{}", mallory.id);
    boss.put(&lock, json!({ "locked": true })).await.ok();
    assert_eq!(act(&mallory, &id, "send").await.error(), (401, "M_USER_LOCKED"));
    advance(&server, 1_000).await;
    boss.put(&lock, json!({ "locked": false })).await.ok();
    assert!(said(&mallory, &room).await.is_empty());
    assert_eq!(get(&mallory, &id).await.ok()["error"]["errcode"], "M_USER_LOCKED");
}

#[tokio::test]
async fn a_repeated_request_gets_the_same_delay_id() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let first = delay(&alice, &room, 1_000, "x").await;
    let path = format!("/v3/rooms/{room}/send/m.room.message/x?{DELAY}=1000");
    assert_eq!(delay_id(alice.request(Method::PUT, &path, None).await), first, "even without its body");
    let phone = server.log_in("alice").await;
    assert_ne!(delay(&phone, &room, 1_000, "x").await, first, "another device's transactions are others");
    assert_eq!(waiting(&alice).await.len(), 2);
}

#[tokio::test]
async fn delays_and_their_number_have_limits() {
    let server = TestServer::with(|config| config.delayed_events.max_scheduled = 2).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({})).await;
    for (delay, expected) in
        [("0", (400, "M_INVALID_PARAM")), ("x", (400, "M_INVALID_PARAM")), ("86400001", (403, "M_FORBIDDEN"))]
    {
        assert_eq!(try_delay(&alice, &room, "t", delay, "x").await.error(), expected, "{delay}");
    }
    assert_eq!(try_delay(&bob, &room, "t", "1000", "x").await.error(), (403, "M_FORBIDDEN"));
    let not_object = format!("/v3/rooms/{room}/send/m.x/t?{DELAY}=1000");
    assert_eq!(alice.put(&not_object, json!([])).await.error(), (400, "M_BAD_JSON"));
    delay(&alice, &room, 5_500, "1").await;
    delay(&alice, &room, 9_000, "2").await;
    let refused = try_delay(&alice, &room, "3", "1000", "3").await;
    assert_eq!(refused.error(), (429, "M_LIMIT_EXCEEDED"));
    assert_eq!(refused.headers["retry-after"], "6");
    advance(&server, 5_500).await;
    delay(&alice, &room, 1_000, "3").await;
    let capabilities = alice.get("/v3/capabilities").await.ok();
    let expected = json!({ "max_delay_ms": 86_400_000, "max_scheduled": 2 });
    assert_eq!(capabilities["capabilities"]["org.matrix.msc4140.delayed_events"], expected);
}

#[tokio::test]
async fn what_became_of_events_is_kept_for_a_week_and_a_closed_account_sends_nothing() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let sent = delay(&alice, &room, 1_000, "x").await;
    advance(&server, 1_000).await;
    let day = 24 * 60 * 60 * 1_000;
    for (days, expected) in [(6, true), (2, false)] {
        advance(&server, days * day).await;
        chappe::sweep::once(server.inside()).await.unwrap();
        assert_eq!(get(&alice, &sent).await.status.is_success(), expected);
    }
    let bob = server.user("bob").await;
    let other = bob.create_room(json!({})).await;
    let id = delay(&bob, &other, 1_000, "never").await;
    bob.post("/v3/account/deactivate", json!({ "auth": crate::support::auth_of("bob") })).await.ok();
    advance(&server, 1_000).await;
    assert_eq!(act(&alice, &id, "send").await.error(), (404, "M_NOT_FOUND"));
    assert_clean(&server);
}

#[tokio::test]
async fn what_is_kept_of_a_user_has_a_size() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = alice.create_room(json!({})).await;
    let large = "x".repeat(60_000);
    let mut ids = Vec::new();
    for number in 0..20 {
        server.advance(Duration::from_millis(1));
        ids.push(delay_id(try_delay(&alice, &room, &number.to_string(), "1000", &large).await));
        act(&alice, &ids[number], "cancel").await.ok();
    }
    let mut kept = Vec::new();
    for id in &ids {
        kept.push(get(&alice, id).await.status.is_success());
    }
    assert_eq!(kept, [vec![false; 3], vec![true; 17]].concat(), "the newest ones");
    assert_clean(&server);
    let waits = delay(&alice, &room, 1_000, "short").await;
    assert_eq!(waiting(&alice).await[0]["delay_id"], *waits, "what has ended is not listed");
}

#[tokio::test]
async fn an_invite_that_another_server_does_not_take_fails_and_keeps_nobody_waiting() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let path = format!("/v3/rooms/{room}/state/m.room.member/@carol:gone.test?{DELAY}=1000");
    let invite = delay_id(alice.put(&path, json!({ "membership": "invite" })).await);
    let after_it = delay(&alice, &room, 2_000, "hers").await;
    delay(&bob, &room, 2_000, "his").await;
    advance(&server, 2_000).await;
    let mut said = said(&alice, &room).await;
    said.sort();
    assert_eq!(said, ["hers", "his"]);
    assert_eq!(get(&alice, &invite).await.ok()["error"]["errcode"], "M_UNKNOWN");
    assert!(get(&alice, &after_it).await.ok()["event_id"].is_string());
    assert_clean(&server);
}

#[tokio::test]
async fn an_invite_that_hangs_keeps_nobody_else_waiting() {
    let network = TestNetwork::new();
    let server = network.server("here").await;
    network.swallow("silent.test");
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    tokio::spawn(delayed::run(Arc::clone(server.inside())));
    let path = format!("/v3/rooms/{room}/state/m.room.member/@carol:silent.test?{DELAY}=1");
    let invite = delay_id(alice.put(&path, json!({ "membership": "invite" })).await);
    server.advance(Duration::from_millis(1));
    until(async || network.count("silent.test", "/_matrix/federation/v2/invite/") == 1).await;
    delay(&bob, &room, 1, "his").await;
    server.advance(Duration::from_millis(1));
    until(async || said(&bob, &room).await == ["his"]).await;
    assert_eq!(waiting(&alice).await[0]["delay_id"], *invite, "it hangs on");
    assert_clean(&server);
}

async fn until(is_done: impl AsyncFn() -> bool) {
    for _ in 0..500 {
        if is_done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to that");
}
