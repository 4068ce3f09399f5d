//! User-interactive authentication, and attacks on it.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::support::{Answer, TestServer, User, auth_of, password_of};

/// Asks for the deletion of a device, and returns the session that was begun for it.
async fn begin(user: &User, device_id: &str) -> String {
    let answer = user.delete(&format!("/v3/devices/{device_id}")).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.body["flows"], json!([{"stages": ["m.login.password"]}]));
    assert_eq!(answer.body["params"], json!({}));
    assert!(answer.body.get("errcode").is_none());
    answer.body["session"].as_str().unwrap().to_owned()
}

async fn delete(user: &User, device_id: &str, auth: Value) -> Answer {
    user.request(Method::DELETE, &format!("/v3/devices/{device_id}"), Some(json!({"auth": auth}))).await
}

fn in_session(session: &str, mut auth: Value) -> Value {
    auth["session"] = json!(session);
    auth
}

#[tokio::test]
async fn a_request_is_done_once_its_user_proved_who_he_is() {
    let server = TestServer::new().await;
    let (alice, other) = (server.user("alice").await, server.log_in("alice").await);
    let session = begin(&alice, &other.device_id).await;
    delete(&alice, &other.device_id, in_session(&session, auth_of("alice"))).await.ok();
    assert_eq!(other.get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn clients_may_name_the_user_as_they_did_before_there_were_identifiers() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for user in ["alice", &alice.id] {
        let session = begin(&alice, "X").await;
        let auth = json!({ "type": "m.login.password", "user": user, "password": password_of("alice") });
        delete(&alice, "X", in_session(&session, auth)).await.ok();
    }
    let session = begin(&alice, "X").await;
    let wrong = json!({ "type": "m.login.password", "user": "alice", "password": "guess" });
    assert_eq!(delete(&alice, "X", in_session(&session, wrong)).await.error(), (401, "M_FORBIDDEN"));
}

#[tokio::test]
async fn a_wrong_password_can_be_corrected() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let session = begin(&alice, "X").await;
    let mut wrong = auth_of("alice");
    wrong["password"] = json!("guess");
    let answer = delete(&alice, "X", in_session(&session, wrong)).await;
    assert_eq!(answer.error(), (401, "M_FORBIDDEN"));
    assert_eq!(answer.body["session"], session);
    assert!(answer.body["flows"].is_array() && answer.body["params"].is_object() && answer.body["error"].is_string());
    delete(&alice, "X", in_session(&session, auth_of("alice"))).await.ok();
}

#[tokio::test]
async fn another_users_password_proves_nothing() {
    let server = TestServer::new().await;
    let (alice, _bob) = (server.user("alice").await, server.user("bob").await);
    assert_eq!(delete(&alice, "X", auth_of("bob")).await.error(), (403, "M_FORBIDDEN"));
    let mut claimed = auth_of("alice");
    claimed["password"] = json!(password_of("bob"));
    assert_eq!(delete(&alice, "X", claimed).await.error(), (401, "M_FORBIDDEN"));
}

#[tokio::test]
async fn a_session_is_good_for_its_user_and_device_only() {
    let server = TestServer::new().await;
    let (alice, laptop, bob) = (server.user("alice").await, server.log_in("alice").await, server.user("bob").await);
    let session = begin(&alice, "X").await;
    for (thief, name) in [(&bob, "bob"), (&laptop, "alice")] {
        let answer = delete(thief, "X", in_session(&session, auth_of(name))).await;
        assert_eq!(answer.error(), (403, "M_FORBIDDEN"), "{name}");
    }
}

#[tokio::test]
async fn a_session_goes_on_with_a_refreshed_token() {
    let server = TestServer::new().await;
    server.user("alice").await;
    let mut body = auth_of("alice");
    body["refresh_token"] = json!(true);
    let pair = server.post("/v3/login", body).await.ok();
    let before = User::new(server.clone(), &pair);
    let session = begin(&before, "X").await;
    let refreshed = server.post("/v3/refresh", json!({"refresh_token": pair["refresh_token"]})).await.ok();
    let token = refreshed["access_token"].as_str().unwrap().to_owned();
    let after = User { token, ..before };
    delete(&after, "X", in_session(&session, auth_of("alice"))).await.ok();
}

#[tokio::test]
async fn a_session_is_good_for_its_request_only() {
    let server = TestServer::new().await;
    let (alice, phone) = (server.user("alice").await, server.log_in("alice").await);
    let session = begin(&alice, "harmless").await;
    let proof = in_session(&session, auth_of("alice"));
    assert_eq!(delete(&alice, &phone.device_id, proof.clone()).await.error(), (403, "M_FORBIDDEN"));
    let body = json!({"devices": ["harmless"], "auth": proof});
    assert_eq!(alice.post("/v3/delete_devices", body).await.error(), (403, "M_FORBIDDEN"));
    let body = json!({"auth": proof});
    assert_eq!(alice.post("/v3/account/deactivate", body).await.error(), (403, "M_FORBIDDEN"));
    phone.get("/v3/account/whoami").await.ok();
}

