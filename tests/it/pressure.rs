//! What a server does when more is asked of it than it has room for.

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use chappe::config::ByteSize;
use futures_util::{StreamExt, stream};
use http::Request;

use crate::support::{Answer, TestServer};

/// A log-in whose body has come so far, and never ends.
fn endless(bytes: usize) -> Request<Body> {
    let begun = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![b' '; bytes]))]);
    Request::post("/_matrix/client/v3/login").body(Body::from_stream(begun.chain(stream::pending()))).unwrap()
}

async fn until(server: &TestServer, held: u64) {
    for _ in 0..1_000 {
        if server.inside().body_memory.held_bytes() == held {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{} bytes are held, not {held}", server.inside().body_memory.held_bytes());
}

#[tokio::test]
async fn large_bodies_are_refused_while_others_leave_no_room_and_small_ones_go_on() {
    let server = TestServer::with(|config| {
        config.memory_budget = ByteSize::mib(32); // an eighth is for bodies
        config.max_request_size = ByteSize::mib(1);
    })
    .await;
    let alice = server.user("alice").await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let server = server.clone();
        held.push(tokio::spawn(async move { server.send(endless(1 << 20)).await }));
    }
    until(&server, 4 << 20).await;

    let large = |text: &str| format!("{{\"x\": \"{}\"}}", text.repeat(100_000));
    let ask = async || -> Answer { server.request_bytes(http::Method::POST, "/v3/login", None, large("x")).await };
    let refused = ask().await;
    assert_eq!(refused.error(), (429, "M_LIMIT_EXCEEDED"));
    assert_eq!(refused.body["retry_after_ms"], 2_000);
    assert_eq!(refused.headers["retry-after"], "2");
    alice.now().await;
    server.log_in("alice").await;

    held.pop().unwrap().abort(); // as when the client hangs up
    until(&server, 3 << 20).await;
    assert_eq!(ask().await.status, 400, "there is room again, and it is read");
    held.iter().for_each(tokio::task::JoinHandle::abort);
    until(&server, 0).await;
}

#[tokio::test]
async fn a_body_is_bounded_whether_its_length_was_told_or_not() {
    let server = TestServer::with(|config| config.max_request_size = ByteSize::mib(1)).await;
    let told = server.request_bytes(http::Method::POST, "/v3/login", None, vec![b' '; (1 << 20) + 1]).await;
    assert_eq!(told.error(), (413, "M_TOO_LARGE"));
    let untold = server.send(endless((1 << 20) + 1)).await;
    assert_eq!(untold.error(), (413, "M_TOO_LARGE"));
    assert_eq!(server.inside().body_memory.held_bytes(), 0);
}
