//! One person who writes until the server goes away, and keeps book of what was acknowledged.

use std::collections::BTreeMap;
use std::io;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::http::Connection;

/// The type of the state events, to-device messages and account data that are written.
pub const TYPE: &str = "chappe.crash";
/// Keys of an algorithm that is never signed, so that they need no real device.
const KEY_ALGORITHM: &str = "curve25519";

/// An account with its only device, as registration answered.
#[derive(Clone)]
pub struct Person {
    pub user_id: String,
    pub device_id: String,
    pub token: String,
}

/// Something that was sent once, under one transaction id.
pub struct Sent {
    /// Path and content, to send it again.
    pub path: String,
    pub content: Value,
    /// What the server answered; `None` while nobody knows whether the server has it.
    pub acknowledged: Option<Value>,
}

/// A value that is overwritten again and again.
#[derive(Default)]
pub struct Register {
    /// The last value that was acknowledged; 0 before any was.
    pub acknowledged: u64,
    /// A later value, of which nobody knows whether the server has it.
    pub in_doubt: Option<u64>,
}

/// One-time keys by id: whether the upload (the claim) of it was acknowledged.
type Keys = BTreeMap<String, bool>;

pub struct Writer {
    pub person: Person,
    room_id: String,
    /// To whom to-device messages go and whose one-time keys are claimed.
    neighbor: Person,
    /// Numbers everything that is written, so that everything differs.
    written: u64,
    /// Since the last crash.
    pub messages: Vec<Sent>,
    /// Event ids of the state events that were acknowledged since the last crash.
    pub state_events: Vec<String>,
    /// Since the last crash, to the neighbor.
    pub to_device: Vec<Sent>,
    pub state: Register,
    pub account_data: Register,
    pub uploaded_keys: Keys,
    /// Ids of the neighbor's keys that this person was given.
    pub claimed_keys: Vec<String>,
    /// How many claims of the neighbor's keys were never answered.
    pub claims_in_doubt: u64,
}

impl Writer {
    pub fn new(person: Person, neighbor: Person, room_id: String) -> Self {
        Self {
            person,
            room_id,
            neighbor,
            written: 0,
            messages: Vec::new(),
            state_events: Vec::new(),
            to_device: Vec::new(),
            state: Register::default(),
            account_data: Register::default(),
            uploaded_keys: Keys::new(),
            claimed_keys: Vec::new(),
            claims_in_doubt: 0,
        }
    }

    /// Forgets what has been verified: the next round begins.
    pub fn begin_round(&mut self) {
        self.messages.clear();
        self.state_events.clear();
        self.to_device.clear();
    }

    /// Writes whatever `seed` tells until `connection` breaks.
    pub fn write(&mut self, mut connection: Connection, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        while self.step(&mut connection, &mut random).is_ok() {}
    }

    fn step(&mut self, connection: &mut Connection, random: &mut StdRng) -> io::Result<()> {
        self.written += 1;
        match random.random_range(0..10) {
            0..4 => self.send_message(connection),
            4 => self.send_state(connection),
            5 | 6 => self.send_to_device(connection),
            7 => self.upload_keys(connection),
            8 => self.claim_key(connection),
            _ => self.set_account_data(connection),
        }
    }

    /// What nobody else writes, and this person only once.
    fn unique(&self) -> String {
        format!("{} {}", self.person.user_id, self.written)
    }

    fn send_message(&mut self, connection: &mut Connection) -> io::Result<()> {
        let path = format!("rooms/{}/send/m.room.message/{}", self.room_id, self.written);
        let content = json!({ "msgtype": "m.text", "body": self.unique() });
        send_once(connection, &mut self.messages, path, content)
    }

    fn send_to_device(&mut self, connection: &mut Connection) -> io::Result<()> {
        let path = format!("sendToDevice/{TYPE}/{}", self.written);
        let content =
            json!({ "messages": { &self.neighbor.user_id: { &self.neighbor.device_id: { "body": self.unique() } } } });
        send_once(connection, &mut self.to_device, path, content)
    }

    fn send_state(&mut self, connection: &mut Connection) -> io::Result<()> {
        let path = format!("rooms/{}/state/{TYPE}/{}", self.room_id, self.person.device_id);
        self.state.in_doubt = Some(self.written);
        let answer = connection.request("PUT", &path, &json!({ "written": self.written }))?;
        self.state_events.push(text(&answer["event_id"]));
        self.state = Register { acknowledged: self.written, in_doubt: None };
        Ok(())
    }

    fn set_account_data(&mut self, connection: &mut Connection) -> io::Result<()> {
        let path = format!("user/{}/account_data/{TYPE}", self.person.user_id);
        self.account_data.in_doubt = Some(self.written);
        connection.request("PUT", &path, &json!({ "written": self.written }))?;
        self.account_data = Register { acknowledged: self.written, in_doubt: None };
        Ok(())
    }

    fn upload_keys(&mut self, connection: &mut Connection) -> io::Result<()> {
        let ids: Vec<String> = (0..5).map(|n| format!("{KEY_ALGORITHM}:{}x{n}", self.written)).collect();
        // 32 bytes, as unpadded base64: the id and a filling.
        let keys: BTreeMap<&String, String> =
            ids.iter().map(|id| (id, format!("{:A<43}", id.replace(':', "+")))).collect();
        self.uploaded_keys.extend(ids.iter().map(|id| (id.clone(), false)));
        connection.request("POST", "keys/upload", &json!({ "one_time_keys": keys }))?;
        self.uploaded_keys.extend(ids.into_iter().map(|id| (id, true)));
        Ok(())
    }

    fn claim_key(&mut self, connection: &mut Connection) -> io::Result<()> {
        self.claims_in_doubt += 1;
        let wanted =
            json!({ "one_time_keys": { &self.neighbor.user_id: { &self.neighbor.device_id: KEY_ALGORITHM } } });
        let answer = connection.request("POST", "keys/claim", &wanted)?;
        self.claims_in_doubt -= 1;
        let given = &answer["one_time_keys"][&self.neighbor.user_id][&self.neighbor.device_id];
        // No key at all where the neighbor has none left.
        self.claimed_keys.extend(given.as_object().into_iter().flat_map(|keys| keys.keys().cloned()));
        Ok(())
    }
}

/// Sends something under a transaction id and keeps book of it in `all`.
fn send_once(connection: &mut Connection, all: &mut Vec<Sent>, path: String, content: Value) -> io::Result<()> {
    let answer = connection.request("PUT", &path, &content);
    let (acknowledged, outcome) = match answer {
        Ok(answer) => (Some(answer), Ok(())),
        Err(gone) => (None, Err(gone)),
    };
    all.push(Sent { path, content, acknowledged });
    outcome
}

/// The text that the specification requires at this place of an answer.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}")).to_owned()
}
