//! Sticky events: <https://github.com/matrix-org/matrix-spec-proposals/pull/4354> and
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4480>

use std::time::Duration;

use chappe::{check, sweep};
use serde_json::{Value, json};

use crate::support::{Answer, TestServer, User, room::event_id};

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const EXTENSION: &str = "org.matrix.msc4354.sticky_events";

/// A filter by which one event is told of each timeline.
const ONE_EVENT: &str = "filter=%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:1%7D%7D%7D";

pub async fn try_stick(user: &User, room: &str, duration: &str, number: usize) -> Answer {
    let txn = user.server.inside().random.text(12);
    let query = format!("org.matrix.msc4354.sticky_duration_ms={duration}");
    user.put(&format!("/v3/rooms/{room}/send/org.sticky/{txn}?{query}"), json!({ "n": number })).await
}

pub async fn stick(user: &User, room: &str, duration_ms: u64, number: usize) -> String {
    event_id(try_stick(user, room, &duration_ms.to_string(), number).await)
}

/// The numbers of the sticky events that an answer of `/sync` tells beside the timeline.
pub fn stuck(answer: &Value, room: &str) -> Vec<u64> {
    numbers(&answer["rooms"]["join"][room]["msc4354_sticky"]["events"])
}

fn numbers(events: &Value) -> Vec<u64> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().map(|event| event["content"]["n"].as_u64().unwrap()).collect()
}

async fn chat() -> (TestServer, User, User, String) {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.create_public_room("joined").await;
    bob.join(&room).await;
    (server, alice, bob, room)
}

#[tokio::test]
async fn a_sticky_event_is_told_though_the_timeline_is_past_it() {
    let (server, alice, bob, room) = chat().await;
    let before = bob.now().await;
    stick(&alice, &room, 60_000, 1).await;
    let in_timeline = bob.sync(&before).await;
    let event = &in_timeline["rooms"]["join"][&room]["timeline"]["events"][0];
    assert_eq!(event["msc4354_sticky"], json!({ "duration_ms": 60_000 }));
    assert_eq!(event["unsigned"]["msc4354_sticky_duration_ttl_ms"], 60_000);
    assert_eq!(in_timeline["rooms"]["join"][&room].get("msc4354_sticky"), None, "it is told once");

    stick(&alice, &room, 60_000, 2).await;
    alice.say(&room, "later").await;
    server.advance(Duration::from_secs(20));
    let answer = bob.sync_with(&format!("{ONE_EVENT}&since={before}")).await;
    assert_eq!(stuck(&answer, &room), [1, 2]);
    let sticky = &answer["rooms"]["join"][&room]["msc4354_sticky"]["events"][1];
    assert_eq!(sticky["unsigned"]["msc4354_sticky_duration_ttl_ms"], 40_000);
    let next = bob.sync_with(&format!("{ONE_EVENT}&since={}", answer["next_batch"].as_str().unwrap())).await;
    assert_eq!(next["rooms"].get("join"), None, "and once only");

    server.advance(Duration::from_secs(40));
    let answer = bob.sync_with(&format!("{ONE_EVENT}&since={before}")).await;
    assert_eq!(stuck(&answer, &room), [0; 0], "its time is over");
    let features = bob.get("/_matrix/client/versions").await.ok();
    assert_eq!(features["unstable_features"]["org.matrix.msc4354"], true);
}

