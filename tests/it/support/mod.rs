//! A server in this process, with a directory, a clock and a seed of its own, and users who talk to it in JSON.

mod answer;
pub mod browser;
pub mod hosted;
mod identity;
pub mod listener;
mod network;
pub mod peer;
pub mod room;
mod routed;
pub mod siege;
pub mod smtp;
mod user;

use std::{sync::Arc, time::Duration};

use ::http::{Method, Request, header};
use axum::{Router, body::Body};
use chappe::{Server, clock::Clock, config::Config, http, outgoing, random::Random, store::Transaction, user::account};
use ruma::OwnedUserId;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

pub use self::{
    answer::Answer,
    hosted::HostedRoom,
    identity::{Signer, curve25519_key},
    network::TestNetwork,
    peer::{Asked, Peer, reply},
    siege::Siege,
    user::User,
};

/// 2026-01-01, when every test begins.
pub const START_MS: u64 = 1_767_225_600_000;

#[derive(Clone)]
pub struct TestServer(Arc<Inner>);

struct Inner {
    server: Arc<Server>,
    router: Router,
    directory: TempDir,
}

impl TestServer {
    /// `example.org`, where everybody may register.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// The same with another configuration.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::in_network(TestNetwork::new(), "example.org", change).await
    }

    /// A server that reaches those in `network`: [`TestNetwork::server`] makes it one of them.
    pub async fn in_network(network: TestNetwork, name: &str, change: impl FnOnce(&mut Config)) -> Self {
        Self::open(name, change, |_| outgoing::Client::with_transport(Arc::new(network))).await
    }

    /// A server that reaches what listens on this machine.
    pub async fn with_network(change: impl FnOnce(&mut Config)) -> Self {
        let change = |config: &mut Config| {
            config.ip_range_allowlist = vec!["127.0.0.0/8".parse().unwrap()];
            change(config);
        };
        Self::open("example.org", change, outgoing::Client::new).await
    }

    /// A server with the data that `directory` holds.
    pub async fn of_directory(
        network: TestNetwork,
        name: &str,
        directory: TempDir,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let outgoing = outgoing::Client::with_transport(Arc::new(network));
        Self::open_in(directory, name, change, |_| outgoing).await
    }

    async fn open(
        name: &str,
        change: impl FnOnce(&mut Config),
        outgoing: impl FnOnce(&Config) -> outgoing::Client,
    ) -> Self {
        Self::open_in(tempfile::tempdir().unwrap(), name, change, outgoing).await
    }

    async fn open_in(
        directory: TempDir,
        name: &str,
        change: impl FnOnce(&mut Config),
        outgoing: impl FnOnce(&Config) -> outgoing::Client,
    ) -> Self {
        let mut config = Config::for_tests(name);
        config.database_path = directory.path().join("data");
        change(&mut config);
        config.check().unwrap();
        let outgoing = outgoing(&config);
        let open = || Server::open_with(config, Clock::manual(START_MS), Random::from_seed(1), outgoing);
        let server = tokio::task::spawn_blocking(open).await.unwrap().unwrap();
        let router = http::router(Arc::clone(&server));
        Self(Arc::new(Inner { server, router, directory }))
    }

    /// Ends the server, whose users the test has dropped, and gives what it kept.
    pub async fn stop(self, network: &TestNetwork) -> TempDir {
        let Inner { server, router, directory } = Arc::into_inner(self.0).expect("nobody else has this server");
        network.add(server.name().as_str(), Router::new());
        server.shutdown.cancel();
        let running = Arc::downgrade(&server);
        drop((server, router));
        while running.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        directory
    }

    /// What the handlers work on, for what can't be seen from outside.
    pub fn inside(&self) -> &Arc<Server> {
        &self.0.server
    }

    /// What answers its requests.
    pub fn router(&self) -> Router {
        self.0.router.clone()
    }

    /// Until so many requests wait for news.
    pub async fn until_waiting(&self, count: usize) {
        while self.inside().wakers.waiting() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub fn advance(&self, by: Duration) {
        self.0.server.clock.advance(by);
    }

    /// A new user, who is logged in. His password is `password of NAME`.
    pub async fn user(&self, name: &str) -> User {
        let body = json!({"username": name, "password": password_of(name), "auth": {"type": "m.login.dummy"}});
        User::new(self.clone(), &self.post("/v3/register", body).await.ok())
    }

    /// A new user, who is an administrator of the server.
    pub async fn administrator(&self, name: &str) -> User {
        let boss = self.user(name).await;
        let id = OwnedUserId::try_from(boss.id.as_str()).unwrap();
        let promote = move |tx: &mut Transaction<'_>| account::update(tx, &id, |account| account.is_admin = true);
        self.0.server.store.commit(promote).await.unwrap();
        boss
    }

    /// Another device of a user.
    pub async fn log_in(&self, name: &str) -> User {
        self.log_in_with(name, json!({})).await
    }

    /// A device of a user that has this id; it may be there.
    pub async fn log_in_on(&self, name: &str, device_id: &str) -> User {
        self.log_in_with(name, json!({ "device_id": device_id })).await
    }

    async fn log_in_with(&self, name: &str, mut body: Value) -> User {
        body["type"] = json!("m.login.password");
        body["identifier"] = json!({ "type": "m.id.user", "user": name });
        body["password"] = json!(password_of(name));
        User::new(self.clone(), &self.post("/v3/login", body).await.ok())
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, None, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.request(Method::POST, path, None, Some(body)).await
    }

    /// Any request; a path that begins with `/v1` or `/v3` is one of the client-server API.
    pub async fn request(&self, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let body = body.map_or_else(String::new, |body| body.to_string());
        self.request_bytes(method, path, token, body).await
    }

    /// As [`Self::request`], with a body that need not be JSON.
    pub async fn request_bytes(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: impl Into<Body>,
    ) -> Answer {
        let prefix = if path.starts_with("/v1/") || path.starts_with("/v3/") { "/_matrix/client" } else { "" };
        let mut request = Request::builder().method(method).uri(format!("{prefix}{path}"));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    /// A request with headers and extensions of the test's own.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.0.router.clone().oneshot(request).await.unwrap();
        Answer::read(response).await
    }
}

pub fn password_of(name: &str) -> String {
    format!("password of {name}")
}

/// Switches rate limits on, and sets one: `key_claim = { burst = 2, every = '1 s' }`.
pub fn limit(config: &mut Config, line: &str) {
    let mut limits = toml::Table::try_from(&config.rate_limits).unwrap();
    limits.extend(format!("enabled = true\n{line}").parse::<toml::Table>().unwrap());
    config.rate_limits = limits.try_into().unwrap();
}

/// `?key=value&…` with everything encoded that could need it.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| {
        let byte = |byte: u8| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        text.bytes().map(byte).collect::<String>()
    };
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
    format!("?{}", pairs.join("&"))
}

/// The `auth` of a request that `name` confirms by his password.
pub fn auth_of(name: &str) -> Value {
    json!({
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": name},
        "password": password_of(name),
    })
}
