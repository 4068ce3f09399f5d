//! Whose account it is that somebody gets, and whether he gets one.

use std::collections::BTreeMap;

use chappe::{
    config::{Policy, PolicyText},
    store::Transaction,
    user::{account, email, email::Proven},
};
use ruma::OwnedUserId;
use serde_json::json;

use super::{Setting, check, setting, setting_with};
use crate::support::{TestServer, User, browser::Browser};

/// Gives a user an address, as if he had proved it.
async fn give_email(server: &TestServer, user: &User, address: &str) {
    let (user, proven) =
        (OwnedUserId::try_from(user.id.as_str()).unwrap(), Proven { address: address.to_owned(), validated_at_ms: 1 });
    let write = move |tx: &mut Transaction<'_>| email::put(tx, &user, &proven, 1);
    server.inside().store.commit(write).await.unwrap();
}

async fn set(
    server: &TestServer,
    user: &User,
    change: impl FnOnce(&mut chappe::user::tables::Account) + Send + 'static,
) {
    let user = OwnedUserId::try_from(user.id.as_str()).unwrap();
    let write = move |tx: &mut Transaction<'_>| account::update(tx, &user, change);
    server.inside().store.commit(write).await.unwrap();
}

#[tokio::test]
async fn a_new_user_gets_the_address_that_the_provider_has_verified() {
    let setting = setting(json!({})).await;
    let who = |verified| {
        json!({ "sub": format!("{verified}"), "preferred_username": format!("user-{verified}"),
                "email": format!("{verified}@Example.org"), "email_verified": verified })
    };
    for (verified, addresses) in [(true, 1), (false, 0)] {
        setting.provider.says(who(verified));
        let user = setting.user().await;
        let known = user.get("/v3/account/3pid").await.ok()["threepids"].clone();
        assert_eq!(known.as_array().unwrap().len(), addresses, "{known}");
        if verified {
            assert_eq!(known[0]["address"], "true@example.org");
        }
    }
    // An address that is another's stays his.
    setting.provider.says(json!({
        "sub": "3", "preferred_username": "third", "email": "true@example.org", "email_verified": true,
    }));
    let third = setting.user().await;
    assert_eq!(third.get("/v3/account/3pid").await.ok()["threepids"], json!([]));
    check(&setting.server);
}

#[tokio::test]
async fn an_account_is_found_by_an_address_that_both_sides_have_verified() {
    let setting = setting(json!({ "link_by_email": true })).await;
    let Setting { server, provider, .. } = &setting;
    let carol = server.user("carol").await;
    give_email(server, &carol, "carol@example.org").await;
    let says = |sub: &str, verified: bool| {
        provider.says(json!({
            "sub": sub, "preferred_username": format!("new-{sub}"), "email": "CAROL@example.org", "email_verified": verified,
        }));
    };
    says("1", false);
    assert_eq!(setting.user().await.id, "@new-1:example.org", "the provider did not look");
    says("2", true);
    assert_eq!(setting.user().await.id, carol.id);
    provider.says(json!({ "sub": "2", "email": "elsewhere@example.org", "email_verified": true }));
    assert_eq!(setting.user().await.id, carol.id, "from then on it is his, whatever address he has");
    says("3", true);
    let (status, text) = setting.refused().await;
    assert!(status == 403 && text.contains("your e-mail address is somebody else"), "{text}");
    // The password is still good.
    server.log_in("carol").await;
    check(server);
}

#[tokio::test]
async fn no_account_is_found_by_an_address_unless_the_administrator_wants_it() {
    let setting = setting(json!({})).await;
    let carol = setting.server.user("carol").await;
    give_email(&setting.server, &carol, "carol@example.org").await;
    setting.provider.says(json!({
        "sub": "1", "preferred_username": "mallory", "email": "carol@example.org", "email_verified": true,
    }));
    assert_eq!(setting.user().await.id, "@mallory:example.org");
}

#[tokio::test]
async fn nobody_gets_the_name_of_somebody_else() {
    let refusing = setting(json!({})).await;
    refusing.server.user("alice").await;
    let (status, text) = refusing.refused().await;
    assert!(status == 403 && text.contains("the name of your account is taken"), "{text}");
    refusing.provider.says(json!({ "sub": "1" }));
    assert!(refusing.refused().await.1.contains("gives no name"));
    refusing.provider.says(json!({ "sub": "1", "preferred_username": "x".repeat(255) }));
    assert!(refusing.refused().await.1.contains("gives no name"));

    let counting = setting(json!({ "taken_name": "number" })).await;
    counting.server.user("alice").await;
    assert_eq!(counting.user().await.id, "@alice1:example.org");
    assert_eq!(counting.user().await.id, "@alice1:example.org");
    counting.provider.says(json!({ "sub": "2", "preferred_username": "ALICE" }));
    assert_eq!(counting.user().await.id, "@alice2:example.org");
    check(&counting.server);
}

