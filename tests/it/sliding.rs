//! Sliding sync:
//! <https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/4186-simplified-sliding-sync.md>

mod cost;
mod extensions;
mod lists;
mod positions;
mod rooms;
mod state;
mod timelines;

use serde_json::{Value, json};

use crate::support::{Answer, User};

const PATH: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// A client on one connection.
pub struct Connection {
    user: User,
    /// What it asks for each time.
    pub body: Value,
    pub pos: Option<String>,
}

impl Connection {
    pub fn new(user: &User, body: Value) -> Self {
        Self { user: user.clone(), body, pos: None }
    }

    /// With one list, `all`, of these places.
    fn with_list(user: &User, range: [u64; 2]) -> Self {
        Self::new(user, json!({ "lists": { "all": { "ranges": [range], "timeline_limit": 10 } } }))
    }

    async fn try_at(&self, pos: Option<&str>) -> Answer {
        let query = pos.map(|pos| format!("?pos={pos}")).unwrap_or_default();
        self.user.post(&format!("{PATH}{query}"), self.body.clone()).await
    }

    /// The next answer, without waiting for news.
    pub async fn next(&mut self) -> Value {
        let answer = self.try_at(self.pos.as_deref()).await.ok();
        self.pos = Some(pos(&answer));
        answer
    }

    fn at(&self) -> &str {
        self.pos.as_deref().unwrap()
    }

    fn list(&mut self) -> &mut Value {
        &mut self.body["lists"]["all"]
    }
}

fn pos(answer: &Value) -> String {
    answer["pos"].as_str().unwrap_or_else(|| panic!("no pos: {answer}")).to_owned()
}

fn rooms(answer: &Value) -> Vec<&str> {
    answer["rooms"].as_object().map(|rooms| rooms.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn sorted<'a>(rooms: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    let mut rooms: Vec<_> = rooms.into_iter().map(String::as_str).collect();
    rooms.sort_unstable();
    rooms
}

/// What a member of `content` is, in each of some events.
fn contents<'a>(events: &'a Value, key: &str) -> Vec<&'a str> {
    let events = events.as_array().map(Vec::as_slice).unwrap_or_default();
    events.iter().filter_map(|event| event["content"][key].as_str()).collect()
}

fn bodies(room: &Value) -> Vec<&str> {
    contents(&room["timeline"], "body")
}

/// Type and state key of each required state event.
fn required(room: &Value) -> Vec<(&str, &str)> {
    let events = room["required_state"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |event: &Value, key: &str| -> String { event[key].as_str().unwrap().to_owned() };
    let mut names: Vec<(&str, &str)> =
        events.iter().map(|event| (event["type"].as_str().unwrap(), event["state_key"].as_str().unwrap())).collect();
    names.sort_unstable();
    assert!(events.iter().all(|event| !name(event, "event_id").is_empty()));
    names
}

async fn public(user: &User) -> String {
    user.create_room(json!({ "preset": "public_chat" })).await
}
