use serde_json::{Value, json};

use super::{Scene, is_signed_by};
use crate::support::room::path;

/// A room that only members of the `allowed` rooms may join.
async fn scene(version: &str, allowed: &[&str]) -> Scene {
    let scene = Scene::new(version).await;
    restrict(&scene, allowed).await;
    scene
}

async fn restrict(scene: &Scene, allowed: &[&str]) {
    let allow: Vec<Value> =
        allowed.iter().map(|room| json!({ "type": "m.room_membership", "room_id": room })).collect();
    let rules = json!({ "join_rule": "restricted", "allow": allow });
    scene.alice.set(&scene.room, "m.room.join_rules", "", rules).await;
}

/// A scene whose restricted room is open to those of another room, which bob is in, and that room.
async fn with_bob_next_door(version: &str) -> (Scene, String) {
    let mut scene = Scene::new(version).await;
    let next_door = scene.alice.create_room(json!({ "preset": "public_chat", "room_version": version })).await;
    let restricted = std::mem::replace(&mut scene.room, next_door.clone());
    scene.join(&scene.bob()).await;
    scene.room = restricted;
    restrict(&scene, &[&next_door]).await;
    (scene, next_door)
}

#[tokio::test]
async fn who_is_in_an_allowed_room_is_let_in_by_our_word_and_signature() {
    for version in ["8", "10", "12"] {
        let (scene, _) = with_bob_next_door(version).await;
        let template = scene.make("make_join", &scene.room, &scene.bob()).await.ok();
        assert_eq!(template["event"]["content"]["join_authorised_via_users_server"], scene.alice.id.as_str());
        let (event, id) = scene.complete(&template, |_| {});
        let told = scene.send("v2/send_join", &scene.room, &id, &event).await.ok();
        assert!(is_signed_by(&told["event"], "resident.test") && is_signed_by(&told["event"], "peer.test"));
        assert_eq!(scene.membership(&scene.bob()).await.as_deref(), Some("join"));
    }
}

#[tokio::test]
async fn who_is_in_none_of_the_allowed_rooms_is_not_let_in() {
    let scene = Scene::new("10").await;
    let next_door = scene.alice.create_public_room("shared").await;
    restrict(&scene, &[&next_door]).await;
    assert_eq!(scene.make("make_join", &scene.room, &scene.bob()).await.error(), (403, "M_FORBIDDEN"));
    restrict(&scene, &[]).await;
    assert_eq!(scene.make("make_join", &scene.room, &scene.bob()).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn what_we_cannot_judge_another_server_may() {
    let scene = scene("10", &["!unknown:peer.test"]).await;
    let answer = scene.make("make_join", &scene.room, &scene.bob()).await;
    assert_eq!(answer.error(), (400, "M_UNABLE_TO_AUTHORISE_JOIN"));
}

#[tokio::test]
async fn where_none_of_us_may_invite_another_server_must_vouch() {
    let (scene, next_door) = with_bob_next_door("10").await;
    let carol = scene.server.user("carol").await;
    carol.join(&next_door).await;
    carol.join(&scene.room).await;
    let mut levels = scene.alice.state(&scene.room, "m.room.power_levels", "").await.ok();
    levels["invite"] = 100.into();
    scene.alice.set(&scene.room, "m.room.power_levels", "", levels).await;
    scene.make("make_join", &scene.room, &scene.bob()).await.ok();
    scene.alice.leave(&scene.room).await;
    let answer = scene.make("make_join", &scene.room, &scene.bob()).await;
    assert_eq!(answer.error(), (400, "M_UNABLE_TO_GRANT_JOIN"));
}

#[tokio::test]
async fn our_word_is_not_taken_from_the_event_but_asked_again() {
    let (scene, _) = with_bob_next_door("10").await;
    let template = scene.make("make_join", &scene.room, &scene.bob()).await.ok();
    let dan = scene.peer.user("dan");
    // Dan is next door to nothing, and takes the word that was given for bob.
    let (event, id) = scene.complete(&template, |event| {
        event["sender"] = dan.as_str().into();
        event["state_key"] = dan.as_str().into();
    });
    let answer = scene.send("v2/send_join", &scene.room, &id, &event).await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN"));
    assert!(!answer.body.to_string().contains("signatures"));
    // Without a word nobody comes in.
    let (event, id) = scene.complete(&template, |event| {
        event["content"].as_object_mut().unwrap().remove("join_authorised_via_users_server");
    });
    assert_eq!(scene.send("v2/send_join", &scene.room, &id, &event).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(scene.membership(&dan).await, None);
    assert_eq!(scene.membership(&scene.bob()).await, None);
}

#[tokio::test]
async fn who_is_in_already_needs_nobodys_word() {
    let scene = scene("10", &["!unknown:peer.test"]).await;
    scene.alice.set(&scene.room, "m.room.join_rules", "", json!({ "join_rule": "public" })).await;
    scene.join(&scene.bob()).await;
    restrict(&scene, &["!unknown:peer.test"]).await;
    let template = scene.make("make_join", &scene.room, &scene.bob()).await.ok();
    assert_eq!(template["event"]["content"], json!({ "membership": "join" }));
}

#[tokio::test]
async fn an_allowed_room_that_we_left_opens_no_other_to_a_server_in_it() {
    let (scene, next_door) = with_bob_next_door("10").await;
    let hierarchy = format!("/v1/hierarchy/{}", path(&scene.room));
    scene.peer.get(&scene.server, &hierarchy).await.ok();
    scene.alice.leave(&next_door).await;
    assert_eq!(scene.peer.get(&scene.server, &hierarchy).await.error(), (404, "M_NOT_FOUND"));
}
