//! Where two devices meet: <https://github.com/matrix-org/matrix-spec-proposals/pull/4388>, and its predecessor
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4108>

use std::time::Duration;

use axum::body::Body;
use chappe::config::{Config, RendezvousFor};
use http::{Method, Request, header};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support::{Answer, TestServer};

const PATH: &str = "/_matrix/client/unstable/io.element.msc4388/rendezvous";
const LEGACY: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";

async fn server(change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::with(|config| {
        config.well_known.client = Some("https://matrix.example.org/".to_owned());
        change(config);
    })
    .await
}

async fn ask(server: &TestServer, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if !body.is_empty() {
        request = request.header(header::CONTENT_LENGTH, body.len());
    }
    let request = request.body(Body::from(body.to_owned())).unwrap();
    Answer::read(server.router().oneshot(request).await.unwrap()).await
}

fn token(answer: &Value) -> &str {
    answer["sequence_token"].as_str().unwrap()
}

#[tokio::test]
async fn two_devices_read_and_replace_what_lies_there() {
    let server = server(|_| {}).await;
    assert_eq!(server.get(PATH).await.ok(), json!({ "create_available": true }));
    let made = server.post(PATH, json!({ "data": "from a" })).await.ok();
    assert_eq!(made["expires_in_ms"], 300_000);
    let path = format!("{PATH}/{}", made["id"].as_str().unwrap());
    server.advance(Duration::from_secs(100));
    let read = server.get(&path).await.ok();
    assert_eq!(read, json!({ "data": "from a", "sequence_token": token(&made), "expires_in_ms": 200_000 }));

    let put = async |token: &str, data: &str| {
        let body = json!({ "sequence_token": token, "data": data });
        server.request(Method::PUT, &path, None, Some(body)).await
    };
    let first = put(token(&made), "from b").await.ok();
    assert_ne!(token(&first), token(&made));
    assert_eq!(put(token(&made), "from b").await.ok(), first, "a repeated request");
    assert_eq!(put(token(&made), "other").await.error(), (409, "IO_ELEMENT_MSC4388_CONCURRENT_WRITE"));
    let same = put(token(&first), "from b").await.ok();
    assert_ne!(token(&same), token(&first), "said once more");
    assert_eq!(server.get(&path).await.ok()["data"], "from b");

    assert_eq!(server.request(Method::DELETE, &path, None, None).await.ok(), json!({}));
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(server.request(method, &path, None, None).await.error(), (404, "M_NOT_FOUND"));
    }
    assert_eq!(put(token(&same), "x").await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn a_session_ends_with_its_time_and_takes_so_much() {
    let server = server(|_| {}).await;
    let fits = "x".repeat(4096);
    let made = server.post(PATH, json!({ "data": fits })).await.ok();
    let path = format!("{PATH}/{}", made["id"].as_str().unwrap());
    assert_eq!(server.post(PATH, json!({ "data": format!("{fits}x") })).await.error(), (413, "M_TOO_LARGE"));
    let larger = json!({ "sequence_token": token(&made), "data": format!("{fits}x") });
    assert_eq!(server.request(Method::PUT, &path, None, Some(larger)).await.error(), (413, "M_TOO_LARGE"));
    assert_eq!(server.post(PATH, json!({ "data": 1 })).await.error(), (400, "M_BAD_JSON"));
    server.advance(Duration::from_millis(299_999));
    server.get(&path).await.ok();
    server.advance(Duration::from_millis(1));
    assert_eq!(server.get(&path).await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn the_older_form_speaks_by_headers() {
    let server = server(|_| {}).await;
    let plain = ("content-type", "text/plain");
    let made = ask(&server, Method::POST, LEGACY, &[plain], "from a").await;
    assert_eq!(made.status, 201);
    let url = made.body["url"].as_str().unwrap();
    let path = url.strip_prefix("https://matrix.example.org").unwrap().to_owned();
    assert_eq!(made.headers["expires"], "Thu, 01 Jan 2026 00:05:00 GMT");
    assert_eq!(made.headers["last-modified"], "Thu, 01 Jan 2026 00:00:00 GMT");
    assert_eq!(
        (&made.headers["cache-control"], &made.headers["pragma"]),
        (&"no-store".parse().unwrap(), &"no-cache".parse().unwrap())
    );
    let etag = made.headers["etag"].to_str().unwrap().to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");

    let read = ask(&server, Method::GET, &path, &[], "").await;
    assert_eq!(
        (read.status.as_u16(), &*read.bytes, &read.headers["content-type"]),
        (200, &b"from a"[..], &"text/plain".parse().unwrap())
    );
    let same = ask(&server, Method::GET, &path, &[("if-none-match", &etag)], "").await;
    assert_eq!((same.status.as_u16(), same.bytes.len(), &same.headers["etag"]), (304, 0, &etag.parse().unwrap()));

    let put = async |etag: &str, body: &str| ask(&server, Method::PUT, &path, &[plain, ("if-match", etag)], body).await;
    let done = put(&etag, "from b").await;
    assert_eq!(done.status, 202);
    let newer = done.headers["etag"].to_str().unwrap().to_owned();
    assert_ne!(newer, etag);
    let late = put(&etag, "other").await;
    assert_eq!((late.status.as_u16(), &late.body["org.matrix.msc4108.errcode"]), (412, &json!("M_CONCURRENT_WRITE")));
    assert_eq!(late.headers["etag"], newer);
    assert_eq!(ask(&server, Method::GET, &path, &[("if-none-match", &etag)], "").await.bytes, b"from b");

    assert_eq!(ask(&server, Method::DELETE, &path, &[], "").await.status, 204);
    assert_eq!(ask(&server, Method::GET, &path, &[], "").await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(put(&newer, "x").await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn the_older_form_refuses_what_it_can_not_take() {
    let server = server(|_| {}).await;
    let plain = ("content-type", "text/plain");
    let made = ask(&server, Method::POST, LEGACY, &[plain], "x").await;
    let path = made.body["url"].as_str().unwrap().replace("https://matrix.example.org", "");
    let etag = made.headers["etag"].to_str().unwrap();
    let post = async |headers: &[(&str, &str)], body: &str| ask(&server, Method::POST, LEGACY, headers, body).await;
    assert_eq!(post(&[], "x").await.error(), (400, "M_MISSING_PARAM"));
    assert_eq!(post(&[("content-type", "application/json")], "{}").await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(post(&[plain], "").await.error(), (400, "M_MISSING_PARAM"), "no length");
    assert_eq!(post(&[plain], &"x".repeat(4097)).await.error(), (413, "M_TOO_LARGE"));
    let put = async |headers: &[(&str, &str)]| ask(&server, Method::PUT, &path, headers, "y").await;
    assert_eq!(put(&[plain]).await.error(), (400, "M_MISSING_PARAM"));
    assert_eq!(put(&[("if-match", etag)]).await.error(), (400, "M_MISSING_PARAM"));
    for bad in ["*", "x", &format!("W/{etag}"), &format!("{etag}, {etag}")] {
        assert_eq!(put(&[plain, ("if-match", bad)]).await.error(), (400, "M_INVALID_PARAM"), "{bad}");
    }
    let visit = ask(&server, Method::GET, &path, &[("sec-fetch-mode", "navigate")], "").await;
    assert_eq!(visit.error(), (403, "M_FORBIDDEN"), "nobody is led there by a link");
}

#[tokio::test]
async fn browsers_may_send_and_see_the_headers() {
    let server = server(|_| {}).await;
    let asked = [("origin", "https://element.example"), ("access-control-request-method", "PUT")];
    let answer = ask(&server, Method::OPTIONS, &format!("{LEGACY}/x"), &asked, "").await;
    let allowed = answer.headers["access-control-allow-headers"].to_str().unwrap();
    assert!(allowed.contains("if-match") && allowed.contains("if-none-match"), "{allowed}");
    let answer = ask(&server, Method::GET, &format!("{LEGACY}/x"), &asked[..1], "").await;
    assert_eq!(answer.headers["access-control-expose-headers"], "etag");
}

#[tokio::test]
async fn who_may_begin_is_the_operators_choice() {
    let users = server(|config| config.rendezvous = RendezvousFor::Users).await;
    let alice = users.user("alice").await;
    let plain = ("content-type", "text/plain");
    assert_eq!(users.get(PATH).await.ok()["create_available"], false);
    assert_eq!(users.post(PATH, json!({ "data": "x" })).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(ask(&users, Method::POST, LEGACY, &[plain], "x").await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(alice.get(PATH).await.ok()["create_available"], true);
    let made = alice.post(PATH, json!({ "data": "x" })).await.ok();
    users.get(&format!("{PATH}/{}", made["id"].as_str().unwrap())).await.ok();
    let wrong = users.request(Method::GET, PATH, Some("wrong"), None).await;
    assert_eq!(wrong.error(), (401, "M_UNKNOWN_TOKEN"));

    let nobody = server(|config| config.rendezvous = RendezvousFor::Nobody).await;
    assert_eq!(nobody.get(PATH).await.error(), (404, "M_UNRECOGNIZED"));
    assert_eq!(nobody.post(PATH, json!({ "data": "x" })).await.error(), (404, "M_UNRECOGNIZED"));
    assert_eq!(ask(&nobody, Method::POST, LEGACY, &[plain], "x").await.error(), (404, "M_UNRECOGNIZED"));
    for (server, is_there) in [(&users, false), (&nobody, false), (&self::server(|_| {}).await, true)] {
        let features = server.get("/_matrix/client/versions").await.ok()["unstable_features"].take();
        assert_eq!(features.get("org.matrix.msc4108").is_some(), is_there);
    }
}

#[tokio::test]
async fn strangers_can_neither_make_many_nor_fill_the_memory() {
    let limited = server(|config| config.rate_limits.enabled = true).await;
    for _ in 0..20 {
        limited.post(PATH, json!({ "data": "x" })).await.ok();
    }
    assert_eq!(limited.post(PATH, json!({ "data": "x" })).await.error(), (429, "M_LIMIT_EXCEEDED"));

    let open = server(|_| {}).await;
    let first = open.post(PATH, json!({ "data": "x" })).await.ok();
    let path = format!("{PATH}/{}", first["id"].as_str().unwrap());
    for _ in 1..1000 {
        open.post(PATH, json!({ "data": "x" })).await.ok();
    }
    open.get(&path).await.ok();
    open.post(PATH, json!({ "data": "x" })).await.ok();
    assert_eq!(open.get(&path).await.error(), (404, "M_NOT_FOUND"), "the oldest makes room");
}
