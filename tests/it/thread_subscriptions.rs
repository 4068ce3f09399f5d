//! Threads that users follow: <https://github.com/matrix-org/matrix-spec-proposals/pull/4306> and
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4308>

use serde_json::{Value, json};

use crate::support::{Answer, TestServer, User, room::event_id};

const SYNC: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const CHANGES: &str = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions";

struct Chat {
    server: TestServer,
    alice: User,
    bob: User,
    room: String,
}

impl Chat {
    /// Three are in the room, so that it is none of two.
    async fn new() -> Self {
        let server = TestServer::new().await;
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        server.user("carol").await.join(&room).await;
        Self { server, alice, bob, room }
    }

    async fn root(&self) -> String {
        self.alice.say(&self.room, "root").await
    }

    async fn reply(&self, root: &str) -> String {
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        let content = json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": relation });
        event_id(self.alice.send(&self.room, "m.room.message", content).await)
    }

    fn path(&self, root: &str) -> String {
        format!("/_matrix/client/unstable/io.element.msc4306/rooms/{}/thread/{root}/subscription", self.room)
    }

    async fn subscribe(&self, root: &str) {
        assert_eq!(self.bob.put(&self.path(root), json!({})).await.ok(), json!({}));
    }

    async fn because_of(&self, root: &str, cause: &str) -> Answer {
        self.bob.put(&self.path(root), json!({ "automatic": cause })).await
    }

    async fn unsubscribe(&self, root: &str) {
        assert_eq!(self.bob.delete(&self.path(root)).await.ok(), json!({}));
    }

    async fn kept(&self, root: &str) -> Answer {
        self.bob.get(&self.path(root)).await
    }

    /// Bob's notifications, of all threads together.
    async fn unread(&self) -> u64 {
        let room = self.bob.sync_with("").await["rooms"]["join"][&self.room].take();
        room["unread_notifications"]["notification_count"].as_u64().unwrap()
    }

    /// The extension of bob's next answer, and its `pos`.
    async fn told(&self, pos: Option<&str>, limit: u64) -> (Value, String) {
        let mut body = json!({
            "extensions": { "io.element.msc4308.thread_subscriptions": { "enabled": true, "limit": limit } },
        });
        if let Some(pos) = pos {
            body["pos"] = json!(pos);
        }
        let mut answer = self.bob.post(SYNC, body).await.ok();
        let told = answer["extensions"]["io.element.msc4308.thread_subscriptions"].take();
        (told, answer["pos"].as_str().unwrap().to_owned())
    }
}