#[tokio::test]
async fn the_parameters_of_a_request_cannot_change_during_its_session() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let first = alice.post("/v3/delete_devices", json!({"devices": ["X"], "note": {"a": 1, "b": 2}})).await;
    assert_eq!(first.status, 401);
    let proof = in_session(first.body["session"].as_str().unwrap(), auth_of("alice"));
    let changed = json!({"devices": [alice.device_id], "note": {"a": 1, "b": 2}, "auth": proof});
    assert_eq!(alice.post("/v3/delete_devices", changed).await.error(), (403, "M_FORBIDDEN"));
    let left_out = json!({"devices": ["X"], "auth": proof});
    assert_eq!(alice.post("/v3/delete_devices", left_out).await.error(), (403, "M_FORBIDDEN"));
    let in_other_order = r#"{"note":{"b":2,"a":1},"auth":AUTH,"devices":["X"]}"#.replace("AUTH", &proof.to_string());
    let same = server.request_bytes(Method::POST, "/v3/delete_devices", Some(&alice.token), in_other_order).await;
    same.ok();
}

#[tokio::test]
async fn a_completed_session_is_used_up() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let session = begin(&alice, "X").await;
    delete(&alice, "X", in_session(&session, auth_of("alice"))).await.ok();
    let again = delete(&alice, "X", json!({"session": session})).await;
    assert_eq!(again.error(), (401, "M_UNKNOWN"));
    assert_ne!(again.body["session"], session);
    assert_eq!(again.body.get("completed"), None);
}

#[tokio::test]
async fn a_session_that_does_not_exist_proves_nothing() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for auth in [json!({"session": "made up"}), in_session("made up", auth_of("alice"))] {
        assert_eq!(delete(&alice, "X", auth).await.error(), (401, "M_UNKNOWN"));
    }
    let session = begin(&alice, "X").await;
    server.advance(Duration::from_secs(30 * 60));
    let late = delete(&alice, "X", in_session(&session, auth_of("alice"))).await;
    assert_eq!(late.error(), (401, "M_UNKNOWN"));
}

#[tokio::test]
async fn stages_that_are_not_offered_prove_nothing() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for stage in ["m.login.dummy", "m.login.terms", "m.login.sso", "m.oauth", "org.example.open_sesame"] {
        let answer = delete(&alice, "X", json!({"type": stage})).await;
        assert_eq!(answer.error(), (401, "M_FORBIDDEN"), "{stage}");
        assert_eq!(answer.body.get("completed"), None);
    }
    let token = json!({"type": "m.login.registration_token", "token": ""});
    assert_eq!(delete(&alice, "X", token).await.error(), (401, "M_FORBIDDEN"));
    let session = begin(&alice, "X").await;
    assert_eq!(delete(&alice, "X", json!({"session": session})).await.status, 401);
}

#[tokio::test]
async fn wrong_types_in_auth_are_refused() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    for auth in [
        json!(1),
        json!("x"),
        json!([]),
        json!({"type": 1}),
        json!({"type": "m.login.password"}),
        json!({"type": "m.login.password", "password": "x"}),
        json!({"type": "m.login.password", "password": 1, "identifier": {"type": "m.id.user", "user": "alice"}}),
        json!({"type": "m.login.password", "password": "x", "identifier": {"type": "m.id.user"}}),
        json!({"type": "m.login.dummy", "session": 1}),
    ] {
        assert_eq!(delete(&alice, "X", auth.clone()).await.error(), (400, "M_BAD_JSON"), "{auth}");
    }
    let unknown = json!({"type": "m.login.password", "password": "x", "identifier": {"type": "m.id.planet"}});
    assert_eq!(delete(&alice, "X", unknown).await.error(), (400, "M_UNKNOWN"));
}

#[tokio::test]
async fn guesses_of_a_password_are_limited_there_too() {
    let server = TestServer::with(|config| config.rate_limits.enabled = true).await;
    let alice = server.user("alice").await;
    let mut wrong = auth_of("alice");
    wrong["password"] = json!("guess");
    for _ in 0..10 {
        assert_eq!(delete(&alice, "X", wrong.clone()).await.error(), (401, "M_FORBIDDEN"));
    }
    let answer = delete(&alice, "X", auth_of("alice")).await;
    assert_eq!(answer.error(), (429, "M_LIMIT_EXCEEDED"));
    assert_eq!(
        (&answer.body["retry_after_ms"], &answer.headers["retry-after"]),
        (&json!(60_000), &"60".parse().unwrap())
    );
    server.advance(Duration::from_secs(60));
    delete(&alice, "X", auth_of("alice")).await.ok();
}

#[tokio::test]
async fn of_many_requests_with_one_proof_one_is_done() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let first = alice.post("/v1/login/get_token", json!({})).await;
    let auth = in_session(first.body["session"].as_str().unwrap(), auth_of("alice"));
    let tries = (0..6).map(|_| {
        let (alice, auth) = (alice.clone(), auth.clone());
        tokio::spawn(async move { alice.post("/v1/login/get_token", json!({"auth": auth})).await.status.as_u16() })
    });
    let mut statuses = Vec::new();
    for task in tries.collect::<Vec<_>>() {
        statuses.push(task.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401, 401, 401, 401, 401]);
}

#[tokio::test]
async fn nobody_pushes_out_the_sessions_of_others() {
    let server = TestServer::new().await;
    let (alice, other) = (server.user("alice").await, server.log_in("alice").await);
    let session = begin(&alice, &other.device_id).await;
    let eve = server.user("eve").await;
    for _ in 0..2_000 {
        begin(&eve, "ABC").await;
    }
    delete(&alice, &other.device_id, in_session(&session, auth_of("alice"))).await.ok();
}
