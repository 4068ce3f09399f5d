//! Users who prove by a provider that they want what a client asks for.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::{Setting, local, setting};
use crate::support::{Answer, User, browser::Browser, password_of};

async fn delete_device(user: &User, device: &str, auth: Value) -> Answer {
    user.request(Method::DELETE, &format!("/v3/devices/{device}"), Some(json!({ "auth": auth }))).await
}

async fn begin(user: &User, device: &str) -> (String, Value) {
    let answer = user.request(Method::DELETE, &format!("/v3/devices/{device}"), Some(json!({}))).await;
    assert_eq!(answer.status, 401, "{}", answer.body);
    (answer.body["session"].as_str().unwrap().to_owned(), answer.body["flows"].clone())
}

fn fallback(session: &str) -> String {
    format!("/_matrix/client/v3/auth/m.login.sso/fallback/web?session={session}")
}

/// Where the page of the client's stage sends the browser.
async fn stage_page(setting: &Setting, session: &str) -> String {
    let answer = setting.server.get(&fallback(session)).await;
    assert_eq!(answer.status, 302, "{}", answer.body);
    local(answer.headers["location"].to_str().unwrap()).to_owned()
}

#[tokio::test]
async fn a_user_without_a_password_proves_by_his_provider_who_he_is() {
    let setting = setting(json!({})).await;
    let alice = setting.user().await;
    let other = setting.user().await;
    let (session, flows) = begin(&alice, &other.device_id).await;
    assert_eq!(flows, json!([{ "stages": ["m.login.sso"] }]));
    for auth in [json!({ "session": session }), json!({ "session": session, "type": "m.login.sso" })] {
        assert_eq!(delete_device(&alice, &other.device_id, auth).await.status, 401, "nothing was proved");
    }
    let dummy = json!({ "session": session, "type": "m.login.password", "password": "",
        "identifier": { "type": "m.id.user", "user": "alice" } });
    assert_eq!(delete_device(&alice, &other.device_id, dummy).await.error(), (401, "M_FORBIDDEN"));

    // The provider knows him from before, which is not enough: it is told to have him prove who he is.
    let path = stage_page(&setting, &session).await;
    let mut browser = Browser::new(&setting.server);
    let sent = setting.log_in(&mut browser, &path).await;
    assert_eq!((sent.location(), setting.provider.asked("prompt")), (path.as_str(), None));
    assert!(browser.follow(&sent).await.location().starts_with("/_chappe/login?next="));
    let sent = setting.log_in(&mut browser, &path).await;
    assert_eq!((sent.location(), setting.provider.asked("prompt").as_deref()), (path.as_str(), Some("login")));
    let page = browser.follow(&sent).await;
    assert!(page.text().contains("An app of @alice:example.org wants to log a device out."), "{}", page.text());
    assert_eq!(browser.post(&path, &[("form_token", "x")]).await.status(), 403);
    assert_eq!(delete_device(&alice, &other.device_id, json!({ "session": session })).await.status, 401);

    let sent = browser.submit(&page, &[]).await;
    assert_eq!(sent.location(), fallback(&session));
    let done = setting.server.get(&fallback(&session)).await;
    assert!(String::from_utf8(done.bytes).unwrap().contains("window.onAuthDone"));
    // It is good for what it was asked for, once.
    let elsewhere = delete_device(&alice, &alice.device_id, json!({ "session": session })).await;
    assert_eq!(elsewhere.error(), (403, "M_FORBIDDEN"));
    delete_device(&alice, &other.device_id, json!({ "session": session })).await.ok();
    assert_eq!(other.get("/v3/account/whoami").await.errcode(), "M_UNKNOWN_TOKEN");
    assert_eq!(delete_device(&alice, &other.device_id, json!({ "session": session })).await.status, 401);
}

#[tokio::test]
async fn a_provider_that_did_not_ask_anew_proves_nothing() {
    let setting = setting(json!({})).await;
    let alice = setting.user().await;
    let (session, _) = begin(&alice, "X").await;
    let path = stage_page(&setting, &session).await;
    let mut browser = Browser::new(&setting.server);
    setting.log_in(&mut browser, &path).await;
    let at = |seconds: i64| {
        let time = i64::try_from(crate::support::START_MS / 1_000).unwrap() + seconds;
        json!({ "sub": "1", "auth_time": time })
    };
    setting.provider.says(at(-120));
    assert_eq!(setting.log_in(&mut browser, &path).await.status(), 502);
    setting.provider.says(at(1));
    let sent = setting.log_in(&mut browser, &path).await;
    assert!(browser.follow(&sent).await.text().contains("wants to log a device out"));
    setting.server.advance(Duration::from_secs(5 * 60));
    assert!(browser.open(&path).await.location().starts_with("/_chappe/login?"), "that was too long ago");
}

