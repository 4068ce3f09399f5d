//! Locked and suspended accounts: <https://spec.matrix.org/v1.19/client-server-api/#account-moderation>

use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::support::{TestNetwork, TestServer, User, auth_of, room::event_id};

async fn admin(server: &TestServer) -> User {
    chappe::user::account::create(server.inside(), "root", "password of root".to_owned(), true).await.unwrap();
    server.log_in("root").await
}

fn measure(name: &str, user: &str) -> String {
    format!("/v1/admin/{name}/{user}")
}

#[tokio::test]
async fn only_administrators_take_measures_and_not_against_each_other() {
    let server = TestServer::new().await;
    let (root, alice) = (admin(&server).await, server.user("alice").await);
    for (name, field) in [("lock", "locked"), ("suspend", "suspended")] {
        assert_eq!(root.get(&measure(name, &alice.id)).await.ok(), json!({ field: false }));
        let forbidden = (403, "M_FORBIDDEN");
        for target in ["@alice:example.org", "@nobody:example.org", "@x:elsewhere.org"] {
            assert_eq!(alice.get(&measure(name, target)).await.error(), forbidden);
            assert_eq!(alice.put(&measure(name, target), json!({ field: true })).await.error(), forbidden);
        }
        assert_eq!(root.put(&measure(name, &root.id), json!({ field: true })).await.error(), forbidden);
        let nobody = measure(name, "@nobody:example.org");
        assert_eq!(root.put(&nobody, json!({ field: true })).await.error(), (404, "M_NOT_FOUND"));
        let remote = measure(name, "@x:elsewhere.org");
        assert_eq!(root.put(&remote, json!({ field: true })).await.error(), (400, "M_INVALID_PARAM"));
        assert_eq!(root.put(&measure(name, &alice.id), json!({})).await.error(), (400, "M_BAD_JSON"));
    }
    let can = async |user: &User, name: &str| user.get("/v3/capabilities").await.ok()["capabilities"][name].clone();
    for name in ["m.account_moderation", "uk.timedout.msc4323"] {
        assert_eq!(can(&root, name).await, json!({ "suspend": true, "lock": true }), "{name}");
        assert!(can(&alice, name).await.is_null(), "{name}");
    }
}

