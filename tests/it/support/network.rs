//! Servers in one process that reach each other without a network.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use axum::Router;
use bytes::Bytes;
use chappe::{
    config::Config,
    outgoing::{Body, Failure, Transport},
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Peer, TestServer, routed};

/// Servers that reach each other by their names: real ones, and peers that do what the test says.
#[derive(Clone, Default)]
pub struct TestNetwork(Arc<Inner>);

#[derive(Default)]
struct Inner {
    routers: Mutex<HashMap<String, Router>>,
    cut_off: Mutex<HashSet<String>>,
    swallowing: Mutex<HashSet<String>>,
    held: Mutex<Vec<(String, String, Arc<Semaphore>)>>,
    requests: Mutex<Vec<(String, String)>>,
}

impl TestNetwork {
    pub fn new() -> Self {
        Self::default()
    }

    /// A new server of that name, which everybody else in the network reaches.
    pub async fn server(&self, name: &str) -> TestServer {
        self.server_with(name, |_| {}).await
    }

    pub async fn server_with(&self, name: &str, change: impl FnOnce(&mut Config)) -> TestServer {
        let server = TestServer::in_network(self.clone(), name, change).await;
        self.add(name, server.router());
        server
    }

    /// A new peer of that name: it signs with a key of its own and answers what the test wants.
    pub fn peer(&self, name: &str) -> Peer {
        let peer = Peer::new(name);
        self.add(name, peer.router());
        peer
    }

    pub fn add(&self, name: &str, router: Router) {
        self.0.routers.lock().insert(name.to_owned(), router);
    }

    /// Whoever asks `name` gets no connection, until [`Self::reconnect`].
    pub fn cut_off(&self, name: &str) {
        self.0.cut_off.lock().insert(name.to_owned());
    }

    /// Whoever asks `name` waits for ever.
    pub fn swallow(&self, name: &str) {
        self.0.swallowing.lock().insert(name.to_owned());
    }

    /// Where the path begins with `path`, `name` does what it is asked, and answers when the semaphore is closed.
    pub fn hold(&self, name: &str, path: &str) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        self.0.held.lock().push((name.to_owned(), path.to_owned(), Arc::clone(&gate)));
        gate
    }

    pub fn reconnect(&self, name: &str) {
        self.0.cut_off.lock().remove(name);
    }

    /// The requests to `name` whose path begins with `path`: how many there were.
    pub fn count(&self, name: &str, path: &str) -> usize {
        let requests = self.0.requests.lock();
        requests.iter().filter(|(to, uri)| to == name && uri.starts_with(path)).count()
    }
}

impl Transport for TestNetwork {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, Failure>> {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        self.0.requests.lock().push((host.clone(), path.clone()));
        let is_cut_off = self.0.cut_off.lock().contains(&host);
        let swallows = self.0.swallowing.lock().contains(&host);
        let held = self.0.held.lock();
        let gate = held.iter().find(|(to, begin, _)| *to == host && path.starts_with(begin));
        let gate = gate.map(|(_, _, gate)| Arc::clone(gate));
        let router = self.0.routers.lock().get(&host).cloned();
        Box::pin(async move {
            if swallows {
                std::future::pending::<()>().await;
            }
            let router = router.filter(|_| !is_cut_off);
            let router = router.ok_or_else(|| Failure::Unreachable(format!("nobody is at {host}")))?;
            let answer = routed::answer(router, request).await;
            if let Some(gate) = gate {
                drop(gate.acquire().await);
            }
            Ok(answer)
        })
    }
}
