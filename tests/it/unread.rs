//! How many events somebody has not read: <https://spec.matrix.org/v1.19/client-server-api/#receiving-notifications>

use serde_json::{Value, json};

use crate::{
    receipts::read,
    support::{TestServer, User},
};

struct Chat {
    alice: User,
    bob: User,
    room: String,
}

impl Chat {
    /// Three are in the room, so that it is none of two.
    async fn new(server: &TestServer) -> Self {
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        alice.say(&room, "before bob came").await;
        bob.join(&room).await;
        server.user("carol").await.join(&room).await;
        Self { alice, bob, room }
    }

    /// Bob's notifications and highlights, as an old client sees them.
    async fn bob(&self) -> (u64, u64) {
        let room = self.bob.sync_with("").await["rooms"]["join"][&self.room].clone();
        assert!(room.get("unread_thread_notifications").is_none());
        counts(&room["unread_notifications"])
    }

    /// The same of the main timeline, and of the thread of `root`.
    async fn bob_by_thread(&self, root: &str) -> ((u64, u64), (u64, u64)) {
        let filter = "filter=%7B%22room%22:%7B%22timeline%22:%7B%22unread_thread_notifications%22:true%7D%7D%7D";
        let room = self.bob.sync_with(filter).await["rooms"]["join"][&self.room].clone();
        let threads = &room["unread_thread_notifications"];
        (counts(&room["unread_notifications"]), counts(&threads[root]))
    }

    async fn send(&self, user: &User, content: Value) -> String {
        let answer = user.send(&self.room, "m.room.message", content).await.ok();
        answer["event_id"].as_str().unwrap().to_owned()
    }

    async fn in_thread(&self, user: &User, root: &str) -> String {
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        self.send(user, json!({ "msgtype": "m.text", "body": "x", "m.relates_to": relation })).await
    }

    async fn mention(&self, user: &User) -> String {
        let mentions = json!({ "user_ids": [self.bob.id] });
        self.send(user, json!({ "msgtype": "m.text", "body": "hey", "m.mentions": mentions })).await
    }
}

fn counts(counts: &Value) -> (u64, u64) {
    let number = |key: &str| counts[key].as_u64().unwrap_or_default();
    (number("notification_count"), number("highlight_count"))
}

#[tokio::test]
async fn messages_count_until_they_are_read() {
    let server = TestServer::new().await;
    let chat = Chat::new(&server).await;
    assert_eq!(chat.bob().await, (0, 0), "what was said before he came does not count");
    chat.alice.say(&chat.room, "1").await;
    let second = chat.mention(&chat.alice).await;
    let third = chat.alice.say(&chat.room, "3").await;
    chat.alice.set(&chat.room, "m.room.topic", "", json!({ "topic": "quiet" })).await;
    chat.send(&chat.alice, json!({ "msgtype": "m.notice", "body": "beep" })).await;
    assert_eq!(chat.bob().await, (3, 1));
    assert_eq!(chat.bob().await, (3, 1), "counted again from what is remembered");
    read(&chat.bob, &chat.room, "m.read.private", &second, json!({})).await.ok();
    assert_eq!(chat.bob().await, (1, 0));
    read(&chat.bob, &chat.room, "m.read", &second, json!({})).await.ok();
    assert_eq!(chat.bob().await, (1, 0), "the receipt that is further on counts");
    read(&chat.bob, &chat.room, "m.read", &third, json!({})).await.ok();
    assert_eq!(chat.bob().await, (0, 0));
    chat.alice.say(&chat.room, "4").await;
    assert_eq!(chat.bob().await, (1, 0));
}

#[tokio::test]
async fn counts_come_with_the_event_and_with_the_receipt() {
    let server = TestServer::new().await;
    let chat = Chat::new(&server).await;
    let token = chat.bob.now().await;
    let event = chat.alice.say(&chat.room, "1").await;
    let news = chat.bob.sync(&token).await["rooms"]["join"][&chat.room].clone();
    assert_eq!(news["timeline"]["events"][0]["event_id"], event);
    assert_eq!(counts(&news["unread_notifications"]), (1, 0));
    let token = chat.bob.now().await;
    read(&chat.bob, &chat.room, "m.read.private", &event, json!({})).await.ok();
    let news = chat.bob.sync(&token).await["rooms"]["join"][&chat.room].clone();
    assert_eq!(news["unread_notifications"], json!({ "notification_count": 0, "highlight_count": 0 }));
}

