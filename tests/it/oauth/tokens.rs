//! Tokens: how clients get them, renew them and give them back.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::{TOKEN, app, check, code, error, form, log_in, redeem, refresh, register, server, session, with};
use crate::support::{Signer, auth_of, password_of};

#[tokio::test]
async fn a_code_is_good_for_its_client_only() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let mut other = app();
    other["client_name"] = "Another app".into();
    let other = register(&server, other).await;
    for (field, wrong) in [
        ("client_id", other.as_str()),
        ("redirect_uri", "http://127.0.0.1/callback"),
        ("code_verifier", "wrong"),
        ("code_verifier", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
    ] {
        let code = code(&server, &client, "PHONE", "alice").await;
        let refused = redeem(&server, &client, &code, &[(field, wrong)]).await;
        assert_eq!(error(&refused), (400, "invalid_grant"), "{field}");
        let again = redeem(&server, &client, &code, &[]).await;
        assert_eq!(error(&again), (400, "invalid_grant"), "a code is good for one try, {field}");
    }
    let code = code(&server, &client, "PHONE", "alice").await;
    for field in ["client_id", "code", "redirect_uri", "code_verifier", "grant_type"] {
        let refused = redeem(&server, &client, &code, &[(field, "")]).await;
        assert_eq!(error(&refused), (400, "invalid_request"), "{field}");
    }
    let refused = redeem(&server, &client, &code, &[("grant_type", "password")]).await;
    assert_eq!(error(&refused), (400, "unsupported_grant_type"));
    let json = server.post(TOKEN, json!({ "grant_type": "authorization_code" })).await;
    assert_eq!(error(&json), (400, "invalid_request"));
    redeem(&server, &client, &code, &[]).await.ok();
}

#[tokio::test]
async fn a_code_ends_after_a_minute() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let code = code(&server, &client, "PHONE", "alice").await;
    server.advance(Duration::from_secs(60));
    assert_eq!(error(&redeem(&server, &client, &code, &[]).await), (400, "invalid_grant"));
}

#[tokio::test]
async fn no_session_has_a_device_with_the_name_of_a_key() {
    let server = server().await;
    let alice = server.user("alice").await;
    let master = Signer::cross_signing();
    let keys = json!({ "master_key": master.as_cross_signing_key(&alice, "master") });
    alice.post("/v3/keys/device_signing/upload", keys).await.ok();
    let client = register(&server, app()).await;
    let code = code(&server, &client, &master.public_key(), "alice").await;
    assert_eq!(error(&redeem(&server, &client, &code, &[]).await), (400, "invalid_scope"));
}

#[tokio::test]
async fn a_code_that_is_used_twice_ends_the_session() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let code = code(&server, &client, "PHONE", "alice").await;
    let tokens = redeem(&server, &client, &code, &[]).await.ok();
    let alice = session(&server, &tokens).await;
    server.advance(Duration::from_secs(5 * 60));
    assert_eq!(error(&redeem(&server, &client, &code, &[("code_verifier", "guess")]).await), (400, "invalid_grant"));
    assert_eq!(alice.get("/v3/account/whoami").await.errcode(), "M_UNKNOWN_TOKEN");
    assert_eq!(error(&refresh(&server, &client, &tokens["refresh_token"]).await), (400, "invalid_grant"));
    check(&server);
}

#[tokio::test]
async fn tokens_are_renewed_and_the_old_ones_end_when_the_new_are_used() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let (alice, first) = log_in(&server, &client, "PHONE", "alice").await;
    server.advance(Duration::from_secs(60 * 60));
    let expired = alice.get("/v3/account/whoami").await;
    assert_eq!((expired.errcode(), &expired.body["soft_logout"]), ("M_UNKNOWN_TOKEN", &json!(true)));
    let lost = refresh(&server, &client, &first["refresh_token"]).await.ok();
    // The answer got lost: the client asks again.
    let second = refresh(&server, &client, &first["refresh_token"]).await.ok();
    assert_eq!(second["scope"], first["scope"]);
    assert_ne!(lost["access_token"], second["access_token"]);
    session(&server, &second).await;
    let third = refresh(&server, &client, &second["refresh_token"]).await.ok();
    session(&server, &third).await.get("/v3/devices/PHONE").await.ok();
    check(&server);
}

#[tokio::test]
async fn an_old_refresh_token_that_comes_back_ends_the_session() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let (_, first) = log_in(&server, &client, "PHONE", "alice").await;
    let (other, _) = log_in(&server, &client, "TABLET", "alice").await;
    let second = refresh(&server, &client, &first["refresh_token"]).await.ok();
    let alice = session(&server, &second).await;
    assert_eq!(error(&refresh(&server, &client, &first["refresh_token"]).await), (400, "invalid_grant"));
    assert_eq!(alice.get("/v3/account/whoami").await.errcode(), "M_UNKNOWN_TOKEN", "somebody has stolen one of them");
    assert_eq!(error(&refresh(&server, &client, &second["refresh_token"]).await), (400, "invalid_grant"));
    other.get("/v3/account/whoami").await.ok();
    check(&server);
}

#[tokio::test]
async fn made_up_tokens_end_nothing() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let (alice, tokens) = log_in(&server, &client, "PHONE", "alice").await;
    let mut other = app();
    other["client_name"] = "Another app".into();
    let other = register(&server, other).await;
    for (client, token, expected) in [
        (client.as_str(), json!("x"), (400, "invalid_grant")),
        (&client, json!("made.up"), (400, "invalid_grant")),
        (&client, tokens["access_token"].clone(), (400, "invalid_grant")),
        (&other, tokens["refresh_token"].clone(), (400, "invalid_grant")),
        ("unknown", tokens["refresh_token"].clone(), (401, "invalid_client")),
    ] {
        assert_eq!(error(&refresh(&server, client, &token).await), expected, "{client} {token}");
    }
    alice.get("/v3/account/whoami").await.ok();
    refresh(&server, &client, &tokens["refresh_token"]).await.ok();
}

