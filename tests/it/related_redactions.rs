//! Redactions that take along what relates to their target: MSC3912.

use std::{sync::Arc, time::Duration};

use chappe::room::related_redactions;
use serde_json::{Value, json};

use crate::support::{
    TestServer, User,
    room::{event_id, path},
};

struct Scene {
    alice: User,
    bob: User,
    room: String,
}

impl Scene {
    /// A room of alice's with bob in it.
    async fn new() -> Self {
        let server = TestServer::new().await;
        tokio::spawn(related_redactions::run(Arc::clone(server.inside())));
        let (alice, bob) = (server.user("alice").await, server.user("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        bob.join(&room).await;
        Self { alice, bob, room }
    }

    /// Says something that relates to an event in this way.
    async fn relate(&self, user: &User, rel_type: &str, parent: &str) -> String {
        let relation = json!({ "rel_type": rel_type, "event_id": parent, "key": user.id });
        let content =
            json!({ "msgtype": "m.text", "body": "x", "m.new_content": { "body": "y" }, "m.relates_to": relation });
        event_id(user.send(&self.room, "m.room.message", content).await)
    }

    async fn redact(&self, user: &User, event: &str, body: Value) -> crate::support::Answer {
        let txn = user.server.inside().random.text(8);
        user.put(&format!("/v3/rooms/{}/redact/{}/{txn}", self.room, path(event)), body).await
    }

    async fn redacted_because(&self, event: &str) -> Option<Value> {
        let shown = self.alice.event(&self.room, event).await.ok();
        shown["unsigned"].get("redacted_because").cloned()
    }

    async fn until_redacted(&self, event: &str) -> Value {
        for _ in 0..1_000 {
            if let Some(redaction) = self.redacted_because(event).await {
                return redaction;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{event} is never redacted");
    }
}

#[tokio::test]
async fn what_relates_to_an_event_goes_with_it() {
    let scene = Scene::new().await;
    let Scene { alice, bob, room } = &scene;
    let features = alice.get("/_matrix/client/versions").await.ok();
    assert_eq!(features["unstable_features"]["org.matrix.msc3912"], true);
    for (key, types) in [
        ("with_rel_types", json!(["m.replace", "m.thread"])),
        ("org.matrix.msc3912.with_relations", json!(["m.thread", "m.replace"])),
    ] {
        let root = alice.say(room, "root").await;
        let edit = scene.relate(alice, "m.replace", &root).await;
        let no_edit = scene.relate(bob, "m.replace", &root).await;
        let reply = scene.relate(bob, "m.thread", &root).await;
        let reference = scene.relate(alice, "m.reference", &root).await;
        let below = scene.relate(alice, "m.reference", &reply).await;
        scene.redact(alice, &root, json!({ key: types, "reason": "spam" })).await.ok();
        for id in [&edit, &reply] {
            let redaction = scene.until_redacted(id).await;
            assert_eq!((&redaction["sender"], &redaction["content"]["reason"]), (&json!(alice.id), &json!("spam")));
        }
        // What comes later, too.
        let late = scene.relate(bob, "m.thread", &root).await;
        scene.until_redacted(&late).await;
        for (id, what) in [(&no_edit, "an edit by somebody else"), (&reference, "another type"), (&below, "a step on")]
        {
            assert_eq!(scene.redacted_because(id).await, None, "{what}");
        }
    }
}

#[tokio::test]
async fn a_star_is_any_type() {
    let scene = Scene::new().await;
    let root = scene.alice.say(&scene.room, "root").await;
    let reference = scene.relate(&scene.bob, "m.reference", &root).await;
    let other = scene.relate(&scene.bob, "org.example", &root).await;
    scene.redact(&scene.alice, &root, json!({ "with_rel_types": ["*"] })).await.ok();
    scene.until_redacted(&reference).await;
    scene.until_redacted(&other).await;
}

#[tokio::test]
async fn nobody_redacts_more_by_it_than_without() {
    let scene = Scene::new().await;
    let root = scene.bob.say(&scene.room, "root").await;
    let of_alice = scene.relate(&scene.alice, "m.thread", &root).await;
    let of_bob = scene.relate(&scene.bob, "m.thread", &root).await;
    let with = json!({ "with_rel_types": ["m.thread"] });
    scene.redact(&scene.bob, &root, with.clone()).await.ok();
    scene.until_redacted(&of_bob).await;
    assert_eq!(scene.redacted_because(&of_alice).await, None, "bob has no power over her");

    // Who may not redact an event gets nothing by it, now or when somebody else does.
    let root = scene.alice.say(&scene.room, "root").await;
    let reply = scene.relate(&scene.bob, "m.thread", &root).await;
    assert_eq!(scene.redact(&scene.bob, &root, with).await.error(), (403, "M_FORBIDDEN"));
    scene.redact(&scene.alice, &root, json!({})).await.ok();
    let marker = scene.alice.say(&scene.room, "marker").await;
    let last = scene.relate(&scene.alice, "m.thread", &marker).await;
    scene.redact(&scene.alice, &marker, json!({ "with_rel_types": ["m.thread"] })).await.ok();
    scene.until_redacted(&last).await;
    assert_eq!(scene.redacted_because(&reply).await, None);
}

#[tokio::test]
async fn what_is_asked_for_must_be_a_list_of_types() {
    let scene = Scene::new().await;
    let root = scene.alice.say(&scene.room, "root").await;
    for wrong in [json!("m.thread"), json!([1]), json!({})] {
        let answer = scene.redact(&scene.alice, &root, json!({ "with_rel_types": wrong })).await;
        assert_eq!(answer.error(), (400, "M_BAD_JSON"));
    }
    let many: Vec<String> = (0..51).map(|number| number.to_string()).collect();
    let answer = scene.redact(&scene.alice, &root, json!({ "with_rel_types": many })).await;
    assert_eq!(answer.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(scene.redacted_because(&root).await, None);
    scene.redact(&scene.alice, &root, json!({ "with_rel_types": [] })).await.ok();
    scene.until_redacted(&root).await;
}
