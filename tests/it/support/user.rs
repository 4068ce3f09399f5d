use http::Method;
use serde_json::Value;

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
