//! The page of the account: <https://spec.matrix.org/v1.19/client-server-api/#oauth-20-account-management>

use std::time::Duration;

use serde_json::json;

use super::{app, log_in, register, server};
use crate::support::{Signer, TestServer, User, browser::Browser, password_of};

fn at(action: &str) -> String {
    format!("/_chappe/account?action=org.matrix.{action}")
}

async fn logged_in(server: &TestServer, name: &str) -> Browser {
    let mut browser = Browser::new(server);
    browser.open_as("/_chappe/account", name, &password_of(name)).await;
    browser
}

#[tokio::test]
async fn a_user_sees_his_account() {
    let server = server().await;
    let alice = server.user("alice").await;
    let client = register(&server, app()).await;
    log_in(&server, &client, "PHONE", "alice").await;
    let mut browser = logged_in(&server, "alice").await;
    assert!(browser.open("/_chappe/account").await.text().contains("@alice:example.org"));
    for action in ["devices_list", "sessions_list"] {
        let devices = browser.open(&at(action)).await.text();
        assert!(devices.contains("device_id=PHONE") && devices.contains(&alice.device_id), "{devices}");
    }
    let device = browser.open(&format!("{}&device_id=PHONE", at("device_view"))).await.text();
    assert!(device.contains("https://element.io") && device.contains("2026-01-01"), "{device}");
    assert_eq!(browser.open(&at("device_view")).await.status(), 403);
    assert_eq!(browser.open(&at("nonsense")).await.status(), 404);
    assert!(Browser::new(&server).open(&at("profile")).await.location().starts_with("/_chappe/login?next="));
}

#[tokio::test]
async fn a_user_changes_his_name_and_password() {
    let server = server().await;
    let alice = server.user("alice").await;
    let mut browser = logged_in(&server, "alice").await;
    let page = browser.open(&at("profile")).await;
    assert!(browser.submit(&page, &[("display_name", "Alice <b>")]).await.text().contains("Done"));
    assert_eq!(alice.get(&format!("/v3/profile/{}/displayname", alice.id)).await.ok()["displayname"], "Alice <b>");
    assert!(!browser.open(&at("profile")).await.text().contains("<b>"));

    let page = browser.open("/_chappe/account?action=chappe.password").await;
    let fields = |old: &'static str, again: &'static str| {
        [("old_password", old), ("new_password", "a new one"), ("password_again", again), ("log_out", "yes")]
    };
    assert!(browser.submit(&page, &fields("wrong", "a new one")).await.text().contains("Wrong password"));
    assert!(browser.submit(&page, &fields("password of alice", "b")).await.text().contains("passwords differ"));
    assert!(browser.submit(&page, &fields("password of alice", "a new one")).await.text().contains("is changed"));
    assert_eq!(alice.get("/v3/account/whoami").await.errcode(), "M_UNKNOWN_TOKEN");
    assert!(browser.open("/_chappe/account").await.location().starts_with("/_chappe/login?"));
}

#[tokio::test]
async fn what_can_not_be_undone_needs_a_log_in_of_now() {
    let server = server().await;
    let alice = server.user("alice").await;
    let mut browser = logged_in(&server, "alice").await;
    let path = format!("{}&device_id={}", at("device_delete"), alice.device_id);
    let page = browser.open(&path).await;
    assert!(page.text().contains("logs a device of yours out"));
    alice.get("/v3/account/whoami").await.ok();
    server.advance(Duration::from_secs(5 * 60));
    assert!(browser.submit(&page, &[]).await.location().starts_with("/_chappe/login?"), "that was too long ago");
    assert!(browser.open(&at("account_deactivate")).await.location().starts_with("/_chappe/login?"));
    alice.get("/v3/account/whoami").await.ok();

    let page = browser.open_as(&path, "alice", &password_of("alice")).await;
    assert!(browser.submit(&page, &[]).await.text().contains("The device is logged out"));
    assert_eq!(alice.get("/v3/account/whoami").await.errcode(), "M_UNKNOWN_TOKEN");
    let page = browser.open(&at("account_deactivate")).await;
    assert!(browser.submit(&page, &[("user", "bob")]).await.text().contains("to confirm"));
    let closed = browser.submit(&page, &[("user", "@alice:example.org"), ("erase", "yes")]).await;
    assert!(closed.text().contains("Your account is closed"), "{}", closed.text());
    assert!(browser.open("/_chappe/account").await.location().starts_with("/_chappe/login?"));
    let body = json!({ "type": "m.login.password", "user": "alice", "password": password_of("alice") });
    assert_eq!(server.post("/v3/login", body).await.errcode(), "M_USER_DEACTIVATED");
    super::check(&server);
}

#[tokio::test]
async fn a_form_of_the_account_must_come_from_its_page() {
    let server = server().await;
    let alice = server.user("alice").await;
    let mut browser = logged_in(&server, "alice").await;
    let path = format!("{}&device_id={}", at("device_delete"), alice.device_id);
    assert_eq!(browser.post(&path, &[("form_token", "x")]).await.status(), 403);
    alice.get("/v3/account/whoami").await.ok();
    assert_eq!(browser.post("/_chappe/logout", &[("form_token", "x")]).await.status(), 403);
    let page = browser.open("/_chappe/account").await;
    assert_eq!(browser.submit(&page, &[]).await.location(), "/_chappe/login");
    assert!(browser.open("/_chappe/account").await.location().starts_with("/_chappe/login?"));
}

