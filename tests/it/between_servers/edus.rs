use serde_json::json;

use super::{Pair, Scripted, join, until, until_seen, until_synced};
use crate::support::User;

fn ephemeral(answer: &serde_json::Value, room: &str, event_type: &str) -> Option<serde_json::Value> {
    let events = answer["rooms"]["join"][room]["ephemeral"]["events"].as_array()?;
    events.iter().find(|event| event["type"] == event_type).map(|event| event["content"].clone())
}

#[tokio::test]
async fn typing_is_seen_on_the_other_server_and_ends_there() {
    let pair = Pair::new().await;
    let Pair { alice, bob, room, .. } = &pair;
    let since = alice.now().await;
    let path = format!("/v3/rooms/{room}/typing/{}", bob.id);
    bob.put(&path, json!({ "typing": true, "timeout": 30_000 })).await.ok();
    let typing = until_synced(alice, &since, "bob types", |answer| ephemeral(answer, room, "m.typing")).await;
    assert_eq!(typing, json!({ "user_ids": [bob.id] }));
    let since = alice.now().await;
    bob.put(&path, json!({ "typing": false })).await.ok();
    let typing = until_synced(alice, &since, "bob stopped", |answer| ephemeral(answer, room, "m.typing")).await;
    assert_eq!(typing, json!({ "user_ids": [] }));
}

#[tokio::test]
async fn who_goes_on_typing_is_told_to_the_other_server_again() {
    let scripted = Scripted::new().await;
    let path = format!("/v3/rooms/{}/typing/{}", scripted.room.id, scripted.bob.id);
    for times in 1..=2 {
        scripted.bob.put(&path, json!({ "typing": true })).await.ok();
        until("it is told", async || (scripted.edus("m.typing").len() == times).then_some(())).await;
    }
}

#[tokio::test]
async fn public_receipts_cross_and_private_ones_do_not() {
    let scripted = Scripted::new().await;
    let room = &scripted.room.id;
    let read = |event: String| async move { event };
    let first = read(scripted.bob.say(room, "one").await).await;
    let second = read(scripted.bob.say(room, "two").await).await;
    scripted.bob.post(&format!("/v3/rooms/{room}/receipt/m.read.private/{second}"), json!({})).await.ok();
    let main = json!({ "thread_id": "main" });
    scripted.bob.post(&format!("/v3/rooms/{room}/receipt/m.read/{first}"), main).await.ok();
    let receipts = until("a receipt came", async || {
        let receipts = scripted.edus("m.receipt");
        (!receipts.is_empty()).then_some(receipts)
    })
    .await;
    assert_eq!(receipts.len(), 1);
    let receipt = &receipts[0][room]["m.read"]["@bob:here"];
    assert_eq!(receipt["event_ids"], json!([first]));
    assert_eq!(receipt["data"]["thread_id"], "main");
    assert!(receipt["data"]["ts"].is_u64());
    assert!(!json!(receipts).to_string().contains("private"));
}

#[tokio::test]
async fn receipts_of_the_other_server_are_shown() {
    let pair = Pair::new().await;
    let Pair { alice, bob, room, .. } = &pair;
    let hello = alice.say(room, "hello").await;
    until_seen(bob, room, &hello).await;
    let since = alice.now().await;
    bob.post(&format!("/v3/rooms/{room}/receipt/m.read/{hello}"), json!({})).await.ok();
    let content = until_synced(alice, &since, "a receipt", |answer| ephemeral(answer, room, "m.receipt")).await;
    assert!(content[&hello]["m.read"][&bob.id]["ts"].is_u64(), "{content}");
    assert!(content[&hello]["m.read"][&bob.id].get("thread_id").is_none(), "{content}");

    let relation = json!({ "rel_type": "m.thread", "event_id": hello });
    let threaded = json!({ "msgtype": "m.text", "body": "in the thread", "m.relates_to": relation });
    let sent = alice.send(room, "m.room.message", threaded).await.ok();
    let threaded = sent["event_id"].as_str().unwrap();
    until_seen(bob, room, threaded).await;
    let since = alice.now().await;
    let path = format!("/v3/rooms/{room}/receipt/m.read/{threaded}");
    bob.post(&path, json!({ "thread_id": hello })).await.ok();
    let content = until_synced(alice, &since, "a receipt", |answer| ephemeral(answer, room, "m.receipt")).await;
    assert_eq!(content[threaded]["m.read"][&bob.id]["thread_id"], *hello, "{content}");
    pair.check();
}

