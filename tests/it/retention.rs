//! Messages that expire: <https://github.com/matrix-org/matrix-spec-proposals/pull/1763>

use std::time::Duration;

use chappe::{
    check,
    config::Config,
    event::StoredEvent,
    room::{
        relations::Relations,
        retention::purge,
        search::index::SearchWords,
        tables::{EventIds, Events},
    },
};
use ruma::EventId;
use serde_json::{Value, json};

use crate::{
    receipts::read,
    support::{
        TestServer, User,
        room::{event_id, path},
    },
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const DAY_MS: u64 = 86_400_000;
const CONFIGURATION: &str = "/_matrix/client/unstable/org.matrix.msc1763/retention/configuration";

async fn server_with(change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::with(|config| {
        config.retention.enabled = true;
        change(config);
    })
    .await
}

/// A room of a user's whose messages are kept for so many days.
async fn room_of(user: &User, days: u64) -> String {
    let room = user.create_public_room("shared").await;
    user.set(&room, "m.room.retention", "", json!({ "max_lifetime": days * DAY_MS })).await;
    room
}

/// What the database holds of an event.
fn kept(server: &TestServer, id: &str) -> StoredEvent {
    let (snapshot, id) = (server.inside().store.snapshot(), EventId::parse(id).unwrap());
    let place = snapshot.get::<EventIds>(&&*id).unwrap().unwrap();
    snapshot.get::<Events>(&(place.room, place.event)).unwrap().unwrap()
}

/// Removes what has expired; how many events that were. The database must be sound before and after.
async fn sweep(server: &TestServer) -> usize {
    check_store(server);
    let removed = purge::sweep(server.inside()).await.unwrap();
    check_store(server);
    removed
}

fn check_store(server: &TestServer) {
    let report = check::check(&server.inside().store, server.inside().name()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}

/// Where a user finds the event `id` of a room, which says `text`, a word of its own.
async fn found(user: &User, room: &str, id: &str, text: &str) -> Vec<&'static str> {
    let search = json!({ "search_categories": { "room_events": { "search_term": text } } });
    let places = [
        ("history", user.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=100")).await),
        ("forward", user.get(&format!("/v3/rooms/{room}/messages?dir=f&limit=100")).await),
        ("event", user.event(room, id).await),
        ("context", user.get(&format!("/v3/rooms/{room}/context/{}", path(id))).await),
        ("sync", user.get("/v3/sync").await),
        ("notifications", user.get("/v3/notifications").await),
    ];
    let says = |body: &Value| body.to_string().contains(text);
    let mut found: Vec<_> = places.iter().filter(|(_, answer)| says(&answer.body)).map(|(place, _)| *place).collect();
    let results = user.post("/v3/search", search).await.ok();
    if says(&results["search_categories"]["room_events"]["results"]) {
        found.push("search");
    }
    found
}

#[tokio::test]
async fn what_has_expired_is_found_nowhere_and_then_is_gone() {
    let server = server_with(|_| {}).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = room_of(&alice, 2).await;
    alice.set(&room, "m.room.topic", "", json!({ "topic": "harbour" })).await;
    bob.join(&room).await;
    let secret = alice.say(&room, "sesame").await;
    let relation = json!({ "rel_type": "m.thread", "event_id": secret });
    let reply = json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": relation });
    let reply = event_id(bob.send(&room, "m.room.message", reply).await);
    server.advance(DAY);
    let recent = alice.say(&room, "lighthouse").await;

    let everywhere = ["history", "forward", "event", "context", "sync", "notifications", "search"];
    assert_eq!(found(&bob, &room, &secret, "sesame").await, everywhere);
    assert_eq!(sweep(&server).await, 0, "nothing is due yet");
    server.advance(DAY + Duration::from_secs(1));
    let nowhere: [&str; 0] = [];
    assert_eq!(found(&bob, &room, &secret, "sesame").await, nowhere, "the sweep has not been there, but who cares");
    assert_eq!(found(&bob, &room, &recent, "lighthouse").await, everywhere);
    assert!(kept(&server, &secret).common.contains("sesame"));

    assert_eq!(sweep(&server).await, 2, "the message and the reply");
    for id in [&secret, &reply] {
        let left = kept(&server, id);
        assert!(left.flags.purged && !left.common.contains("body") && left.relation.is_none(), "{left:?}");
    }
    let snapshot = server.inside().store.snapshot();
    assert_eq!(snapshot.list::<Relations>(&()).count(), 0);
    let words: Vec<_> = snapshot.list::<SearchWords>(&()).map(|row| row.unwrap().key().unwrap().1.to_owned()).collect();
    assert!(!words.contains(&"sesame".to_owned()) && words.contains(&"harbour".to_owned()), "{words:?}");
    assert_eq!(found(&bob, &room, &secret, "sesame").await, nowhere);
    assert_eq!(found(&bob, &room, &recent, "lighthouse").await, everywhere);
    for id in [&secret, &reply] {
        let children = format!("/v1/rooms/{room}/relations/{}", path(id));
        assert_eq!(bob.get(&children).await.error(), (404, "M_NOT_FOUND"));
        assert_eq!(bob.event(&room, id).await.error(), (404, "M_NOT_FOUND"));
    }
    let threads = bob.get(&format!("/v1/rooms/{room}/threads")).await.ok();
    assert_eq!(threads["chunk"], json!([]));
    // State stays, and the room goes on.
    let types = json!(bob.history(&room).await).to_string();
    assert!(types.contains("m.room.create") && types.contains("harbour") && types.contains("m.room.retention"));
    alice.say(&room, "on").await;
    assert_eq!(sweep(&server).await, 0, "once is enough");

    // What is gone does not come back with another policy.
    alice.set(&room, "m.room.retention", "", json!({})).await;
    assert_eq!(found(&bob, &room, &secret, "sesame").await, nowhere);
}

#[tokio::test]
async fn a_longer_policy_saves_what_has_not_been_removed_yet_and_a_shorter_one_hits_what_was_there_before() {
    let server = server_with(|_| {}).await;
    let alice = server.user("alice").await;
    let room = room_of(&alice, 3).await;
    let first = alice.say(&room, "first").await;
    server.advance(DAY);
    let second = alice.say(&room, "second").await;
    server.advance(2 * DAY + Duration::from_secs(1));
    assert_eq!(sweep(&server).await, 1);
    let is_seen = async |id: &String| alice.event(&room, id).await.status == 200;
    alice.set(&room, "m.room.retention", "", json!({ "max_lifetime": 100 * DAY_MS })).await;
    server.advance(20 * DAY);
    assert_eq!((is_seen(&first).await, is_seen(&second).await), (false, true));
    assert_eq!(sweep(&server).await, 0);
    // Clients that know the name of the proposal set it by that, and it counts before the other.
    alice.set(&room, "org.matrix.msc1763.retention", "", json!({ "max_lifetime": DAY_MS })).await;
    assert!(!is_seen(&second).await);
    assert_eq!(sweep(&server).await, 1);
    assert!(kept(&server, &second).flags.purged);
}

#[tokio::test]
async fn the_last_event_stays_until_something_follows_it() {
    let server = server_with(|_| {}).await;
    let alice = server.user("alice").await;
    let room = room_of(&alice, 1).await;
    let last = alice.say(&room, "last").await;
    server.advance(30 * DAY);
    assert_eq!(sweep(&server).await, 0);
    assert_eq!(alice.event(&room, &last).await.ok()["content"]["body"], "last");
    alice.say(&room, "next").await;
    assert_eq!(alice.event(&room, &last).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(sweep(&server).await, 1);
    assert!(kept(&server, &last).flags.purged);
}

#[tokio::test]
async fn rooms_that_say_nothing_have_the_default_and_nobody_exceeds_the_limits() {
    let server = server_with(|config| {
        config.retention.default_lifetime = Some(10 * DAY);
        config.retention.allowed_lifetime_min = 5 * DAY;
        config.retention.allowed_lifetime_max = Some(20 * DAY);
    })
    .await;
    let alice = server.user("alice").await;
    let features = alice.get("/_matrix/client/versions").await.ok();
    assert_eq!(features["unstable_features"]["org.matrix.msc1763"], true);
    let expected = json!({
        "policies": { "*": { "max_lifetime": 10 * DAY_MS } },
        "limits": { "max_lifetime": { "min": 5 * DAY_MS, "max": 20 * DAY_MS } },
    });
    assert_eq!(alice.get(CONFIGURATION).await.ok(), expected);
    assert_eq!(server.get(CONFIGURATION).await.error(), (401, "M_MISSING_TOKEN"));

    let silent = alice.create_public_room("shared").await;
    let (hasty, long) = (room_of(&alice, 1).await, room_of(&alice, 100).await);
    let mut said = Vec::new();
    for room in [&silent, &hasty, &long] {
        said.push((room, alice.say(room, "x").await));
        alice.say(room, "and on").await;
    }
    let mut are_seen = Vec::new();
    for days in [4, 5, 10] {
        server.advance(days * DAY);
        let mut seen = Vec::new();
        for (room, id) in &said {
            seen.push(alice.event(room, id).await.status == 200);
        }
        are_seen.push(seen);
    }
    // After 4, 9 and 19 days: the default is 10, the least 5, the most 20.
    assert_eq!(are_seen, [vec![true, true, true], vec![true, false, true], vec![false, false, true]]);
    server.advance(2 * DAY);
    assert_eq!(alice.event(&long, &said[2].1).await.status, 404);
    assert_eq!(sweep(&server).await, 3);
}

#[tokio::test]
async fn without_being_switched_on_nothing_expires() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let room = room_of(&alice, 1).await;
    let said = alice.say(&room, "x").await;
    alice.say(&room, "and on").await;
    server.advance(1_000 * DAY);
    assert_eq!(sweep(&server).await, 0);
    assert_eq!(alice.event(&room, &said).await.status, 200);
    assert_eq!(alice.get(CONFIGURATION).await.error(), (404, "M_UNRECOGNIZED"));
    let features = alice.get("/_matrix/client/versions").await.ok();
    assert_eq!(features["unstable_features"].get("org.matrix.msc1763"), None);
}

#[tokio::test]
async fn a_policy_that_makes_no_sense_is_refused_and_one_that_does_goes_over_to_the_next_room() {
    let server = server_with(|_| {}).await;
    let alice = server.user("alice").await;
    let room = room_of(&alice, 7).await;
    for content in [json!({ "max_lifetime": -1 }), json!({ "max_lifetime": 1, "min_lifetime": 2 })] {
        for event_type in ["m.room.retention", "org.matrix.msc1763.retention"] {
            let refused = alice.set_state(&room, event_type, "", content.clone()).await;
            assert_eq!(refused.error(), (400, "M_BAD_JSON"), "{content}");
        }
        let state = json!([{ "type": "m.room.retention", "state_key": "", "content": content }]);
        let refused = alice.post("/v3/createRoom", json!({ "initial_state": state })).await;
        assert_eq!(refused.error(), (400, "M_BAD_JSON"), "{content}");
    }
    let upgraded = alice.act(&room, "upgrade", json!({ "new_version": "12" })).await.ok();
    let policy = alice.state(upgraded["replacement_room"].as_str().unwrap(), "m.room.retention", "").await.ok();
    assert_eq!(policy, json!({ "max_lifetime": 7 * DAY_MS }));
}

#[tokio::test]
async fn nobody_is_told_to_read_what_has_expired() {
    let server = server_with(|_| {}).await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = room_of(&alice, 2).await;
    bob.join(&room).await;
    let first = alice.say(&room, "first").await;
    alice.say(&room, "second").await;
    read(&bob, &room, "m.read", &first, json!({})).await.ok();
    let unread = async || {
        let sync = bob.sync_with("").await;
        sync["rooms"]["join"][&room]["unread_notifications"]["notification_count"].as_u64().unwrap()
    };
    assert_eq!(unread().await, 1);
    server.advance(DAY);
    let third = alice.say(&room, "third").await;
    assert_eq!(unread().await, 2);
    server.advance(DAY + Duration::from_secs(1));
    assert_eq!(unread().await, 1, "the second message has expired");
    assert_eq!(sweep(&server).await, 2);
    assert_eq!(unread().await, 1);
    // A client that still shows what is gone can say that it was read, which moves nothing back.
    read(&bob, &room, "m.read", &third, json!({})).await.ok();
    read(&bob, &room, "m.read", &first, json!({})).await.ok();
    assert_eq!(unread().await, 0);
}
