//! A room that lives on a peer: real, signed events, and answers for whoever wants to get in or asks for its past.

use std::{collections::BTreeMap, sync::Arc};

use http::Method;
use parking_lot::Mutex;
use ruma::{CanonicalJsonObject, room_version_rules::RoomVersionRules, signatures::reference_hash};
use serde_json::{Value, json};

use super::{Answer, Asked, Peer, START_MS, TestServer};

const RULES: &RoomVersionRules = &RoomVersionRules::V11;

/// A version 11 room of the peer's users.
#[derive(Clone)]
pub struct HostedRoom {
    pub peer: Peer,
    pub id: String,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// All events, in the order in which they were made.
    events: Vec<(String, Value)>,
    /// The state before each event.
    states: BTreeMap<String, State>,
    state: State,
    ends: Vec<String>,
    transactions: usize,
}

type State = BTreeMap<(String, String), String>;

impl HostedRoom {
    /// A room that anybody may join, made by `alice` of the peer.
    pub fn new(peer: &Peer) -> Self {
        let room = Self { peer: peer.clone(), id: format!("!room:{}", peer.name()), inner: Arc::default() };
        let alice = peer.user("alice");
        room.add(&alice, "m.room.create", Some(""), json!({ "room_version": "11" }));
        room.add(&alice, "m.room.member", Some(&alice), json!({ "membership": "join", "displayname": "Alice" }));
        room.add(&alice, "m.room.power_levels", Some(""), json!({ "users": { &alice: 100 } }));
        room.add(&alice, "m.room.join_rules", Some(""), json!({ "join_rule": "public" }));
        room.add(&alice, "m.room.name", Some(""), json!({ "name": "Hosted" }));
        room.serve();
        room
    }

    /// Makes an event at the end of the room: its id.
    pub fn add(&self, sender: &str, event_type: &str, state_key: Option<&str>, content: Value) -> String {
        let ends = self.inner.lock().ends.clone();
        let event = self.build(sender, event_type, state_key, content, &ends);
        self.keep(event)
    }

    /// Says something at the end of the room: its id.
    pub fn say(&self, text: &str) -> String {
        let alice = self.peer.user("alice");
        self.add(&alice, "m.room.message", None, json!({ "msgtype": "m.text", "body": text }))
    }

    /// A signed event after `prev`, which is not part of the room yet.
    pub fn build(
        &self,
        sender: &str,
        event_type: &str,
        state_key: Option<&str>,
        content: Value,
        prev: &[String],
    ) -> Value {
        let inner = self.inner.lock();
        let mut event = json!({
            "type": event_type, "sender": sender, "room_id": self.id, "content": &content, "prev_events": prev,
            "auth_events": inner.auth_events(sender, event_type, state_key, &content), "depth": inner.events.len() + 1,
            "origin_server_ts": START_MS + inner.events.len() as u64,
        });
        if let Some(state_key) = state_key {
            event["state_key"] = json!(state_key);
        }
        self.peer.sign_event(&mut event, RULES);
        event
    }

    /// Signs an event that was changed since it was built.
    pub fn sign(&self, event: &mut Value) {
        let fields = event.as_object_mut().unwrap();
        fields.remove("hashes");
        fields.remove("signatures");
        self.peer.sign_event(event, RULES);
    }

    /// Makes a finished event the end of the room: its id.
    pub fn keep(&self, event: Value) -> String {
        let id = id_of(&event);
        let mut inner = self.inner.lock();
        let before = inner.state.clone();
        inner.states.insert(id.clone(), before);
        if let Some(state_key) = event["state_key"].as_str() {
            let key = (event["type"].as_str().unwrap().to_owned(), state_key.to_owned());
            inner.state.insert(key, id.clone());
        }
        inner.ends = vec![id.clone()];
        inner.events.push((id.clone(), event));
        id
    }

    /// Makes a finished event that the room does not allow the end of its graph: its id.
    pub fn keep_refused(&self, event: Value) -> String {
        let id = id_of(&event);
        let mut inner = self.inner.lock();
        inner.ends = vec![id.clone()];
        inner.events.push((id.clone(), event));
        id
    }

