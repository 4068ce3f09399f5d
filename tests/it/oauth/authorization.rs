//! A client asks, in its user's browser, to be let in.

use std::{collections::BTreeMap, time::Duration};

use chappe::config::{Policy, PolicyText, Secret};
use http::Method;
use serde_json::json;

use super::{AUTHORIZE, REDIRECT, app, asked, code, log_in, redeem, register, request, server, session, with};
use crate::support::{TestServer, browser::Browser, password_of};

#[tokio::test]
async fn a_user_lets_an_app_in() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let (mut browser, page) = asked(&server, &request(&client, "PHONE", &[]), "alice").await;
    let text = page.text();
    for part in ["Let Element X in?", "@alice:example.org", "https://element.io/terms", "sent to io.element.test"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(page.policy().contains("form-action 'self' io.element.test:;"), "{}", page.policy());
    let sent = browser.submit(&page, &[("decision", "allow")]).await;
    assert!(sent.location().starts_with(&format!("{REDIRECT}?")), "{}", sent.location());
    assert_eq!(sent.sent_with("state").unwrap(), "a state & more");
    let code = sent.sent_with("code").unwrap();
    let answer = redeem(&server, &client, &code, &[]).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["pragma"], "no-cache");
    let tokens = answer.ok();
    assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&json!("Bearer"), &json!(3600)));
    assert_eq!(tokens["scope"], "urn:matrix:client:api:* urn:matrix:client:device:PHONE");
    let alice = session(&server, &tokens).await;
    assert_eq!((alice.id.as_str(), alice.device_id.as_str()), ("@alice:example.org", "PHONE"));
    let device = alice.get("/v3/devices/PHONE").await.ok();
    assert_eq!(device["display_name"], "Element X");
    let room = alice.create_room(json!({})).await;
    alice.say(&room, "hello").await;
}

#[tokio::test]
async fn who_does_not_agree_gives_nothing() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let (mut browser, page) =
        asked(&server, &request(&client, "PHONE", &[("response_mode", "fragment")]), "alice").await;
    let sent = browser.submit(&page, &[("decision", "deny")]).await;
    assert!(sent.location().starts_with(&format!("{REDIRECT}#")), "{}", sent.location());
    assert_eq!(sent.sent_with("error").unwrap(), "access_denied");
    assert_eq!(sent.sent_with("state").unwrap(), "a state & more");
    assert_eq!(sent.sent_with("code"), None);
}

#[tokio::test]
async fn a_program_may_listen_on_any_port() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let redirect = "http://127.0.0.1:4711/callback";
    let (mut browser, page) = asked(&server, &request(&client, "CLI", &[("redirect_uri", redirect)]), "alice").await;
    assert!(page.text().contains("a program on this machine"));
    assert!(page.policy().contains("form-action 'self' http://127.0.0.1:4711;"));
    let sent = browser.submit(&page, &[("decision", "allow")]).await;
    let code = sent.sent_with("code").unwrap();
    redeem(&server, &client, &code, &[("redirect_uri", redirect)]).await.ok();
}

#[tokio::test]
async fn an_address_with_a_query_keeps_it() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let redirect = "https://app.element.io/callback?x=y";
    let (mut browser, page) = asked(&server, &request(&client, "WEB", &[("redirect_uri", redirect)]), "alice").await;
    let sent = browser.submit(&page, &[("decision", "allow")]).await;
    assert!(sent.location().starts_with(&format!("{redirect}&state=")), "{}", sent.location());
}

#[tokio::test]
async fn nobody_is_sent_to_an_address_that_the_client_did_not_register() {
    let server = server().await;
    let client = register(&server, app()).await;
    let mut browser = Browser::new(&server);
    for (key, value) in [
        ("redirect_uri", "https://evil.example/callback"),
        ("redirect_uri", "io.element.test:/callback/more"),
        ("redirect_uri", "https://app.element.io/callback"),
        ("redirect_uri", ""),
        ("client_id", "unknown"),
        ("client_id", ""),
    ] {
        let page = browser.open(&request(&client, "PHONE", &[(key, value)])).await;
        assert_eq!(page.status(), 400, "{key}={value}");
        assert!(page.text().contains("asked for something that is not possible"));
    }
    let twice = format!("{}&client_id={client}", request(&client, "PHONE", &[]));
    assert_eq!(browser.open(&twice).await.status(), 400);
    assert_eq!(browser.open(AUTHORIZE).await.status(), 400);
}