fn threads<'a>(told: &'a Value, kind: &str, room: &str) -> Vec<&'a str> {
    told[kind][room].as_object().map(|threads| threads.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[tokio::test]
async fn a_subscription_is_made_seen_and_ended() {
    let chat = Chat::new().await;
    let root = chat.root().await;
    assert_eq!(chat.kept(&root).await.error(), (404, "M_NOT_FOUND"));
    chat.subscribe(&root).await;
    assert_eq!(chat.kept(&root).await.ok(), json!({ "automatic": false }));
    assert_eq!(chat.alice.get(&chat.path(&root)).await.error(), (404, "M_NOT_FOUND"), "that is bob's");
    chat.unsubscribe(&root).await;
    assert_eq!(chat.kept(&root).await.error(), (404, "M_NOT_FOUND"));
    chat.unsubscribe(&root).await;
    let features = chat.bob.get("/_matrix/client/versions").await.ok();
    assert_eq!(features["unstable_features"]["org.matrix.msc4306"], true);
}

#[tokio::test]
async fn what_is_no_thread_of_ones_own_rooms_is_not_found() {
    let chat = Chat::new().await;
    let (root, stranger) = (chat.root().await, chat.server.user("dave").await);
    let reply = chat.reply(&root).await;
    for (user, thread) in [(&chat.bob, "$nothing"), (&chat.bob, &*reply), (&stranger, &*root)] {
        let path = chat.path(thread);
        assert_eq!(user.get(&path).await.error(), (404, "M_NOT_FOUND"));
        assert_eq!(user.put(&path, json!({})).await.error(), (404, "M_NOT_FOUND"));
        assert_eq!(user.delete(&path).await.error(), (404, "M_NOT_FOUND"));
    }
    let elsewhere = chat.path(&root).replace(&chat.room, "!nowhere:example.org");
    assert_eq!(chat.bob.put(&elsewhere, json!({})).await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn a_client_subscribes_because_of_an_event_of_the_thread_only() {
    let chat = Chat::new().await;
    let (root, other) = (chat.root().await, chat.root().await);
    let (reply, elsewhere) = (chat.reply(&root).await, chat.reply(&other).await);
    for cause in [&root, &elsewhere, "$nothing"] {
        let answer = chat.because_of(&root, cause).await;
        assert_eq!(answer.error(), (400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"), "{cause}");
    }
    chat.because_of(&root, &reply).await.ok();
    assert_eq!(chat.kept(&root).await.ok(), json!({ "automatic": true }));
    chat.subscribe(&root).await;
    assert_eq!(chat.kept(&root).await.ok(), json!({ "automatic": false }));
    chat.because_of(&root, &reply).await.ok();
    assert_eq!(chat.kept(&root).await.ok(), json!({ "automatic": false }), "what he asked for himself stays so");
}

#[tokio::test]
async fn who_unsubscribed_is_subscribed_again_by_newer_events_only() {
    let chat = Chat::new().await;
    let root = chat.root().await;
    let (first, second) = (chat.reply(&root).await, chat.reply(&root).await);
    chat.because_of(&root, &first).await.ok();
    chat.unsubscribe(&root).await;
    let third = chat.reply(&root).await;
    for cause in [&first, &second] {
        let answer = chat.because_of(&root, cause).await;
        assert_eq!(answer.error(), (409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"));
        assert_eq!(chat.kept(&root).await.error(), (404, "M_NOT_FOUND"));
    }
    chat.unsubscribe(&root).await;
    let answer = chat.because_of(&root, &third).await;
    assert_eq!(answer.error(), (409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"), "he ended it once more");
    let fourth = chat.reply(&root).await;
    chat.because_of(&root, &fourth).await.ok();
    assert_eq!(chat.kept(&root).await.ok(), json!({ "automatic": true }));
}

#[tokio::test]
async fn subscribed_threads_notify_and_others_do_not() {
    let chat = Chat::new().await;
    let (root, other) = (chat.root().await, chat.root().await);
    chat.reply(&other).await;
    assert_eq!(chat.unread().await, 3, "whose clients know no subscriptions hears of all threads");
    chat.bob.post(&format!("/v3/rooms/{}/receipt/m.read/{other}", chat.room), json!({})).await.ok();
    chat.subscribe(&root).await;
    let mute = format!("/v3/pushrules/global/room/{}", chat.room);
    chat.bob.put(&mute, json!({ "actions": [] })).await.ok();
    chat.reply(&root).await;
    chat.reply(&other).await;
    chat.root().await;
    assert_eq!(chat.unread().await, 1, "of a muted room only the thread that he follows");
    chat.unsubscribe(&root).await;
    assert_eq!(chat.unread().await, 0);
    chat.subscribe(&other).await;
    assert_eq!(chat.unread().await, 2, "he has not read these");
    let mentions = json!({ "user_ids": [chat.bob.id] });
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let content = json!({ "msgtype": "m.text", "body": "x", "m.relates_to": relation, "m.mentions": mentions });
    chat.alice.send(&chat.room, "m.room.message", content).await.ok();
    assert_eq!(chat.unread().await, 3, "a mention is told whatever he follows");
}

#[tokio::test]
async fn the_rules_for_threads_can_be_switched_but_not_made() {
    let chat = Chat::new().await;
    let rules = chat.bob.get("/v3/pushrules/").await.ok();
    let ids: Vec<_> = rules["global"]["postcontent"].as_array().unwrap().iter().map(|rule| &rule["rule_id"]).collect();
    assert_eq!(ids, [".io.element.msc4306.rule.unsubscribed_thread", ".io.element.msc4306.rule.subscribed_thread"]);
    let condition = &rules["global"]["postcontent"][0]["conditions"][0];
    assert_eq!(*condition, json!({ "kind": "io.element.msc4306.thread_subscription", "subscribed": false }));
    for kind in ["postcontent", "io.element.msc4306.postcontent"] {
        let own = chat.bob.put(&format!("/v3/pushrules/global/{kind}/own"), json!({ "actions": [] })).await;
        assert_eq!(own.error(), (400, "M_INVALID_PARAM"));
        let path = format!("/v3/pushrules/global/{kind}/.io.element.msc4306.rule.unsubscribed_thread");
        assert_eq!(chat.bob.get(&path).await.ok()["actions"], json!([]));
        assert_eq!(chat.bob.delete(&path).await.error(), (400, "M_INVALID_PARAM"));
        chat.bob.put(&format!("{path}/enabled"), json!({ "enabled": false })).await.ok();
        assert_eq!(chat.bob.get(&format!("{path}/enabled")).await.ok()["enabled"], false);
    }
    let (root, other) = (chat.root().await, chat.root().await);
    chat.subscribe(&root).await;
    chat.reply(&other).await;
    assert_eq!(chat.unread().await, 3, "with the rule off, threads are told as other messages are");
}

#[tokio::test]
async fn sliding_sync_tells_what_changed_and_where_to_ask_for_the_rest() {
    let chat = Chat::new().await;
    let mut roots = Vec::new();
    for _ in 0..4 {
        roots.push(chat.root().await);
    }
    assert_eq!(chat.told(None, 10).await.0, Value::Null);
    for root in &roots {
        chat.subscribe(root).await;
    }
    let (told, pos) = chat.told(None, 2).await;
    assert_eq!(threads(&told, "subscribed", &chat.room).len(), 2);
    let newest = &told["subscribed"][&chat.room][&roots[3]];
    assert_eq!(newest["automatic"], false);
    let page =
        chat.bob.get(&format!("{CHANGES}?dir=b&limit=1&from={}", told["prev_batch"].as_str().unwrap())).await.ok();
    assert_eq!(threads(&page, "subscribed", &chat.room), [&*roots[1]]);
    let page = chat.bob.get(&format!("{CHANGES}?dir=b&from={}", page["end"].as_str().unwrap())).await.ok();
    assert_eq!(threads(&page, "subscribed", &chat.room), [&*roots[0]]);
    assert_eq!(page.get("end"), None);

    assert_eq!(chat.told(Some(&pos), 2).await.0, Value::Null);
    for root in &roots[1..] {
        chat.unsubscribe(root).await;
    }
    let (told, _) = chat.told(Some(&pos), 2).await;
    assert_eq!(told.get("subscribed"), None);
    assert_eq!(threads(&told, "unsubscribed", &chat.room).len(), 2);
    let stamp = |change: &Value| change["bump_stamp"].as_u64().unwrap();
    assert!(stamp(newest) < stamp(&told["unsubscribed"][&chat.room][&roots[3]]), "later, so larger");
    let from = told["prev_batch"].as_str().unwrap();
    let page = chat.bob.get(&format!("{CHANGES}?dir=b&from={from}&to={pos}")).await.ok();
    assert_eq!(threads(&page, "unsubscribed", &chat.room), [&*roots[1]]);
    assert_eq!((page.get("subscribed"), page.get("end")), (None, None), "the rest is known");
    let all = chat.bob.get(&format!("{CHANGES}?dir=b")).await.ok();
    assert_eq!(threads(&all, "subscribed", &chat.room), [&*roots[0]], "only what was said last");
    assert_eq!(chat.alice.get(&format!("{CHANGES}?dir=b")).await.ok(), json!({}), "others' are not told");
}

#[tokio::test]
async fn pages_of_changes_are_asked_for_in_the_right_form() {
    let chat = Chat::new().await;
    for query in ["", "?dir=f", "?dir=b&limit=0", "?dir=b&from=x", "?dir=b&from=-1", "?dir=b&to=x", "?dir=b&to=5"] {
        let answer = chat.bob.get(&format!("{CHANGES}{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
    }
}

#[tokio::test]
async fn a_subscription_wakes_the_other_devices() {
    let chat = Chat::new().await;
    let (root, (_, pos)) = (chat.root().await, chat.told(None, 10).await);
    let extensions = json!({ "io.element.msc4308.thread_subscriptions": { "enabled": true, "limit": 10 } });
    let body = json!({ "pos": pos, "timeout": 30_000, "extensions": extensions });
    let bob = chat.bob.clone();
    let waiting = tokio::spawn(async move { bob.post(SYNC, body).await.ok() });
    chat.server.until_waiting(1).await;
    chat.subscribe(&root).await;
    let told = &waiting.await.unwrap()["extensions"]["io.element.msc4308.thread_subscriptions"];
    assert_eq!(threads(told, "subscribed", &chat.room), [&*root]);
}