#[tokio::test]
async fn a_locked_account_can_only_be_logged_out_of() {
    let server = TestServer::new().await;
    let (root, alice) = (admin(&server).await, server.user("alice").await);
    let other = server.log_in("alice").await;
    let body = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" },
        "password": "password of alice", "refresh_token": true,
    });
    let session = server.post("/v3/login", body.clone()).await.ok();
    let since = alice.now().await;
    let waiting = tokio::spawn({
        let alice = alice.clone();
        async move { alice.get(&format!("/v3/sync?since={since}&timeout=30000")).await }
    });
    server.until_waiting(1).await;
    root.put(&measure("lock", &alice.id), json!({ "locked": true })).await.ok();
    assert_eq!(root.get(&measure("lock", &alice.id)).await.ok(), json!({ "locked": true }));
    let locked = (401, "M_USER_LOCKED");
    assert_eq!(waiting.await.unwrap().error(), locked);
    let refused = alice.get("/v3/account/whoami").await;
    assert_eq!((refused.error(), &refused.body["soft_logout"]), (locked, &json!(true)));
    assert_eq!(alice.get("/v3/sync").await.error(), locked);
    assert_eq!(server.post("/v3/login", body).await.error(), locked);
    let refresh = json!({ "refresh_token": session["refresh_token"] });
    assert_eq!(server.post("/v3/refresh", refresh).await.error(), locked);
    server.advance(Duration::from_secs(60 * 60));
    let expired = server.request(Method::GET, "/v3/sync", session["access_token"].as_str(), None).await;
    assert_eq!(expired.error(), locked, "an expired token would be renewed, or its client log out");
    let wrong = json!({ "type": "m.login.password", "user": "alice", "password": "wrong" });
    assert_eq!(server.post("/v3/login", wrong).await.error(), (403, "M_FORBIDDEN"), "nobody else learns of it");
    other.post("/v3/logout", json!({})).await.ok();
    root.put(&measure("lock", &alice.id), json!({ "locked": false })).await.ok();
    assert_eq!(alice.get("/v3/account/whoami").await.ok()["user_id"], *alice.id);
    assert_eq!(other.get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn a_suspended_user_reads_leaves_and_takes_back_but_says_nothing() {
    let server = TestServer::new().await;
    let (root, alice, bob) = (admin(&server).await, server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    let open = bob.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let own = event_id(alice.try_say(&room, "mine").await);
    let others = event_id(bob.try_say(&room, "his").await);
    root.put(&measure("suspend", &alice.id), json!({ "suspended": true })).await.ok();
    let suspended = (403, "M_USER_SUSPENDED");
    assert_eq!(alice.try_say(&room, "no").await.error(), suspended);
    assert_eq!(alice.try_join(&open).await.error(), suspended);
    assert_eq!(alice.try_invite(&room, &root).await.error(), suspended);
    let elsewhere = json!({ "user_id": "@somebody:elsewhere.test" });
    assert_eq!(alice.act(&room, "invite", elsewhere).await.error(), suspended);
    assert_eq!(alice.set_state(&room, "m.room.name", "", json!({ "name": "x" })).await.error(), suspended);
    assert_eq!(alice.post("/v3/createRoom", json!({})).await.error(), suspended);
    assert_eq!(alice.redact(&room, &others).await.error(), suspended);
    let name = format!("/v3/profile/{}/displayname", alice.id);
    assert_eq!(alice.put(&name, json!({ "displayname": "x" })).await.error(), suspended);
    assert_eq!(alice.delete(&name).await.error(), suspended);
    alice.redact(&room, &own).await.ok();
    assert_eq!(alice.history(&room).await.last().unwrap()["redacts"], *own);
    let redaction = json!({ "redacts": own });
    alice.send(&room, "m.room.redaction", redaction).await.ok();
    alice.try_leave(&room).await.ok();
    server.log_in("alice").await.get("/v3/sync").await.ok();
    root.put(&measure("suspend", &alice.id), json!({ "suspended": false })).await.ok();
    alice.try_join(&open).await.ok();
}

#[tokio::test]
async fn who_is_tells_of_oneself_and_administrators_of_everybody() {
    let server = TestServer::new().await;
    let (root, alice) = (admin(&server).await, server.user("alice").await);
    let who_is = |user: &str| format!("/v3/admin/whois/{user}");
    let own = alice.get(&who_is(&alice.id)).await.ok();
    assert_eq!(own["user_id"], *alice.id);
    let connection = &own["devices"][&alice.device_id]["sessions"][0]["connections"][0];
    assert!(connection["ip"].is_string() && connection["last_seen"].is_u64(), "{own}");
    assert_eq!(root.get(&who_is(&alice.id)).await.ok()["user_id"], *alice.id);
    assert_eq!(alice.get(&who_is(&root.id)).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(root.get(&who_is("@nobody:example.org")).await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn new_passwords_follow_the_policy_that_clients_can_ask_for() {
    let server = TestServer::with(|config| {
        config.password_policy.minimum_length = 8;
        config.password_policy.require_digit = true;
        config.password_policy.require_uppercase = true;
    })
    .await;
    let policy = json!({ "m.minimum_length": 8, "m.require_digit": true, "m.require_uppercase": true });
    assert_eq!(server.get("/v3/password_policy").await.ok(), policy);
    let register = async |password: &str| {
        let auth = json!({ "type": "m.login.dummy" });
        server.post("/v3/register", json!({ "username": "alice", "password": password, "auth": auth })).await
    };
    assert_eq!(register("Short1").await.error(), (400, "M_PASSWORD_TOO_SHORT"));
    assert_eq!(register("LongButWordy").await.error(), (400, "M_PASSWORD_NO_DIGIT"));
    assert_eq!(register("longer than 8").await.error(), (400, "M_PASSWORD_NO_UPPERCASE"));
    let alice = User::new(server.clone(), &register("Quite good 1").await.ok());
    let change = json!({ "new_password": "bad", "auth": auth_of("alice") });
    let refused = alice.request(Method::POST, "/v3/account/password", Some(change)).await;
    assert_eq!(refused.error(), (400, "M_PASSWORD_TOO_SHORT"));
    assert_eq!(TestServer::new().await.get("/v3/password_policy").await.ok(), json!({}));
}

#[tokio::test]
async fn an_administrator_closes_accounts_for_good() {
    let server = TestServer::new().await;
    let (root, alice, bob) = (admin(&server).await, server.user("alice").await, server.user("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let deactivate = async |by: &User, target: &str| {
        by.post(&format!("/_synapse/admin/v1/deactivate/{target}"), json!({ "erase": true })).await
    };
    assert_eq!(deactivate(&bob, &alice.id).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(deactivate(&root, &root.id).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(deactivate(&root, "@nobody:example.org").await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(deactivate(&root, "@x:elsewhere.org").await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(deactivate(&root, "alice").await.error(), (400, "M_INVALID_PARAM"));
    assert_eq!(deactivate(&root, &bob.id).await.ok(), json!({ "id_server_unbind_result": "success" }));
    assert_eq!(bob.get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"));
    assert_eq!(alice.state(&room, "m.room.member", &bob.id).await.ok()["membership"], "leave");
    let login = json!({
        "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "bob" }, "password": "password of bob",
    });
    assert_eq!(server.post("/v3/login", login).await.error(), (403, "M_USER_DEACTIVATED"));
    assert_eq!(deactivate(&root, &bob.id).await.error(), (404, "M_NOT_FOUND"));
}

#[tokio::test]
async fn whom_an_administrator_deactivates_can_not_come_back_meanwhile() {
    let network = TestNetwork::new();
    let (here, there) = (network.server("here.test").await, network.server("there.test").await);
    let (root, bob, alice) = (admin(&here).await, here.user("bob").await, there.user("alice").await);
    let room = alice.create_room(json!({})).await;
    alice.invite(&room, &bob).await;
    network.swallow("there.test");
    let until_leaving = async {
        while network.count("there.test", "/_matrix/federation/v1/make_leave/") == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let path = format!("/_synapse/admin/v1/deactivate/{}", bob.id);
    tokio::select! {
        () = until_leaving => {}
        answer = root.post(&path, json!({})) => panic!("{answer:?}"),
    }
    let login = json!({ "type": "m.login.password", "user": "bob", "password": "password of bob" });
    assert_eq!(here.post("/v3/login", login).await.error(), (401, "M_USER_LOCKED"));
}