#[tokio::test]
async fn a_client_is_told_what_is_wrong_with_its_request() {
    let server = server().await;
    let client = register(&server, app()).await;
    let mut browser = Browser::new(&server);
    let plain = [("code_challenge", "a".repeat(43)), ("code_challenge_method", "plain".to_owned())];
    let plain: Vec<_> = plain.iter().map(|(key, value)| (*key, value.as_str())).collect();
    for (changes, expected) in [
        (&[("response_type", "token")][..], "unsupported_response_type"),
        (&[("scope", "openid")], "invalid_scope"),
        (&[("scope", "urn:matrix:client:api:*")], "invalid_scope"),
        (&plain, "invalid_request"),
        (&[("code_challenge_method", "")], "invalid_request"),
        (&[("code_challenge", "")], "invalid_request"),
        (&[("response_mode", "form_post")], "invalid_request"),
        (&[("prompt", "none")], "interaction_required"),
        (&[("prompt", "dance")], "invalid_request"),
    ] {
        let sent = browser.open(&request(&client, "PHONE", changes)).await;
        assert!(sent.location().starts_with(REDIRECT), "{changes:?}");
        assert_eq!(sent.sent_with("error").unwrap(), expected, "{changes:?}");
        assert_eq!(sent.sent_with("state").unwrap(), "a state & more");
    }
}

#[tokio::test]
async fn a_form_of_another_site_does_nothing() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let (mut browser, page) = asked(&server, &request(&client, "PHONE", &[]), "alice").await;
    let mut stranger = Browser::new(&server);
    let login = stranger.open("/_chappe/login").await;
    let strangers = login.text().split("name=\"form_token\" value=\"").nth(1).unwrap()[..64].to_owned();
    for token in ["", "wrong", strangers.as_str()] {
        let sent = browser.post(&page.at, &[("form_token", token), ("decision", "allow")]).await;
        assert_eq!(sent.status(), 403);
    }
    // Nor does the form of a browser that keeps no cookie.
    let mut other = Browser::new(&server);
    let sent = other.post("/_chappe/login", &[("form_token", &strangers), ("user", "alice"), ("password", "x")]).await;
    assert_eq!(sent.status(), 403);
    assert_eq!(browser.submit(&page, &[("decision", "allow")]).await.status(), 303, "the right one still counts");
}

#[tokio::test]
async fn a_cookie_from_before_the_log_in_is_nobodys() {
    let server = server().await;
    server.user("alice").await;
    let mut browser = Browser::new(&server);
    let login = browser.open("/_chappe/login").await;
    let before = login.answer.headers["set-cookie"].clone();
    let done = browser.submit(&login, &[("user", "alice"), ("password", &password_of("alice"))]).await;
    assert_eq!(done.location(), "/_chappe/account");
    assert_ne!(done.answer.headers["set-cookie"], before);
    assert!(browser.follow(&done).await.text().contains("@alice:example.org"));
    server.advance(Duration::from_secs(60 * 60));
    assert!(browser.open("/_chappe/account").await.location().starts_with("/_chappe/login?"), "the visit is over");
}

#[tokio::test]
async fn wrong_passwords_and_unknown_users_look_alike() {
    let server = server().await;
    server.user("alice").await;
    let mut browser = Browser::new(&server);
    let login = browser.open("/_chappe/login").await;
    let mut texts = Vec::new();
    for user in ["alice", "nobody", "@alice:elsewhere.org", "a@b.example", "\"><script>"] {
        let page = browser.submit(&login, &[("user", user), ("password", "wrong")]).await;
        assert_eq!(page.status(), 403);
        texts.push(page.text().split("role=\"alert\">").nth(1).unwrap().split('<').next().unwrap().to_owned());
    }
    assert!(texts.iter().all(|text| text == "Wrong username or password"), "{texts:?}");
    let french = Browser::in_french(&server).open("/_chappe/login").await.text();
    assert!(french.contains("<html lang=\"fr\">") && french.contains("Mot de passe"), "{french}");
}

#[tokio::test]
async fn guessing_is_slow_here_too() {
    let server = with(|config| config.rate_limits.enabled = true).await;
    server.user("alice").await;
    let mut browser = Browser::new(&server);
    let login = browser.open("/_chappe/login").await;
    let mut statuses = BTreeMap::<u16, u32>::new();
    for _ in 0..12 {
        let page = browser.submit(&login, &[("user", "alice"), ("password", "wrong")]).await;
        *statuses.entry(page.status()).or_default() += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(403, 10), (429, 2)]));
    let right = browser.submit(&login, &[("user", "alice"), ("password", &password_of("alice"))]).await;
    assert_eq!(right.status(), 429);
}