    pub fn event(&self, id: &str) -> Value {
        self.inner.lock().event(id).unwrap_or_else(|| panic!("no event {id}"))
    }

    pub fn state_event(&self, event_type: &str, state_key: &str) -> Option<Value> {
        let inner = self.inner.lock();
        let id = inner.state.get(&(event_type.to_owned(), state_key.to_owned()))?;
        inner.event(id)
    }

    /// Sends events to `server` in a transaction of their own.
    pub async fn send(&self, server: &TestServer, pdus: Vec<Value>) -> Answer {
        let number = {
            let mut inner = self.inner.lock();
            inner.transactions += 1;
            inner.transactions
        };
        self.send_as(server, &format!("hosted{number}"), pdus).await
    }

    pub async fn send_as(&self, server: &TestServer, transaction: &str, pdus: Vec<Value>) -> Answer {
        let body = json!({ "origin": self.peer.name(), "origin_server_ts": START_MS, "pdus": pdus });
        self.peer.put(server, &format!("/v1/send/{transaction}"), body).await
    }

    /// Has the peer answer whatever is asked of its room.
    fn serve(&self) {
        let path = |endpoint: &str| format!("/_matrix/federation/{endpoint}/");
        let room = self.clone();
        self.peer.on(Method::GET, &path("v1/make_join"), move |asked| {
            let user = last_part(asked);
            json!({ "room_version": "11", "event": room.draft(&user, "join") })
        });
        let room = self.clone();
        self.peer.on(Method::PUT, &path("v2/send_join"), move |asked| room.let_in(&asked.body));
        let room = self.clone();
        self.peer.on(Method::GET, &path("v1/backfill"), move |asked| {
            let wanted: Vec<String> = query(asked, "v");
            json!({ "origin": room.peer.name(), "origin_server_ts": START_MS, "pdus": room.before(&wanted) })
        });
        self.share_states(&self.peer);
        let room = self.clone();
        self.peer.on(
            Method::GET,
            &path("v1/event_auth"),
            move |asked| json!({ "auth_chain": room.events(&room.chain(&[last_part(asked)])) }),
        );
    }

    /// From now on, no more than `limit` events of the room's past are told at once.
    pub fn limit_backfill(&self, limit: usize) {
        let room = self.clone();
        self.peer.on(Method::GET, "/_matrix/federation/v1/backfill/", move |asked| {
            let mut told = room.before(&query(asked, "v"));
            told.truncate(limit);
            json!({ "origin": room.peer.name(), "origin_server_ts": START_MS, "pdus": told })
        });
    }

    /// From now on whoever asks for that is let in without being told the members; `servers` are said to be in the room.
    pub fn omit_members(&self, servers: &[&str]) {
        let room = self.clone();
        let servers: Vec<String> = servers.iter().map(|&server| server.to_owned()).collect();
        self.peer.on(Method::PUT, "/_matrix/federation/v2/send_join/", move |asked| {
            let mut answer = room.let_in(&asked.body);
            if asked.uri.contains("omit_members=true") {
                let state: Vec<Value> = answer["state"].as_array().unwrap().clone();
                let state: Vec<_> = state.into_iter().filter(|event| event["type"] != "m.room.member").collect();
                let ids: Vec<String> = state.iter().map(id_of).collect();
                answer["auth_chain"] = json!(room.events(&room.chain(&ids)));
                answer["state"] = json!(state);
                answer["members_omitted"] = json!(true);
                answer["servers_in_room"] = json!(servers);
            }
            answer
        });
    }

    /// Has another peer answer what is asked of the room's states.
    pub fn share_states(&self, peer: &Peer) {
        let room = self.clone();
        peer.on(Method::GET, "/_matrix/federation/v1/state_ids/", move |asked| room.state_ids(asked));
        let room = self.clone();
        peer.on(Method::GET, "/_matrix/federation/v1/event/", move |asked| room.one_event(asked));
    }

