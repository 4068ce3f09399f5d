//! Passwords, the end of an account, and what servers say of themselves.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use chappe::{
    error::Error,
    user::{
        account,
        device::Selection,
        session::{self, DeviceRequest},
    },
};
use ruma::{UserId, api::error::ErrorKind};
use serde_json::{Value, json};

use crate::support::{TestNetwork, TestServer, auth_of, password_of};

fn log_in_with(password: &str) -> Value {
    let mut body = auth_of("alice");
    body["password"] = json!(password);
    body
}

#[tokio::test]
async fn a_changed_password_logs_the_other_devices_out() {
    let server = TestServer::new().await;
    let (alice, other) = (server.user("alice").await, server.log_in("alice").await);
    let change = json!({"new_password": "better", "auth": auth_of("alice")});
    assert_eq!(alice.post("/v3/account/password", json!({"new_password": "better"})).await.status, 401);
    alice.post("/v3/account/password", change).await.ok();
    alice.get("/v3/account/whoami").await.ok();
    assert_eq!(other.get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"));
    let old = server.post("/v3/login", log_in_with(&password_of("alice"))).await;
    assert_eq!(old.error(), (403, "M_FORBIDDEN"));
    server.post("/v3/login", log_in_with("better")).await.ok();
}

#[tokio::test]
async fn a_changed_password_can_leave_the_other_devices_alone() {
    let server = TestServer::new().await;
    let (alice, other) = (server.user("alice").await, server.log_in("alice").await);
    let change = json!({"new_password": "better", "logout_devices": false, "auth": auth_of("alice")});
    alice.post("/v3/account/password", change).await.ok();
    other.get("/v3/account/whoami").await.ok();
}

/// To verify a password takes long: another may have been set by the time that it was found to be right.
#[tokio::test]
async fn nobody_logs_in_by_a_password_that_was_changed_meanwhile() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (inside, user) = (server.inside(), UserId::parse(&alice.id).unwrap());
    let (user, hash) = session::user_by_password(inside, Some(user.into()), password_of("alice")).await.unwrap();
    let log_in = || session::log_in(inside, user.clone(), Some(hash.clone()), DeviceRequest::default());
    log_in().await.unwrap();
    let change = json!({"new_password": "better", "auth": auth_of("alice")});
    alice.post("/v3/account/password", change).await.ok();
    assert!(matches!(log_in().await, Err(Error::Refused { kind: ErrorKind::Forbidden, .. })));
}

/// The change is written some time after it was asked for.
#[tokio::test]
async fn a_login_token_that_is_made_while_the_password_is_changed_ends_too() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let (inside, user) = (Arc::clone(server.inside()), UserId::parse(&alice.id).unwrap());
    let (go_on, held) = mpsc::channel::<()>();
    let holding = Arc::clone(&inside);
    let hold = async move { holding.store.commit(move |_| held.recv().map_err(Error::internal)).await };
    let hold = tokio::spawn(hold);
    let early = session::make_login_token(&inside, user.clone());
    let change = account::set_password(Arc::clone(&inside), user.clone(), "better".to_owned(), Selection::All);
    let change = tokio::spawn(change);
    while inside.login_tokens.with(inside.clock.now_ms(), &early, |_| ()).is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let late = session::make_login_token(&inside, user);
    go_on.send(()).unwrap();
    hold.await.unwrap().unwrap();
    change.await.unwrap().unwrap();
    assert!(session::use_login_token(&inside, &late).is_err());
}

#[tokio::test]
async fn a_password_must_be_one() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let change = async |password: Value| {
        alice.post("/v3/account/password", json!({"new_password": password, "auth": auth_of("alice")})).await
    };
    assert_eq!(change(json!("")).await.error(), (400, "M_WEAK_PASSWORD"));
    assert_eq!(change(json!("x".repeat(513))).await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(change(json!(null)).await.error(), (400, "M_BAD_JSON"));
    let stranger = server.post("/v3/account/password", json!({"new_password": "x"})).await;
    assert_eq!(stranger.error(), (401, "M_MISSING_TOKEN"));
}

