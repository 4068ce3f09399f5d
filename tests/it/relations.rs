//! Events that relate to others: the lists of them, and what is bundled with their parents.

use serde_json::{Value, json};

use crate::support::{
    TestServer, User, query,
    room::{event_id, path},
};

/// A room of alice's, with bob in it.
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

    async fn relate(&self, user: &User, rel_type: &str, parent: &str, body: &str) -> String {
        self.relate_as(user, "m.room.message", rel_type, parent, body).await
    }

    async fn relate_as(&self, user: &User, event_type: &str, rel_type: &str, parent: &str, body: &str) -> String {
        let relation = json!({ "rel_type": rel_type, "event_id": parent });
        let content = json!({ "msgtype": "m.text", "body": body, "m.relates_to": relation });
        event_id(user.send(&self.room, event_type, content).await)
    }

    async fn edit(&self, user: &User, parent: &str, body: &str) -> String {
        let content = json!({
            "msgtype": "m.text", "body": format!("* {body}"), "m.new_content": { "msgtype": "m.text", "body": body },
            "m.relates_to": { "rel_type": "m.replace", "event_id": parent },
        });
        event_id(user.send(&self.room, "m.room.message", content).await)
    }

    /// What is bundled with an event, as `user` sees it.
    async fn bundled(&self, user: &User, event: &str) -> Value {
        user.event(&self.room, event).await.ok()["unsigned"]["m.relations"].clone()
    }

    /// `GET /relations`; `what` is the rest of the path.
    async fn relations(&self, user: &User, what: &str, parameters: &[(&str, &str)]) -> Value {
        user.get(&self.path(what, parameters)).await.ok()
    }

    fn path(&self, what: &str, parameters: &[(&str, &str)]) -> String {
        format!("/v1/rooms/{}/relations/{what}{}", self.room, query(parameters))
    }

    async fn ignore(&self, user: &User, ignored: &User) {
        let path = format!("/v3/user/{}/account_data/m.ignored_user_list", path(&user.id));
        user.put(&path, json!({ "ignored_users": { &ignored.id: {} } })).await.ok();
    }
}

