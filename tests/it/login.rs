use std::{sync::Arc, time::Duration};

use chappe::{
    store::Family,
    user::device::{self, Selection},
};
use futures_util::FutureExt;
use serde_json::{Value, json};

use crate::support::{TestServer, auth_of, password_of, query};

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
async fn a_token_is_taken_from_the_query_as_well() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let answer = server.get(&format!("/v3/account/whoami?access_token={}", alice.token)).await.ok();
    assert_eq!(answer["user_id"], "@alice:example.org");
    assert_eq!(server.get("/v3/account/whoami?access_token=other").await.error(), (401, "M_UNKNOWN_TOKEN"));
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
    let versions = answer["versions"].as_array().unwrap();
    assert_eq!((&versions[0], versions.last()), (&json!("r0.6.1"), Some(&json!("v1.19"))));
    for (name, expected) in [
        ("org.matrix.msc3916.stable", json!(true)), // media needs a token here
        ("com.beeper.msc4169", json!(true)),
        ("org.matrix.msc4169", Value::Null), // which nobody knows
        ("uk.timedout.msc4323", json!(true)),
    ] {
        assert_eq!(answer["unstable_features"][name], expected, "{name}");
    }
}

#[tokio::test]
async fn the_kinds_of_log_in_are_told() {
    let server = TestServer::new().await;
    let answer = server.get("/v3/login").await.ok();
    let flows = json!([
        {"type": "m.login.password"},
        {"type": "m.login.token", "get_login_token": true},
        {"type": "m.login.application_service"},
    ]);
    assert_eq!(answer["flows"], flows);
}