#[tokio::test]
async fn whoever_writes_has_read() {
    let server = TestServer::new().await;
    let chat = Chat::new(&server).await;
    let root = chat.alice.say(&chat.room, "root").await;
    chat.in_thread(&chat.alice, &root).await;
    assert_eq!(chat.bob_by_thread(&root).await, ((1, 0), (1, 0)));
    // Not by what the server writes for him.
    chat.bob.put(&format!("/v3/profile/{}/displayname", chat.bob.id), json!({ "displayname": "B" })).await.ok();
    assert_eq!(chat.bob_by_thread(&root).await, ((1, 0), (1, 0)));
    chat.bob.say(&chat.room, "I see").await;
    assert_eq!(chat.bob_by_thread(&root).await, ((0, 0), (1, 0)));
    chat.in_thread(&chat.bob, &root).await;
    assert_eq!(chat.bob_by_thread(&root).await, ((0, 0), (0, 0)));
    assert_eq!(chat.bob().await, (0, 0));
}

#[tokio::test]
async fn threads_are_counted_and_read_apart() {
    let server = TestServer::new().await;
    let chat = Chat::new(&server).await;
    let root = chat.mention(&chat.alice).await;
    let first = chat.in_thread(&chat.alice, &root).await;
    let second = chat.in_thread(&chat.alice, &root).await;
    let other = chat.alice.say(&chat.room, "other").await;
    // It is in the thread because what it refers to is.
    let relation = json!({ "rel_type": "m.reference", "event_id": first });
    chat.send(&chat.alice, json!({ "msgtype": "m.text", "body": "x", "m.relates_to": relation })).await;
    assert_eq!(chat.bob_by_thread(&root).await, ((2, 1), (3, 0)));
    assert_eq!(chat.bob().await, (5, 1));
    read(&chat.bob, &chat.room, "m.read", &root, json!({ "thread_id": "main" })).await.ok();
    assert_eq!(chat.bob_by_thread(&root).await, ((1, 0), (3, 0)));
    read(&chat.bob, &chat.room, "m.read.private", &first, json!({ "thread_id": root })).await.ok();
    assert_eq!(chat.bob_by_thread(&root).await, ((1, 0), (2, 0)));
    read(&chat.bob, &chat.room, "m.read", &second, json!({})).await.ok();
    assert_eq!(chat.bob_by_thread(&root).await, ((1, 0), (1, 0)));
    read(&chat.bob, &chat.room, "m.read", &other, json!({})).await.ok();
    assert_eq!(chat.bob_by_thread(&root).await, ((0, 0), (1, 0)));
}

#[tokio::test]
async fn rules_decide_what_counts_at_once() {
    let server = TestServer::new().await;
    let chat = Chat::new(&server).await;
    chat.alice.say(&chat.room, "tea time").await;
    assert_eq!(chat.bob().await, (1, 0));
    let cake = "/v3/pushrules/global/content/tea";
    chat.bob.put(cake, json!({ "pattern": "t?a", "actions": ["notify", { "set_tweak": "highlight" }] })).await.ok();
    assert_eq!(chat.bob().await, (1, 1));
    let mute = format!("/v3/pushrules/global/room/{}", chat.room);
    chat.bob.put(&mute, json!({ "actions": [] })).await.ok();
    assert_eq!(chat.bob().await, (1, 1), "words come before rooms");
    chat.bob.delete(cake).await.ok();
    assert_eq!(chat.bob().await, (0, 0));
    chat.mention(&chat.alice).await;
    assert_eq!(chat.bob().await, (1, 1), "mentions come before rooms");
    chat.bob.put("/v3/pushrules/global/override/.m.rule.master/enabled", json!({ "enabled": true })).await.ok();
    assert_eq!(chat.bob().await, (0, 0));
}

#[tokio::test]
async fn the_room_is_only_notified_by_those_who_may() {
    let server = TestServer::new().await;
    let chat = Chat::new(&server).await;
    let carol = server.log_in("carol").await;
    let to_all = json!({ "msgtype": "m.text", "body": "all", "m.mentions": { "room": true } });
    chat.send(&carol, to_all.clone()).await;
    assert_eq!(chat.bob().await, (1, 0));
    chat.send(&chat.alice, to_all).await;
    assert_eq!(chat.bob().await, (2, 1));
}