#[tokio::test]
async fn a_deactivated_account_is_closed_for_good() {
    let server = TestServer::new().await;
    let (alice, other) = (server.user("alice").await, server.log_in("alice").await);
    assert_eq!(alice.post("/v3/account/deactivate", json!({})).await.status, 401);
    let mut wrong = auth_of("alice");
    wrong["password"] = json!("guess");
    let refused = alice.post("/v3/account/deactivate", json!({"auth": wrong})).await;
    assert_eq!(refused.error(), (401, "M_FORBIDDEN"));
    let answer = alice.post("/v3/account/deactivate", json!({"auth": auth_of("alice")})).await.ok();
    assert_eq!(answer, json!({"id_server_unbind_result": "success"}));
    for device in [&alice, &other] {
        assert_eq!(device.get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"));
    }
    let login = server.post("/v3/login", auth_of("alice")).await;
    assert_eq!(login.error(), (403, "M_USER_DEACTIVATED"));
    let again = json!({"username": "alice", "password": "x", "auth": {"type": "m.login.dummy"}});
    assert_eq!(server.post("/v3/register", again).await.error(), (400, "M_USER_IN_USE"));
    let stranger = server.post("/v3/account/deactivate", json!({})).await;
    assert_eq!(stranger.error(), (401, "M_MISSING_TOKEN"));
}

#[tokio::test]
async fn a_deactivated_user_has_left_his_rooms() {
    let server = TestServer::new().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let room = alice.post("/v3/createRoom", json!({"preset": "public_chat"})).await.ok()["room_id"].clone();
    let room = room.as_str().unwrap();
    bob.post(&format!("/v3/rooms/{room}/join"), json!({})).await.ok();
    let joined = async || alice.get(&format!("/v3/rooms/{room}/joined_members")).await.ok()["joined"].clone();
    assert!(joined().await.get("@bob:example.org").is_some());
    bob.post("/v3/account/deactivate", json!({"erase": true, "auth": auth_of("bob")})).await.ok();
    assert!(joined().await.get("@bob:example.org").is_none());
    let user = ruma::user_id!("@bob:example.org");
    assert!(chappe::user::erasure::is_erased(&server.inside().store.snapshot(), user).unwrap());
}

#[tokio::test]
async fn a_deactivated_user_rejects_the_invites_of_other_servers() {
    let network = TestNetwork::new();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room = alice.create_room(json!({})).await;
    alice.try_invite(&room, &bob).await.ok();
    bob.post("/v3/account/deactivate", json!({ "auth": auth_of("bob") })).await.ok();
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).await.ok()["membership"], "leave");
}

#[tokio::test]
async fn accounts_have_no_third_party_ids() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    assert_eq!(alice.get("/v3/account/3pid").await.ok(), json!({"threepids": []}));
}

#[tokio::test]
async fn capabilities_are_told_to_users() {
    let server = TestServer::with(|config| config.default_room_version = ruma::RoomVersionId::V11).await;
    assert_eq!(server.get("/v3/capabilities").await.error(), (401, "M_MISSING_TOKEN"));
    let answer = server.user("alice").await.get("/v3/capabilities").await.ok();
    let capabilities = &answer["capabilities"];
    assert_eq!(capabilities["m.room_versions"]["default"], "11");
    let available = capabilities["m.room_versions"]["available"].as_object().unwrap();
    assert_eq!(available.values().filter(|stability| *stability == "stable").count(), 12);
    assert!(available.iter().all(|(version, stability)| (stability == "stable") == version.parse::<u8>().is_ok()));
    for (name, is_enabled) in [
        ("m.change_password", true),
        ("m.set_displayname", true),
        ("m.set_avatar_url", true),
        ("m.profile_fields", true),
        ("m.get_login_token", true),
        ("m.3pid_changes", false),
        ("m.forget_forced_upon_leave", false),
    ] {
        assert_eq!(capabilities[name], json!({"enabled": is_enabled}), "{name}");
    }
}

#[tokio::test]
async fn well_known_says_what_the_configuration_says() {
    let silent = TestServer::new().await;
    for name in ["client", "server", "support", "policy_server"] {
        let answer = silent.get(&format!("/.well-known/matrix/{name}")).await;
        assert_eq!(answer.error(), (404, "M_NOT_FOUND"), "{name}");
    }
    let configured = r#"
        client = "https://matrix.example.org"
        server = "matrix.example.org:443"
        policy_server = "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw"
        [support]
        support_page = "https://example.org/help"
        contacts = [{ role = "m.role.admin", matrix_id = "@admin:example.org", email_address = "admin@example.org" }]
    "#;
    let server = TestServer::with(|config| config.well_known = toml::from_str(configured).unwrap()).await;
    let client = server.get("/.well-known/matrix/client").await;
    assert_eq!(client.headers["access-control-allow-origin"], "*");
    assert_eq!(client.ok(), json!({"m.homeserver": {"base_url": "https://matrix.example.org"}}));
    let address = server.get("/.well-known/matrix/server").await.ok();
    assert_eq!(address, json!({"m.server": "matrix.example.org:443"}));
    let policy_server = server.get("/.well-known/matrix/policy_server").await.ok();
    let key = "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw";
    assert_eq!(policy_server, json!({"public_keys": {"ed25519": key}}));
    let contact =
        json!({"role": "m.role.admin", "matrix_id": "@admin:example.org", "email_address": "admin@example.org"});
    let support = server.get("/.well-known/matrix/support").await.ok();
    assert_eq!(support, json!({"contacts": [contact], "support_page": "https://example.org/help"}));
}

/// `chappe user set-password` would say that he can log in now.
#[tokio::test]
async fn an_account_that_was_given_up_gets_no_password() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    alice.post("/v3/account/deactivate", json!({ "auth": auth_of("alice") })).await.ok();
    let (inside, user) = (Arc::clone(server.inside()), UserId::parse(&alice.id).unwrap());
    let set = account::set_password(inside, user, "new one".to_owned(), Selection::All).await;
    let Err(Error::Refused { kind: ErrorKind::UserDeactivated, .. }) = set else { panic!("{set:?}") };
}
