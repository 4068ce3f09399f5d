//! What users try in rooms, and may be refused.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::{Answer, User};

/// No test may use a transaction id twice by accident.
static TRANSACTIONS: AtomicU64 = AtomicU64::new(0);

/// An identifier as it stands in a path.
pub fn path(id: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'!' | b'$' | b'@' | b':' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    id.bytes().map(encode).collect()
}

impl User {
    pub async fn try_join(&self, room: &str) -> Answer {
        self.post(&format!("/v3/join/{}", path(room)), json!({})).await
    }

    /// Leaves, kicks, invites and so on: `action` is the last part of the path.
    pub async fn act(&self, room: &str, action: &str, body: Value) -> Answer {
        self.post(&format!("/v3/rooms/{room}/{action}"), body).await
    }

    pub async fn try_invite(&self, room: &str, user: &User) -> Answer {
        self.act(room, "invite", json!({ "user_id": user.id })).await
    }

    pub async fn try_leave(&self, room: &str) -> Answer {
        self.act(room, "leave", json!({})).await
    }

    /// Sends a text message.
    pub async fn try_say(&self, room: &str, body: &str) -> Answer {
        self.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await
    }

    pub async fn send(&self, room: &str, event_type: &str, content: Value) -> Answer {
        let txn = TRANSACTIONS.fetch_add(1, Ordering::Relaxed);
        self.put(&format!("/v3/rooms/{room}/send/{event_type}/{txn}"), content).await
    }

    pub async fn redact(&self, room: &str, event_id: &str) -> Answer {
        let txn = TRANSACTIONS.fetch_add(1, Ordering::Relaxed);
        self.put(&format!("/v3/rooms/{room}/redact/{}/{txn}", path(event_id)), json!({})).await
    }

    pub async fn set_state(&self, room: &str, event_type: &str, key: &str, content: Value) -> Answer {
        self.put(&format!("/v3/rooms/{room}/state/{event_type}/{}", path(key)), content).await
    }

    /// The content of a state event, as this user may see it.
    pub async fn state(&self, room: &str, event_type: &str, key: &str) -> Answer {
        self.get(&format!("/v3/rooms/{room}/state/{event_type}/{}", path(key))).await
    }

    /// An event in the form of clients, as this user may see it.
    pub async fn event(&self, room: &str, event_id: &str) -> Answer {
        self.get(&format!("/v3/rooms/{room}/event/{}", path(event_id))).await
    }

    /// Every event of the room that this user may see, oldest first.
    pub async fn history(&self, room: &str) -> Vec<Value> {
        let page = self.get(&format!("/v3/rooms/{room}/messages?dir=b&limit=100")).await.ok();
        let mut events = page["chunk"].as_array().unwrap().clone();
        events.reverse();
        events
    }
}

/// The `event_id` of an answer that must be a success.
#[track_caller]
pub fn event_id(answer: Answer) -> String {
    answer.ok()["event_id"].as_str().unwrap().to_owned()
}