#[tokio::test]
async fn nobody_proves_it_for_somebody_else() {
    let setting = setting(json!({})).await;
    let alice = setting.user().await;
    let (session, _) = begin(&alice, "X").await;
    let path = stage_page(&setting, &session).await;
    setting.server.user("mallory").await;
    let mut browser = Browser::new(&setting.server);
    let page = browser.open_as(&path, "mallory", &password_of("mallory")).await;
    assert!(page.status() == 403 && page.text().contains("asks for @alice:example.org, but somebody else"));
    // He is fresh, and has a token for forms: of another page.
    let account = browser.open("/_chappe/account?action=org.matrix.profile").await;
    let token =
        account.text().split("name=\"form_token\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    browser.post(&path, &[("form_token", &token)]).await;
    assert_eq!(delete_device(&alice, "X", json!({ "session": session })).await.status, 401);
    assert_eq!(browser.open("/_chappe/sso/stage?session=made-up").await.status(), 403);
    assert_eq!(setting.server.get(&fallback("made-up")).await.status, 400);
    let form = setting.server.post(&fallback(&session), json!({})).await;
    assert!(form.status.is_client_error());
}

#[tokio::test]
async fn who_has_both_chooses() {
    let setting = setting(json!({ "link_by_email": true, "trust_emails": true })).await;
    let carol = setting.server.user("carol").await;
    let (session, flows) = begin(&carol, "X").await;
    assert_eq!(flows, json!([{ "stages": ["m.login.password"] }]), "no provider knows her");
    assert_eq!(stage_page_status(&setting, &session).await, 403);
    give(&setting, &carol).await;
    setting.provider.says(json!({ "sub": "1", "email": "carol@example.org" }));
    assert_eq!(setting.user().await.id, carol.id);
    let (session, flows) = begin(&carol, "X").await;
    assert_eq!(flows, json!([{ "stages": ["m.login.password"] }, { "stages": ["m.login.sso"] }]));
    let auth = json!({ "session": session, "type": "m.login.password", "password": password_of("carol"),
        "identifier": { "type": "m.id.user", "user": "carol" } });
    delete_device(&carol, "X", auth).await.ok();

    // A password that was typed on our page proves as much.
    let (session, _) = begin(&carol, "X").await;
    let path = stage_page(&setting, &session).await;
    let mut browser = Browser::new(&setting.server);
    let page = browser.open_as(&path, "carol", &password_of("carol")).await;
    browser.submit(&page, &[]).await;
    delete_device(&carol, "X", json!({ "session": session })).await.ok();
}

/// What a browser is told that opens the stage's page by itself.
async fn stage_page_status(setting: &Setting, session: &str) -> u16 {
    Browser::new(&setting.server).open(&format!("/_chappe/sso/stage?session={session}")).await.status()
}

async fn give(setting: &Setting, user: &User) {
    let id = ruma::OwnedUserId::try_from(user.id.as_str()).unwrap();
    let proven = chappe::user::email::Proven { address: "carol@example.org".to_owned(), validated_at_ms: 1 };
    let write = move |tx: &mut chappe::store::Transaction<'_>| chappe::user::email::put(tx, &id, &proven, 1);
    setting.server.inside().store.commit(write).await.unwrap();
}

#[tokio::test]
async fn an_operation_is_named_in_words() {
    let setting = setting(json!({})).await;
    let alice = setting.user().await;
    for (method, path, body, words) in [
        (Method::POST, "/v3/account/deactivate", json!({}), "close the account for good"),
        (Method::POST, "/v3/delete_devices", json!({ "devices": ["X"] }), "log devices out"),
        (Method::POST, "/v3/account/password", json!({ "new_password": "abcdefgh" }), "change the password"),
        (Method::POST, "/v1/login/get_token", json!({}), "log another device in"),
    ] {
        let session = alice.request(method, path, Some(body)).await.body["session"].as_str().unwrap().to_owned();
        let page_path = stage_page(&setting, &session).await;
        let mut browser = Browser::new(&setting.server);
        setting.log_in(&mut browser, &page_path).await;
        let sent = setting.log_in(&mut browser, &page_path).await;
        let page = browser.follow(&sent).await;
        assert!(page.text().contains(&format!("wants to {words}.")), "{path}: {}", page.text());
        browser.submit(&page, &[]).await;
    }
}
