//! An HTTP server in this process, which the server under test calls: a push gateway, an application service.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    response::Response,
};
use http::{Method, StatusCode, header};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{Mutex as AsyncMutex, mpsc},
};

/// No test waits longer for a request that should come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request that came.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub token: Option<String>,
    pub body: Value,
}

type Answer = Box<dyn FnMut(&Received) -> (u16, Value) + Send>;

#[derive(Clone)]
pub struct Listener {
    pub address: SocketAddr,
    received: Arc<AsyncMutex<mpsc::UnboundedReceiver<Received>>>,
    answer: Arc<Mutex<Answer>>,
}

impl Listener {
    /// One that answers `{}`.
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = mpsc::unbounded_channel();
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(|_| (200, serde_json::json!({})))));
        let answers = Arc::clone(&answer);
        let router = Router::new().fallback(move |request: Request| {
            let (sender, answers) = (sender.clone(), Arc::clone(&answers));
            async move { respond(request, &sender, &answers).await }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, received: Arc::new(AsyncMutex::new(received)), answer }
    }

    /// What it answers from now on.
    pub fn answers(&self, answer: impl FnMut(&Received) -> (u16, Value) + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    /// The next request.
    #[track_caller]
    pub fn next(&self) -> impl Future<Output = Received> {
        let received = Arc::clone(&self.received);
        async move {
            let next = async { received.lock().await.recv().await };
            tokio::time::timeout(PATIENCE, next).await.expect("a request should come").unwrap()
        }
    }

    /// Whether nothing has come that [`Self::next`] did not give.
    pub async fn is_quiet(&self) -> bool {
        self.received.lock().await.try_recv().is_err()
    }
}

async fn respond(
    request: Request,
    sender: &mpsc::UnboundedSender<Received>,
    answers: &Mutex<Answer>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let token = parts.headers.get(header::AUTHORIZATION).and_then(|token| token.to_str().ok());
    let received = Received {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        token: token.and_then(|token| token.strip_prefix("Bearer ")).map(str::to_owned),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let (status, answer) = (answers.lock().unwrap())(&received);
    let _ = sender.send(received);
    let response = Response::builder().status(StatusCode::from_u16(status).unwrap());
    response.header(header::CONTENT_TYPE, "application/json").body(answer.to_string().into()).unwrap()
}