async fn say_status(user: &User, status: &str) {
    let status = json!({ "presence": "online", "status_msg": status });
    user.put(&format!("/v3/presence/{}/status", user.id), status).await.ok();
}

async fn until_status(viewer: &User, since: &str, user: &User, status: &str) {
    until_synced(viewer, since, status, |answer| {
        let events = answer["presence"]["events"].as_array()?;
        let of_user = |event: &&serde_json::Value| event["sender"] == user.id.as_str();
        events.iter().find(of_user).filter(|event| event["content"]["status_msg"] == status).map(drop)
    })
    .await;
}

#[tokio::test]
async fn presence_is_told_where_it_comes_to_be_seen() {
    let pair = Pair::new().await;
    let Pair { alice, bob, room, .. } = &pair;
    let (carol, dave) = (alice.server.user("carol").await, bob.server.user("dave").await);
    say_status(&carol, "comes in").await;
    say_status(&dave, "is there").await;
    let since = bob.now().await;
    join(&carol, room, "b.test").await;
    until_status(bob, &since, &carol, "comes in").await;

    let other = dave.create_room(json!({ "preset": "public_chat" })).await;
    let since = alice.now().await;
    join(alice, &other, "b.test").await;
    until_status(alice, &since, &dave, "is there").await;
    pair.check();
}

#[tokio::test]
async fn presence_is_seen_on_the_other_server() {
    let pair = Pair::new().await;
    let Pair { alice, bob, .. } = &pair;
    let since = alice.now().await;
    say_status(bob, "at work").await;
    until_status(alice, &since, bob, "at work").await;
    let shown = alice.get(&format!("/v3/presence/{}/status", bob.id)).await.ok();
    assert_eq!(shown["presence"], "online");
}

#[tokio::test]
async fn presence_of_who_was_never_active_costs_nobody_elses() {
    let scripted = Scripted::new().await;
    let (alice, carol) = (scripted.peer.user("alice"), scripted.peer.user("carol"));
    let since = scripted.bob.now().await;
    let push = json!([
        { "user_id": carol, "presence": "offline", "status_msg": null }, // as Synapse has it
        { "user_id": carol, "presence": 1 },
        { "user_id": alice, "presence": "online", "last_active_ago": 5, "currently_active": true },
    ]);
    scripted.send(json!([{ "edu_type": "m.presence", "content": { "push": push } }])).await;
    let answer = scripted.bob.sync(&since).await;
    let events = answer["presence"]["events"].as_array().unwrap();
    assert!(
        events.iter().any(|event| event["sender"] == alice && event["content"]["presence"] == "online"),
        "{answer}"
    );
}

#[tokio::test]
async fn who_is_active_on_another_server_is_what_that_server_says() {
    let scripted = Scripted::new().await;
    let alice = scripted.peer.user("alice");
    for is_active in [true, false] {
        let since = scripted.bob.now().await;
        let push = json!([{ "user_id": alice, "presence": "online", "currently_active": is_active }]);
        scripted.send(json!([{ "edu_type": "m.presence", "content": { "push": push } }])).await;
        let answer = scripted.bob.sync(&since).await;
        let events = answer["presence"]["events"].as_array().unwrap();
        let told = events.iter().find(|event| event["sender"] == alice).unwrap();
        assert_eq!(told["content"]["currently_active"], is_active);
        let status = scripted.bob.get(&format!("/v3/presence/{alice}/status")).await.ok();
        assert_eq!(status["currently_active"], is_active);
    }
}

#[tokio::test]
async fn to_device_messages_cross_once() {
    let pair = Pair::new().await;
    let Pair { alice, bob, .. } = &pair;
    let since = bob.now().await;
    let messages = json!({ &bob.id: { "*": { "n": 1 } } });
    for _ in 0..2 {
        alice.put("/v3/sendToDevice/my.type/1", json!({ "messages": messages })).await.ok();
    }
    let events = until_synced(bob, &since, "a message", |answer| {
        answer["to_device"]["events"].as_array().filter(|events| !events.is_empty()).cloned()
    })
    .await;
    assert_eq!(events, [json!({ "type": "my.type", "sender": alice.id, "content": { "n": 1 } })]);
    pair.check();
}
