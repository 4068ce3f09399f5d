use http::Method;
use serde_json::{Value, json};

use super::{Answer, TestServer};

/// A user on one device.
#[derive(Clone)]
pub struct User {
    pub server: TestServer,
    pub id: String,
    pub device_id: String,
    pub token: String,
}

impl User {
    /// From the answer to a registration or a log-in.
    pub fn new(server: TestServer, answer: &Value) -> Self {
        let text = |key: &str| answer[key].as_str().unwrap_or_else(|| panic!("no {key}: {answer}")).to_owned();
        Self { server, id: text("user_id"), device_id: text("device_id"), token: text("access_token") }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.request(Method::POST, path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.request(Method::PUT, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path, None).await
    }

    pub async fn request(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.server.request(method, path, Some(&self.token), body).await
    }
}

/// What is new, from one client's view.
impl User {
    /// `GET /sync` with these parameters, in the form of a query.
    pub async fn sync_with(&self, query: &str) -> Value {
        self.get(&format!("/v3/sync?{query}")).await.ok()
    }

    /// What came after the token `since`; it does not wait.
    pub async fn sync(&self, since: &str) -> Value {
        self.sync_with(&format!("since={since}")).await
    }

    /// A token of now.
    pub async fn now(&self) -> String {
        self.sync_with("").await["next_batch"].as_str().expect("an answer has a token").to_owned()
    }
}

/// Rooms, from a member's view.
impl User {
    /// A new room, by `POST /createRoom` with `body`: its id.
    pub async fn create_room(&self, body: Value) -> String {
        let answer = self.post("/v3/createRoom", body).await.ok();
        answer["room_id"].as_str().expect("a new room has an id").to_owned()
    }

    /// A room of the public preset with this history visibility.
    pub async fn create_public_room(&self, visibility: &str) -> String {
        let content = json!({ "history_visibility": visibility });
        let state = json!([{ "type": "m.room.history_visibility", "state_key": "", "content": content }]);
        self.create_room(json!({ "preset": "public_chat", "initial_state": state })).await
    }

    /// Says something: the id of the message.
    pub async fn say(&self, room: &str, text: &str) -> String {
        let transaction = self.server.inside().random.text(12);
        let path = format!("/v3/rooms/{room}/send/m.room.message/{transaction}");
        event_id(&self.put(&path, json!({ "msgtype": "m.text", "body": text })).await.ok())
    }

    /// Sends a state event: its id.
    pub async fn set(&self, room: &str, event_type: &str, state_key: &str, content: Value) -> String {
        let path = format!("/v3/rooms/{room}/state/{event_type}/{state_key}");
        event_id(&self.put(&path, content).await.ok())
    }

    pub async fn join(&self, room: &str) {
        self.post(&format!("/v3/rooms/{room}/join"), json!({})).await.ok();
    }

    pub async fn leave(&self, room: &str) {
        self.post(&format!("/v3/rooms/{room}/leave"), json!({})).await.ok();
    }

    pub async fn invite(&self, room: &str, user: &Self) {
        self.post(&format!("/v3/rooms/{room}/invite"), json!({ "user_id": user.id })).await.ok();
    }
}

#[track_caller]
fn event_id(answer: &Value) -> String {
    answer["event_id"].as_str().unwrap_or_else(|| panic!("no event_id: {answer}")).to_owned()
}
