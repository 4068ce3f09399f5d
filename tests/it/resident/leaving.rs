use futures_util::future::join_all;
use serde_json::json;

use super::Scene;

#[tokio::test]
async fn a_user_of_another_server_leaves_a_room_by_a_server_that_is_in_it() {
    let scene = Scene::new("11").await;
    scene.join(&scene.bob()).await;
    let template = scene.make("make_leave", &scene.room, &scene.bob()).await.ok();
    assert_eq!(template["room_version"], "11");
    assert_eq!(template["event"]["content"], json!({ "membership": "leave" }));
    let (event, id) = scene.complete(&template, |event| event["content"]["reason"] = "bye".into());
    assert_eq!(scene.send("v2/send_leave", &scene.room, &id, &event).await.ok(), json!({}));
    assert_eq!(scene.membership(&scene.bob()).await.as_deref(), Some("leave"));
    assert_eq!(scene.send("v2/send_leave", &scene.room, &id, &event).await.ok(), json!({}));
    assert_eq!(scene.send("v1/send_leave", &scene.room, &id, &event).await.ok(), json!([200, {}]));
}

#[tokio::test]
async fn a_leave_that_comes_several_times_at_once_is_answered_alike_each_time() {
    let scene = Scene::new("11").await;
    scene.join(&scene.bob()).await;
    let template = scene.make("make_leave", &scene.room, &scene.bob()).await.ok();
    let (event, id) = scene.complete(&template, |_| {});
    let at_once = (0..4).map(|_| scene.send("v2/send_leave", &scene.room, &id, &event));
    for answer in join_all(at_once).await {
        assert_eq!(answer.ok(), json!({}));
    }
    assert_eq!(scene.membership(&scene.bob()).await.as_deref(), Some("leave"));
}

#[tokio::test]
async fn who_is_not_in_the_room_and_was_not_asked_in_cannot_leave_it() {
    let scene = Scene::new("11").await;
    assert_eq!(scene.make("make_leave", &scene.room, &scene.bob()).await.error(), (403, "M_FORBIDDEN"));
    let unknown = "!unknown:resident.test";
    assert_eq!(scene.make("make_leave", unknown, &scene.bob()).await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn a_leave_that_kicks_somebody_else_or_is_a_join_is_not_taken_as_a_leave() {
    let scene = Scene::new("11").await;
    scene.join(&scene.bob()).await;
    scene.join(&scene.peer.user("dan")).await;
    let template = scene.make("make_leave", &scene.room, &scene.bob()).await.ok();
    let dan = scene.peer.user("dan");
    for (what, membership, target) in [("kick", "leave", &dan), ("join", "join", &scene.bob()), ("ban", "ban", &dan)] {
        let (event, id) = scene.complete(&template, |event| {
            event["content"]["membership"] = membership.into();
            event["state_key"] = target.as_str().into();
        });
        let answer = scene.send("v2/send_leave", &scene.room, &id, &event).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{what}");
    }
    assert_eq!(scene.membership(&dan).await.as_deref(), Some("join"));
}
