//! Messages from device to device.

use std::time::Duration;

use chappe::{
    store::{self, Json, StreamPos},
    sweep,
    user::tables::{ToDevice, ToDeviceCounts},
};
use ruma::{OwnedDeviceId, UserId};
use serde_json::{Value, json};

use crate::support::{Answer, TestServer, User};

async fn send(user: &User, txn_id: &str, messages: Value) -> Answer {
    user.put(&format!("/v3/sendToDevice/my.type/{txn_id}"), json!({ "messages": messages })).await
}

/// The contents that wait, and the token that acknowledges them.
async fn receive(user: &User, since: Option<&str>) -> (Vec<Value>, String) {
    let since = since.map_or_else(String::new, |since| format!("&since={since}"));
    let answer = user.get(&format!("/v3/sync?timeout=0{since}")).await.ok();
    let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
    let contents = events.into_iter().map(|mut event| {
        assert_eq!(event["type"], "my.type");
        assert!(event["sender"].is_string() && event.as_object().unwrap().len() == 3, "{event}");
        event["content"].take()
    });
    (contents.collect(), answer["next_batch"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_message_is_shown_until_it_is_acknowledged() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (_, start) = receive(&bob, None).await;
    send(&alice, "1", json!({ &bob.id: { &bob.device_id: { "n": 1 } } })).await.ok();
    send(&alice, "2", json!({ &bob.id: { &bob.device_id: { "n": 2 } } })).await.ok();
    for _ in 0..2 {
        let (contents, _) = receive(&bob, Some(&start)).await;
        assert_eq!(contents, [json!({ "n": 1 }), json!({ "n": 2 })], "in order, and again if the answer was lost");
    }
    let (_, next) = receive(&bob, Some(&start)).await;
    assert!(receive(&bob, Some(&next)).await.0.is_empty());
    assert!(receive(&bob, None).await.0.is_empty(), "acknowledged messages are gone");
}

#[tokio::test]
async fn a_token_of_a_lost_future_acknowledges_nothing() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    send(&alice, "1", json!({ &bob.id: { &bob.device_id: { "n": 1 } } })).await.ok();
    for _ in 0..2 {
        let (contents, _) = receive(&bob, Some("s999999999_0")).await;
        assert_eq!(contents, [json!({ "n": 1 })], "it came after the backup from which the server was restored");
    }
    let (contents, next) = receive(&bob, None).await;
    assert_eq!(contents.len(), 1);
    assert!(receive(&bob, Some(&next)).await.0.is_empty());
}

#[tokio::test]
async fn a_request_that_is_repeated_sends_nothing_twice() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let other_device = server.log_in("alice").await;
    let message = json!({ &bob.id: { &bob.device_id: {} } });
    for _ in 0..3 {
        send(&alice, "1", message.clone()).await.ok();
    }
    assert_eq!(receive(&bob, None).await.0.len(), 1);
    send(&other_device, "1", message.clone()).await.ok();
    assert_eq!(receive(&bob, None).await.0.len(), 2, "transaction ids belong to a device");

    server.advance(Duration::from_secs(8 * 24 * 60 * 60));
    sweep::once(server.inside()).await.unwrap();
    send(&alice, "1", message).await.ok();
    assert_eq!(receive(&bob, None).await.0.len(), 3, "old transaction ids are forgotten");
}

#[tokio::test]
async fn a_star_stands_for_every_device_and_each_gets_one_message() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let bob2 = server.log_in("bob").await;
    let messages = json!({ &bob.id: { "*": { "to": "all" }, &bob2.device_id: { "to": "one" } } });
    send(&alice, "1", messages).await.ok();
    assert_eq!(receive(&bob, None).await.0, [json!({ "to": "all" })]);
    assert_eq!(receive(&bob2, None).await.0, [json!({ "to": "one" })]);
    assert!(receive(&alice, None).await.0.is_empty());
}

#[tokio::test]
async fn receivers_that_do_not_exist_are_left_out() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let messages = json!({
        &bob.id: { "UNKNOWN": {}, &bob.device_id: { "n": 1 } },
        "@nobody:example.org": { "*": {}, "UNKNOWN": {} },
        "@carol:other.org": { "*": {} },
    });
    send(&alice, "1", messages).await.ok();
    assert_eq!(receive(&bob, None).await.0, [json!({ "n": 1 })]);
    assert_eq!(rows(&server), 1);
    let later = server.log_in("bob").await;
    assert!(receive(&later, None).await.0.is_empty(), "a new device gets nothing that was sent before it was there");
}

