//! A server that does what the test says: hostile ones, too.

use std::sync::Arc;

use axum::{Router, body::Body};
use http::{Method, Request, Response, StatusCode, header};
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, OwnedServerName, ServerName,
    api::federation::authentication::{XMatrix, XMatrixSigningInput},
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{Ed25519KeyPair, KeyPair, hash_and_sign_event, sign_json},
};
use serde_json::{Value, json};

use super::{Answer, TestServer};

/// What a peer was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    /// With the query.
    pub uri: String,
    pub headers: http::HeaderMap,
    /// `Null` if there was none.
    pub body: Value,
}

type Script = dyn Fn(&Asked) -> Option<Response<Body>> + Send + Sync;

/// A scripted server with a signing key of its own, which it publishes truthfully unless the test says otherwise.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

struct Inner {
    name: OwnedServerName,
    key: Ed25519KeyPair,
    /// How long its keys are valid, in milliseconds since the Unix epoch.
    valid_until_ms: Mutex<u64>,
    asked: Mutex<Vec<Asked>>,
    /// The newest is asked first.
    scripts: Mutex<Vec<Box<Script>>>,
}

#[allow(dead_code, reason = "every part of federation tests with it")]
impl Peer {
    pub fn new(name: &str) -> Self {
        Self::with_key(name, &format!("of_{}", name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")))
    }

    pub fn with_key(name: &str, version: &str) -> Self {
        Self::with_private_key(name, version, &Ed25519KeyPair::generate())
    }

    /// With a key of the test's, in PKCS #8.
    pub fn with_private_key(name: &str, version: &str, document: &[u8]) -> Self {
        let key = Ed25519KeyPair::from_der(document, version.to_owned()).unwrap();
        Self(Arc::new(Inner {
            name: name.try_into().unwrap(),
            key,
            valid_until_ms: Mutex::new(super::START_MS + 24 * 60 * 60 * 1_000),
            asked: Mutex::default(),
            scripts: Mutex::default(),
        }))
    }

    pub fn name(&self) -> &ServerName {
        &self.0.name
    }

    /// The id of a user of this server.
    pub fn user(&self, localpart: &str) -> String {
        format!("@{localpart}:{}", self.0.name)
    }

    pub fn set_valid_until(&self, ms: u64) {
        *self.0.valid_until_ms.lock() = ms;
    }

    /// From now on, requests with this method whose path begins with `path` are answered with `answer`.
    pub fn on(&self, method: Method, path: &str, answer: impl Fn(&Asked) -> Value + Send + Sync + 'static) {
        self.on_response(method, path, move |asked| reply(StatusCode::OK, &answer(asked)));
    }

    /// Tells these events to whoever asks what is missing.
    pub fn tell_missing(&self, events: Vec<Value>) {
        let path = "/_matrix/federation/v1/get_missing_events/";
        self.on(Method::POST, path, move |_| json!({ "events": events }));
    }

    /// As [`Self::on`], with any response.
    pub fn on_response(
        &self,
        method: Method,
        path: &str,
        answer: impl Fn(&Asked) -> Response<Body> + Send + Sync + 'static,
    ) {
        let path = path.to_owned();
        let script =
            move |asked: &Asked| (asked.method == method && asked.uri.starts_with(&path)).then(|| answer(asked));
        self.0.scripts.lock().push(Box::new(script));
    }

    /// Requests with this method are answered with an error.
    pub fn refuse(&self, method: Method, path: &str, status: u16, errcode: &str) {
        let body = json!({ "errcode": errcode, "error": "no" });
        self.on_response(method, path, move |_| reply(StatusCode::from_u16(status).unwrap(), &body));
    }

    /// What it was asked so far, and whose path begins with `path`.
    pub fn asked(&self, path: &str) -> Vec<Asked> {
        self.0.asked.lock().iter().filter(|asked| asked.uri.starts_with(path)).cloned().collect()
    }

    /// Its keys, as it publishes them.
    pub fn keys(&self) -> Value {
        let mut keys = json!({
            "server_name": self.0.name,
            "verify_keys": { self.key_id(): { "key": Base64::<ruma::serde::base64::Standard>::new(self.0.key.public_key().to_vec()) } },
            "old_verify_keys": {},
            "valid_until_ts": *self.0.valid_until_ms.lock(),
        });
        self.sign(&mut keys);
        keys
    }

    pub fn key_id(&self) -> String {
        format!("ed25519:{}", self.0.key.version())
    }

    /// Signs a JSON object.
    pub fn sign(&self, json: &mut Value) {
        let mut object: CanonicalJsonObject = serde_json::from_value(json.clone()).unwrap();
        sign_json(self.0.name.as_str(), &self.0.key, &mut object).unwrap();
        *json = serde_json::to_value(object).unwrap();
    }

    /// Hashes and signs an event.
    pub fn sign_event(&self, event: &mut Value, rules: &RoomVersionRules) {
        let mut object: CanonicalJsonObject = serde_json::from_value(event.clone()).unwrap();
        hash_and_sign_event(self.0.name.as_str(), &self.0.key, &mut object, &rules.redaction).unwrap();
        *event = serde_json::to_value(object).unwrap();
    }

    pub async fn get(&self, server: &TestServer, path: &str) -> Answer {
        self.send(server, Method::GET, path, None).await
    }

    pub async fn put(&self, server: &TestServer, path: &str, body: Value) -> Answer {
        self.send(server, Method::PUT, path, Some(body)).await
    }

    pub async fn post(&self, server: &TestServer, path: &str, body: Value) -> Answer {
        self.send(server, Method::POST, path, Some(body)).await
    }

    /// Sends a signed request to `server`; a path that begins with `/v1` or `/v2` is one of federation.
    pub async fn send(&self, server: &TestServer, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.request(server.inside().name(), method, path, body);
        server.send(request).await
    }

    /// A signed request for `destination`.
    pub fn request(&self, destination: &ServerName, method: Method, path: &str, body: Option<Value>) -> Request<Body> {
        let prefix = if path.starts_with("/v1/") || path.starts_with("/v2/") { "/_matrix/federation" } else { "" };
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let mut request = Request::builder().method(method).uri(format!("{prefix}{path}")).body(body).unwrap();
        let input = XMatrixSigningInput::new(self.0.name.clone(), destination.to_owned(), &self.0.key);
        let signature = XMatrix::sign_http_request(&request, input).unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, (&signature).into());
        request.map(Body::from)
    }

    /// As [`Self::put`], with a body that need not be canonical JSON; `signed` is what the signature takes it for.
    pub async fn put_text(&self, server: &TestServer, path: &str, body: String, signed: &str) -> Answer {
        self.send_bytes(server, Method::PUT, &format!("/_matrix/federation{path}"), body, signed).await
    }

    /// As [`Self::put_text`], with any method, a whole path, and a body that need not be text.
    pub async fn send_bytes(
        &self,
        server: &TestServer,
        method: Method,
        path: &str,
        body: impl Into<Body>,
        signed: &str,
    ) -> Answer {
        let (from, to) = (self.name(), server.inside().name());
        let signed = format!(
            r#"{{"content":{signed},"destination":"{to}","method":"{method}","origin":"{from}","uri":"{path}"}}"#
        );
        let (key, signature) = self.0.key.sign(signed.as_bytes()).into_parts();
        let key = key.as_str().try_into().unwrap();
        let header = XMatrix::new(from.to_owned(), to.to_owned(), key, Base64::new(signature));
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::AUTHORIZATION, http::HeaderValue::from(&header));
        server.send(request.body(body.into()).unwrap()).await
    }

    pub fn router(&self) -> Router {
        let peer = self.clone();
        Router::new().fallback(move |request: Request<Body>| async move { peer.answer(request).await })
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let asked = Asked {
            method: parts.method,
            uri: parts.uri.to_string(),
            headers: parts.headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        self.0.asked.lock().push(asked.clone());
        if let Some(answer) = self.0.scripts.lock().iter().rev().find_map(|script| script(&asked)) {
            return answer;
        }
        if asked.uri == "/_matrix/key/v2/server" {
            return reply(StatusCode::OK, &self.keys());
        }
        reply(StatusCode::NOT_FOUND, &json!({ "errcode": "M_UNRECOGNIZED", "error": "The test has no answer" }))
    }
}

/// A response of JSON.
pub fn reply(status: StatusCode, body: &Value) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}