#[tokio::test]
async fn redacted_and_ignored_messages_do_not_count() {
    let server = TestServer::new().await;
    let chat = Chat::new(&server).await;
    let event = chat.mention(&chat.alice).await;
    assert_eq!(chat.bob().await, (1, 1));
    chat.alice.redact(&chat.room, &event).await.ok();
    assert_eq!(chat.bob().await, (0, 0));
    chat.alice.say(&chat.room, "again").await;
    assert_eq!(chat.bob().await, (1, 0));
    let ignored = json!({ "ignored_users": { &chat.alice.id: {} } });
    chat.bob.put(&format!("/v3/user/{}/account_data/m.ignored_user_list", chat.bob.id), ignored).await.ok();
    assert_eq!(chat.bob().await, (0, 0));
}

#[tokio::test]
async fn a_new_stay_starts_with_nothing_unread() {
    let server = TestServer::new().await;
    let chat = Chat::new(&server).await;
    chat.mention(&chat.alice).await;
    assert_eq!(chat.bob().await, (1, 1));
    chat.bob.leave(&chat.room).await;
    chat.alice.say(&chat.room, "he is gone").await;
    chat.bob.join(&chat.room).await;
    assert_eq!(chat.bob().await, (0, 0));
}

#[tokio::test]
async fn conditions_look_at_values_and_into_arrays_by_keys_with_dots() {
    let server = TestServer::new().await;
    let chat = Chat::new(&server).await;
    for (id, condition) in [
        ("urgent", json!({ "kind": "event_property_is", "key": r"content.org\.example\.urgent", "value": true })),
        ("fire", json!({ "kind": "event_property_contains", "key": "content.tags", "value": "fire" })),
    ] {
        let rule = json!({ "conditions": [condition], "actions": ["notify", { "set_tweak": "highlight" }] });
        chat.bob.put(&format!("/v3/pushrules/global/override/{id}"), rule).await.ok();
    }
    for (field, value, highlights) in [
        ("org.example.urgent", json!(true), 1),
        ("org.example.urgent", json!("true"), 1),
        ("org", json!({ "example": { "urgent": true } }), 1),
        ("tags", json!(["water", "fire"]), 2),
        ("tags", json!(["fireworks"]), 2),
        ("tags", json!("fire"), 2),
    ] {
        chat.send(&chat.alice, json!({ "msgtype": "m.text", "body": "x", field: value })).await;
        assert_eq!(chat.bob().await.1, highlights, "{field}: {value}");
    }
}

#[tokio::test]
async fn edits_reactions_and_lists_of_servers_do_not_count() {
    let server = TestServer::new().await;
    let chat = Chat::new(&server).await;
    let everything = json!({ "actions": ["notify"] });
    chat.bob.put(&format!("/v3/pushrules/global/room/{}", chat.room), everything).await.ok();
    let message = chat.alice.say(&chat.room, "one").await;
    chat.alice.set(&chat.room, "m.room.topic", "", json!({ "topic": "two" })).await;
    assert_eq!(chat.bob().await, (2, 0));
    let edit = json!({
        "msgtype": "m.text", "body": "* first", "m.new_content": { "msgtype": "m.text", "body": "first" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": message },
    });
    chat.send(&chat.alice, edit).await;
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": message, "key": "👍" } });
    chat.alice.send(&chat.room, "m.reaction", reaction).await.ok();
    chat.alice.set(&chat.room, "m.room.server_acl", "", json!({ "allow": ["*"] })).await;
    assert_eq!(chat.bob().await, (2, 0));
}

#[tokio::test]
async fn names_in_a_text_without_mentions_are_mentions() {
    let server = TestServer::new().await;
    let chat = Chat::new(&server).await;
    chat.bob.put(&format!("/v3/profile/{}/displayname", chat.bob.id), json!({ "displayname": "Bobby B." })).await.ok();
    for (text, highlights) in [
        ("nobody", 0),
        (&*format!("hello {}!", chat.bob.id), 1),
        ("bob: hello", 2),
        ("I see Bobby B. there", 3),
        ("bobsleigh", 3),
        ("@room: listen", 4),
    ] {
        chat.send(&chat.alice, json!({ "msgtype": "m.text", "body": text })).await;
        assert_eq!(chat.bob().await.1, highlights, "{text}");
    }
    chat.send(&chat.alice, json!({ "msgtype": "m.text", "body": "bob, Bobby B., @room", "m.mentions": {} })).await;
    assert_eq!(chat.bob().await, (7, 4), "it says itself that it mentions nobody");
    let path = "/v3/pushrules/global/content/.m.rule.contains_user_name/enabled";
    chat.bob.put(path, json!({ "enabled": false })).await.ok();
    chat.send(&chat.alice, json!({ "msgtype": "m.text", "body": "bob" })).await;
    assert_eq!(chat.bob().await.1, 2, "what was counted by that rule is counted anew");
}
