//! Clients register themselves: <https://spec.matrix.org/v1.19/client-server-api/#client-registration>

use std::time::Duration;

use chappe::{oauth::tables::Clients, sweep};
use http::Method;
use serde_json::json;

use super::{CLIENTS, TOKEN, app, check, error, form, log_in, register, request, server, with};
use crate::support::{TestServer, browser::Browser};

#[tokio::test]
async fn the_metadata_tell_where_everything_is() {
    let server = server().await;
    let metadata = server.get("/v1/auth_metadata").await.ok();
    let unstable = "/_matrix/client/unstable/org.matrix.msc2965";
    for path in [
        format!("{unstable}/auth_metadata").as_str(),
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
    ] {
        assert_eq!(server.get(path).await.ok(), metadata, "{path}");
    }
    assert_eq!(server.get(&format!("{unstable}/auth_issuer")).await.ok()["issuer"], metadata["issuer"]);
    assert_eq!(metadata["issuer"], "https://matrix.example.org/");
    for (key, path) in [
        ("authorization_endpoint", "/_chappe/oauth/authorize"),
        ("token_endpoint", "/_chappe/oauth/token"),
        ("registration_endpoint", "/_chappe/oauth/clients"),
        ("revocation_endpoint", "/_chappe/oauth/revoke"),
        ("device_authorization_endpoint", "/_chappe/oauth/device"),
        ("account_management_uri", "/_chappe/account"),
    ] {
        assert_eq!(metadata[key], format!("https://matrix.example.org{path}"), "{key}");
        assert_ne!(server.get(path).await.status, 404, "{key}");
    }
    assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(metadata["response_modes_supported"], json!(["query", "fragment"]));
    assert_eq!(metadata["response_types_supported"], json!(["code"]));
    assert_eq!(metadata["prompt_values_supported"], json!(["create"]));
    let actions = metadata["account_management_actions_supported"].as_array().unwrap();
    assert!(actions.contains(&json!("org.matrix.device_delete")) && actions.contains(&json!("org.matrix.session_end")));
    let closed = with(|config| config.allow_registration = false).await;
    assert_eq!(closed.get("/v1/auth_metadata").await.ok().get("prompt_values_supported"), None);
}

#[tokio::test]
async fn without_a_public_address_there_is_no_oauth() {
    let nowhere = TestServer::new().await;
    let off = with(|config| config.oauth.enabled = false).await;
    let plain = TestServer::with(|config| config.well_known.client = Some("http://matrix.example.org".into())).await;
    for server in [nowhere, off, plain] {
        for (method, path) in [
            (Method::GET, "/v1/auth_metadata"),
            (Method::GET, "/_chappe/oauth/authorize"),
            (Method::GET, "/_chappe/login"),
            (Method::GET, "/_chappe/account"),
        ] {
            let answer = server.request(method, path, None, None).await;
            assert_eq!(answer.error(), (404, "M_UNRECOGNIZED"), "{path}");
        }
        assert_eq!(server.post(CLIENTS, app()).await.error(), (404, "M_UNRECOGNIZED"));
        assert_eq!(form(&server, TOKEN, &[("grant_type", "refresh_token")]).await.error(), (404, "M_UNRECOGNIZED"));
    }
}

#[tokio::test]
async fn the_same_app_is_one_client() {
    let server = server().await;
    let answer = server.post(CLIENTS, app()).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let mut told = app();
    told["client_id"] = answer.body["client_id"].clone();
    assert_eq!(answer.body, told);
    assert_eq!(register(&server, app()).await, told["client_id"]);
    let mut other = app();
    other["client_name"] = "Another".into();
    assert_ne!(register(&server, other).await, told["client_id"]);
}

#[tokio::test]
async fn wrong_metadata_is_refused() {
    let server = server().await;
    for (key, value, expected) in [
        ("redirect_uris", json!(["https://evil.example/"]), "invalid_redirect_uri"),
        ("redirect_uris", json!(["callback:/"]), "invalid_redirect_uri"),
        ("redirect_uris", json!(["io.element.test://callback"]), "invalid_redirect_uri"),
        ("redirect_uris", json!(["http://localhost:1234/"]), "invalid_redirect_uri"),
        ("redirect_uris", json!("io.element.test:/"), "invalid_client_metadata"),
        ("client_uri", json!("http://element.io"), "invalid_client_metadata"),
        ("token_endpoint_auth_method", json!("client_secret_basic"), "invalid_client_metadata"),
    ] {
        let mut metadata = app();
        metadata[key] = value.clone();
        assert_eq!(error(&server.post(CLIENTS, metadata).await), (400, expected), "{key}: {value}");
    }
    let large = server.request_bytes(Method::POST, CLIENTS, None, "x".repeat(100_000)).await;
    assert_eq!(large.status, 413);
}

#[tokio::test]
async fn a_client_is_kept_on_disk_while_somebody_is_logged_in_with_it() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let is_on_disk = || server.inside().store.snapshot().contains::<Clients>(&client.as_str()).unwrap();
    assert!(!is_on_disk(), "strangers write nothing");
    let (alice, tokens) = log_in(&server, &client, "ALICESPHONE", "alice").await;
    assert!(is_on_disk());
    server.advance(Duration::from_secs(48 * 60 * 60));
    sweep::once(server.inside()).await.unwrap();
    assert!(is_on_disk(), "there is a session");
    check(&server);
    super::refresh(&server, &client, &tokens["refresh_token"]).await.ok();
    let device = alice.device_id.clone();
    server.log_in("alice").await.delete(&format!("/v3/devices/{device}")).await;
    let other = server.log_in("alice").await;
    let auth = crate::support::auth_of("alice");
    other.request(Method::DELETE, &format!("/v3/devices/{device}"), Some(json!({ "auth": auth }))).await.ok();
    sweep::once(server.inside()).await.unwrap();
    assert!(!is_on_disk());
    check(&server);
}

#[tokio::test]
async fn clients_that_nobody_logs_in_with_are_forgotten() {
    let server = server().await;
    let client = register(&server, app()).await;
    let mut browser = Browser::new(&server);
    assert_eq!(browser.open(&request(&client, "DEVICE", &[])).await.status(), 303);
    server.advance(Duration::from_secs(60 * 60));
    let page = browser.open(&request(&client, "DEVICE", &[])).await;
    assert_eq!(page.status(), 400);
    assert!(page.text().contains("has to register again"), "{}", page.text());
}
