use std::time::Duration;

use chappe::{
    config::Secret,
    user::uiaa::{self, OnPage},
};
use futures_util::FutureExt;
use serde_json::{Value, json};

use crate::support::{TestServer, User};

fn wish(name: &str) -> Value {
    json!({"username": name, "password": "secret", "auth": {"type": "m.login.dummy"}})
}

#[tokio::test]
async fn a_user_registers_and_is_logged_in() {
    let server = TestServer::new().await;
    let mut body = wish("Alice");
    body["device_id"] = json!("PHONE");
    body["initial_device_display_name"] = json!("Alice's phone");
    let answer = server.post("/v3/register", body).await.ok();
    assert_eq!(answer["user_id"], "@alice:example.org");
    assert_eq!(answer["device_id"], "PHONE");
    let token = answer["access_token"].as_str().unwrap();
    let who = server.request(http::Method::GET, "/v3/account/whoami", Some(token), None).await.ok();
    assert_eq!(who, json!({"user_id": "@alice:example.org", "device_id": "PHONE"}));
}

#[tokio::test]
async fn a_request_without_auth_is_told_the_flows() {
    let server = TestServer::new().await;
    let answer = server.post("/v3/register", json!({})).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.body["flows"], json!([{"stages": ["m.login.dummy"]}]));
    assert_eq!(answer.body["params"], json!({}));
    assert!(answer.body["session"].is_string());
    assert_eq!(answer.headers["content-type"], "application/json");
}

#[tokio::test]
async fn a_name_is_given_once() {
    let server = TestServer::new().await;
    server.post("/v3/register", wish("alice")).await.ok();
    for name in ["alice", "ALICE"] {
        assert_eq!(server.post("/v3/register", wish(name)).await.error(), (400, "M_USER_IN_USE"));
        let available = server.get(&format!("/v3/register/available?username={name}")).await;
        assert_eq!(available.error(), (400, "M_USER_IN_USE"));
    }
    assert_eq!(server.get("/v3/register/available?username=bob").await.ok(), json!({"available": true}));
}

#[tokio::test]
async fn of_many_who_want_a_name_at_once_one_gets_it() {
    let server = TestServer::new().await;
    let tries = (0..8).map(|_| {
        let server = server.clone();
        tokio::spawn(async move { server.post("/v3/register", wish("alice")).await.status.as_u16() })
    });
    let mut statuses = Vec::new();
    for task in tries.collect::<Vec<_>>() {
        statuses.push(task.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400, 400, 400, 400, 400, 400, 400]);
}

#[tokio::test]
async fn names_outside_the_grammar_are_refused() {
    let server = TestServer::new().await;
    for name in ["", "user-!-x", "@alice:example.org", "é", "a b", "a\u{0}", &"a".repeat(300)] {
        assert_eq!(server.post("/v3/register", wish(name)).await.error(), (400, "M_INVALID_USERNAME"), "{name:?}");
    }
    let available = server.get("/v3/register/available?username=a,b").await;
    assert_eq!(available.error(), (400, "M_INVALID_USERNAME"));
}

fn with_token(config: &mut chappe::config::Config) {
    config.registration_token = Some(Secret::new("letmein"));
}

fn with_token_and_terms(config: &mut chappe::config::Config) {
    with_token(config);
    let terms = r#"
        [privacy_policy]
        version = "1.2"
        fr = { name = "Confidentialité", url = "https://example.org/privacy-fr.html" }
    "#;
    config.registration_terms = toml::from_str(terms).unwrap();
}

#[tokio::test]
async fn nobody_registers_where_that_is_off() {
    let server = TestServer::with(|config| config.allow_registration = false).await;
    for body in [json!({}), wish("alice")] {
        assert_eq!(server.post("/v3/register", body).await.error(), (403, "M_FORBIDDEN"));
    }
    let validity = server.get("/v1/register/m.login.registration_token/validity?token=x").await;
    assert_eq!(validity.error(), (403, "M_FORBIDDEN"));
    chappe::user::account::create(server.inside(), "bob", "password of bob".to_owned(), false).await.unwrap();
    for name in ["alice", "bob"] {
        let available = server.get(&format!("/v3/register/available?username={name}")).await;
        assert_eq!(available.error(), (403, "M_FORBIDDEN"), "who has an account here is told to nobody");
    }
}

