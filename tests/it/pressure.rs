//! What a server does when more is asked of it than it has room for.

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use chappe::config::ByteSize;
use futures_util::{StreamExt, stream};
use http::{Method, Request, header};

use crate::support::{Answer, TestServer, User};

/// A body that has come so far, and never ends.
fn endless(bytes: usize) -> Body {
    let begun = stream::iter([Ok::<_, Infallible>(Bytes::from(vec![b' '; bytes]))]);
    Body::from_stream(begun.chain(stream::pending()))
}

async fn query(user: &User, body: impl Into<Body>) -> Answer {
    user.server.request_bytes(Method::POST, "/v3/keys/query", Some(&user.token), body).await
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
        let alice = alice.clone();
        held.push(tokio::spawn(async move { query(&alice, endless(1 << 20)).await }));
    }
    until(&server, 4 << 20).await;

    let large = "x".repeat(100_000);
    let refused = query(&alice, large.clone()).await;
    assert_eq!(refused.error(), (429, "M_LIMIT_EXCEEDED"));
    assert_eq!(refused.body["retry_after_ms"], 2_000);
    assert_eq!(refused.headers["retry-after"], "2");
    alice.now().await;
    server.log_in("alice").await;

    held.pop().unwrap().abort(); // as when the client hangs up
    until(&server, 3 << 20).await;
    assert_eq!(query(&alice, large).await.error(), (400, "M_NOT_JSON"), "there is room again, and it is read");
    held.iter().for_each(tokio::task::JoinHandle::abort);
    until(&server, 0).await;
}

#[tokio::test]
async fn a_body_is_bounded_whether_its_length_was_told_or_not() {
    let server = TestServer::with(|config| config.max_request_size = ByteSize::mib(1)).await;
    let alice = server.user("alice").await;
    assert_eq!(query(&alice, vec![b' '; (1 << 20) + 1]).await.error(), (413, "M_TOO_LARGE"));
    assert_eq!(query(&alice, endless((1 << 20) + 1)).await.error(), (413, "M_TOO_LARGE"));
    assert_eq!(server.inside().body_memory.held_bytes(), 0);
}

#[tokio::test]
async fn strangers_send_small_bodies_only() {
    const LARGEST: usize = 64 << 10;
    let server = TestServer::new().await;
    let post = async |path: &str, body: Body| server.request_bytes(Method::POST, path, None, body).await;
    let spaces = |bytes: usize| Body::from(vec![b' '; bytes]);
    for path in ["/v3/login", "/v3/register", "/v3/account/password"] {
        assert_eq!(post(path, spaces(LARGEST)).await.error(), (400, "M_NOT_JSON"), "{path}");
        assert_eq!(post(path, spaces(LARGEST + 1)).await.error(), (413, "M_TOO_LARGE"), "{path}");
        assert_eq!(post(path, endless(LARGEST + 1)).await.error(), (413, "M_TOO_LARGE"), "{path}");
    }
    let keys = post("/_matrix/key/v2/query", spaces(LARGEST + 1)).await;
    assert_eq!(keys.error(), (400, "M_NOT_JSON"), "keys of many servers may be asked for");
    let form = Request::post("/_chappe/mail/confirm");
    let form = form.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(spaces(LARGEST + 1));
    assert_eq!(server.send(form.unwrap()).await.status, 413);
}
