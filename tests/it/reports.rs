//! What users report, and who reads it.

use serde_json::{Value, json};

use crate::support::{
    TestServer, User,
    room::{event_id, path},
};

const EVENT_REPORTS: &str = "/_synapse/admin/v1/event_reports";

async fn report(user: &User, path: &str, body: Value) -> crate::support::Answer {
    user.post(&format!("/v3{path}"), body).await
}

#[tokio::test]
async fn reports_of_events_are_kept_for_the_administrators() {
    let server = TestServer::new().await;
    let (alice, bob, boss) = (server.user("alice").await, server.user("bob").await, server.administrator("boss").await);
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Harbour" })).await;
    bob.join(&room).await;
    let event = event_id(alice.try_say(&room, "insult").await);
    let of_event = format!("/rooms/{room}/report/{}", path(&event));
    report(&bob, &of_event, json!({ "reason": "rude", "score": -100 })).await.ok();
    report(&bob, &of_event, json!({})).await.ok();
    let listed = boss.get(EVENT_REPORTS).await.ok();
    assert_eq!(listed["total"], 2);
    assert_eq!(listed["event_reports"][0]["reason"], Value::Null, "the newest first");
    let first = &listed["event_reports"][1];
    let expected = json!({
        "id": first["id"], "received_ts": first["received_ts"], "room_id": room, "event_id": event, "name": "Harbour",
        "canonical_alias": null, "user_id": bob.id, "sender": alice.id, "reason": "rude", "score": null,
    });
    assert_eq!(*first, expected);
    let page = boss.get(&format!("{EVENT_REPORTS}?limit=1&dir=f")).await.ok();
    assert_eq!((&page["event_reports"][0]["reason"], &page["next_token"]), (&json!("rude"), &json!(1)));
    let page = boss.get(&format!("{EVENT_REPORTS}?limit=1&dir=f&from=1")).await.ok();
    assert_eq!((&page["event_reports"][0]["reason"], page.get("next_token")), (&Value::Null, None));
    assert_eq!(boss.get(&format!("{EVENT_REPORTS}?user_id=alice")).await.ok()["total"], 0);
    let one = format!("{EVENT_REPORTS}/{}", first["id"]);
    assert_eq!(boss.get(&one).await.ok()["event_json"]["content"]["body"], "insult");
    assert_eq!(boss.get(&format!("{EVENT_REPORTS}/0")).await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn only_what_somebody_in_the_room_may_see_is_reported() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("joined").await;
    let event = event_id(alice.try_say(&room, "before bob came").await);
    let of_event = format!("/rooms/{room}/report/{}", path(&event));
    assert_eq!(report(&bob, &of_event, json!({})).await.error(), (404, "M_NOT_FOUND"));
    bob.join(&room).await;
    assert_eq!(report(&bob, &of_event, json!({})).await.error(), (404, "M_NOT_FOUND"));
    let unknown = format!("/rooms/{room}/report/$unknown");
    assert_eq!(report(&bob, &unknown, json!({})).await.error(), (404, "M_NOT_FOUND"));
    let elsewhere = format!("/rooms/!x:example.org/report/{}", path(&event));
    assert_eq!(report(&alice, &elsewhere, json!({})).await.error(), (404, "M_NOT_FOUND"));
    report(&alice, &of_event, json!({ "reason": "" })).await.ok();
}

#[tokio::test]
async fn rooms_and_users_are_reported_without_telling_whether_they_exist() {
    let server = TestServer::new().await;
    let (alice, bob, boss) = (server.user("alice").await, server.user("bob").await, server.administrator("boss").await);
    let room = alice.create_room(json!({})).await;
    for room in [&*room, "!unknown:example.org"] {
        report(&bob, &format!("/rooms/{room}/report"), json!({ "reason": "spam" })).await.ok();
    }
    let long = format!("@{}:elsewhere.org", "x".repeat(255));
    for user in [&*alice.id, "@nobody:example.org", "@spammer:elsewhere.org", &*long] {
        report(&bob, &format!("/users/{}/report", path(user)), json!({ "reason": "x".repeat(5_000) })).await.ok();
    }
    let rooms = boss.get("/_synapse/admin/v1/room_reports").await.ok();
    assert_eq!((&rooms["total"], &rooms["room_reports"][0]["room_id"]), (&json!(1), &json!(room)));
    let users = boss.get("/_synapse/admin/v1/user_reports?dir=f").await.ok();
    let ids: Vec<_> = users["user_reports"].as_array().unwrap().iter().map(|user| &user["target_user_id"]).collect();
    assert_eq!(ids, [&json!(alice.id), &json!("@spammer:elsewhere.org")]);
    assert_eq!(users["user_reports"][0]["reason"].as_str().map(str::len), Some(2_000));
    let without_reason = report(&bob, &format!("/users/{}/report", path(&alice.id)), json!({})).await;
    assert_eq!(without_reason.error(), (400, "M_BAD_JSON"));
}

#[tokio::test]
async fn who_reports_too_much_does_not_learn_by_that_what_there_is() {
    let server = TestServer::with(|config| config.rate_limits.enabled = true).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({})).await;
    for _ in 0..50 {
        report(&bob, "/rooms/!unknown:example.org/report", json!({ "reason": "spam" })).await.ok();
    }
    for subject in [
        format!("/rooms/{room}"),
        "/rooms/!unknown:example.org".to_owned(),
        format!("/users/{}", path(&alice.id)),
        "/users/@nobody:example.org".to_owned(),
    ] {
        let refused = report(&bob, &format!("{subject}/report"), json!({ "reason": "spam" })).await;
        assert_eq!(refused.error(), (429, "M_LIMIT_EXCEEDED"), "{subject}");
    }
    let of_event = report(&bob, &format!("/rooms/{room}/report/$unknown"), json!({})).await;
    assert_eq!(of_event.error(), (429, "M_LIMIT_EXCEEDED"));
}

#[tokio::test]
async fn reports_are_for_administrators_only() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for list in ["event_reports", "event_reports/1", "room_reports", "user_reports"] {
        let path = format!("/_synapse/admin/v1/{list}");
        assert_eq!(alice.get(&path).await.error(), (403, "M_FORBIDDEN"));
        assert_eq!(server.get(&path).await.error(), (401, "M_MISSING_TOKEN"));
    }
    let root = server.administrator("root").await;
    for wrong in ["?limit=many", "/first"] {
        assert_eq!(root.get(&format!("{EVENT_REPORTS}{wrong}")).await.error(), (400, "M_INVALID_PARAM"), "{wrong}");
    }
}