/// A user whose first cross-signing keys are there, and the body that would replace them.
async fn with_keys(server: &TestServer, device: &str, name: &str) -> (User, serde_json::Value) {
    let client = register(server, app()).await;
    let (user, _) = log_in(server, &client, device, name).await;
    let keys = || {
        let master = Signer::cross_signing();
        let keys = json!({ master.key_id(): master.public_key() });
        json!({ "master_key": { "user_id": user.id, "usage": ["master"], "keys": keys } })
    };
    user.post("/v3/keys/device_signing/upload", keys()).await.ok();
    let others = keys();
    (user, others)
}

#[tokio::test]
async fn new_cross_signing_keys_are_approved_on_a_page() {
    let server = server().await;
    server.user("alice").await;
    server.user("eve").await;
    let (alice, mut keys) = with_keys(&server, "PHONE", "alice").await;
    let asked = alice.post("/v3/keys/device_signing/upload", keys.clone()).await;
    assert_eq!(asked.status, 401);
    let flows = json!([{ "stages": ["m.oauth"] }, { "stages": ["org.matrix.cross_signing_reset"] }]);
    assert_eq!(asked.body["flows"], flows);
    let url = asked.body["params"]["m.oauth"]["url"].as_str().unwrap();
    assert_eq!(asked.body["params"]["org.matrix.cross_signing_reset"]["url"], url);
    let path = url.strip_prefix("https://matrix.example.org").unwrap();
    keys["auth"] = json!({ "session": asked.body["session"] });
    for auth in [
        json!({ "session": asked.body["session"] }),
        json!({ "type": "m.oauth", "session": asked.body["session"] }),
        json!({ "type": "m.login.password", "password": password_of("alice"), "session": asked.body["session"],
                "identifier": { "type": "m.id.user", "user": "alice" } }),
    ] {
        let mut keys = keys.clone();
        keys["auth"] = auth;
        assert_eq!(alice.post("/v3/keys/device_signing/upload", keys).await.status, 401, "nobody has approved it");
    }
    let mut eve = Browser::new(&server);
    let page = eve.open_as(path, "eve", &password_of("eve")).await;
    assert!(page.text().contains("Begin in your app"), "it is not hers");

    let mut browser = Browser::new(&server);
    let page = browser.open_as(path, "alice", &password_of("alice")).await;
    assert!(page.text().contains("They will be warned"));
    assert!(browser.submit(&page, &[]).await.text().contains("Agreed."));
    let mut others = with_other_keys(&keys);
    others["auth"] = keys["auth"].clone();
    assert_eq!(alice.post("/v3/keys/device_signing/upload", others).await.error(), (403, "M_FORBIDDEN"));
    let other_session = log_in(&server, &register(&server, app()).await, "STOLEN", "alice").await.0;
    assert_eq!(other_session.post("/v3/keys/device_signing/upload", keys.clone()).await.errcode(), "M_FORBIDDEN");
    alice.post("/v3/keys/device_signing/upload", keys.clone()).await.ok();
    let again = alice.post("/v3/keys/device_signing/upload", keys.clone()).await;
    assert_eq!(again.status, 200, "the same keys change nothing");
    let query = json!({ "device_keys": { alice.id.as_str(): [] } });
    let seen = alice.post("/v3/keys/query", query).await.ok();
    assert_eq!(seen["master_keys"][&alice.id]["keys"], keys["master_key"]["keys"]);
}

#[tokio::test]
async fn a_client_that_names_no_session_repeats_its_request() {
    let server = server().await;
    server.user("alice").await;
    let (alice, keys) = with_keys(&server, "PHONE", "alice").await;
    let upload = async || alice.post("/v3/keys/device_signing/upload", keys.clone()).await;
    let asked = upload().await;
    let again = upload().await;
    assert_eq!((again.status, &again.body["session"]), (asked.status, &asked.body["session"]));
    let thief = log_in(&server, &register(&server, app()).await, "STOLEN", "alice").await.0;
    let url = asked.body["params"]["m.oauth"]["url"].as_str().unwrap();
    let mut browser = Browser::new(&server);
    let path = url.strip_prefix("https://matrix.example.org").unwrap();
    let page = browser.open_as(path, "alice", &password_of("alice")).await;
    browser.submit(&page, &[]).await;
    let others = with_other_keys(&keys);
    assert_eq!(alice.post("/v3/keys/device_signing/upload", others).await.status, 401);
    assert_eq!(thief.post("/v3/keys/device_signing/upload", keys.clone()).await.status, 401);
    upload().await.ok();
}

fn with_other_keys(keys: &serde_json::Value) -> serde_json::Value {
    let mut others = keys.clone();
    others["master_key"]["another"] = "word".into();
    others
}

#[tokio::test]
async fn legacy_sessions_confirm_new_keys_by_password() {
    let server = server().await;
    server.user("alice").await;
    let (_, keys) = with_keys(&server, "PHONE", "alice").await;
    let legacy = server.log_in("alice").await;
    let asked = legacy.post("/v3/keys/device_signing/upload", keys.clone()).await;
    assert_eq!(asked.body["flows"], json!([{ "stages": ["m.login.password"] }]));
}