#[tokio::test]
async fn who_has_no_account_gets_none_if_the_provider_makes_none() {
    let setting = setting(json!({ "allow_registration": false, "link_by_email": true })).await;
    let (status, text) = setting.refused().await;
    assert!(status == 403 && text.contains("Test &amp; Co knows you, but you have no account here"), "{text}");
    let carol = setting.server.user("carol").await;
    give_email(&setting.server, &carol, "carol@example.org").await;
    setting.provider.says(json!({ "sub": "1", "email": "carol@example.org", "email_verified": true }));
    assert_eq!(setting.user().await.id, carol.id);
}

#[tokio::test]
async fn registration_needs_not_be_open_for_users_of_a_provider() {
    let setting = setting_with(json!({}), |config| config.allow_registration = false).await;
    assert_eq!(setting.user().await.id, "@alice:example.org");
}

#[tokio::test]
async fn a_locked_or_closed_account_stays_so_and_a_suspended_one_can_log_in() {
    let setting = setting(json!({})).await;
    let alice = setting.user().await;
    set(&setting.server, &alice, |account| account.is_suspended = true).await;
    assert_eq!(setting.user().await.id, alice.id);
    set(&setting.server, &alice, |account| account.is_locked = true).await;
    let (status, text) = setting.refused().await;
    assert!(status == 403 && text.contains("has been locked"), "{text}");
    set(&setting.server, &alice, |account| account.is_locked = false).await;

    let id = OwnedUserId::try_from(alice.id.as_str()).unwrap();
    let server = setting.server.inside().clone();
    chappe::user::deactivate::deactivate(server, id, false).await.unwrap();
    let (status, text) = setting.refused().await;
    assert!(status == 403 && text.contains("has been deactivated"), "he is not somebody new: {text}");
    check(&setting.server);
}

#[tokio::test]
async fn who_was_locked_meanwhile_can_not_use_his_login_token() {
    let setting = setting(json!({})).await;
    let alice = setting.user().await;
    let mut browser = Browser::new(&setting.server);
    let path = super::page_for_client(&setting.server, "test", super::CLIENT).await;
    let sent = setting.log_in(&mut browser, &path).await;
    let page = browser.follow(&sent).await;
    let token = super::login_token(&browser.submit(&page, &[("decision", "allow")]).await);
    set(&setting.server, &alice, |account| account.is_locked = true).await;
    assert_eq!(super::use_token(&setting.server, &token).await.error(), (401, "M_USER_LOCKED"));
}

#[tokio::test]
async fn a_new_user_accepts_the_terms_first() {
    let text = PolicyText { name: "Terms <b>".to_owned(), url: "https://example.org/terms".to_owned() };
    let policy = Policy { version: "1.2".to_owned(), languages: BTreeMap::from([("en".to_owned(), text)]) };
    let setting = setting_with(json!({}), |config| {
        config.registration_terms.insert("terms".to_owned(), policy);
    })
    .await;
    let server = &setting.server;
    let mut browser = Browser::new(server);
    let sent = setting.log_in(&mut browser, "/_chappe/account").await;
    assert!(sent.location().starts_with("/_chappe/sso/newcomer?next="));
    let page = browser.follow(&sent).await;
    assert!(page.text().contains("Terms &lt;b&gt;") && page.text().contains("https://example.org/terms"));
    assert_eq!(Browser::new(server).follow(&sent).await.status(), 403, "another browser has nothing to accept");
    assert_eq!(browser.submit(&page, &[]).await.status(), 403);
    assert_eq!(server.get("/v3/profile/@alice:example.org").await.errcode(), "M_NOT_FOUND");
    assert_eq!(browser.submit(&page, &[("accept", "yes")]).await.location(), "/_chappe/account");
    assert!(browser.open("/_chappe/account").await.text().contains("@alice:example.org"));
    let alice = OwnedUserId::try_from("@alice:example.org").unwrap();
    let account = account::get(&server.inside().store.snapshot(), &alice).unwrap().unwrap();
    assert_eq!(account.accepted_terms["terms"], "1.2");
    // Not a second time.
    let sent = setting.log_in(&mut Browser::new(server), "/_chappe/account").await;
    assert_eq!(sent.location(), "/_chappe/account");
    check(server);
}

#[tokio::test]
async fn two_first_log_ins_at_once_make_one_account() {
    let setting = setting(json!({ "taken_name": "number" })).await;
    let (one, other) = tokio::join!(setting.user(), setting.user());
    assert_eq!(one.id, other.id);
    check(&setting.server);
}

#[tokio::test]
async fn people_are_told_in_their_language() {
    let setting = setting(json!({ "allow_registration": false })).await;
    let mut browser = Browser::in_french(&setting.server);
    let page = setting.log_in(&mut browser, "/_chappe/account").await;
    assert!(page.text().contains("Test &amp; Co vous connaît, mais vous n'avez pas de compte ici"), "{}", page.text());
}
