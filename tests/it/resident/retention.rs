use std::time::Duration;

use chappe::room::retention::purge;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Scene, find};
use crate::support::{START_MS, TestNetwork, room::path};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const DAY_MS: u64 = 86_400_000;

/// A room whose messages are kept for two days, with bob of the other server in it.
struct Kept {
    scene: Scene,
    /// What bob was told when he joined.
    joined: Value,
}

impl Kept {
    async fn new() -> Self {
        let network = TestNetwork::new();
        let server = network.server_with("resident.test", |config| config.retention.enabled = true).await;
        let peer = network.peer("peer.test");
        peer.set_valid_until(START_MS + 30 * DAY_MS);
        let alice = server.user("alice").await;
        let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
        let scene = Scene { server, alice, peer, version: "11".try_into().unwrap(), room };
        scene.alice.set(&scene.room, "m.room.retention", "", json!({ "max_lifetime": 2 * DAY_MS })).await;
        let joined = scene.join(&scene.bob()).await;
        Self { scene, joined }
    }

    /// A message of bob's after `prev`, and its id.
    fn message(&self, text: &str, prev: &str, sent_ms: u64) -> (Value, String) {
        let of_state =
            |event_type: &str, key: &str| self.scene.id_of(find(&self.joined["state"], event_type, key).unwrap());
        let join = self.scene.id_of(&self.joined["event"]);
        let template = json!({ "event": {
            "type": "m.room.message", "room_id": self.scene.room, "sender": self.scene.bob(), "depth": 20,
            "content": { "msgtype": "m.text", "body": text }, "prev_events": [prev],
            "auth_events": [of_state("m.room.create", ""), of_state("m.room.power_levels", ""), join],
        }});
        self.scene.complete(&template, |event| event["origin_server_ts"] = sent_ms.into())
    }

    async fn send(&self, event: Value) {
        let body = json!({ "origin": "peer.test", "origin_server_ts": START_MS, "pdus": [event] });
        let txn = self.scene.server.inside().random.text(8);
        self.scene.peer.put(&self.scene.server, &format!("/v1/send/{txn}"), body).await.ok();
    }

    async fn until_seen(&self, id: &str) {
        for _ in 0..500 {
            if self.scene.alice.event(&self.scene.room, id).await.status == StatusCode::OK {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{id} did not come");
    }

    async fn ask(&self, path: &str) -> (StatusCode, String) {
        let answer = self.scene.peer.get(&self.scene.server, path).await;
        (answer.status, answer.body.to_string())
    }

    /// What the other server is told of the messages, `first` and `second`.
    async fn check_told(&self, first: &str, second: &str) {
        let room = path(&self.scene.room);
        let (status, _) = self.ask(&format!("/v1/event/{}", path(first))).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let (status, event) = self.ask(&format!("/v1/event/{}", path(second))).await;
        assert!(status == StatusCode::OK && event.contains("second"), "{event}");
        let (_, events) = self.ask(&format!("/v1/backfill/{room}?v={}&limit=20", path(second))).await;
        assert!(events.contains("second") && events.contains("m.room.create"), "state is told: {events}");
        assert!(!events.contains("\"first\""), "{events}");
        let body = json!({ "earliest_events": [], "latest_events": [second], "limit": 20 });
        let missing = self.scene.peer.post(&self.scene.server, &format!("/v1/get_missing_events/{room}"), body).await;
        let missing = missing.ok()["events"].clone();
        let messages = missing.as_array().unwrap().iter().filter(|event| event["type"] == "m.room.message").count();
        assert_eq!(messages, 0, "not even what a redaction leaves: {missing}");
        let by_time = format!("/v1/timestamp_to_event/{room}?ts={}&dir=f", START_MS + 2_000);
        let (_, nearest) = self.ask(&by_time).await;
        assert!(!nearest.contains(first), "{nearest}");
        // The state there is what it was, and who knows the event can go on from it.
        let (status, state) = self.ask(&format!("/v1/state_ids/{room}?event_id={}", path(first))).await;
        assert!(status == StatusCode::OK, "{state}");
    }
}

#[tokio::test]
async fn what_has_expired_is_unknown_to_other_servers_and_the_room_goes_on_from_it() {
    let kept = Kept::new().await;
    let scene = &kept.scene;
    scene.server.advance(Duration::from_secs(2));
    let first = scene.alice.say(&scene.room, "first").await;
    scene.server.advance(DAY);
    let second = scene.alice.say(&scene.room, "second").await;
    scene.server.advance(DAY + Duration::from_secs(1));
    kept.check_told(&first, &second).await;
    assert_eq!(purge::sweep(scene.server.inside()).await.unwrap(), 1);
    kept.check_told(&first, &second).await;

    // An event on a branch that begins at the purged one, and one that has expired when it comes.
    let now_ms = scene.server.inside().clock.now_ms();
    let (branch, branch_id) = kept.message("branch", &first, now_ms);
    let (late, late_id) = kept.message("late", &branch_id, START_MS + 2_500);
    let (last, last_id) = kept.message("at last", &late_id, now_ms);
    for event in [branch, late, last] {
        kept.send(event).await;
    }
    kept.until_seen(&last_id).await;
    kept.until_seen(&branch_id).await;
    assert_eq!(scene.alice.event(&scene.room, &late_id).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(purge::sweep(scene.server.inside()).await.unwrap(), 1);
    scene.alice.say(&scene.room, "on").await;
    let report = chappe::check::check(&scene.server.inside().store, scene.server.inside().name()).unwrap();
    assert!(report.is_clean(), "{:#?}", report.problems);
}
