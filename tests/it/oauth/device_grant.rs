//! A device without a browser: <https://spec.matrix.org/v1.19/client-server-api/#device-authorisation-flow>

use std::time::Duration;

use serde_json::Value;

use super::{DEVICE_GRANT, TOKEN, app, error, form, register, server, session, with};
use crate::support::{Answer, TestServer, browser::Browser, password_of};

const SCOPE: &str = "urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:TV";

async fn begin(server: &TestServer, client: &str) -> Value {
    form(server, "/_chappe/oauth/device", &[("client_id", client), ("scope", SCOPE)]).await.ok()
}

async fn ask(server: &TestServer, client: &str, codes: &Value) -> Answer {
    let code = codes["device_code"].as_str().unwrap();
    form(server, TOKEN, &[("grant_type", DEVICE_GRANT), ("client_id", client), ("device_code", code)]).await
}

/// The path of the address that the device shows.
fn link(codes: &Value) -> &str {
    codes["verification_uri_complete"].as_str().unwrap().strip_prefix("https://matrix.example.org").unwrap()
}

#[tokio::test]
async fn a_device_is_logged_in_from_a_browser_elsewhere() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let codes = begin(&server, &client).await;
    assert_eq!((&codes["expires_in"], &codes["interval"]), (&600.into(), &5.into()));
    assert_eq!(codes["verification_uri"], "https://matrix.example.org/_chappe/oauth/link");
    assert_eq!(error(&ask(&server, &client, &codes).await), (400, "authorization_pending"));
    assert_eq!(error(&ask(&server, &client, &codes).await), (400, "slow_down"));
    server.advance(Duration::from_secs(10));
    assert_eq!(error(&ask(&server, &client, &codes).await), (400, "authorization_pending"));

    let mut browser = Browser::new(&server);
    let page = browser.open_as(link(&codes), "alice", &password_of("alice")).await;
    let text = page.text();
    assert!(text.contains(codes["user_code"].as_str().unwrap()) && text.contains("Let Element X in?"), "{text}");
    let done = browser.submit(&page, &[("decision", "allow")]).await;
    assert!(done.text().contains("The device is being logged in"), "{}", done.text());
    let again = browser.submit(&page, &[("decision", "allow")]).await;
    assert_eq!(again.status(), 404, "it was answered");

    server.advance(Duration::from_secs(10));
    let tokens = ask(&server, &client, &codes).await.ok();
    assert_eq!(tokens["scope"], SCOPE);
    let alice = session(&server, &tokens).await;
    assert_eq!(alice.device_id, "TV");
    server.advance(Duration::from_secs(10));
    assert_eq!(error(&ask(&server, &client, &codes).await), (400, "invalid_grant"));
    alice.get("/v3/account/whoami").await.ok();
    super::check(&server);
}

#[tokio::test]
async fn a_code_can_be_typed() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let codes = begin(&server, &client).await;
    let mut browser = Browser::new(&server);
    let page = browser.open_as("/_chappe/oauth/link", "alice", &password_of("alice")).await;
    assert!(page.text().contains("The code that the device shows"));
    let wrong = browser.open("/_chappe/oauth/link?user_code=BBBB-BBBB").await;
    assert_eq!(wrong.status(), 404);
    let typed = codes["user_code"].as_str().unwrap().replace('-', "+").to_lowercase();
    let page = browser.open(&format!("/_chappe/oauth/link?user_code={typed}")).await;
    let done = browser.submit(&page, &[("decision", "deny")]).await;
    assert!(done.text().contains("The device is not logged in"));
    server.advance(Duration::from_secs(5));
    assert_eq!(error(&ask(&server, &client, &codes).await), (400, "access_denied"));
}

#[tokio::test]
async fn codes_end() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let codes = begin(&server, &client).await;
    server.advance(Duration::from_secs(600));
    assert_eq!(error(&ask(&server, &client, &codes).await), (400, "expired_token"));
    let mut browser = Browser::new(&server);
    let page = browser.open_as(link(&codes), "alice", &password_of("alice")).await;
    assert_eq!(page.status(), 404);
}

#[tokio::test]
async fn a_device_code_is_good_for_its_client_only() {
    let server = server().await;
    let client = register(&server, app()).await;
    let mut other = app();
    other["client_name"] = "Another app".into();
    let other = register(&server, other).await;
    let codes = begin(&server, &client).await;
    assert_eq!(error(&ask(&server, &other, &codes).await), (400, "invalid_grant"));
    let mut without = app();
    without["grant_types"] = serde_json::json!(["authorization_code", "refresh_token"]);
    let without = register(&server, without).await;
    for (client, scope, expected) in [
        (without.as_str(), SCOPE, (400, "unauthorized_client")),
        ("unknown", SCOPE, (401, "invalid_client")),
        (&client, "openid", (400, "invalid_scope")),
        ("", SCOPE, (400, "invalid_request")),
    ] {
        let refused = form(&server, "/_chappe/oauth/device", &[("client_id", client), ("scope", scope)]).await;
        assert_eq!(error(&refused), expected);
    }
}

#[tokio::test]
async fn codes_can_not_be_guessed_fast() {
    let server = with(|config| config.rate_limits.enabled = true).await;
    server.user("alice").await;
    let mut browser = Browser::new(&server);
    browser.open_as("/_chappe/oauth/link", "alice", &password_of("alice")).await;
    let mut last = 0;
    for _ in 0..70 {
        last = browser.open("/_chappe/oauth/link?user_code=BBBB-BBBB").await.status();
    }
    assert_eq!(last, 429);
}
