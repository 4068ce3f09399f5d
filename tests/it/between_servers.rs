//! Two servers, or one and a scripted one, that share rooms: events, EDUs, devices and keys go from one to the other.

mod attacks;
mod devices;
mod edus;
mod queue;
mod sticky;

use std::time::Duration;

use chappe::{check, federation::queue as outgoing};
use http::Method;
use serde_json::{Value, json};

use crate::support::{HostedRoom, Peer, TestNetwork, TestServer, User, query};

/// alice on `a.test` and bob on `b.test`, in a room of hers.
struct Pair {
    network: TestNetwork,
    alice: User,
    bob: User,
    room: String,
}

impl Pair {
    async fn new() -> Self {
        let network = TestNetwork::new();
        let (a, b) = (network.server("a.test").await, network.server("b.test").await);
        let (alice, bob) = (a.user("alice").await, b.user("bob").await);
        let room = alice.create_room(json!({ "preset": "public_chat" })).await;
        join(&bob, &room, "a.test").await;
        // What is told because of the join itself is not what the tests look at.
        for server in [a, b] {
            outgoing::start(server.inside());
            outgoing::until_sent(server.inside(), &[]).await.unwrap();
        }
        Self { network, alice, bob, room }
    }

    fn check(&self) {
        for user in [&self.alice, &self.bob] {
            let server = user.server.inside();
            let report = check::check(&server.store, server.name()).unwrap();
            assert!(report.is_clean(), "{:#?}", report.problems);
        }
    }
}

/// bob on `here`, in a room of the scripted server `there`, which takes what is sent to it.
struct Scripted {
    here: TestServer,
    bob: User,
    peer: Peer,
    room: HostedRoom,
}

impl Scripted {
    async fn new() -> Self {
        let network = TestNetwork::new();
        let here = network.server("here").await;
        let bob = here.user("bob").await;
        let peer = network.peer("there");
        peer.on(Method::PUT, SEND, |_| json!({ "pdus": {} }));
        let room = HostedRoom::new(&peer);
        join(&bob, &room.id, "there").await;
        outgoing::start(here.inside());
        outgoing::until_sent(here.inside(), &[]).await.unwrap();
        Self { here, bob, peer, room }
    }

    /// Sends EDUs as the peer.
    async fn send(&self, edus: Value) {
        let txn = self.here.inside().random.text(12);
        let body = json!({ "origin": "there", "origin_server_ts": 1, "pdus": [], "edus": edus });
        self.peer.put(&self.here, &format!("/v1/send/{txn}"), body).await.ok();
    }

    /// The EDUs of a type that the peer got so far: their contents.
    fn edus(&self, edu_type: &str) -> Vec<Value> {
        let transactions = self.peer.asked(SEND);
        let edus = transactions.iter().flat_map(|asked| asked.body["edus"].as_array().cloned().unwrap_or_default());
        edus.filter(|edu| edu["edu_type"] == edu_type).map(|edu| edu["content"].clone()).collect()
    }

    fn pdus(&self) -> Vec<Value> {
        let transactions = self.peer.asked(SEND);
        transactions.iter().flat_map(|asked| asked.body["pdus"].as_array().cloned().unwrap_or_default()).collect()
    }
}

const SEND: &str = "/_matrix/federation/v1/send/";

async fn join(user: &User, room: &str, via: &str) {
    user.post(&format!("/v3/join/{room}{}", query(&[("via", via)])), json!({})).await.ok();
}

/// Waits until something that other tasks do has happened.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..1_000 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: it did not happen");
}

/// Waits until `user` sees the event.
async fn until_seen(user: &User, room: &str, event_id: &str) {
    until(event_id, async || (user.event(room, event_id).await.status == 200).then_some(())).await;
}

/// Waits until the user's next answers have what `find` looks for in one of them.
async fn until_synced<T>(user: &User, since: &str, what: &str, find: impl Fn(&Value) -> Option<T>) -> T {
    let mut since = since.to_owned();
    until(what, async || {
        let answer = user.sync(&since).await;
        since = answer["next_batch"].as_str().unwrap().to_owned();
        find(&answer)
    })
    .await
}
