//! Rooms whose events a policy server looks at: `peer.test`, which is in the room as well.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#policy-servers>

use std::{sync::Arc, time::Duration};

use chappe::room::related_redactions;
use http::{Method, StatusCode};
use ruma::room_version_rules::RoomVersionRules;
use serde_json::{Value, json};

use super::{Scene, find};
use crate::support::{
    Peer, START_MS, User, reply,
    room::{event_id, path},
};

const SIGN: &str = "/_matrix/policy/v1/sign";
const KEY_ID: &str = "ed25519:policy_server";

/// A room with a policy server, which signs what does not say "spam".
struct Policed {
    scene: Scene,
    /// Signs as `peer.test` with the policy server's key.
    policy: Peer,
    /// What bob, who is of the policy server, was told when he joined, and his join.
    joined: Value,
    join: String,
}

impl Policed {
    async fn new() -> Self {
        let scene = Scene::new("11").await;
        let policy = Peer::with_key("peer.test", "policy_server");
        let rules = scene.rules();
        let signer = policy.clone();
        scene.peer.on_response(Method::POST, SIGN, move |asked| {
            if asked.body.to_string().contains("spam") {
                let refusal = json!({ "errcode": "M_FORBIDDEN", "error": "That looks like an advertisement" });
                return reply(StatusCode::BAD_REQUEST, &refusal);
            }
            reply(StatusCode::OK, &signature(&signer, rules, &asked.body))
        });
        let joined = scene.join(&scene.bob()).await;
        let join = scene.id_of(&joined["event"]);
        let this = Self { scene, policy, joined, join };
        this.enable("peer.test").await;
        this
    }

    /// Has the room use the policy server `via`, with the key of ours.
    async fn enable(&self, via: &str) {
        let key = &self.policy.keys()["verify_keys"][KEY_ID]["key"];
        let content = json!({ "via": via, "public_keys": { "ed25519": key } });
        self.scene.alice.set(&self.scene.room, "m.room.policy", "", content).await;
    }

    /// A message of bob's, and its id.
    fn message(&self, text: &str) -> (Value, String) {
        let of_state =
            |event_type: &str, key: &str| self.scene.id_of(find(&self.joined["state"], event_type, key).unwrap());
        let auth = [of_state("m.room.create", ""), of_state("m.room.power_levels", ""), self.join.clone()];
        let template = json!({ "event": {
            "type": "m.room.message", "room_id": self.scene.room, "sender": self.scene.bob(), "depth": 20,
            "content": { "msgtype": "m.text", "body": text }, "prev_events": [self.join], "auth_events": auth,
        }});
        self.scene.complete(&template, |_| {})
    }

    async fn send(&self, event: Value) {
        let body = json!({ "origin": "peer.test", "origin_server_ts": START_MS, "pdus": [event] });
        let txn = self.scene.server.inside().random.text(8);
        self.scene.peer.put(&self.scene.server, &format!("/v1/send/{txn}"), body).await.ok();
    }

