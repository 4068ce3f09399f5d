//! The threads of a room: <https://spec.matrix.org/v1.19/client-server-api/#querying-threads-in-a-room>

use serde_json::{Value, json};

use crate::support::{
    Answer, TestServer, User, query,
    room::{event_id, path},
};

struct Chat {
    server: TestServer,
    alice: User,
    bob: User,
    room: String,
}

impl Chat {
    async fn new(visibility: &str) -> Self {
        let server = TestServer::new().await;
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.create_public_room(visibility).await;
        bob.join(&room).await;
        Self { server, alice, bob, room }
    }

    async fn say(&self, user: &User, body: &str) -> String {
        event_id(user.try_say(&self.room, body).await)
    }

    async fn try_reply(&self, user: &User, root: &str) -> Answer {
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        user.send(&self.room, "m.room.message", json!({ "body": "reply", "m.relates_to": relation })).await
    }

    async fn reply(&self, user: &User, root: &str) -> String {
        event_id(self.try_reply(user, root).await)
    }

    async fn threads(&self, user: &User, parameters: &[(&str, &str)]) -> Value {
        user.get(&format!("/v1/rooms/{}/threads{}", self.room, query(parameters))).await.ok()
    }

    async fn ids(&self, user: &User, parameters: &[(&str, &str)]) -> Vec<String> {
        ids(&self.threads(user, parameters).await)
    }
}

fn ids(answer: &Value) -> Vec<String> {
    let chunk = answer["chunk"].as_array().unwrap();
    chunk.iter().map(|event| event["event_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn threads_are_listed_by_their_newest_events() {
    let chat = Chat::new("shared").await;
    assert_eq!(chat.threads(&chat.bob, &[]).await, json!({ "chunk": [] }));
    let (first, second) = (chat.say(&chat.alice, "1").await, chat.say(&chat.alice, "2").await);
    chat.reply(&chat.alice, &first).await;
    let in_second = chat.reply(&chat.alice, &second).await;
    let threads = chat.threads(&chat.bob, &[]).await;
    assert_eq!(ids(&threads), [&*second, &*first]);
    let bundled = &threads["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
    assert_eq!(bundled["latest_event"]["event_id"], *in_second);
    let again = chat.reply(&chat.alice, &first).await;
    assert_eq!(chat.ids(&chat.bob, &[]).await, [&*first, &*second]);
    chat.alice.redact(&chat.room, &again).await.ok();
    assert_eq!(chat.ids(&chat.bob, &[]).await, [&*second, &*first], "what is redacted has no place");
    chat.alice.redact(&chat.room, &in_second).await.ok();
    assert_eq!(chat.ids(&chat.bob, &[]).await, [&*first], "nothing is left of the second");
}

#[tokio::test]
async fn pages_of_threads_show_each_thread_once() {
    let chat = Chat::new("shared").await;
    let mut roots = Vec::new();
    for number in 0..5 {
        roots.push(chat.say(&chat.alice, &number.to_string()).await);
    }
    for _ in 0..2 {
        for root in &roots {
            chat.reply(&chat.bob, root).await;
        }
    }
    let (mut found, mut from, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let mut parameters = vec![("limit", "2")];
        parameters.extend(from.as_deref().map(|from| ("from", from)));
        let page = chat.threads(&chat.bob, &parameters).await;
        found.extend(ids(&page));
        pages += 1;
        from = page["next_batch"].as_str().map(str::to_owned);
        if from.is_none() {
            break;
        }
    }
    roots.reverse();
    assert_eq!((found, pages), (roots, 3));
}

#[tokio::test]
async fn threads_without_the_reader_can_be_left_out() {
    let chat = Chat::new("shared").await;
    let (of_alice, of_bob) = (chat.say(&chat.alice, "1").await, chat.say(&chat.bob, "2").await);
    for root in [&of_alice, &of_bob] {
        chat.reply(&chat.alice, root).await;
    }
    let participated = [("include", "participated")];
    assert_eq!(chat.ids(&chat.alice, &participated).await, [&*of_bob, &of_alice]);
    assert_eq!(chat.ids(&chat.bob, &participated).await, [&*of_bob], "his own root");
    chat.reply(&chat.bob, &of_alice).await;
    assert_eq!(chat.ids(&chat.bob, &participated).await, [&*of_alice, &of_bob]);
    assert_eq!(chat.ids(&chat.bob, &[("include", "all")]).await.len(), 2);
}

#[tokio::test]
async fn threads_are_those_that_the_reader_may_see() {
    let chat = Chat::new("joined").await;
    let (open, hidden) = (chat.say(&chat.alice, "1").await, chat.say(&chat.alice, "2").await);
    let seen = chat.reply(&chat.alice, &open).await;
    chat.bob.try_leave(&chat.room).await.ok();
    chat.reply(&chat.alice, &open).await;
    chat.reply(&chat.alice, &hidden).await;
    let threads = chat.threads(&chat.bob, &[]).await;
    assert_eq!(ids(&threads), [&*open]);
    let thread = &threads["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
    assert_eq!((&thread["latest_event"]["event_id"], &thread["count"]), (&json!(seen), &json!(1)));
    let carol = chat.server.user("carol").await;
    let refused = carol.get(&format!("/v1/rooms/{}/threads", chat.room)).await;
    assert_eq!(refused.error(), (403, "M_FORBIDDEN"));
    assert_eq!(carol.get("/v1/rooms/!x:example.org/threads").await.error(), (403, "M_FORBIDDEN"));
    for bad in [("limit", "0"), ("from", "x"), ("include", "some")] {
        let refused = chat.alice.get(&format!("/v1/rooms/{}/threads{}", chat.room, query(&[bad]))).await;
        assert_eq!(refused.error(), (400, "M_INVALID_PARAM"), "{bad:?}");
    }
}

#[tokio::test]
async fn a_thread_of_somebody_ignored_shows_without_his_words() {
    let chat = Chat::new("shared").await;
    let (of_bob, of_alice) = (chat.say(&chat.bob, "secret").await, chat.say(&chat.alice, "mine").await);
    chat.reply(&chat.bob, &of_alice).await;
    chat.reply(&chat.alice, &of_bob).await;
    chat.reply(&chat.bob, &of_bob).await;
    let path = format!("/v3/user/{}/account_data/m.ignored_user_list", path(&chat.alice.id));
    chat.alice.put(&path, json!({ "ignored_users": { &chat.bob.id: {} } })).await.ok();
    let threads = chat.threads(&chat.alice, &[]).await;
    assert_eq!(ids(&threads), [&*of_bob], "the other one is nothing but his");
    assert_eq!(threads["chunk"][0]["content"], json!({}));
    assert_eq!(threads["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["count"], 1);
}

#[tokio::test]
async fn no_thread_begins_within_another_relation() {
    let chat = Chat::new("shared").await;
    let root = chat.say(&chat.alice, "root").await;
    let reply = chat.reply(&chat.alice, &root).await;
    assert_eq!(chat.try_reply(&chat.bob, &reply).await.error(), (400, "M_UNKNOWN"));
    chat.try_reply(&chat.bob, "$of_another_room").await.ok();
    assert_eq!(chat.ids(&chat.bob, &[]).await, [&*root], "nobody knows the root of the other");
}