    pub fn state_ids(&self, asked: &Asked) -> Value {
        let ids: Vec<_> = self.state_before(&query(asked, "event_id")[0]).into_values().collect();
        json!({ "pdu_ids": ids, "auth_chain_ids": self.chain(&ids) })
    }

    fn one_event(&self, asked: &Asked) -> Value {
        json!({ "origin": self.peer.name(), "origin_server_ts": START_MS, "pdus": [self.event(&last_part(asked))] })
    }

    /// What `make_join` and its like answer.
    pub fn draft(&self, user: &str, membership: &str) -> Value {
        let inner = self.inner.lock();
        json!({
            "type": "m.room.member", "room_id": self.id, "sender": user, "state_key": user,
            "content": { "membership": membership }, "depth": inner.events.len() + 1, "prev_events": inner.ends,
            "auth_events": inner.auth_events(user, "m.room.member", Some(user), &json!({ "membership": membership })), "origin_server_ts": START_MS,
        })
    }

    fn let_in(&self, join: &Value) -> Value {
        let (state, ids) = {
            let inner = self.inner.lock();
            (inner.state.clone(), inner.state.values().cloned().collect::<Vec<_>>())
        };
        let state: Vec<String> = state.into_values().collect();
        let answer =
            json!({ "state": self.events(&state), "auth_chain": self.events(&self.chain(&ids)), "event": join });
        self.keep(join.clone());
        answer
    }

    pub fn events(&self, ids: &[String]) -> Vec<Value> {
        let inner = self.inner.lock();
        ids.iter().filter_map(|id| inner.event(id)).collect()
    }

    /// `wanted` and what was before them, newest first.
    fn before(&self, wanted: &[String]) -> Vec<Value> {
        let inner = self.inner.lock();
        let last = inner.events.iter().rposition(|(id, _)| wanted.contains(id)).map_or(0, |last| last + 1);
        inner.events[..last].iter().rev().map(|(_, event)| event.clone()).collect()
    }

    fn state_before(&self, id: &str) -> State {
        self.inner.lock().states.get(id).cloned().unwrap_or_default()
    }

    fn chain(&self, ids: &[String]) -> Vec<String> {
        let mut chain: Vec<String> = Vec::new();
        let mut open: Vec<String> = ids.to_vec();
        while let Some(id) = open.pop() {
            let event = self.event(&id);
            for auth in event["auth_events"].as_array().unwrap() {
                let auth = auth.as_str().unwrap().to_owned();
                if !chain.contains(&auth) {
                    chain.push(auth.clone());
                    open.push(auth);
                }
            }
        }
        chain
    }
}

impl Inner {
    fn event(&self, id: &str) -> Option<Value> {
        self.events.iter().find(|(known, _)| known == id).map(|(_, event)| event.clone())
    }

    fn auth_events(&self, sender: &str, event_type: &str, state_key: Option<&str>, content: &Value) -> Vec<String> {
        if event_type == "m.room.create" {
            return Vec::new();
        }
        let mut keys = vec![("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender)];
        if event_type == "m.room.member" {
            if content["membership"] != "leave" && content["membership"] != "ban" {
                keys.push(("m.room.join_rules", ""));
            }
            keys.extend(state_key.filter(|user| *user != sender).map(|user| ("m.room.member", user)));
        }
        let find = |(event_type, key): (&str, &str)| self.state.get(&(event_type.to_owned(), key.to_owned())).cloned();
        keys.into_iter().filter_map(find).collect()
    }
}

/// The id of a version 11 event.
pub fn id_of(event: &Value) -> String {
    let object: CanonicalJsonObject = serde_json::from_value(event.clone()).unwrap();
    format!("${}", reference_hash(&object, RULES).unwrap())
}

fn last_part(asked: &Asked) -> String {
    let path = asked.uri.split('?').next().unwrap();
    decode(path.rsplit('/').next().unwrap())
}

fn query(asked: &Asked, key: &str) -> Vec<String> {
    let query = asked.uri.split_once('?').map_or("", |(_, query)| query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == key).map(|(_, value)| decode(value)).collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        match (byte, after) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).unwrap() as u8;
                bytes.push(digit(high) * 16 + digit(low));
                rest = tail;
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}
