use serde_json::{Value, json};

use crate::support::{TestServer, password_of};

fn by_password(user: &str, password: &str) -> Value {
    json!({"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user}, "password": password})
}

#[tokio::test]
async fn a_user_logs_in_by_id_or_localpart_in_any_case() {
    let server = TestServer::new().await;
    server.user("alice").await;
    for name in ["alice", "ALICE", "@alice:example.org", "@Alice:example.org"] {
        let answer = server.post("/v3/login", by_password(name, &password_of("alice"))).await.ok();
        assert_eq!(answer["user_id"], "@alice:example.org", "{name}");
    }
    let old_form = json!({"type": "m.login.password", "user": "alice", "password": password_of("alice")});
    server.post("/v3/login", old_form).await.ok();
}

#[tokio::test]
async fn wrong_names_and_passwords_get_the_same_answer() {
    let server = TestServer::new().await;
    server.user("alice").await;
    let wrong = server.post("/v3/login", by_password("alice", "guess")).await;
    assert_eq!(wrong.error(), (403, "M_FORBIDDEN"));
    for (name, password) in [("bob", "guess"), ("alice", ""), ("@alice:other.org", "password of alice"), ("", "")] {
        let answer = server.post("/v3/login", by_password(name, password)).await;
        assert_eq!((answer.status, &answer.body), (wrong.status, &wrong.body), "{name}");
    }
}

#[tokio::test]
async fn a_token_ends_with_its_log_out() {
    let server = TestServer::new().await;
    let (phone, laptop) = (server.user("alice").await, server.log_in("alice").await);
    phone.post("/v3/logout", json!({})).await.ok();
    assert_eq!(phone.get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(phone.post("/v3/logout", json!({})).await.error(), (401, "M_UNKNOWN_TOKEN"));
    laptop.get("/v3/account/whoami").await.ok();
    let tablet = server.log_in("alice").await;
    laptop.post("/v3/logout/all", json!({})).await.ok();
    for device in [laptop, tablet] {
        assert_eq!(device.get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"));
    }
}

#[tokio::test]
async fn without_a_token_nothing_is_told() {
    let server = TestServer::new().await;
    assert_eq!(server.get("/v3/account/whoami").await.error(), (401, "M_MISSING_TOKEN"));
    for token in ["", "x", "null"] {
        let answer = server.request(http::Method::GET, "/v3/account/whoami", Some(token), None).await;
        assert_eq!(answer.status, 401, "{token:?}");
    }
}

#[tokio::test]
async fn the_versions_are_told_to_everybody() {
    let server = TestServer::new().await;
    let answer = server.request(http::Method::GET, "/_matrix/client/versions", Some("expired"), None).await.ok();
    assert!(answer["versions"].as_array().unwrap().contains(&json!("v1.11")));
}
