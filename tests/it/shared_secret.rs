//! Registration by scripts that know the shared secret.

use std::{fmt::Write, time::Duration};

use chappe::config::{Config, Secret};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::support::TestServer;

const PATH: &str = "/_synapse/admin/v1/register";

fn with_secret(config: &mut Config) {
    config.allow_registration = false;
    config.registration_shared_secret = Some(Secret::new("complement"));
}

async fn nonce(server: &TestServer) -> String {
    server.get(PATH).await.ok()["nonce"].as_str().unwrap().to_owned()
}

fn wish(nonce: &str, name: &str, is_admin: bool, secret: &str) -> Value {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{nonce}\0{name}\0secret\0{}", if is_admin { "admin" } else { "notadmin" }).as_bytes());
    let mac = mac.finalize().into_bytes().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    json!({"nonce": nonce, "username": name, "password": "secret", "admin": is_admin, "mac": mac})
}

fn is_admin(server: &TestServer, user: &str) -> bool {
    let user = <&ruma::UserId>::try_from(user).unwrap();
    chappe::user::account::get(&server.inside().store.snapshot(), user).unwrap().unwrap().is_admin
}

#[tokio::test]
async fn who_knows_the_secret_makes_users_and_administrators() {
    let server = TestServer::with(with_secret).await;
    let answer = server.post(PATH, wish(&nonce(&server).await, "User-A", false, "complement")).await.ok();
    assert_eq!(answer["user_id"], "@user-a:example.org");
    assert!(answer["access_token"].is_string() && answer["device_id"].is_string());
    server.post(PATH, wish(&nonce(&server).await, "boss", true, "complement")).await.ok();
    assert!(!is_admin(&server, "@user-a:example.org") && is_admin(&server, "@boss:example.org"));
}

#[tokio::test]
async fn who_does_not_know_it_makes_nobody() {
    let server = TestServer::with(with_secret).await;
    let guess = wish(&nonce(&server).await, "mallory", true, "guess");
    assert_eq!(server.post(PATH, guess).await.error(), (403, "M_FORBIDDEN"));
    let mut promoted = wish(&nonce(&server).await, "mallory", false, "complement");
    promoted["admin"] = json!(true);
    assert_eq!(server.post(PATH, promoted).await.error(), (403, "M_FORBIDDEN"));
    for mac in ["", "00"] {
        let mut unsigned = wish(&nonce(&server).await, "mallory", false, "complement");
        unsigned["mac"] = json!(mac);
        assert_eq!(server.post(PATH, unsigned).await.error(), (403, "M_FORBIDDEN"));
    }
}

#[tokio::test]
async fn a_nonce_is_good_once_and_for_a_minute() {
    let server = TestServer::with(with_secret).await;
    let used = nonce(&server).await;
    server.post(PATH, wish(&used, "alice", false, "complement")).await.ok();
    assert_eq!(server.post(PATH, wish(&used, "bob", false, "complement")).await.error(), (400, "M_UNKNOWN"));
    let old = nonce(&server).await;
    server.advance(Duration::from_secs(60));
    assert_eq!(server.post(PATH, wish(&old, "bob", false, "complement")).await.error(), (400, "M_UNKNOWN"));
    assert_eq!(server.post(PATH, wish("made up", "bob", false, "complement")).await.error(), (400, "M_UNKNOWN"));
}

#[tokio::test]
async fn names_follow_the_grammar_and_are_given_once() {
    let server = TestServer::with(with_secret).await;
    let odd = wish(&nonce(&server).await, "us,er", false, "complement");
    assert_eq!(server.post(PATH, odd).await.error(), (400, "M_INVALID_USERNAME"));
    server.post(PATH, wish(&nonce(&server).await, "alice", false, "complement")).await.ok();
    let again = wish(&nonce(&server).await, "alice", false, "complement");
    assert_eq!(server.post(PATH, again).await.error(), (400, "M_USER_IN_USE"));
}

#[tokio::test]
async fn without_a_secret_there_is_no_such_registration() {
    let server = TestServer::new().await;
    assert_eq!(server.get(PATH).await.error(), (400, "M_UNKNOWN"));
    assert_eq!(server.post(PATH, wish("x", "alice", true, "")).await.error(), (400, "M_UNKNOWN"));
}

#[tokio::test]
async fn who_guesses_the_secret_has_to_wait() {
    let server = TestServer::with(|config| {
        with_secret(config);
        config.rate_limits.enabled = true;
    })
    .await;
    for _ in 0..10 {
        let guess = wish(&nonce(&server).await, "mallory", true, "guess");
        assert_eq!(server.post(PATH, guess).await.error(), (403, "M_FORBIDDEN"));
    }
    let right = wish(&nonce(&server).await, "alice", false, "complement");
    assert_eq!(server.post(PATH, right).await.error(), (429, "M_LIMIT_EXCEEDED"));
    server.advance(Duration::from_secs(60));
    server.post(PATH, wish(&nonce(&server).await, "alice", false, "complement")).await.ok();
}
