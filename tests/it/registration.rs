use serde_json::{Value, json};

use crate::support::TestServer;

fn wish(name: &str) -> Value {
    json!({"username": name, "password": "secret", "auth": {"type": "m.login.dummy"}})
}

#[tokio::test]
async fn a_user_registers_and_is_logged_in() {
    let server = TestServer::new().await;
    let mut body = wish("Alice");
    body["device_id"] = json!("PHONE");
    body["initial_device_display_name"] = json!("Alice's phone");
    let answer = server.post("/v3/register", body).await.ok();
    assert_eq!(answer["user_id"], "@alice:example.org");
    assert_eq!(answer["device_id"], "PHONE");
    let token = answer["access_token"].as_str().unwrap();
    let who = server.request(http::Method::GET, "/v3/account/whoami", Some(token), None).await.ok();
    assert_eq!(who, json!({"user_id": "@alice:example.org", "device_id": "PHONE"}));
}

#[tokio::test]
async fn a_request_without_auth_is_told_the_flows() {
    let server = TestServer::new().await;
    let answer = server.post("/v3/register", json!({})).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.body["flows"], json!([{"stages": ["m.login.dummy"]}]));
    assert_eq!(answer.body["params"], json!({}));
    assert!(answer.body["session"].is_string());
    assert_eq!(answer.headers["content-type"], "application/json");
}

#[tokio::test]
async fn a_name_is_given_once() {
    let server = TestServer::new().await;
    server.post("/v3/register", wish("alice")).await.ok();
    for name in ["alice", "ALICE"] {
        assert_eq!(server.post("/v3/register", wish(name)).await.error(), (400, "M_USER_IN_USE"));
        let available = server.get(&format!("/v3/register/available?username={name}")).await;
        assert_eq!(available.error(), (400, "M_USER_IN_USE"));
    }
    assert_eq!(server.get("/v3/register/available?username=bob").await.ok(), json!({"available": true}));
}

#[tokio::test]
async fn of_many_who_want_a_name_at_once_one_gets_it() {
    let server = TestServer::new().await;
    let tries = (0..8).map(|_| {
        let server = server.clone();
        tokio::spawn(async move { server.post("/v3/register", wish("alice")).await.status.as_u16() })
    });
    let mut statuses = Vec::new();
    for task in tries.collect::<Vec<_>>() {
        statuses.push(task.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400, 400, 400, 400, 400, 400, 400]);
}

#[tokio::test]
async fn names_outside_the_grammar_are_refused() {
    let server = TestServer::new().await;
    for name in ["", "user-!-x", "@alice:example.org", "é", "a b", "a\u{0}", &"a".repeat(300)] {
        assert_eq!(server.post("/v3/register", wish(name)).await.error(), (400, "M_INVALID_USERNAME"), "{name:?}");
    }
    let available = server.get("/v3/register/available?username=a,b").await;
    assert_eq!(available.error(), (400, "M_INVALID_USERNAME"));
}