#[tokio::test]
async fn a_new_user_registers_on_the_way() {
    let server = with(|config| {
        config.registration_token = Some(Secret::new("open sesame"));
        let text = PolicyText { name: "Charter".to_owned(), url: "https://example.org/charter".to_owned() };
        let languages = BTreeMap::from([("en".to_owned(), text)]);
        config.registration_terms.insert("charter".to_owned(), Policy { version: "1".to_owned(), languages });
    })
    .await;
    let client = register(&server, app()).await;
    let mut browser = Browser::new(&server);
    let sent = browser.open(&request(&client, "PHONE", &[("prompt", "create")])).await;
    let page = browser.follow(&sent).await;
    assert!(page.text().contains("https://example.org/charter"));
    let password = password_of("dora");
    let fields = |user: &'static str, again: &'static str, token: &'static str| {
        let again = if again.is_empty() { password.clone() } else { again.to_owned() };
        [
            ("user", user.to_owned()),
            ("password", password.clone()),
            ("password_again", again),
            ("registration_token", token.to_owned()),
        ]
    };
    for (wrong, accept, problem) in [
        (fields("dora", "", "wrong"), true, "Invalid registration token"),
        (fields("dora", "other", "open sesame"), true, "The two passwords differ"),
        (fields("d o r a", "", "open sesame"), true, "A username consists of"),
        (fields("dora", "", "open sesame"), false, "The terms must be accepted"),
    ] {
        let mut fields: Vec<_> = wrong.iter().map(|(key, value)| (*key, value.as_str())).collect();
        fields.extend(accept.then_some(("accept", "yes")));
        let refused = browser.submit(&page, &fields).await;
        assert_eq!(refused.status(), 403);
        assert!(refused.text().contains(problem), "{problem}: {}", refused.text());
    }
    let right = fields("dora", "", "open sesame");
    let mut right: Vec<_> = right.iter().map(|(key, value)| (*key, value.as_str())).collect();
    right.push(("accept", "yes"));
    let done = browser.submit(&page, &right).await;
    let consent = browser.follow(&done).await;
    assert!(consent.text().contains("@dora:example.org"), "{}", consent.text());
    let sent = browser.submit(&consent, &[("decision", "allow")]).await;
    redeem(&server, &client, &sent.sent_with("code").unwrap(), &[]).await.ok();
    let taken = browser.open("/_chappe/sign_up").await;
    assert!(browser.submit(&taken, &right).await.text().contains("This username is taken"));
    server.log_in("dora").await;
}

#[tokio::test]
async fn nobody_registers_where_that_is_not_allowed() {
    let server = with(|config| config.allow_registration = false).await;
    let mut browser = Browser::new(&server);
    let page = browser.open("/_chappe/sign_up").await;
    assert_eq!(page.status(), 403);
    let login = browser.open("/_chappe/login").await;
    assert!(!login.text().contains("/_chappe/sign_up"));
    let token = login.text().split("name=\"form_token\" value=\"").nth(1).unwrap()[..64].to_owned();
    let fields = [("form_token", token.as_str()), ("user", "eve"), ("password", "a"), ("password_again", "a")];
    assert_eq!(browser.post("/_chappe/sign_up", &fields).await.status(), 403);
}

#[tokio::test]
async fn a_client_can_have_its_user_log_in_anew() {
    let server = server().await;
    server.user("alice").await;
    server.user("bob").await;
    let client = register(&server, app()).await;
    let (mut browser, _) = asked(&server, &request(&client, "PHONE", &[]), "alice").await;
    let hint = [("prompt", "login"), ("login_hint", "mxid:@bob:example.org")];
    let sent = browser.open(&request(&client, "PHONE", &hint)).await;
    let login = browser.follow(&sent).await;
    assert!(login.text().contains("value=\"@bob:example.org\""), "{}", login.text());
    let fields = [("user", "bob"), ("password", &password_of("bob"))];
    let done = browser.submit(&login, &fields).await;
    let page = browser.follow(&done).await;
    assert!(page.text().contains("@bob:example.org"));
    let sent = browser.submit(&page, &[("decision", "another")]).await;
    assert!(sent.location().starts_with("/_chappe/login?"), "{}", sent.location());
    let again = browser.open(&request(&client, "PHONE", &[])).await;
    assert!(again.location().starts_with("/_chappe/login?"), "he is logged out");
}

