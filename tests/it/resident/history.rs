use serde_json::{Value, json};

use super::{Scene, find};
use crate::support::{Answer, room::path};

/// The endpoints that answer about one event of a room: with what they give, for an event that may be seen.
fn questions(room: &str, event: &str) -> Vec<String> {
    let (room, event) = (path(room), path(event));
    vec![
        format!("/v1/state/{room}?event_id={event}"),
        format!("/v1/state_ids/{room}?event_id={event}"),
        format!("/v1/event_auth/{room}/{event}"),
        format!("/v1/backfill/{room}?v={event}&limit=10"),
    ]
}

async fn missing(scene: &Scene, room: &str, latest: &str) -> Answer {
    let body = json!({ "earliest_events": [], "latest_events": [latest] });
    scene.peer.post(&scene.server, &format!("/v1/get_missing_events/{}", path(room)), body).await
}

#[tokio::test]
async fn a_server_in_the_room_gets_its_events_and_states() {
    let scene = Scene::new("11").await;
    scene.join(&scene.bob()).await;
    let first = scene.alice.say(&scene.room, "first").await;
    let second = scene.alice.say(&scene.room, "second").await;

    let answer = scene.peer.get(&scene.server, &format!("/v1/event/{}", path(&first))).await.ok();
    assert_eq!(answer["origin"], "resident.test");
    assert_eq!(answer["pdus"][0]["content"]["body"], "first");
    assert!(answer["pdus"][0].get("event_id").is_none() && answer["pdus"][0]["signatures"].is_object());

    let [state, state_ids, event_auth, backfill] = <[String; 4]>::try_from(questions(&scene.room, &second)).unwrap();
    let answer = scene.peer.get(&scene.server, &backfill).await.ok();
    let bodies: Vec<_> = answer["pdus"].as_array().unwrap().iter().take(2).map(|e| &e["content"]["body"]).collect();
    assert_eq!(bodies, ["second", "first"]);
    let answer = scene.peer.get(&scene.server, &state).await.ok();
    assert!(find(&answer["pdus"], "m.room.member", &scene.bob()).is_some());
    assert!(find(&answer["auth_chain"], "m.room.create", "").is_some());
    let ids = scene.peer.get(&scene.server, &state_ids).await.ok();
    assert_eq!(ids["pdu_ids"].as_array().unwrap().len(), answer["pdus"].as_array().unwrap().len());
    let answer = scene.peer.get(&scene.server, &event_auth).await.ok();
    assert!(find(&answer["auth_chain"], "m.room.member", &scene.alice.id).is_some());
    assert_eq!(
        missing(&scene, &scene.room, &second).await.ok()["events"].as_array().unwrap().last().unwrap()["content"]["body"],
        "first"
    );
}

#[tokio::test]
async fn an_event_of_another_room_is_as_unknown_as_one_that_is_not() {
    let scene = Scene::new("11").await;
    scene.join(&scene.bob()).await;
    let private = scene.alice.create_room(json!({ "preset": "private_chat" })).await;
    let secret = scene.alice.say(&private, "secret").await;
    let unknown = "$0123456789012345678901234567890123456789012";
    for (of_secret, of_unknown) in questions(&scene.room, &secret).iter().zip(questions(&scene.room, unknown)) {
        let answer = scene.peer.get(&scene.server, of_secret).await;
        let same = scene.peer.get(&scene.server, &of_unknown).await;
        assert_eq!((answer.status, &answer.bytes), (same.status, &same.bytes), "{of_secret}");
    }
    assert_eq!(missing(&scene, &scene.room, &secret).await.ok(), json!({ "events": [] }));
    let by_id = async |id: &str| {
        let answer = scene.peer.get(&scene.server, &format!("/v1/event/{}", path(id))).await;
        (answer.status, answer.bytes)
    };
    assert_eq!(by_id(&secret).await, by_id(unknown).await);
}

#[tokio::test]
async fn a_server_that_is_not_in_a_room_cannot_tell_it_from_one_that_is_not_there() {
    let scene = Scene::new("11").await;
    let said = scene.alice.say(&scene.room, "x").await;
    for (of_room, of_none) in questions(&scene.room, &said).iter().zip(questions("!none:resident.test", &said)) {
        let answer = scene.peer.get(&scene.server, of_room).await;
        assert_eq!(answer.error(), (403, "M_FORBIDDEN"), "{of_room}");
        assert_eq!(answer.bytes, scene.peer.get(&scene.server, &of_none).await.bytes);
    }
    let answer = missing(&scene, &scene.room, &said).await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN"));
    assert_eq!(answer.bytes, missing(&scene, "!none:resident.test", &said).await.bytes);
}

#[tokio::test]
async fn what_was_said_before_a_server_came_it_gets_without_content_where_the_room_wants_that() {
    let scene = Scene::new("11").await;
    let visibility = json!({ "history_visibility": "joined" });
    scene.alice.set(&scene.room, "m.room.history_visibility", "", visibility).await;
    let before = scene.alice.say(&scene.room, "before").await;
    scene.join(&scene.bob()).await;
    let after = scene.alice.say(&scene.room, "after").await;
    let content = async |id: &str| {
        scene.peer.get(&scene.server, &format!("/v1/event/{}", path(id))).await.ok()["pdus"][0]["content"].clone()
    };
    assert_eq!(content(&before).await, json!({}));
    assert_eq!(content(&after).await["body"], "after");
    let backfill = &questions(&scene.room, &after)[3];
    let events = scene.peer.get(&scene.server, backfill).await.ok();
    let said = |events: &Value| events.to_string().matches("\"before\"").count();
    assert_eq!(said(&events), 0);
    assert_eq!(said(&missing(&scene, &scene.room, &after).await.ok()), 0);
    assert!(events["pdus"].as_array().unwrap().iter().any(|event| scene.id_of(event) == before), "but it is there");
}

#[tokio::test]
async fn who_was_banned_or_left_gets_nothing_more() {
    let scene = Scene::new("11").await;
    scene.join(&scene.bob()).await;
    let said = scene.alice.say(&scene.room, "x").await;
    scene.alice.act(&scene.room, "ban", json!({ "user_id": scene.bob() })).await.ok();
    for question in questions(&scene.room, &said) {
        assert_eq!(scene.peer.get(&scene.server, &question).await.error(), (403, "M_FORBIDDEN"));
    }
    let answer = scene.peer.get(&scene.server, &format!("/v1/event/{}", path(&said))).await;
    assert_eq!(answer.error(), (404, "M_NOT_FOUND"));
}
