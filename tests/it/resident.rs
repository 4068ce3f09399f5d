//! What other servers ask of our rooms: to let their users in and out, to tell the history. And what they must not get,
//! or make us sign.

mod history;
mod invites;
mod joins;
mod knocks;
mod leaving;
mod policy_servers;
mod restricted;
mod retention;
mod sticky;
mod third_party;

use chappe::event::rules;
use ruma::{RoomVersionId, room_version_rules::RoomVersionRules, signatures::reference_hash};
use serde_json::{Value, json};

use crate::support::{Answer, Peer, START_MS, TestNetwork, TestServer, User, room::path};

/// A room of alice's on our server, and another server that is not in it yet.
struct Scene {
    server: TestServer,
    alice: User,
    peer: Peer,
    version: RoomVersionId,
    room: String,
}

impl Scene {
    /// With a room that anybody may join.
    async fn new(version: &str) -> Self {
        Self::with(version, json!({ "preset": "public_chat" })).await
    }

    /// With a room that `POST /createRoom` makes with `body`.
    async fn with(version: &str, mut body: Value) -> Self {
        let network = TestNetwork::new();
        let server = network.server("resident.test").await;
        let peer = network.peer("peer.test");
        let alice = server.user("alice").await;
        body["room_version"] = version.into();
        let room = alice.create_room(body).await;
        Self { server, alice, peer, version: version.try_into().unwrap(), room }
    }

    fn rules(&self) -> &'static RoomVersionRules {
        rules::rules(&self.version).unwrap()
    }

    fn bob(&self) -> String {
        self.peer.user("bob")
    }

    /// `make_join`, `make_leave` or `make_knock` for a user.
    async fn make(&self, what: &str, room: &str, user: &str) -> Answer {
        let version = &self.version;
        self.peer.get(&self.server, &format!("/v1/{what}/{}/{}?ver=1&ver={version}", path(room), path(user))).await
    }

    /// The event of a template, signed, with what `change` makes of it, and its id.
    fn complete(&self, template: &Value, change: impl FnOnce(&mut Value)) -> (Value, String) {
        let mut event = template["event"].clone();
        event["origin"] = self.peer.name().as_str().into();
        event["origin_server_ts"] = (START_MS + 1_000).into();
        if self.version == RoomVersionId::V1 || self.version == RoomVersionId::V2 {
            event["event_id"] = format!("$made:{}", self.peer.name()).into();
        }
        change(&mut event);
        self.peer.sign_event(&mut event, self.rules());
        let id = self.id_of(&event);
        (event, id)
    }

    fn id_of(&self, event: &Value) -> String {
        match event["event_id"].as_str() {
            Some(id) => id.to_owned(),
            None => {
                let hash = reference_hash(&serde_json::from_value(event.clone()).unwrap(), self.rules());
                format!("${}", hash.unwrap())
            }
        }
    }

    /// `v2/send_join`, `v2/send_leave` or `v1/send_knock` of an event.
    async fn send(&self, what: &str, room: &str, event_id: &str, event: &Value) -> Answer {
        let what = what.replace('?', &format!("/{}/{}?", path(room), path(event_id)));
        let uri = if what.contains('?') { what } else { format!("{what}/{}/{}", path(room), path(event_id)) };
        self.peer.put(&self.server, &format!("/{uri}"), event.clone()).await
    }

    /// Joins a user of the other server; what it is told.
    async fn join(&self, user: &str) -> Value {
        let template = self.make("make_join", &self.room, user).await.ok();
        let (event, id) = self.complete(&template, |_| {});
        self.send("v2/send_join", &self.room, &id, &event).await.ok()
    }

    /// The membership of a user, as alice sees it.
    async fn membership(&self, user: &str) -> Option<String> {
        let answer = self.alice.state(&self.room, "m.room.member", user).await;
        answer.body["membership"].as_str().map(str::to_owned)
    }
}

/// The entry of a list of events with that type and state key.
fn find<'a>(events: &'a Value, event_type: &str, state_key: &str) -> Option<&'a Value> {
    let is_it = |event: &&Value| event["type"] == event_type && event["state_key"] == state_key;
    events.as_array().expect("a list of events").iter().find(is_it)
}

/// Whether an event has a signature of this server.
fn is_signed_by(event: &Value, server: &str) -> bool {
    event["signatures"][server].as_object().is_some_and(|signatures| !signatures.is_empty())
}
