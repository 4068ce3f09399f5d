use futures_util::future::join_all;
use serde_json::json;

use super::{Scene, find, is_signed_by};

async fn scene(version: &str) -> Scene {
    let scene = Scene::new(version).await;
    scene.alice.set(&scene.room, "m.room.join_rules", "", json!({ "join_rule": "knock" })).await;
    scene.alice.set(&scene.room, "m.room.name", "", json!({ "name": "Door" })).await;
    scene
}

#[tokio::test]
async fn a_user_of_another_server_knocks_and_his_server_is_told_what_the_room_is() {
    for version in ["7", "11", "12"] {
        let scene = scene(version).await;
        let template = scene.make("make_knock", &scene.room, &scene.bob()).await.ok();
        assert_eq!(template["event"]["content"], json!({ "membership": "knock" }));
        let (event, id) = scene.complete(&template, |event| event["content"]["reason"] = "hello?".into());
        let told = scene.send("v1/send_knock", &scene.room, &id, &event).await.ok();
        let told = &told["knock_room_state"];
        for (event_type, field, value) in [
            ("m.room.create", "room_version", version),
            ("m.room.name", "name", "Door"),
            ("m.room.join_rules", "join_rule", "knock"),
        ] {
            let event = find(told, event_type, "").unwrap_or_else(|| panic!("no {event_type}: {told}"));
            assert_eq!(event["content"][field], value);
            assert!(is_signed_by(event, "resident.test") && event["hashes"].is_object(), "they are whole events");
        }
        assert!(told.as_array().unwrap().iter().all(|event| event["type"] != "m.room.member"));
        assert_eq!(scene.membership(&scene.bob()).await.as_deref(), Some("knock"));
        assert_eq!(find(told, "m.room.create", "").unwrap().get("room_id").is_none(), version == "12");
    }
}

#[tokio::test]
async fn a_knock_that_comes_several_times_at_once_is_answered_alike_each_time() {
    let scene = scene("11").await;
    let template = scene.make("make_knock", &scene.room, &scene.bob()).await.ok();
    let (event, id) = scene.complete(&template, |_| {});
    let at_once = (0..4).map(|_| scene.send("v1/send_knock", &scene.room, &id, &event));
    let told: Vec<_> = join_all(at_once).await.into_iter().map(|answer| answer.ok()).collect();
    assert!(told.iter().all(|other| *other == told[0]));
    assert_eq!(scene.membership(&scene.bob()).await.as_deref(), Some("knock"));
}

#[tokio::test]
async fn nobody_can_knock_where_that_is_not_asked_for() {
    let scene = Scene::new("11").await;
    assert_eq!(scene.make("make_knock", &scene.room, &scene.bob()).await.error(), (403, "M_FORBIDDEN"));
    let old = Scene::new("6").await;
    assert_eq!(old.make("make_knock", &old.room, &old.bob()).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn only_a_knock_can_be_sent_as_a_knock() {
    let scene = scene("11").await;
    let template = scene.make("make_knock", &scene.room, &scene.bob()).await.ok();
    for membership in ["join", "leave", "invite", "ban", "nonsense"] {
        let (event, id) = scene.complete(&template, |event| event["content"]["membership"] = membership.into());
        let answer = scene.send("v1/send_knock", &scene.room, &id, &event).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{membership}");
    }
    let (event, id) = scene.complete(&template, |_| {});
    assert_eq!(scene.send("v2/send_join", &scene.room, &id, &event).await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(scene.membership(&scene.bob()).await, None);
}