#[tokio::test]
async fn a_refresh_token_ends_with_its_time() {
    let server = with(|config| config.sessions.refresh_token_lifetime = Some(Duration::from_secs(7_200))).await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let (_, tokens) = log_in(&server, &client, "PHONE", "alice").await;
    server.advance(Duration::from_secs(7_200));
    assert_eq!(error(&refresh(&server, &client, &tokens["refresh_token"]).await), (400, "invalid_grant"));
    // That is no theft: the device is still there, and the user logs it in again.
    server.log_in("alice").await.get("/v3/devices/PHONE").await.ok();
}

#[tokio::test]
async fn each_api_renews_its_own_tokens() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let (_, tokens) = log_in(&server, &client, "PHONE", "alice").await;
    let refused = server.post("/v3/refresh", json!({ "refresh_token": tokens["refresh_token"] })).await;
    assert_eq!(refused.error(), (401, "M_UNKNOWN_TOKEN"));
    let body = json!({
        "type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"},
        "password": password_of("alice"), "refresh_token": true,
    });
    let legacy = server.post("/v3/login", body).await.ok();
    assert_eq!(error(&refresh(&server, &client, &legacy["refresh_token"]).await), (400, "invalid_grant"));
    server.post("/v3/refresh", json!({ "refresh_token": legacy["refresh_token"] })).await.ok();
    refresh(&server, &client, &tokens["refresh_token"]).await.ok();
}

#[tokio::test]
async fn a_legacy_log_in_takes_a_device_over() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let (alice, tokens) = log_in(&server, &client, "PHONE", "alice").await;
    let body = json!({
        "type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"},
        "password": password_of("alice"), "device_id": "PHONE",
    });
    server.post("/v3/login", body).await.ok();
    assert_eq!(alice.get("/v3/account/whoami").await.errcode(), "M_UNKNOWN_TOKEN");
    assert_eq!(error(&refresh(&server, &client, &tokens["refresh_token"]).await), (400, "invalid_grant"));
    let phone = server.log_in("alice").await.get("/v3/devices/PHONE").await.ok();
    assert_eq!(phone["device_id"], "PHONE", "an old token of another session does not end this one");
    check(&server);
}

#[tokio::test]
async fn a_client_gives_its_tokens_back() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    for which in ["access_token", "refresh_token"] {
        let (alice, tokens) = log_in(&server, &client, "PHONE", "alice").await;
        let token = tokens[which].as_str().unwrap();
        let fields = [("token", token), ("token_type_hint", which), ("client_id", client.as_str())];
        assert_eq!(form(&server, "/_chappe/oauth/revoke", &fields).await.status, 200);
        assert_eq!(alice.get("/v3/account/whoami").await.errcode(), "M_UNKNOWN_TOKEN");
        assert_eq!(error(&refresh(&server, &client, &tokens["refresh_token"]).await), (400, "invalid_grant"));
        assert_eq!(server.log_in("alice").await.get("/v3/devices/PHONE").await.status, 404, "the device is gone");
        assert_eq!(form(&server, "/_chappe/oauth/revoke", &fields).await.status, 200, "as it should be already");
    }
    let (alice, tokens) = log_in(&server, &client, "PHONE", "alice").await;
    let leaked = [("token", tokens["access_token"].as_str().unwrap())];
    assert_eq!(form(&server, "/_chappe/oauth/revoke", &leaked).await.status, 200);
    assert_eq!(alice.get("/v3/account/whoami").await.errcode(), "M_UNKNOWN_TOKEN", "whoever found it may end it");
    assert_eq!(error(&form(&server, "/_chappe/oauth/revoke", &[]).await), (400, "invalid_request"));
    check(&server);
}

#[tokio::test]
async fn what_needs_a_password_is_done_on_the_page_of_the_account() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let (alice, _) = log_in(&server, &client, "PHONE", "alice").await;
    let auth = auth_of("alice");
    for (method, path, body) in [
        (Method::POST, "/v3/account/password", json!({ "new_password": "x", "auth": auth })),
        (Method::POST, "/v3/account/deactivate", json!({ "auth": auth })),
        (Method::DELETE, "/v3/devices/PHONE", json!({ "auth": auth })),
        (Method::POST, "/v3/delete_devices", json!({ "devices": ["PHONE"], "auth": auth })),
    ] {
        let refused = alice.request(method, path, Some(body)).await;
        assert_eq!(refused.error(), (403, "M_FORBIDDEN"), "{path}");
    }
    let refused = alice.post("/v1/login/get_token", json!({ "auth": auth })).await;
    assert_eq!(refused.error(), (400, "M_FORBIDDEN"));
    let capabilities = alice.get("/v3/capabilities").await.ok();
    assert_eq!(capabilities["capabilities"]["m.change_password"]["enabled"], false);
    assert_eq!(capabilities["capabilities"]["m.get_login_token"]["enabled"], false);
    let legacy = server.log_in("alice").await.get("/v3/capabilities").await.ok();
    assert_eq!(legacy["capabilities"]["m.change_password"]["enabled"], true);
    alice.post("/v3/logout", json!({})).await.ok();
    assert_eq!(alice.get("/v3/account/whoami").await.errcode(), "M_UNKNOWN_TOKEN");
}