#[tokio::test]
async fn who_comes_in_gets_what_is_sticky_though_he_may_not_see_the_past() {
    let (server, alice, _, room) = chat().await;
    let event = stick(&alice, &room, 60_000, 1).await;
    alice.say(&room, "before carol came").await;
    let carol = server.user("carol").await;
    let before = carol.now().await;
    carol.join(&room).await;
    assert_eq!(carol.event(&room, &event).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(stuck(&carol.sync(&before).await, &room), [1]);
    assert_eq!(stuck(&carol.sync_with("").await, &room), [1]);
    let ignored = json!({ "ignored_users": { &alice.id: {} } });
    carol.put(&format!("/v3/user/{}/account_data/m.ignored_user_list", carol.id), ignored).await.ok();
    assert_eq!(stuck(&carol.sync_with("").await, &room), [0; 0]);
}

#[tokio::test]
async fn what_was_redacted_is_sticky_no_more() {
    let (server, alice, bob, room) = chat().await;
    let before = bob.now().await;
    let event = stick(&alice, &room, 60_000, 1).await;
    alice.redact(&room, &event).await.ok();
    let answer = bob.sync_with(&format!("{ONE_EVENT}&since={before}")).await;
    assert_eq!(stuck(&answer, &room), [0; 0]);
    assert_eq!(bob.event(&room, &event).await.ok().get("msc4354_sticky"), None);
    let report = check::check(&server.inside().store, server.inside().name()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}

#[tokio::test]
async fn an_event_sticks_for_an_hour_at_most() {
    let (_server, alice, bob, room) = chat().await;
    for wrong in ["3600001", "-1", "x", "1.5", ""] {
        assert_eq!(try_stick(&alice, &room, wrong, 1).await.error(), (400, "M_INVALID_PARAM"), "{wrong}");
    }
    let before = bob.now().await;
    stick(&alice, &room, 0, 1).await;
    stick(&alice, &room, 3_600_000, 2).await;
    alice.say(&room, "later").await;
    assert_eq!(stuck(&bob.sync_with(&format!("{ONE_EVENT}&since={before}")).await, &room), [2]);
}

#[tokio::test]
async fn state_and_what_is_sent_later_can_be_sticky() {
    let (server, alice, bob, room) = chat().await;
    let before = bob.now().await;
    let sticky = "org.matrix.msc4354.sticky_duration_ms=60000";
    for n in [1, 1] {
        alice.put(&format!("/v3/rooms/{room}/state/org.state/x?{sticky}"), json!({ "n": n })).await.ok();
    }
    let path = format!("/v3/rooms/{room}/send/org.sticky/later?{sticky}&org.matrix.msc4140.delay=5000");
    alice.put(&path, json!({ "n": 2 })).await.ok();
    server.advance(Duration::from_secs(5));
    chappe::room::delayed::send_due(server.inside()).await.unwrap();
    alice.say(&room, "later").await;
    let answer = bob.sync_with(&format!("{ONE_EVENT}&since={before}")).await;
    assert_eq!(stuck(&answer, &room), [1, 1, 2], "the same state is told anew");
}

#[tokio::test]
async fn what_has_ended_is_removed() {
    let (server, alice, _, room) = chat().await;
    stick(&alice, &room, 60_000, 1).await;
    stick(&alice, &room, 120_000, 2).await;
    server.advance(Duration::from_secs(61));
    sweep::once(server.inside()).await.unwrap();
    let carol = server.user("carol").await;
    carol.join(&room).await;
    assert_eq!(stuck(&carol.sync_with("").await, &room), [2]);
    let report = check::check(&server.inside().store, server.inside().name()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}

#[tokio::test]
async fn a_room_has_so_many_of_one_server() {
    let (server, alice, _, room) = chat().await;
    for number in 0..500 {
        stick(&alice, &room, 60_000, number).await;
    }
    assert_eq!(try_stick(&alice, &room, "60000", 500).await.status, 429);
    alice.say(&room, "others are no matter").await;
    server.advance(Duration::from_secs(60));
    stick(&alice, &room, 60_000, 500).await;
}

/// bob's answer of sliding sync, with a list of no places and these settings of the extension.
async fn slide(bob: &User, since: Option<&str>, limit: u64) -> Value {
    let list = json!({ "ranges": [], "timeline_limit": 0 });
    let extension = json!({ "enabled": true, "limit": limit, "since": since });
    let body = json!({ "lists": { "all": list }, "extensions": { EXTENSION: extension } });
    bob.post(SLIDING, body).await.ok()["extensions"][EXTENSION].take()
}

#[tokio::test]
async fn sliding_sync_tells_all_of_them_page_by_page() {
    let (_server, alice, bob, room) = chat().await;
    assert_eq!(slide(&bob, None, 2).await, Value::Null);
    for number in 1..=3 {
        stick(&alice, &room, 60_000, number).await;
    }
    let first = slide(&bob, None, 2).await;
    assert_eq!(numbers(&first["rooms"][&room]["events"]), [1, 2], "of rooms beyond the places of the list too");
    let next = first["next_batch"].as_str().unwrap();
    let second = slide(&bob, Some(next), 2).await;
    assert_eq!(numbers(&second["rooms"][&room]["events"]), [3]);
    assert_eq!(slide(&bob, second["next_batch"].as_str(), 2).await, Value::Null);

    let other = alice.create_public_room("joined").await;
    stick(&alice, &other, 60_000, 4).await;
    stick(&alice, &room, 60_000, 5).await;
    let token = slide(&bob, second["next_batch"].as_str(), 2).await["next_batch"].take();
    bob.join(&other).await;
    let joined = slide(&bob, token.as_str(), 2).await;
    assert_eq!(numbers(&joined["rooms"][&other]["events"]), [4], "it is older than the token");
    let bad = json!({ "extensions": { EXTENSION: { "enabled": true, "since": "x" } }, "lists": { "a": { "timeline_limit": 0 } } });
    assert_eq!(bob.post(SLIDING, bad).await.error(), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn sliding_sync_tells_in_one_place_only() {
    let (_server, alice, bob, room) = chat().await;
    stick(&alice, &room, 60_000, 1).await;
    stick(&alice, &room, 60_000, 2).await;
    let list = json!({ "ranges": [[0, 9]], "timeline_limit": 1 });
    let body = json!({ "lists": { "all": list }, "extensions": { EXTENSION: { "enabled": true } } });
    let answer = bob.post(SLIDING, body).await.ok();
    assert_eq!(numbers(&answer["rooms"][&room]["timeline"]), [2]);
    let extension = &answer["extensions"][EXTENSION];
    assert_eq!(numbers(&extension["rooms"][&room]["events"]), [1]);
    assert_eq!(slide(&bob, extension["next_batch"].as_str(), 2).await, Value::Null);
}
