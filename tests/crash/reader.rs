//! One person's `/sync` loop: a token is used again only if the answer to it never came.

use std::collections::BTreeMap;
use std::io;

use serde_json::Value;

use crate::http::Connection;
use crate::writer::{TYPE, text};

/// How long a sync waits for something new, in milliseconds. Long enough to be waiting when the server is killed.
const WAIT_MS: u32 = 10_000;
/// Asks for more events than a round has between two syncs, and for nothing that is not looked at.
const FILTER: &str = r#"{"room":{"timeline":{"limit":1000},"ephemeral":{"types":[]}},"presence":{"types":[]}}"#;

#[derive(Default)]
pub struct Reader {
    since: Option<String>,
    /// How often each to-device message came, by its text, since the last crash.
    pub to_device: BTreeMap<String, u32>,
    /// How often each event came, by its id, since the last crash.
    pub timeline: BTreeMap<String, u32>,
    /// Whether a sync since the last crash left events out, as it may.
    pub has_gap: bool,
}

impl Reader {
    /// Syncs until `connection` breaks.
    pub fn read(&mut self, mut connection: Connection) {
        while self.sync(&mut connection, WAIT_MS).is_ok() {}
    }

    /// Syncs until everything that is there has come.
    pub fn catch_up(&mut self, connection: &mut Connection) -> io::Result<()> {
        while self.sync(connection, 0)? {}
        Ok(())
    }

    /// Forgets what came: the next round begins.
    pub fn begin_round(&mut self) {
        *self = Self { since: self.since.take(), ..Self::default() };
    }

    /// Whether the answer had anything to read.
    fn sync(&mut self, connection: &mut Connection, wait_ms: u32) -> io::Result<bool> {
        let since = self.since.as_ref().map(|token| format!("&since={token}")).unwrap_or_default();
        let path = format!("sync?set_presence=offline&timeout={wait_ms}{since}&filter={}", percent_encoded(FILTER));
        let answer = connection.get(&path)?;
        let messages = answer["to_device"]["events"].as_array().into_iter().flatten();
        let mut is_new = false;
        for message in messages.filter(|message| message["type"] == TYPE) {
            *self.to_device.entry(text(&message["content"]["body"])).or_default() += 1;
            is_new = true;
        }
        let rooms = answer["rooms"]["join"].as_object();
        for timeline in rooms.into_iter().flat_map(|rooms| rooms.values()).map(|room| &room["timeline"]) {
            self.has_gap |= timeline["limited"] == Value::Bool(true);
            for event in timeline["events"].as_array().into_iter().flatten() {
                *self.timeline.entry(text(&event["event_id"])).or_default() += 1;
                is_new = true;
            }
        }
        self.since = Some(text(&answer["next_batch"]));
        Ok(is_new)
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