#[tokio::test]
async fn there_are_no_guests_and_other_kinds_of_accounts() {
    let server = TestServer::new().await;
    let guest = server.post("/v3/register?kind=guest", json!({})).await;
    assert_eq!(guest.error(), (403, "M_GUEST_ACCESS_FORBIDDEN"));
    assert_eq!(server.post("/v3/register?kind=robot", json!({})).await.error(), (400, "M_INVALID_PARAM"));
    let mut body = wish("alice");
    body["type"] = json!("m.login.robot");
    assert_eq!(server.post("/v3/register", body).await.error(), (400, "M_UNKNOWN"));
}

#[tokio::test]
async fn the_token_must_be_known() {
    let server = TestServer::with(with_token).await;
    let mut body = wish("alice");
    let dummy = server.post("/v3/register", body.clone()).await;
    assert_eq!(dummy.error(), (401, "M_FORBIDDEN"));
    assert_eq!(dummy.body["flows"], json!([{"stages": ["m.login.registration_token"]}]));
    for token in ["", "letmei", "letmeinn", "LETMEIN"] {
        body["auth"] = json!({"type": "m.login.registration_token", "token": token});
        assert_eq!(server.post("/v3/register", body.clone()).await.error(), (401, "M_FORBIDDEN"), "{token}");
    }
    body["auth"]["token"] = json!("letmein");
    server.post("/v3/register", body).await.ok();
    for (token, is_valid) in [("letmein", true), ("x", false)] {
        let path = format!("/v1/register/m.login.registration_token/validity?token={token}");
        assert_eq!(server.get(&path).await.ok(), json!({"valid": is_valid}));
    }
}

#[tokio::test]
async fn stages_are_completed_in_their_order() {
    let server = TestServer::with(with_token_and_terms).await;
    let mut body = wish("alice");
    body.as_object_mut().unwrap().remove("auth");
    let first = server.post("/v3/register", body.clone()).await;
    assert_eq!(first.body["flows"], json!([{"stages": ["m.login.registration_token", "m.login.terms"]}]));
    let policy = json!({
        "version": "1.2",
        "fr": {"name": "Confidentialité", "url": "https://example.org/privacy-fr.html"},
    });
    assert_eq!(first.body["params"], json!({"m.login.terms": {"policies": {"privacy_policy": policy}}}));
    let session = first.body["session"].clone();
    let mut step = async |auth: Value| {
        body["auth"] = auth;
        server.post("/v3/register", body.clone()).await
    };
    let too_early = step(json!({"type": "m.login.terms", "session": session})).await;
    assert_eq!(too_early.error(), (401, "M_FORBIDDEN"));
    assert_eq!(too_early.body.get("completed"), None);
    let token = json!({"type": "m.login.registration_token", "token": "letmein", "session": session});
    for _ in 0..2 {
        let half = step(token.clone()).await;
        assert_eq!((half.status.as_u16(), &half.body["completed"]), (401, &json!(["m.login.registration_token"])));
        assert_eq!(half.body.get("errcode"), None);
    }
    let answer = step(json!({"type": "m.login.terms", "session": session})).await.ok();
    assert_eq!(answer["user_id"], "@alice:example.org");
    let user = ruma::user_id!("@alice:example.org");
    let account = chappe::user::account::get(&server.inside().store.snapshot(), user).unwrap().unwrap();
    assert_eq!(account.accepted_terms["privacy_policy"], "1.2");
}

