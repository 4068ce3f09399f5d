//! Access tokens that expire, and the tokens that renew them.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestServer, auth_of};

const HOUR: Duration = Duration::from_secs(3_600);

async fn log_in(server: &TestServer) -> Value {
    let mut body = auth_of("alice");
    body["refresh_token"] = json!(true);
    server.post("/v3/login", body).await.ok()
}

async fn refresh(server: &TestServer, pair: &Value) -> Answer {
    server.post("/v3/refresh", json!({"refresh_token": pair["refresh_token"]})).await
}

async fn who(server: &TestServer, pair: &Value) -> Answer {
    server.request(Method::GET, "/v3/account/whoami", pair["access_token"].as_str(), None).await
}

#[tokio::test]
async fn tokens_of_clients_that_can_refresh_expire() {
    let server = TestServer::new().await;
    let patient = server.user("alice").await;
    let pair = log_in(&server).await;
    assert_eq!(pair["expires_in_ms"], 3_600_000);
    server.advance(HOUR - Duration::from_millis(1));
    who(&server, &pair).await.ok();
    server.advance(Duration::from_millis(1));
    let expired = who(&server, &pair).await;
    assert_eq!(expired.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(expired.body["soft_logout"], true);
    patient.get("/v3/account/whoami").await.ok();
}

#[tokio::test]
async fn a_refresh_gives_new_tokens_to_the_same_device() {
    let server = TestServer::new().await;
    server.user("alice").await;
    let first = log_in(&server).await;
    server.advance(HOUR);
    let second = refresh(&server, &first).await.ok();
    assert_eq!(second["expires_in_ms"], 3_600_000);
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    assert_eq!(who(&server, &second).await.ok()["device_id"], first["device_id"]);
    server.advance(HOUR);
    let third = refresh(&server, &second).await.ok();
    who(&server, &third).await.ok();
}

#[tokio::test]
async fn old_tokens_end_when_a_new_access_token_is_used() {
    let server = TestServer::new().await;
    server.user("alice").await;
    let first = log_in(&server).await;
    let second = refresh(&server, &first).await.ok();
    who(&server, &first).await.ok();
    who(&server, &second).await.ok();
    let old = who(&server, &first).await;
    assert_eq!(old.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(refresh(&server, &first).await.error(), (401, "M_UNKNOWN_TOKEN"));
    who(&server, &second).await.ok();
    refresh(&server, &second).await.ok();
}

#[tokio::test]
async fn old_tokens_end_when_a_new_refresh_token_is_used() {
    let server = TestServer::new().await;
    server.user("alice").await;
    let first = log_in(&server).await;
    let second = refresh(&server, &first).await.ok();
    refresh(&server, &second).await.ok();
    assert_eq!(refresh(&server, &first).await.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(who(&server, &first).await.error(), (401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn a_client_that_missed_the_answer_can_refresh_again() {
    let server = TestServer::new().await;
    server.user("alice").await;
    let first = log_in(&server).await;
    let lost = refresh(&server, &first).await.ok();
    let second = refresh(&server, &first).await.ok();
    assert_eq!(who(&server, &lost).await.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(refresh(&server, &lost).await.error(), (401, "M_UNKNOWN_TOKEN"));
    who(&server, &second).await.ok();
    refresh(&server, &second).await.ok();
}

#[tokio::test]
async fn a_log_out_ends_the_refresh_token() {
    let server = TestServer::new().await;
    server.user("alice").await;
    let pair = log_in(&server).await;
    server.request(Method::POST, "/v3/logout", pair["access_token"].as_str(), None).await.ok();
    let ended = refresh(&server, &pair).await;
    assert_eq!(ended.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(ended.body.get("soft_logout"), None);
}

#[tokio::test]
async fn a_refresh_token_that_is_not_used_ends_if_so_configured() {
    let server = TestServer::with(|config| config.sessions.refresh_token_lifetime = Some(24 * HOUR)).await;
    server.user("alice").await;
    let pair = log_in(&server).await;
    server.advance(24 * HOUR);
    let late = refresh(&server, &pair).await;
    assert_eq!(late.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(late.body["soft_logout"], true);
}

#[tokio::test]
async fn kinds_of_tokens_are_not_mixed_up() {
    let server = TestServer::new().await;
    server.user("alice").await;
    let pair = log_in(&server).await;
    let swapped = json!({"access_token": pair["refresh_token"], "refresh_token": pair["access_token"]});
    assert_eq!(who(&server, &swapped).await.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(refresh(&server, &swapped).await.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(server.post("/v3/refresh", json!({})).await.error(), (400, "M_BAD_JSON"));
}

#[tokio::test]
async fn the_rows_of_sessions_agree_after_all_that_may_happen_to_them() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let first = log_in(&server).await;
    let lost = refresh(&server, &first).await.ok();
    let second = refresh(&server, &first).await.ok();
    who(&server, &second).await.ok();
    log_in(&server).await;
    let path = format!("/v3/devices/{}", alice.device_id);
    alice.request(Method::DELETE, &path, Some(json!({"auth": auth_of("alice")}))).await.ok();
    bob.post("/v3/account/deactivate", json!({"auth": auth_of("bob")})).await.ok();
    assert_eq!(who(&server, &lost).await.error(), (401, "M_UNKNOWN_TOKEN"));
    let report = chappe::check::check(&server.inside().store, server.inside().name()).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
}