/// How many messages are kept for anybody.
fn rows(server: &TestServer) -> usize {
    server.inside().store.snapshot().list::<ToDevice>(&()).count()
}

#[tokio::test]
async fn a_device_that_is_deleted_leaves_nothing_behind() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    send(&alice, "1", json!({ &bob.id: { "*": {} } })).await.ok();
    assert_eq!(rows(&server), 1);
    bob.post("/v3/logout", json!({})).await.ok();
    assert_eq!(rows(&server), 0);
    send(&alice, "2", json!({ &bob.id: { &bob.device_id: {} } })).await.ok();
    assert_eq!(rows(&server), 0);
}

#[tokio::test]
async fn malformed_messages_are_refused_whole() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let path = "/v3/sendToDevice/my.type/1";
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (content, status, errcode) in [
        ("1", 400, "M_BAD_JSON"),
        ("[]", 400, "M_BAD_JSON"),
        ("null", 400, "M_BAD_JSON"),
        (r#"{"a":"\ud800"}"#, 400, "M_BAD_JSON"),
        (&format!(r#"{{"a":{deep}}}"#), 400, "M_BAD_JSON"),
        (&format!(r#"{{"a":"{}"}}"#, "x".repeat(70_000)), 413, "M_TOO_LARGE"),
    ] {
        let body = format!(r#"{{"messages":{{"{}":{{"*":{{}},"{}":{content}}}}}}}"#, bob.id, bob.device_id);
        let answer = server.request_bytes(http::Method::PUT, path, Some(&alice.token), body).await;
        assert_eq!(answer.error(), (status, errcode), "{}", &content[..content.len().min(50)]);
    }
    for body in [json!({}), json!({ "messages": [] }), json!({ "messages": { "bob": {} } })] {
        assert_eq!(alice.put(path, body.clone()).await.error(), (400, "M_BAD_JSON"), "{body}");
    }
    let devices: serde_json::Map<_, _> = (0..10_001).map(|n| (format!("D{n}"), json!({}))).collect();
    assert_eq!(send(&alice, "1", json!({ &bob.id: devices })).await.error(), (413, "M_TOO_LARGE"));
    let long = "x".repeat(300);
    assert_eq!(send(&alice, &long, json!({})).await.error(), (400, "M_INVALID_PARAM"));
    assert!(receive(&bob, None).await.0.is_empty());
    send(&alice, "1", json!({ &bob.id: { "*": { "n": 1 } } })).await.ok();
    assert_eq!(receive(&bob, None).await.0.len(), 1, "a refused request does not use up its transaction id");
}

#[tokio::test]
async fn large_queues_come_in_several_answers() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (_, mut since) = receive(&bob, None).await;
    for n in 0..150 {
        send(&alice, &n.to_string(), json!({ &bob.id: { "*": { "n": n } } })).await.ok();
    }
    let mut all = Vec::new();
    loop {
        let (contents, next) = receive(&bob, Some(&since)).await;
        if contents.is_empty() {
            break;
        }
        assert!(contents.len() <= 100);
        all.extend(contents);
        since = next;
    }
    assert_eq!(all, (0..150).map(|n| json!({ "n": n })).collect::<Vec<_>>());
    assert_eq!(rows(&server), 0);
}

#[tokio::test]
async fn a_full_queue_loses_its_oldest_messages() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (user, device) = (UserId::parse(&bob.id).unwrap(), OwnedDeviceId::from(bob.device_id.as_str()));
    let fill = server.inside().store.commit(move |tx| {
        for n in 0..20_000 {
            let message = json!({ "type": "my.type", "sender": "@alice:example.org", "content": { "n": n } });
            tx.put::<ToDevice>(&(&user, &device, StreamPos(1), n), &Json::of(&message));
        }
        tx.put::<ToDeviceCounts>(&(&user, &device), &20_000);
        Ok::<_, store::Error>(())
    });
    fill.await.unwrap();
    send(&alice, "1", json!({ &bob.id: { &bob.device_id: {} } })).await.ok();
    assert_eq!(rows(&server), 19_001);
    let snapshot = server.inside().store.snapshot();
    let mut left = snapshot.list::<ToDevice>(&());
    assert_eq!(left.next().unwrap().unwrap().key().unwrap().3, 1_000, "the first thousand are gone");
    assert_eq!(
        left.last().unwrap().unwrap().value.parse::<Value>().unwrap()["content"],
        json!({}),
        "the new one is there"
    );
}