#[tokio::test]
async fn a_device_that_is_replaced_is_named() {
    let server = server().await;
    server.user("alice").await;
    let client = register(&server, app()).await;
    let (first, _) = log_in(&server, &client, "PHONE", "alice").await;
    let (_, page) = asked(&server, &request(&client, "PHONE", &[]), "alice").await;
    assert!(page.text().contains("takes the place of your device PHONE"));
    let (second, _) = log_in(&server, &client, "PHONE", "alice").await;
    assert_eq!(first.get("/v3/account/whoami").await.errcode(), "M_UNKNOWN_TOKEN");
    second.get("/v3/account/whoami").await.ok();
    super::check(&server);
}

#[tokio::test]
async fn locked_and_gone_users_are_let_in_nowhere() {
    let server = server().await;
    let admin = admin(&server).await;
    let bob = server.user("bob").await;
    let client = register(&server, app()).await;
    let code_before = code(&server, &client, "PHONE", "bob").await;
    let (mut browser, page) = asked(&server, &request(&client, "OTHER", &[]), "bob").await;
    let (_, tokens) = log_in(&server, &client, "TABLET", "bob").await;
    let lock = format!("/v1/admin/lock/{}", bob.id);
    admin.put(&lock, json!({ "locked": true })).await.ok();

    let refused = redeem(&server, &client, &code_before, &[]).await;
    assert_eq!(super::error(&refused), (400, "access_denied"));
    let tokens = super::refresh(&server, &client, &tokens["refresh_token"]).await.ok();
    let who = || server.request(Method::GET, "/v3/account/whoami", tokens["access_token"].as_str(), None);
    assert_eq!(who().await.error(), (401, "M_USER_LOCKED"), "his app keeps its keys");
    let sent = browser.submit(&page, &[("decision", "allow")]).await;
    assert!(sent.location().starts_with("/_chappe/login?"), "his browser is logged out");
    let login = browser.follow(&sent).await;
    let refused = browser.submit(&login, &[("user", "bob"), ("password", &password_of("bob"))]).await;
    assert!(refused.text().contains("This account has been locked"));

    admin.put(&lock, json!({ "locked": false })).await.ok();
    assert_eq!(who().await.ok()["user_id"], *bob.id);
    let tokens = super::refresh(&server, &client, &tokens["refresh_token"]).await.ok();
    let code_before = code(&server, &client, "PHONE", "bob").await;
    let (mut browser, page) = asked(&server, &request(&client, "OTHER", &[]), "bob").await;
    let auth = crate::support::auth_of("bob");
    bob.post("/v3/account/deactivate", json!({ "auth": auth })).await.ok();
    assert_eq!(super::error(&redeem(&server, &client, &code_before, &[]).await), (400, "invalid_grant"));
    let refused = super::refresh(&server, &client, &tokens["refresh_token"]).await;
    assert_eq!(super::error(&refused), (400, "invalid_grant"));
    let sent = browser.submit(&page, &[("decision", "allow")]).await;
    let login = browser.follow(&sent).await;
    let refused = browser.submit(&login, &[("user", "bob"), ("password", &password_of("bob"))]).await;
    assert_eq!(refused.status(), 403);
    super::check(&server);
}

async fn admin(server: &TestServer) -> crate::support::User {
    let password = password_of("admin");
    chappe::user::account::create(server.inside(), "admin", password, true).await.unwrap();
    server.log_in("admin").await
}

#[tokio::test]
async fn a_new_password_ends_what_has_begun() {
    let server = server().await;
    let alice = server.user("alice").await;
    let client = register(&server, app()).await;
    let code = code(&server, &client, "PHONE", "alice").await;
    let (mut browser, page) = asked(&server, &request(&client, "OTHER", &[]), "alice").await;
    let body = json!({ "new_password": "another", "auth": crate::support::auth_of("alice") });
    alice.request(Method::POST, "/v3/account/password", Some(body)).await.ok();
    assert_eq!(super::error(&redeem(&server, &client, &code, &[]).await), (400, "invalid_grant"));
    let sent = browser.submit(&page, &[("decision", "allow")]).await;
    assert!(sent.location().starts_with("/_chappe/login?"));
}