fn ids(chunk: &Value) -> Vec<&str> {
    chunk.as_array().unwrap().iter().map(|event| event["event_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn relations_are_listed_by_type_and_by_type_of_event() {
    let chat = Chat::new("shared").await;
    let root = chat.say(&chat.alice, "root").await;
    let reply = chat.relate(&chat.alice, "m.thread", &root, "reply").await;
    let other = chat.relate_as(&chat.bob, "org.example.x", "m.thread", &root, "x").await;
    let edit = chat.edit(&chat.alice, &root, "edited").await;
    let all = chat.relations(&chat.bob, &root, &[]).await;
    assert_eq!(ids(&all["chunk"]), [&*edit, &other, &reply], "newest first");
    assert_eq!((all.get("next_batch"), all.get("prev_batch"), all.get("recursion_depth")), (None, None, None));
    let of_type = chat.relations(&chat.bob, &format!("{root}/m.thread"), &[]).await;
    assert_eq!(ids(&of_type["chunk"]), [&*other, &reply]);
    let of_both = chat.relations(&chat.bob, &format!("{root}/m.thread/m.room.message"), &[("dir", "f")]).await;
    assert_eq!(ids(&of_both["chunk"]), [&*reply]);
}

#[tokio::test]
async fn pages_of_relations_follow_each_other_both_ways() {
    let chat = Chat::new("shared").await;
    let root = chat.say(&chat.alice, "root").await;
    let mut replies = Vec::new();
    for number in 0..5 {
        replies.push(chat.relate(&chat.alice, "m.thread", &root, &number.to_string()).await);
        chat.relate(&chat.alice, "m.reference", &root, "not asked for").await;
    }
    let (root_only, with_type) = (root.clone(), format!("{root}/m.thread"));
    for (what, direction) in [(&with_type, "b"), (&with_type, "f"), (&root_only, "b"), (&root_only, "f")] {
        let (mut found, mut from, mut pages) = (Vec::new(), None::<String>, 0);
        loop {
            let mut parameters = vec![("limit", "2"), ("dir", direction)];
            parameters.extend(from.as_deref().map(|from| ("from", from)));
            let page = chat.relations(&chat.bob, what, &parameters).await;
            assert_eq!(page.get("prev_batch").and_then(Value::as_str), from.as_deref());
            found.extend(ids(&page["chunk"]).iter().map(ToString::to_string));
            pages += 1;
            from = page["next_batch"].as_str().map(str::to_owned);
            if from.is_none() {
                break;
            }
        }
        if direction == "b" {
            found.reverse();
        }
        found.retain(|event| replies.contains(event));
        assert_eq!((found, pages), (replies.clone(), if *what == with_type { 3 } else { 5 }), "{what} {direction}");
    }
}

#[tokio::test]
async fn a_page_of_relations_has_a_size_and_a_token_to_go_on_with() {
    let chat = Chat::new("shared").await;
    let root = chat.say(&chat.alice, "root").await;
    let large = "x".repeat(60_000);
    let mut references = Vec::new();
    for _ in 0..75 {
        references.push(chat.relate(&chat.alice, "m.reference", &root, &large).await);
    }
    for what in [root.clone(), format!("{root}/m.reference")] {
        let first = chat.relations(&chat.bob, &what, &[("limit", "1000"), ("dir", "f")]).await;
        let next = first["next_batch"].as_str().unwrap();
        let rest = chat.relations(&chat.bob, &what, &[("limit", "1000"), ("dir", "f"), ("from", next)]).await;
        assert_eq!([ids(&first["chunk"]), ids(&rest["chunk"])].concat(), references, "{what}");
        assert_eq!(rest.get("next_batch"), None, "{what}");
    }
}

#[tokio::test]
async fn a_token_of_sync_begins_or_ends_a_list_of_relations() {
    let chat = Chat::new("shared").await;
    let root = chat.say(&chat.alice, "root").await;
    let before = chat.relate(&chat.alice, "m.thread", &root, "before").await;
    let token = chat.bob.now().await;
    let after = chat.relate(&chat.alice, "m.thread", &root, "after").await;
    let thread = format!("{root}/m.thread");
    for (parameters, expected) in [
        ([("dir", "f"), ("from", &*token)], vec![&*after]),
        ([("dir", "f"), ("to", &token)], vec![&before]),
        ([("dir", "b"), ("from", &token)], vec![&before]),
        ([("dir", "b"), ("to", &token)], vec![&after]),
    ] {
        for what in [&thread, &root] {
            let page = chat.relations(&chat.bob, what, &parameters).await;
            assert_eq!(ids(&page["chunk"]), expected, "{parameters:?}");
        }
    }
    let nothing = [("dir", "f"), ("from", &*token), ("to", "t1")];
    assert_eq!(chat.relations(&chat.bob, &thread, &nothing).await["chunk"], json!([]));
}

#[tokio::test]
async fn relations_of_relations_are_followed_three_deep() {
    let chat = Chat::new("shared").await;
    let root = chat.say(&chat.alice, "root").await;
    let mut parent = root.clone();
    let mut chain = Vec::new();
    for depth in 1..=4 {
        parent = chat.relate(&chat.alice, if depth == 2 { "m.annotation" } else { "m.reference" }, &parent, "x").await;
        chain.push(parent.clone());
    }
    let all = chat.relations(&chat.bob, &root, &[("recurse", "true"), ("dir", "f")]).await;
    assert_eq!((ids(&all["chunk"]), &all["recursion_depth"]), (vec![&*chain[0], &chain[1], &chain[2]], &json!(3)));
    let of_type = chat.relations(&chat.bob, &format!("{root}/m.reference"), &[("recurse", "true")]).await;
    assert_eq!(ids(&of_type["chunk"]), [&*chain[2], &chain[0]], "through a relation of another type");
}

#[tokio::test]
async fn whoever_may_not_see_an_event_is_told_nothing_of_its_relations() {
    let chat = Chat::new("joined").await;
    let carol = chat.server.user("carol").await;
    let root = chat.say(&chat.alice, "root").await;
    chat.relate(&chat.alice, "m.thread", &root, "reply").await;
    carol.join(&chat.room).await;
    let late = chat.relate(&chat.alice, "m.thread", &root, "while carol is there").await;
    assert_eq!(carol.get(&chat.path(&root, &[])).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(carol.get(&chat.path("$unknown", &[])).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(carol.get(&format!("/v1/rooms/!x:example.org/relations/{late}")).await.error(), (404, "M_NOT_FOUND"));
    for bad in [("limit", "0"), ("from", "x"), ("to", "x"), ("dir", "x"), ("limit", "-1")] {
        assert_eq!(chat.bob.get(&chat.path(&root, &[bad])).await.error(), (400, "M_INVALID_PARAM"), "{bad:?}");
    }
}

#[tokio::test]
async fn relations_that_a_reader_may_not_see_are_neither_listed_nor_counted() {
    let chat = Chat::new("joined").await;
    let root = chat.say(&chat.alice, "root").await;
    let seen = chat.relate(&chat.alice, "m.thread", &root, "seen").await;
    chat.edit(&chat.alice, &root, "seen").await;
    chat.bob.try_leave(&chat.room).await.ok();
    chat.relate(&chat.alice, "m.thread", &root, "unseen").await;
    chat.relate(&chat.alice, "m.reference", &root, "unseen").await;
    let unseen_edit = chat.edit(&chat.alice, &root, "unseen").await;
    let bundled = chat.bundled(&chat.bob, &root).await;
    assert_eq!(bundled["m.thread"]["latest_event"]["event_id"], *seen);
    assert_eq!(bundled["m.thread"]["count"], 1);
    assert_eq!(bundled["m.replace"]["content"]["body"], "* seen");
    assert_eq!(bundled.get("m.reference"), None);
    assert_eq!(ids(&chat.relations(&chat.bob, &format!("{root}/m.thread"), &[]).await["chunk"]), [&*seen]);
    assert_eq!(chat.bundled(&chat.alice, &root).await["m.replace"]["event_id"], *unseen_edit);
}

#[tokio::test]
async fn an_event_comes_with_its_newest_valid_edit() {
    let chat = Chat::new("shared").await;
    let message = chat.say(&chat.alice, "original").await;
    assert_eq!(chat.bundled(&chat.bob, &message).await, Value::Null);
    chat.server.advance(std::time::Duration::from_secs(1));
    let edit = chat.edit(&chat.alice, &message, "edited").await;
    chat.server.advance(std::time::Duration::from_secs(1));
    chat.edit(&chat.bob, &message, "not his to edit").await;
    chat.relate(&chat.alice, "m.replace", &message, "without new content").await;
    chat.relate_as(&chat.alice, "org.example.x", "m.replace", &message, "of another type").await;
    chat.edit(&chat.alice, &edit, "an edit of an edit").await;
    let shown = chat.bob.event(&chat.room, &message).await.ok();
    assert_eq!(shown["content"]["body"], "original", "is not changed");
    let bundled = &shown["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(bundled["event_id"], *edit);
    assert_eq!(bundled["content"]["m.new_content"]["body"], "edited");
    assert_eq!((&bundled["sender"], &bundled["room_id"]), (&json!(chat.alice.id), &json!(chat.room)));
    assert_eq!(chat.bundled(&chat.bob, &edit).await, Value::Null, "an edit has no edit");
    let newer = chat.edit(&chat.alice, &message, "edited again").await;
    assert_eq!(chat.bundled(&chat.bob, &message).await["m.replace"]["event_id"], *newer);
}

#[tokio::test]
async fn a_redacted_edit_is_undone_and_a_redacted_event_shows_none() {
    let chat = Chat::new("shared").await;
    let message = chat.say(&chat.alice, "original").await;
    let first = chat.edit(&chat.alice, &message, "first").await;
    chat.server.advance(std::time::Duration::from_secs(1));
    let second = chat.edit(&chat.alice, &message, "second").await;
    chat.alice.redact(&chat.room, &second).await.ok();
    assert_eq!(chat.bundled(&chat.bob, &message).await["m.replace"]["event_id"], *first);
    chat.alice.redact(&chat.room, &message).await.ok();
    assert_eq!(chat.bundled(&chat.bob, &message).await, Value::Null);
}

#[tokio::test]
async fn encrypted_edits_count_without_being_read() {
    let chat = Chat::new("shared").await;
    let encrypted =
        |relation: Value| json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "m.relates_to": relation });
    let message = event_id(chat.alice.send(&chat.room, "m.room.encrypted", encrypted(json!({}))).await);
    let relation = json!({ "rel_type": "m.replace", "event_id": message });
    let edit = event_id(chat.alice.send(&chat.room, "m.room.encrypted", encrypted(relation)).await);
    assert_eq!(chat.bundled(&chat.bob, &message).await["m.replace"]["event_id"], *edit);
}

#[tokio::test]
async fn an_event_comes_with_a_summary_of_its_thread() {
    let chat = Chat::new("shared").await;
    let carol = chat.server.user("carol").await;
    carol.join(&chat.room).await;
    let root = chat.say(&chat.alice, "root").await;
    chat.relate(&chat.bob, "m.thread", &root, "1").await;
    let last = chat.relate(&chat.bob, "m.thread", &root, "2").await;
    chat.edit(&chat.bob, &last, "2, edited").await;
    let gone = chat.relate(&chat.bob, "m.thread", &root, "3").await;
    chat.bob.redact(&chat.room, &gone).await.ok();
    for (user, participated) in [(&chat.alice, true), (&chat.bob, true), (&carol, false)] {
        let thread = chat.bundled(user, &root).await["m.thread"].clone();
        assert_eq!((&thread["count"], &thread["current_user_participated"]), (&json!(2), &json!(participated)));
        assert_eq!(thread["latest_event"]["event_id"], *last);
        let edit = &thread["latest_event"]["unsigned"]["m.relations"]["m.replace"];
        assert_eq!(edit["content"]["m.new_content"]["body"], "2, edited");
    }
    chat.ignore(&carol, &chat.bob).await;
    assert_eq!(chat.bundled(&carol, &root).await, Value::Null, "all of it is of somebody ignored");
    let own = chat.relate(&carol, "m.thread", &root, "4").await;
    let thread = chat.bundled(&carol, &root).await["m.thread"].clone();
    assert_eq!((&thread["count"], &thread["current_user_participated"]), (&json!(1), &json!(true)));
    assert_eq!(thread["latest_event"]["event_id"], *own);
}

#[tokio::test]
async fn references_are_bundled_by_their_ids_and_reactions_are_not() {
    let chat = Chat::new("shared").await;
    let root = chat.say(&chat.alice, "root").await;
    let first = chat.relate(&chat.alice, "m.reference", &root, "1").await;
    let second = chat.relate(&chat.bob, "m.reference", &root, "2").await;
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": root, "key": "👍" } });
    chat.bob.send(&chat.room, "m.reaction", reaction).await.ok();
    let bundled = chat.bundled(&chat.bob, &root).await;
    assert_eq!(bundled, json!({ "m.reference": { "chunk": [{ "event_id": first }, { "event_id": second }] } }));
    chat.ignore(&chat.alice, &chat.bob).await;
    let bundled = chat.bundled(&chat.alice, &root).await;
    assert_eq!(bundled, json!({ "m.reference": { "chunk": [{ "event_id": first }] } }));
    let listed = chat.relations(&chat.alice, &root, &[]).await;
    assert_eq!(ids(&listed["chunk"]), [&*first]);
}

#[tokio::test]
async fn aggregations_are_in_every_list_of_events_that_may_lack_the_relations() {
    let chat = Chat::new("shared").await;
    let since = chat.bob.now().await;
    let root = chat.say(&chat.alice, "root").await;
    let other = chat.relate(&chat.alice, "m.thread", &root, "reply").await;
    let edit = chat.edit(&chat.alice, &root, "edited").await;
    let bundled_in = |events: &Value| {
        let events = events.as_array().unwrap();
        let event = events.iter().find(|event| event["event_id"] == *root).unwrap_or_else(|| panic!("{events:?}"));
        event["unsigned"]["m.relations"]["m.replace"]["event_id"].as_str().map(str::to_owned)
    };
    let room = &chat.room;
    let messages = chat.bob.get(&format!("/v3/rooms/{room}/messages?dir=b")).await.ok();
    assert_eq!(bundled_in(&messages["chunk"]), Some(edit.clone()));
    let context = chat.bob.get(&format!("/v3/rooms/{room}/context/{}", path(&other))).await.ok();
    assert_eq!(bundled_in(&context["events_before"]), Some(edit.clone()));
    let whole = chat.bob.sync_with(&query(&[("filter", r#"{"room":{"timeline":{"limit":3}}}"#)])[1..]).await;
    let timeline = &whole["rooms"]["join"][room]["timeline"];
    assert_eq!(timeline["limited"], true, "{timeline}");
    assert_eq!(bundled_in(&timeline["events"]), Some(edit));
    let news = chat.bob.sync(&since).await;
    let timeline = &news["rooms"]["join"][room]["timeline"];
    assert_eq!((bundled_in(&timeline["events"]), &timeline["limited"]), (None, &json!(false)), "the client has all");
}

#[tokio::test]
async fn what_is_bundled_with_the_events_of_an_answer_has_a_size_together() {
    let chat = Chat::new("shared").await;
    let large = "x".repeat(30_000);
    for number in 0..75 {
        let message = chat.say(&chat.alice, &number.to_string()).await;
        chat.edit(&chat.alice, &message, &large).await; // says it twice
    }
    let filter = r#"{"types":["m.room.message"],"org.matrix.msc3874.not_rel_types":["m.replace"]}"#;
    let parameters = query(&[("dir", "b"), ("limit", "1000"), ("filter", filter)]);
    let page = chat.bob.get(&format!("/v3/rooms/{}/messages{parameters}", chat.room)).await.ok();
    let events = page["chunk"].as_array().unwrap();
    let is_bundled = |event: &Value| event["unsigned"].get("m.relations").is_some();
    let bundled = events.iter().take_while(|&event| is_bundled(event)).count();
    assert!((60..72).contains(&bundled) && events.len() == 75, "{bundled}");
    assert!(!events[bundled..].iter().any(is_bundled));
}

#[tokio::test]
async fn messages_can_be_asked_for_by_their_relation() {
    let chat = Chat::new("shared").await;
    let root = chat.say(&chat.alice, "root").await;
    let reply = chat.relate(&chat.alice, "m.thread", &root, "reply").await;
    let reference = chat.relate(&chat.alice, "m.reference", &root, "reference").await;
    for (filter, expected) in [
        (json!({ "rel_types": ["m.thread"] }), vec![&*reply]),
        (json!({ "rel_types": ["m.thread", "m.reference"] }), vec![&reference, &reply]),
        (json!({ "rel_types": [] }), vec![]),
        (json!({ "not_rel_types": ["m.thread"] }), vec![&reference, &root]),
        (json!({ "rel_types": ["m.thread", "m.reference"], "not_rel_types": ["m.thread"] }), vec![&reference]),
    ] {
        let mut prefixed = json!({ "types": ["m.room.message"] });
        for (key, value) in filter.as_object().unwrap() {
            prefixed[format!("org.matrix.msc3874.{key}")] = value.clone();
        }
        let parameters = query(&[("dir", "b"), ("filter", &prefixed.to_string())]);
        let page = chat.bob.get(&format!("/v3/rooms/{}/messages{parameters}", chat.room)).await.ok();
        assert_eq!(ids(&page["chunk"]), expected, "{filter}");
    }
    let wrong = query(&[("dir", "b"), ("filter", r#"{"org.matrix.msc3874.rel_types":"m.thread"}"#)]);
    let refused = chat.bob.get(&format!("/v3/rooms/{}/messages{wrong}", chat.room)).await;
    assert_eq!(refused.error(), (400, "M_INVALID_PARAM"));
}