#[tokio::test]
async fn a_client_that_lost_the_answer_gets_it_again() {
    let server = TestServer::new().await;
    let mut body = wish("alice");
    body.as_object_mut().unwrap().remove("auth");
    let first = server.post("/v3/register", body.clone()).await;
    let auth = json!({"type": "m.login.dummy", "session": first.body["session"]});
    body["auth"] = auth.clone();
    let answer = server.post("/v3/register", body.clone()).await.ok();
    assert_eq!(server.post("/v3/register", body.clone()).await.ok(), answer);
    let mut stolen = body.clone();
    stolen["password"] = json!("another one");
    assert_eq!(server.post("/v3/register", stolen).await.error(), (400, "M_USER_IN_USE"));
    let without = server.post("/v3/register", json!({ "auth": auth })).await;
    assert_eq!(without.status, 401, "who knows the session only gets nothing");
    server.advance(Duration::from_secs(301));
    assert_eq!(server.post("/v3/register", body).await.error(), (400, "M_USER_IN_USE"));
}

#[tokio::test]
async fn a_client_that_hangs_up_is_told_of_its_account_when_it_asks_again() {
    let server = TestServer::new().await;
    let mut body = wish("alice");
    body.as_object_mut().unwrap().remove("auth");
    let session = server.post("/v3/register", body.clone()).await.body["session"].clone();
    body["auth"] = json!({"type": "m.login.dummy", "session": session});
    let mut places = Vec::new();
    while let Some(place) = server.inside().passwords.place().now_or_never() {
        places.push(place);
    }
    let (asked, wanted) = (server.clone(), body.clone());
    let request = tokio::spawn(async move { asked.post("/v3/register", wanted).await.status });
    let stage = || uiaa::look_at(server.inside(), session.as_str().unwrap(), "m.login.dummy").unwrap();
    while stage() != OnPage::Ended {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    request.abort(); // as when the client hangs up
    assert!(request.await.unwrap_err().is_cancelled());
    drop(places);
    for _ in 0..1_000 {
        let again = server.post("/v3/register", body.clone()).await;
        if again.status == 200 {
            let alice = User::new(server.clone(), &again.body);
            assert_eq!(alice.get("/v3/account/whoami").await.ok()["user_id"], "@alice:example.org");
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the client does not learn of its account");
}

#[tokio::test]
async fn later_requests_may_leave_the_parameters_out_but_not_change_them() {
    let server = TestServer::with(with_token_and_terms).await;
    let first = server.post("/v3/register", json!({"username": "alice", "password": "secret"})).await;
    let session = &first.body["session"];
    let token = json!({"type": "m.login.registration_token", "token": "letmein", "session": session});
    let stolen = json!({"username": "mallory", "password": "secret", "auth": token});
    assert_eq!(server.post("/v3/register", stolen).await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(server.post("/v3/register", json!({"auth": token})).await.status, 401);
    let terms = json!({"type": "m.login.terms", "session": session});
    let answer = server.post("/v3/register", json!({"auth": terms})).await.ok();
    assert_eq!(answer["user_id"], "@alice:example.org");
    let login = json!({"type": "m.login.password", "user": "alice", "password": "secret"});
    server.post("/v3/login", login).await.ok();
}

#[tokio::test]
async fn a_name_is_made_up_if_none_is_given_and_a_password_is_needed() {
    let server = TestServer::new().await;
    let auth = json!({"type": "m.login.dummy"});
    let answer = server.post("/v3/register", json!({"password": "secret", "auth": auth})).await.ok();
    let user_id = answer["user_id"].as_str().unwrap();
    assert!(user_id.len() > "@:example.org".len() + 8 && user_id == user_id.to_lowercase(), "{user_id}");
    let without = server.post("/v3/register", json!({"username": "bob", "auth": auth})).await;
    assert_eq!(without.error(), (400, "M_MISSING_PARAM"));
    let empty = server.post("/v3/register", json!({"username": "bob", "password": "", "auth": auth})).await;
    assert_eq!(empty.error(), (400, "M_WEAK_PASSWORD"));
}

/// After the stages it would be too late: what was proved in them is good once.
#[tokio::test]
async fn what_will_not_become_an_account_is_refused_before_the_stages() {
    let server = TestServer::with(|config| {
        with_token_and_terms(config);
        config.password_policy.minimum_length = 8;
    })
    .await;
    let good = json!({"username": "alice", "password": "long enough"});
    let long = "x".repeat(256);
    for (field, wrong, errcode) in [
        ("password", "short", "M_PASSWORD_TOO_SHORT"),
        ("device_id", "", "M_INVALID_PARAM"),
        ("device_id", long.as_str(), "M_INVALID_PARAM"),
        ("initial_device_display_name", long.as_str(), "M_INVALID_PARAM"),
    ] {
        let mut body = good.clone();
        body[field] = json!(wrong);
        assert_eq!(server.post("/v3/register", body).await.error(), (400, errcode), "{field}");
    }
    assert_eq!(server.post("/v3/register", json!({})).await.status, 401);
    assert_eq!(server.post("/v3/register", good).await.status, 401);
    let mut body = json!({"username": "alice"});
    let begun = server.post("/v3/register", body.clone()).await;
    assert_eq!(begun.status, 401);
    let session = &begun.body["session"];
    body["auth"] = json!({"type": "m.login.registration_token", "token": "letmein", "session": session});
    assert_eq!(server.post("/v3/register", body).await.error(), (400, "M_MISSING_PARAM"));
}

#[tokio::test]
async fn a_registration_can_do_without_a_log_in_or_ask_for_refresh_tokens() {
    let server = TestServer::new().await;
    let mut body = wish("alice");
    body["inhibit_login"] = json!(true);
    let answer = server.post("/v3/register", body).await.ok();
    assert_eq!(answer["user_id"], "@alice:example.org");
    assert!(answer.get("access_token").is_none() && answer.get("device_id").is_none());
    let mut body = wish("bob");
    body["refresh_token"] = json!(true);
    let answer = server.post("/v3/register", body).await.ok();
    assert!(answer["refresh_token"].is_string());
    assert_eq!(answer["expires_in_ms"], 3_600_000);
}

#[tokio::test]
async fn what_is_no_registration_is_refused() {
    let server = TestServer::new().await;
    for body in ["[]", "1", r#"{"username": 1}"#, r#"{"password": []}"#, r#"{"inhibit_login": "x"}"#] {
        let answer = server.request_bytes(http::Method::POST, "/v3/register", None, body).await;
        assert_eq!(answer.error(), (400, "M_BAD_JSON"), "{body}");
    }
    for body in [&b"{"[..], b"{\"unknown\": \"\x81\"}", b"\x81"] {
        let answer = server.request_bytes(http::Method::POST, "/v3/register", None, body).await;
        assert_eq!(answer.error(), (400, "M_NOT_JSON"), "{}", body.escape_ascii());
    }
    let long = json!({"username": "alice", "password": "secret", "x": "x".repeat(5_000)});
    assert_eq!(server.post("/v3/register", long).await.error(), (413, "M_TOO_LARGE"));
    assert_eq!(server.get("/v3/register/available").await.error(), (400, "M_MISSING_PARAM"));
}

#[tokio::test]
async fn registrations_from_one_address_are_limited() {
    let server = TestServer::with(|config| config.rate_limits.enabled = true).await;
    for _ in 0..20 {
        server.get("/v3/register/available?username=alice").await.ok();
    }
    for path in ["/v3/register/available?username=bob", "/v1/register/m.login.registration_token/validity?token=x"] {
        let limited = server.get(path).await;
        assert_eq!(limited.error(), (429, "M_LIMIT_EXCEEDED"));
        assert_eq!(limited.headers["retry-after"], "10");
    }
    assert_eq!(server.post("/v3/register", wish("alice")).await.error(), (429, "M_LIMIT_EXCEEDED"));
    server.advance(Duration::from_secs(10));
    server.post("/v3/register", wish("alice")).await.ok();
}
