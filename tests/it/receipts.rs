//! Receipts and read markers: <https://spec.matrix.org/v1.19/client-server-api/#receipts>

use serde_json::{Value, json};

use crate::support::{Answer, TestServer, User};

pub async fn read(user: &User, room: &str, kind: &str, event: &str, body: Value) -> Answer {
    user.post(&format!("/v3/rooms/{room}/receipt/{kind}/{event}"), body).await
}

/// The receipts that are news to a user.
async fn receipts(user: &User, room: &str, since: &str) -> Vec<Value> {
    let news = user.sync(since).await;
    let events = news["rooms"]["join"][room]["ephemeral"]["events"].as_array().cloned().unwrap_or_default();
    events.into_iter().filter(|event| event["type"] == "m.receipt").map(|event| event["content"].clone()).collect()
}

async fn room_of(alice: &User, bob: &User) -> String {
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    room
}

#[tokio::test]
async fn a_public_receipt_is_told_to_the_room_and_never_goes_back() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = room_of(&alice, &bob).await;
    let (first, second) = (alice.say(&room, "1").await, alice.say(&room, "2").await);
    let token = alice.now().await;
    read(&bob, &room, "m.read", &second, json!({})).await.ok();
    let content = json!({ &second: { "m.read": { &bob.id: { "ts": 1_767_225_600_000_u64 } } } });
    for user in [&alice, &bob] {
        assert_eq!(json!(receipts(user, &room, &token).await), json!([content]));
    }
    let token = alice.now().await;
    for event in [&first, &second] {
        read(&bob, &room, "m.read", event, json!({})).await.ok();
    }
    assert!(receipts(&alice, &room, &token).await.is_empty());
}

/// A private receipt that others saw would say what it is there to hide.
#[tokio::test]
async fn a_private_receipt_is_told_to_nobody_else() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = room_of(&alice, &bob).await;
    let event = alice.say(&room, "1").await;
    let token = alice.now().await;
    read(&bob, &room, "m.read.private", &event, json!({})).await.ok();
    let news = alice.sync(&token).await;
    assert!(news.get("rooms").is_none(), "{news}");
    let whole = alice.sync_with("").await;
    assert!(!whole.to_string().contains("m.read.private"), "{whole}");
    let own = receipts(&bob, &room, &token).await;
    assert!(own[0][&event]["m.read.private"][&bob.id].is_object());
}

#[tokio::test]
async fn receipts_of_threads_are_kept_apart() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = room_of(&alice, &bob).await;
    let root = alice.say(&room, "root").await;
    let related = |rel_type: &str, event: &str| json!({ "body": "x", "msgtype": "m.text", "m.relates_to": { "rel_type": rel_type, "event_id": event } });
    let send = async |content: Value| {
        let answer = alice.send(&room, "m.room.message", content).await.ok();
        answer["event_id"].as_str().unwrap().to_owned()
    };
    let reply = send(related("m.thread", &root)).await;
    let edit = send(related("m.replace", &reply)).await;
    let other = alice.say(&room, "other").await;
    let in_thread = |thread: &str| json!({ "thread_id": thread });
    let token = alice.now().await;
    for (event, thread) in [(&reply, &*root), (&edit, &*root), (&root, &*root), (&root, "main"), (&other, "main")] {
        read(&bob, &room, "m.read", event, in_thread(thread)).await.ok();
    }
    read(&bob, &room, "m.read", &other, json!({})).await.ok();
    let contents = receipts(&alice, &room, &token).await;
    let threads = contents
        .iter()
        .flat_map(|content| content.as_object().unwrap())
        .map(|(event, types)| (event.clone(), types["m.read"][&bob.id]["thread_id"].as_str().map(str::to_owned)));
    let mut threads: Vec<_> = threads.collect();
    threads.sort();
    let mut expected =
        vec![(edit, Some(root.clone())), (other.clone(), Some("main".to_owned())), (other.clone(), None)];
    expected.sort();
    assert_eq!(threads, expected);
    for (event, thread) in [(&other, &*root), (&reply, "main"), (&other, ""), (&other, "thread"), (&other, "$unknown")]
    {
        let answer = read(&bob, &room, "m.read", event, in_thread(thread)).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{thread}");
    }
    for thread in [json!(1), json!(null), json!({})] {
        let answer = read(&bob, &room, "m.read", &other, json!({ "thread_id": thread })).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"));
    }
    let answer = read(&bob, &room, "m.fully_read", &other, in_thread("main")).await;
    assert_eq!(answer.error(), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn receipts_are_for_members_and_events_that_they_see() {
    let server = TestServer::new().await;
    let (alice, bob, eve) = (server.user("alice").await, server.user("bob").await, server.user("eve").await);
    let room = alice.create_public_room("joined").await;
    let early = alice.say(&room, "before bob").await;
    bob.join(&room).await;
    let event = alice.say(&room, "1").await;
    let elsewhere = eve.create_room(json!({})).await;
    let foreign = eve.say(&elsewhere, "secret").await;
    assert_eq!(read(&bob, &room, "m.delivered", &event, json!({})).await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(read(&eve, &room, "m.read", &event, json!({})).await.error(), (403, "M_FORBIDDEN"));
    let unknown = read(&bob, &room, "m.read", "$unknown", json!({})).await;
    assert_eq!(unknown.error(), (404, "M_NOT_FOUND"));
    // Whether an event exists elsewhere, or before one's time, can't be told from the answers.
    for hidden in [&foreign, &early] {
        assert_eq!(read(&bob, &room, "m.read", hidden, json!({})).await.body, unknown.body);
    }
    bob.leave(&room).await;
    assert_eq!(read(&bob, &room, "m.read", &event, json!({})).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn markers_and_receipts_move_together() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = room_of(&alice, &bob).await;
    let (first, second) = (alice.say(&room, "1").await, alice.say(&room, "2").await);
    let token = bob.now().await;
    let markers = format!("/v3/rooms/{room}/read_markers");
    let body = json!({ "m.fully_read": second, "m.read": first, "m.read.private": second });
    bob.post(&markers, body).await.ok();
    let news = bob.sync(&token).await["rooms"]["join"][&room].clone();
    let marker = json!([{ "type": "m.fully_read", "content": { "event_id": second } }]);
    assert_eq!(news["account_data"]["events"], marker);
    let contents = &news["ephemeral"]["events"][0]["content"];
    assert!(
        contents[&first]["m.read"][&bob.id].is_object() && contents[&second]["m.read.private"][&bob.id].is_object()
    );
    // Never back, and no news for it.
    let token = bob.now().await;
    bob.post(&markers, json!({ "m.fully_read": first })).await.ok();
    read(&bob, &room, "m.fully_read", &first, json!({})).await.ok();
    bob.post(&markers, json!({})).await.ok();
    assert!(bob.sync(&token).await.get("rooms").is_none());
    let kept = bob.get(&format!("/v3/user/{}/rooms/{room}/account_data/m.fully_read", bob.id)).await.ok();
    assert_eq!(kept, json!({ "event_id": second }));
    // All or nothing.
    let third = alice.say(&room, "3").await;
    let answer = bob.post(&markers, json!({ "m.fully_read": third, "m.read": "$unknown" })).await;
    assert_eq!(answer.error(), (404, "M_NOT_FOUND"));
    let kept = bob.get(&format!("/v3/user/{}/rooms/{room}/account_data/m.fully_read", bob.id)).await.ok();
    assert_eq!(kept, json!({ "event_id": second }));
}
