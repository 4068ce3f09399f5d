//! A room of ours in which a hostile server has a user: what it sends, with its own key and by the rules of the room, and
//! what it gets.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use chappe::{
    check,
    config::Config,
    federation::inbox::{self, Staged},
    room::View,
};
use ruma::{OwnedRoomId, room_version_rules::RoomVersionRules};
use serde_json::{Value, json};

use super::{Answer, Peer, START_MS, TestNetwork, TestServer, User, hosted::id_of, room::path};

const RULES: &RoomVersionRules = &RoomVersionRules::V11;

/// A public version 11 room of alice's on `home.test`, in which mallory of `evil.test` is.
pub struct Siege {
    pub network: TestNetwork,
    pub home: TestServer,
    pub alice: User,
    pub evil: Peer,
    pub room: String,
    pub mallory: String,
    transactions: AtomicUsize,
}

impl Siege {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let siege = Self::before_the_walls(change).await;
        siege.let_in(&siege.evil, &siege.mallory, &siege.room).await;
        siege
    }

    /// The same, and mallory is not in the room yet.
    pub async fn before_the_walls(change: impl FnOnce(&mut Config)) -> Self {
        let network = TestNetwork::new();
        let home = network.server_with("home.test", change).await;
        let evil = network.peer("evil.test");
        let alice = home.user("alice").await;
        let room = alice.create_room(json!({ "preset": "public_chat", "room_version": "11" })).await;
        let mallory = evil.user("mallory");
        Self { network, home, alice, evil, room, mallory, transactions: AtomicUsize::new(0) }
    }

    /// `make_join`, `make_leave` or `make_knock`.
    pub async fn make(&self, what: &str, peer: &Peer, user: &str, room: &str) -> Answer {
        peer.get(&self.home, &format!("/v1/{what}/{}/{}?ver=11", path(room), path(user))).await
    }

    /// Joins a user of a peer.
    pub async fn let_in(&self, peer: &Peer, user: &str, room: &str) -> Value {
        let mut join = self.make("make_join", peer, user, room).await.ok()["event"].clone();
        peer.sign_event(&mut join, RULES);
        let uri = format!("/v2/send_join/{}/{}", path(room), path(&id_of(&join)));
        peer.put(&self.home, &uri, join).await.ok()
    }

    /// An event of mallory's at the end of the room as it is now, signed.
    pub async fn event(&self, event_type: &str, state_key: Option<&str>, content: Value) -> Value {
        let mut event = self.make("make_leave", &self.evil, &self.mallory, &self.room).await.ok()["event"].clone();
        event["type"] = event_type.into();
        event["content"] = content;
        match state_key {
            Some(state_key) => event["state_key"] = state_key.into(),
            None => drop(event.as_object_mut().unwrap().remove("state_key")),
        }
        event["origin_server_ts"] = (START_MS + 1 + self.transactions.load(Ordering::Relaxed) as u64).into();
        self.sign(&mut event);
        event
    }

    pub async fn message(&self, text: &str) -> Value {
        self.event("m.room.message", None, json!({ "msgtype": "m.text", "body": text })).await
    }

    /// The event with what `change` makes of it, signed anew.
    pub fn changed(&self, event: &Value, change: impl FnOnce(&mut Value)) -> Value {
        let mut event = event.clone();
        change(&mut event);
        self.sign(&mut event);
        event
    }

    /// Signs an event, which may have been signed before it was changed.
    pub fn sign(&self, event: &mut Value) {
        let fields = event.as_object_mut().unwrap();
        fields.remove("hashes");
        fields.remove("signatures");
        self.evil.sign_event(event, RULES);
    }

    /// Sends events in a transaction of their own and waits until they were worked on.
    pub async fn send(&self, pdus: Vec<Value>) -> Value {
        let answer = self.try_send(&self.evil, pdus, Vec::new()).await.ok();
        self.until_worked_on().await;
        answer
    }

    pub async fn send_edus(&self, edus: Vec<Value>) {
        self.try_send(&self.evil, Vec::new(), edus).await.ok();
    }

    pub async fn try_send(&self, peer: &Peer, pdus: Vec<Value>, edus: Vec<Value>) -> Answer {
        let number = self.transactions.fetch_add(1, Ordering::Relaxed);
        let body = json!({ "origin": peer.name(), "origin_server_ts": START_MS, "pdus": pdus, "edus": edus });
        peer.put(&self.home, &format!("/v1/send/{number}"), body).await
    }

    pub async fn until_worked_on(&self) {
        until_worked_on(&self.home).await;
    }

    /// Whether alice sees an event.
    pub async fn is_seen(&self, event: &Value) -> bool {
        self.alice.event(&self.room, &id_of(event)).await.status == 200
    }

    /// How many ends the room's graph has.
    pub fn ends(&self) -> usize {
        let server = self.home.inside();
        let room = OwnedRoomId::try_from(self.room.as_str()).unwrap();
        let snapshot = server.store.snapshot();
        View::open(&server.rooms, &snapshot, &room).unwrap().expect("the room is there").forward_extremities().len()
    }

    /// That what is stored fits together, and that the room lives.
    pub async fn check(&self) {
        let said = self.alice.say(&self.room, "still here").await;
        assert_eq!(self.alice.event(&self.room, &said).await.status, 200);
        assert_ne!(self.ends(), 0);
        let server = self.home.inside();
        let report = check::check(&server.store, server.name()).unwrap();
        assert!(report.is_clean(), "{:#?}", report.problems);
    }
}

/// Waits until nothing that came in is left to work on.
pub async fn until_worked_on(server: &TestServer) {
    for _ in 0..2_000 {
        if server.inside().store.snapshot().list::<Staged>(&()).next().is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("events that came in are not worked on");
}

/// The most that one transaction takes.
pub const MAX_PDUS: usize = inbox::MAX_PDUS;
pub const MAX_EDUS: usize = inbox::MAX_EDUS;