#[tokio::test]
async fn what_is_no_log_in_is_refused() {
    let server = TestServer::new().await;
    server.user("alice").await;
    let id = json!({"type": "m.id.user", "user": "alice"});
    for (body, errcode) in [
        (json!({}), "M_MISSING_PARAM"),
        (json!({"type": "m.login.sso"}), "M_UNKNOWN"),
        (json!({"type": "m.login.password"}), "M_MISSING_PARAM"),
        (json!({"type": "m.login.password", "identifier": id}), "M_MISSING_PARAM"),
        (json!({"type": "m.login.token"}), "M_MISSING_PARAM"),
        (json!({"type": 1}), "M_BAD_JSON"),
        (json!([]), "M_BAD_JSON"),
        (json!({"type": "m.login.password", "identifier": 1, "password": "x"}), "M_BAD_JSON"),
        (json!({"type": "m.login.password", "identifier": {"type": "m.id.x"}, "password": "x"}), "M_UNKNOWN"),
    ] {
        assert_eq!(server.post("/v3/login", body.clone()).await.error(), (400, errcode), "{body}");
    }
    let broken = server.request_bytes(http::Method::POST, "/v3/login", None, "{").await;
    assert_eq!(broken.error(), (400, "M_NOT_JSON"));
    let address = json!({"type": "m.id.thirdparty", "medium": "email", "address": "alice@example.org"});
    let by_mail = json!({"type": "m.login.password", "identifier": address, "password": password_of("alice")});
    assert_eq!(server.post("/v3/login", by_mail).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn one_device_logs_in_another_once() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    assert_eq!(alice.post("/v1/login/get_token", json!({})).await.status, 401);
    let made = alice.post("/v1/login/get_token", json!({"auth": auth_of("alice")})).await.ok();
    assert_eq!(made["expires_in_ms"], 120_000);
    let body = json!({"type": "m.login.token", "token": made["login_token"]});
    let answer = server.post("/v3/login", body.clone()).await.ok();
    assert_eq!(answer["user_id"], alice.id);
    assert_ne!(answer["device_id"], alice.device_id);
    assert_eq!(server.post("/v3/login", body).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn a_login_token_ends_soon_and_with_a_new_password() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let make = async || {
        let made = alice.post("/v1/login/get_token", json!({"auth": auth_of("alice")})).await.ok();
        json!({"type": "m.login.token", "token": made["login_token"]})
    };
    let token = make().await;
    server.advance(Duration::from_secs(120));
    assert_eq!(server.post("/v3/login", token).await.error(), (403, "M_FORBIDDEN"));
    let token = make().await;
    let change = json!({"new_password": "better", "auth": auth_of("alice")});
    alice.post("/v3/account/password", change).await.ok();
    assert_eq!(server.post("/v3/login", token).await.error(), (403, "M_FORBIDDEN"));
    let as_token = json!({"type": "m.login.token", "token": alice.token});
    assert_eq!(server.post("/v3/login", as_token).await.error(), (403, "M_FORBIDDEN"));
}

/// Who logs his devices out may do so while one of them proves who it is.
#[tokio::test]
async fn a_device_that_was_logged_out_meanwhile_gets_no_login_token() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    alice.get("/v3/account/whoami").await.ok(); // its use is noted now, and not again in the next minute
    let inside = server.inside();
    let mut places = Vec::new();
    while let Some(place) = inside.passwords.place().now_or_never() {
        places.push(place);
    }
    let asking = alice.clone();
    let body = json!({"auth": auth_of("alice")});
    let asked = tokio::spawn(async move { asking.post("/v1/login/get_token", body).await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let user = ruma::UserId::parse(&alice.id).unwrap();
    device::log_out(Arc::clone(inside), user, Selection::All).await.unwrap();
    drop(places);
    assert_eq!(asked.await.unwrap().error(), (401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn guesses_of_a_password_are_limited_and_nobody_elses_log_in() {
    let server = TestServer::with(|config| config.rate_limits.enabled = true).await;
    server.user("alice").await;
    server.user("bob").await;
    for _ in 0..10 {
        assert_eq!(server.post("/v3/login", by_password("alice", "guess")).await.error(), (403, "M_FORBIDDEN"));
    }
    let limited = server.post("/v3/login", by_password("ALICE", &password_of("alice"))).await;
    assert_eq!(limited.error(), (429, "M_LIMIT_EXCEEDED"));
    assert_eq!(limited.headers["retry-after"], "60");
    server.log_in("bob").await;
    server.advance(Duration::from_secs(60));
    server.log_in("alice").await;
}

#[tokio::test]
async fn log_ins_from_one_address_are_limited() {
    let server = TestServer::with(|config| config.rate_limits.enabled = true).await;
    for _ in 0..60 {
        assert_eq!(server.post("/v3/login", json!({"type": "x"})).await.error(), (400, "M_UNKNOWN"));
    }
    assert_eq!(server.post("/v3/login", json!({"type": "x"})).await.error(), (429, "M_LIMIT_EXCEEDED"));
}

#[tokio::test]
async fn a_log_in_tells_where_the_server_is() {
    let server = TestServer::with(|config| config.well_known.client = Some("https://m.example.org".to_owned())).await;
    server.user("alice").await;
    let answer = server.post("/v3/login", auth_of("alice")).await.ok();
    assert_eq!(answer["well_known"], json!({"m.homeserver": {"base_url": "https://m.example.org"}}));
}

#[tokio::test]
async fn tokens_are_not_stored() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let body =
        json!({"type": "m.login.password", "user": "alice", "password": password_of("alice"), "refresh_token": true});
    let answer = server.post("/v3/login", body).await.ok();
    let secrets = [alice.token, password_of("alice"), answer["refresh_token"].as_str().unwrap().to_owned()];
    for family in Family::ALL {
        server
            .inside()
            .store
            .for_each_row(family, |key, value| {
                for secret in &secrets {
                    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                    assert!(!holds(key) && !holds(value), "{secret} is in {}", family.name());
                }
                Ok(())
            })
            .unwrap();
    }
}

#[tokio::test]
async fn a_log_out_ends_a_sync_that_waits() {
    let server = TestServer::new().await;
    let (phone, laptop) = (server.user("alice").await, server.log_in("alice").await);
    let since = laptop.get("/v3/sync").await.ok()["next_batch"].as_str().unwrap().to_owned();
    let waiting = laptop.clone();
    let path = format!("/v3/sync{}", query(&[("since", &since), ("timeout", "600000")]));
    let answer = tokio::spawn(async move { waiting.get(&path).await });
    let body = json!({"devices": [laptop.device_id], "auth": auth_of("alice")});
    phone.post("/v3/delete_devices", body).await.ok();
    let answer = tokio::time::timeout(Duration::from_secs(60), answer).await.expect("the sync still waits").unwrap();
    assert_eq!(answer.error(), (401, "M_UNKNOWN_TOKEN"));
}

#[tokio::test]
async fn a_login_token_of_a_deactivated_user_is_worth_nothing() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let made = alice.post("/v1/login/get_token", json!({"auth": auth_of("alice")})).await.ok();
    alice.post("/v3/account/deactivate", json!({"auth": auth_of("alice")})).await.ok();
    let body = json!({"type": "m.login.token", "token": made["login_token"]});
    assert_eq!(server.post("/v3/login", body).await.error(), (403, "M_FORBIDDEN"));
}