    /// Whether alice sees an event, once everything that came before a further one has been worked on.
    async fn is_seen(&self, event_id: &str) -> bool {
        let (last, last_id) = self.message(&self.scene.server.inside().random.text(8));
        self.send(last).await;
        for _ in 0..500 {
            if self.scene.alice.event(&self.scene.room, &last_id).await.status == 200 {
                return self.scene.alice.event(&self.scene.room, event_id).await.status == 200;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the last event did not come");
    }

    /// The contents that the policy server was asked about.
    fn asked(&self) -> Vec<Value> {
        self.scene.peer.asked(SIGN).into_iter().map(|asked| asked.body["content"].clone()).collect()
    }

    /// The event as other servers get it.
    async fn as_sent(&self, event_id: &str) -> Value {
        let path = format!("/v1/event/{}", crate::support::room::path(event_id));
        self.scene.peer.get(&self.scene.server, &path).await.ok()["pdus"][0].clone()
    }
}

/// What a policy server with the key of `signer` says to an event that it recommends.
fn signature(signer: &Peer, rules: &RoomVersionRules, event: &Value) -> Value {
    let mut signed = event.clone();
    signer.sign_event(&mut signed, rules);
    json!({ "peer.test": { KEY_ID: signed["signatures"]["peer.test"][KEY_ID] } })
}

#[tokio::test]
async fn what_our_users_send_is_signed_by_the_policy_server_or_not_sent() {
    let policed = Policed::new().await;
    assert!(policed.asked().is_empty(), "it is not asked about its own event");
    let room = &policed.scene.room;
    let hello = policed.scene.alice.say(room, "hello").await;
    let sent = policed.as_sent(&hello).await;
    assert!(sent["signatures"]["peer.test"][KEY_ID].is_string(), "{sent}");
    assert!(sent["signatures"]["resident.test"].is_object(), "{sent}");
    let refused = policed.scene.alice.try_say(room, "spam").await;
    assert_eq!(refused.error(), (400, "M_FORBIDDEN"));
    assert_eq!(refused.body["error"], "That looks like an advertisement");
    let history = policed.scene.alice.history(room).await;
    assert!(!json!(history).to_string().contains("spam"));
    policed.scene.alice.set(room, "m.room.topic", "", json!({ "topic": "also state" })).await;
    let members = policed.scene.server.user("carol").await;
    members.join(room).await;
    assert_eq!(policed.asked().len(), 4);
}

#[tokio::test]
async fn the_same_transaction_is_one_event() {
    let policed = Policed::new().await;
    let path = format!("/v3/rooms/{}/send/m.room.message/once", policed.scene.room);
    let body = json!({ "msgtype": "m.text", "body": "hello" });
    let (first, second) =
        tokio::join!(policed.scene.alice.put(&path, body.clone()), policed.scene.alice.put(&path, body.clone()));
    assert_eq!(first.ok()["event_id"], second.ok()["event_id"]);
}

#[tokio::test]
async fn without_a_usable_answer_nothing_is_sent_until_the_room_gives_the_policy_server_up() {
    let policed = Policed::new().await;
    let (alice, room) = (&policed.scene.alice, &policed.scene.room);
    let signer = Peer::with_key("peer.test", "policy_server");
    let rules = policed.scene.rules();
    policed.scene.peer.on(Method::POST, SIGN, move |asked| signature(&signer, rules, &asked.body));
    assert_eq!(alice.try_say(room, "signed with another key").await.status, 502);
    policed.scene.peer.on(Method::POST, SIGN, |_| json!({}));
    assert_eq!(alice.try_say(room, "not signed").await.status, 502);
    policed.scene.peer.refuse(Method::POST, SIGN, 401, "M_UNKNOWN_TOKEN");
    let answer = alice.try_say(room, "who are you?").await;
    assert_eq!(answer.error(), (502, "M_UNKNOWN"), "nobody is logged out by it");
    policed.scene.peer.refuse(Method::POST, SIGN, 500, "M_UNKNOWN");
    assert_eq!(alice.try_say(room, "broken").await.status, 502);
    alice.set(room, "m.room.policy", "", json!({})).await;
    alice.say(room, "without it").await;
}

/// A message, and one below it.
async fn thread(user: &User, room: &str) -> (String, String) {
    let root = user.say(room, "root").await;
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let content = json!({ "msgtype": "m.text", "body": "below", "m.relates_to": relation });
    (root, event_id(user.send(room, "m.room.message", content).await))
}

#[tokio::test]
async fn what_goes_with_a_redacted_event_waits_for_a_policy_server_that_is_away_and_other_rooms_go_on() {
    let policed = Policed::new().await;
    let Scene { server, alice, room, peer, .. } = &policed.scene;
    tokio::spawn(related_redactions::run(Arc::clone(server.inside())));
    let other = alice.create_room(json!({})).await;
    let ((root, below), (other_root, other_below)) = (thread(alice, room).await, thread(alice, &other).await);
    let redact = async |room: &str, event: &str| {
        let uri = format!("/v3/rooms/{room}/redact/{}/once", path(event));
        alice.put(&uri, json!({ "with_rel_types": ["*"] })).await.ok();
    };
    let is_redacted = async |room: &str, event: &str| {
        alice.event(room, event).await.ok()["unsigned"].get("redacted_because").is_some()
    };
    let (signer, rules, recommended) = (policed.policy.clone(), policed.scene.rules(), json!(root));
    peer.on_response(Method::POST, SIGN, move |asked| {
        if asked.body["content"]["redacts"] == recommended {
            return reply(StatusCode::OK, &signature(&signer, rules, &asked.body));
        }
        reply(StatusCode::BAD_GATEWAY, &json!({}))
    });
    redact(room, &root).await;
    redact(&other, &other_root).await;
    for _ in 0..1_000 {
        if is_redacted(&other, &other_below).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(is_redacted(&other, &other_below).await);
    assert!(policed.asked().iter().any(|content| content["redacts"] == below.as_str()));
    assert!(!is_redacted(room, &below).await);

    let signer = policed.policy.clone();
    peer.on(Method::POST, SIGN, move |asked| signature(&signer, rules, &asked.body));
    server.advance(Duration::from_secs(10)); // as long as one that failed once is left alone, and more
    for _ in 0..1_000 {
        related_redactions::finish(server.inside()).await.unwrap();
        if is_redacted(room, &below).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it is never redacted");
}

#[tokio::test]
async fn a_server_that_has_not_joined_is_no_policy_server_and_neither_is_one_without_a_key() {
    let policed = Policed::new().await;
    let (alice, room) = (&policed.scene.alice, &policed.scene.room);
    policed.enable("absent.test").await;
    alice.say(room, "nobody to ask").await;
    for content in [
        json!({ "via": "peer.test" }),
        json!({ "via": "peer.test", "public_keys": {} }),
        json!({ "via": "peer.test", "public_keys": { "ed25519": 1 } }),
        json!({ "via": 1, "public_keys": { "ed25519": "YQ" } }),
    ] {
        alice.set(room, "m.room.policy", "", content).await;
        alice.say(room, "not valid").await;
    }
    assert!(policed.asked().is_empty());
    let broken = json!({ "via": "peer.test", "public_keys": { "ed25519": "YQ" } });
    alice.set(room, "m.room.policy", "", broken).await;
    assert_eq!(alice.try_say(room, "no signature can be valid").await.status, 502);
}

#[tokio::test]
async fn events_of_other_servers_need_its_signature_and_it_is_asked_for_it() {
    let policed = Policed::new().await;
    let (unsigned, unsigned_id) = policed.message("hello");
    policed.send(unsigned).await;
    assert!(policed.is_seen(&unsigned_id).await);
    assert!(policed.as_sent(&unsigned_id).await["signatures"]["peer.test"][KEY_ID].is_string());

    let (spam, spam_id) = policed.message("spam");
    policed.send(spam).await;
    assert!(!policed.is_seen(&spam_id).await, "it is soft-failed");

    // Signed already, and by the server that sends it with both its keys.
    let (mut signed, signed_id) = policed.message("signed");
    policed.policy.sign_event(&mut signed, policed.scene.rules());
    assert_eq!(signed["signatures"]["peer.test"].as_object().unwrap().len(), 2);
    policed.send(signed).await;
    assert!(policed.is_seen(&signed_id).await);
    assert!(!policed.asked().iter().any(|content| content["body"] == "signed"), "nobody asks again");

    // The key of the policy server is none with which its server may send events.
    let (mut forged, forged_id) = policed.message("forged");
    forged["signatures"] = json!({});
    policed.policy.sign_event(&mut forged, policed.scene.rules());
    policed.send(forged).await;
    assert!(!policed.is_seen(&forged_id).await);
}

#[tokio::test]
async fn who_joins_from_another_server_needs_its_signature() {
    let policed = Policed::new().await;
    let carol = policed.scene.peer.user("carol");
    policed.scene.join(&carol).await;
    assert_eq!(policed.scene.membership(&carol).await.as_deref(), Some("join"));
    assert_eq!(policed.asked().last().unwrap()["membership"], "join");
    policed.scene.peer.refuse(Method::POST, SIGN, 400, "M_FORBIDDEN");
    let dave = policed.scene.peer.user("dave");
    let template = policed.scene.make("make_join", &policed.scene.room, &dave).await.ok();
    let (event, id) = policed.scene.complete(&template, |_| {});
    let answer = policed.scene.send("v2/send_join", &policed.scene.room, &id, &event).await;
    assert_eq!(answer.error(), (403, "M_FORBIDDEN"));
    assert_eq!(policed.scene.membership(&dave).await, None);
}

#[tokio::test]
async fn this_server_is_no_policy_server() {
    let policed = Policed::new().await;
    let (event, _) = policed.message("hello");
    let answer = policed.scene.peer.post(&policed.scene.server, SIGN, event).await;
    assert_eq!(answer.error(), (404, "M_UNRECOGNIZED"));
}
