//! What a hostile provider, client or passer-by tries.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    CLIENT, Setting, check, entry, local, page_for_client,
    provider::{CLIENT_ID, ISSUER, Provider, Signer, Token, UserInfo},
    redirect, setting, setting_with,
};
use crate::support::{START_MS, TestServer, browser::Browser, query};

const NOW: u64 = START_MS / 1_000;

async fn nobody_has_an_account(server: &TestServer) {
    assert_eq!(server.get("/v3/profile/@alice:example.org").await.errcode(), "M_NOT_FOUND");
    check(server);
}

#[tokio::test]
async fn a_token_that_is_not_as_it_must_be_lets_nobody_in() {
    let setting = setting(json!({})).await;
    fn claim(key: &'static str, value: Value) -> impl Fn(&mut Token) + Send + 'static {
        move |token: &mut Token| token.claims[key] = value.clone()
    }
    fn drop_claim(key: &'static str) -> impl Fn(&mut Token) + Send + 'static {
        move |token: &mut Token| drop(token.claims.as_object_mut().unwrap().remove(key))
    }
    type Change = Box<dyn Fn(&mut Token) + Send>;
    let attacks: Vec<(&str, Change)> = vec![
        ("another nonce", Box::new(claim("nonce", "x".into()))),
        ("no nonce", Box::new(drop_claim("nonce"))),
        ("another audience", Box::new(claim("aud", "other".into()))),
        ("no audience", Box::new(drop_claim("aud"))),
        ("a second audience", Box::new(claim("aud", json!([CLIENT_ID, "other"])))),
        ("made for another", Box::new(claim("azp", "other".into()))),
        ("another issuer", Box::new(claim("iss", "https://evil.example".into()))),
        ("no issuer", Box::new(drop_claim("iss"))),
        ("expired", Box::new(claim("exp", (NOW - 61).into()))),
        ("without an end", Box::new(drop_claim("exp"))),
        ("no subject", Box::new(drop_claim("sub"))),
        ("an empty subject", Box::new(claim("sub", "".into()))),
        ("a long subject", Box::new(claim("sub", "x".repeat(256).into()))),
        ("of another access token", Box::new(claim("at_hash", "MTIzNDU2Nzg5MDEyMzQ1Ng".into()))),
        (
            "not signed",
            Box::new(|token| {
                token.header = json!({ "alg": "none" });
                token.signer = Signer::Nobody;
            }),
        ),
        ("no signature", Box::new(|token| token.signer = Signer::Nobody)),
        (
            "signed with the secret",
            Box::new(|token| {
                token.header = json!({ "alg": "HS256" });
                token.signer = Signer::Secret;
            }),
        ),
        (
            "signed with the secret under the key's name",
            Box::new(|token| {
                token.header["alg"] = "HS256".into();
                token.signer = Signer::Secret;
            }),
        ),
        ("signed by somebody else", Box::new(|token| token.signer = Signer::Stranger)),
        (
            "signed by an old key",
            Box::new(|token| {
                token.header["kid"] = "b".into();
                token.signer = Signer::Key(1);
            }),
        ),
        ("another algorithm", Box::new(|token| token.header["alg"] = "RS256".into())),
        ("with a condition", Box::new(|token| token.header["crit"] = json!(["x"]))),
    ];
    for (what, change) in attacks {
        setting.provider.changes(change);
        let (status, text) = setting.refused().await;
        assert_eq!(status, 502, "{what}");
        assert!(text.contains("Test &amp; Co can't be used at the moment"), "{what}: {text}");
    }
    nobody_has_an_account(&setting.server).await;
    // A little late is in time: clocks differ.
    setting.provider.changes(claim("exp", (NOW - 59).into()));
    assert_eq!(setting.user().await.id, "@alice:example.org");
}

#[tokio::test]
async fn what_comes_back_counts_once_in_the_browser_that_was_sent() {
    let setting = setting(json!({})).await;
    let server = &setting.server;
    let ended = |page: &crate::support::browser::Page| page.status() == 403 && page.text().contains("took too long");

    let mut browser = Browser::new(server);
    let back = setting.at_provider(&mut browser, "/_chappe/account").await;
    // Somebody sends his own way back to another person, who would be logged in as him.
    let mut other = Browser::new(server);
    assert!(ended(&other.open(local(&back)).await));
    other.open("/_chappe/login").await;
    assert!(ended(&other.open(local(&back)).await), "and with that, it is used up");
    assert!(ended(&browser.open(local(&back)).await));

    let back = setting.at_provider(&mut browser, "/_chappe/account").await;
    assert_eq!(browser.open(local(&back)).await.location(), "/_chappe/account");
    assert!(ended(&browser.open(local(&back)).await), "a way back is good once");

    let mut browser = Browser::new(server);
    let back = setting.at_provider(&mut browser, "/_chappe/account").await;
    for (from, to) in [("state=", "state=x"), ("&state=", "&states="), ("state=", "state=x&state=")] {
        assert!(ended(&browser.open(&local(&back).replace(from, to)).await), "{to}");
    }
    server.advance(Duration::from_secs(15 * 60));
    assert!(ended(&browser.open(local(&back)).await), "a way back is good for a quarter of an hour");
    for path in ["/_chappe/sso/callback/test", "/_chappe/sso/callback/test?code=x", "/_chappe/sso/callback/test?state="]
    {
        assert!(ended(&browser.open(path).await));
    }
    assert_eq!(browser.open("/_chappe/sso/callback/other?state=x&code=x").await.status(), 404);
    assert_eq!(browser.open("/_chappe/sso/begin/other").await.status(), 404);
}

#[tokio::test]
async fn one_provider_does_not_stand_for_another() {
    let other = json!({ "id": "other", "name": "Other", "issuer": "https://other.example" });
    let setting = setting_with(json!({}), |config| config.identity_providers.push(entry(other))).await;
    let Setting { server, provider, network } = &setting;
    let evil = Provider::at(network, "other.example");
    evil.says(json!({ "sub": "1", "preferred_username": "mallory" }));
    let alice = setting.user().await;

    // The same `sub`, at another provider, is another person.
    let mut browser = Browser::new(server);
    let sent = browser.open("/_chappe/sso/begin/other").await;
    let back = evil.logs_in(sent.location());
    browser.open(local(&back)).await;
    let account = browser.open("/_chappe/account").await.text();
    assert!(account.contains("@mallory:example.org") && !account.contains(&alice.id), "{account}");

    // What was begun at one ends at no other's address, nor with an answer that says it is another's.
    let mut browser = Browser::new(server);
    let back = setting.at_provider(&mut browser, "/_chappe/account").await;
    let mixed_up = local(&back).replace("callback/test", "callback/other");
    assert_eq!(browser.open(&mixed_up).await.status(), 403);
    let back = setting.at_provider(&mut browser, "/_chappe/account").await;
    let page = browser.open(&format!("{}&iss=https%3A%2F%2Fother.example", local(&back))).await;
    assert_eq!(page.status(), 502);
    let back = setting.at_provider(&mut browser, "/_chappe/account").await;
    let page = browser.open(&format!("{}&iss=https%3A%2F%2Fid.example.org", local(&back))).await;
    assert_eq!(page.location(), "/_chappe/account");

    provider.describes("authorization_response_iss_parameter_supported", json!(true));
    server.advance(Duration::from_secs(60 * 60));
    let mut browser = Browser::new(server);
    let back = setting.at_provider(&mut browser, "/_chappe/account").await;
    assert_eq!(browser.open(local(&back)).await.status(), 502, "it says that it always names itself");
}

#[tokio::test]
async fn a_provider_that_says_no_lets_nobody_in() {
    let setting = setting(json!({})).await;
    let mut browser = Browser::new(&setting.server);
    for answer in ["error=access_denied", "error=access_denied&code=code+0", "x=y"] {
        let back = setting.at_provider(&mut browser, "/_chappe/account").await;
        let (path, query) = local(&back).split_once('?').unwrap();
        let state = query.split('&').find(|pair| pair.starts_with("state=")).unwrap();
        let page = browser.open(&format!("{path}?{state}&{answer}")).await;
        assert!(page.status() == 403 && page.text().contains("did not let you in"), "{answer}: {}", page.text());
    }
    let back = setting.at_provider(&mut browser, "/_chappe/account").await;
    let page = browser.open(&local(&back).replace("code=code", "code=made-up")).await;
    assert_eq!(page.status(), 502);
    nobody_has_an_account(&setting.server).await;
}

#[tokio::test]
async fn what_the_userinfo_endpoint_says_must_be_about_the_same_person() {
    let setting = setting(json!({})).await;
    let provider = &setting.provider;
    for answer in [
        UserInfo::Json(json!({ "sub": "2", "preferred_username": "bob" })),
        UserInfo::Json(json!({ "preferred_username": "bob" })),
        UserInfo::Json(json!([])),
        UserInfo::Status(403),
    ] {
        provider.user_info(answer);
        setting.server.advance(Duration::from_secs(60 * 60));
        provider.changes(|token| token.claims["exp"] = (NOW + 24 * 60 * 60).into());
        assert_eq!(setting.refused().await.0, 502);
    }
    nobody_has_an_account(&setting.server).await;
    provider.user_info(UserInfo::Json(json!({ "sub": "1", "preferred_username": "bob" })));
    assert_eq!(setting.user().await.id, "@bob:example.org", "it says more than the id_token");
}

#[tokio::test]
async fn a_signed_answer_of_the_userinfo_endpoint_is_verified() {
    let setting = setting(json!({ "trust_emails": true, "localpart_claim": "email" })).await;
    let provider = &setting.provider;
    provider.says(json!({ "sub": "1" }));
    let person = json!({ "sub": "1", "email": "jean.dupont@agence.example", "iss": ISSUER, "aud": CLIENT_ID });
    type Change = Box<dyn Fn(&mut Token) + Send>;
    let attacks: Vec<(&str, Change)> = vec![
        ("another subject", Box::new(|token| token.claims["sub"] = "2".into())),
        ("another audience", Box::new(|token| token.claims["aud"] = "other".into())),
        ("other audiences", Box::new(|token| token.claims["aud"] = json!(["other"]))),
        ("another issuer", Box::new(|token| token.claims["iss"] = "https://evil.example".into())),
        ("expired", Box::new(|token| token.claims["exp"] = (NOW - 61).into())),
        ("an end that is no time", Box::new(|token| token.claims["exp"] = "never".into())),
        (
            "not signed",
            Box::new(|token| {
                token.header = json!({ "alg": "none" });
                token.signer = Signer::Nobody;
            }),
        ),
        (
            "signed with the secret",
            Box::new(|token| {
                token.header = json!({ "alg": "HS256" });
                token.signer = Signer::Secret;
            }),
        ),
        ("signed by somebody else", Box::new(|token| token.signer = Signer::Stranger)),
        ("signed by an unknown key", Box::new(|token| token.header["kid"] = "z".into())),
        ("with a condition", Box::new(|token| token.header["crit"] = json!(["x"]))),
    ];
    for (what, change) in attacks {
        provider.user_info(UserInfo::Signed(person.clone(), change));
        assert_eq!(setting.refused().await.0, 502, "{what}");
    }
    check(&setting.server);
    for claims in [person, json!({ "sub": "1", "email": "jean.dupont@agence.example", "exp": NOW + 1 })] {
        provider.user_info(UserInfo::Signed(claims, Box::new(|_| ())));
        let jean = setting.user().await;
        assert_eq!(jean.id, "@jean.dupont-agence.example:example.org");
        let addresses = jean.get("/v3/account/3pid").await.ok();
        assert_eq!(addresses["threepids"][0]["address"], "jean.dupont@agence.example");
    }
}

#[tokio::test]
async fn a_new_key_of_the_provider_is_fetched() {
    let setting = setting(json!({})).await;
    let alice = setting.user().await;
    setting.provider.rotates_keys();
    assert_eq!(setting.refused().await.0, 502, "but not twice in a minute");
    setting.server.advance(Duration::from_secs(60));
    assert_eq!(setting.user().await.id, alice.id);
}

#[tokio::test]
async fn a_provider_that_is_away_or_badly_described_is_told_and_tried_again() {
    let setting = setting(json!({})).await;
    let Setting { server, provider, network } = &setting;
    let begin = || async { Browser::new(server).open("/_chappe/sso/begin/test").await };
    network.cut_off("id.example.org");
    let page = begin().await;
    assert!(page.status() == 502 && page.text().contains("can't be used at the moment"));
    network.reconnect("id.example.org");
    let asked = network.count("id.example.org", "/");
    assert_eq!((begin().await.status(), network.count("id.example.org", "/")), (502, asked), "it is left alone");
    for (key, wrong, right) in [
        ("issuer", json!("https://evil.example"), json!(ISSUER)),
        ("jwks_uri", json!("http://id.example.org/keys"), json!("https://id.example.org/keys")),
    ] {
        server.advance(Duration::from_secs(5));
        provider.describes(key, wrong);
        assert_eq!(begin().await.status(), 502, "{key}");
        provider.describes(key, right);
    }
    server.advance(Duration::from_secs(5));
    assert_eq!(begin().await.status(), 303);
}

#[tokio::test]
async fn no_token_goes_where_it_could_run_or_be_misread() {
    let setting = setting(json!({})).await;
    let server = &setting.server;
    for url in ["javascript:alert(1)", "data:text/html,x", "/relative", "https://app.example@evil.example/", ""] {
        let answer = redirect(server, "test", &[("redirectUrl", url)]).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{url}");
        let path = format!("/_chappe/sso/client{}", query(&[("redirectUrl", url)]));
        let page = Browser::new(server).open(&path).await;
        assert_eq!(page.status(), 400, "{url}");
    }
    assert_eq!(redirect(server, "", &[]).await.error(), (400, "M_MISSING_PARAM"));
    assert_eq!(redirect(server, "other", &[("redirectUrl", CLIENT)]).await.error(), (404, "M_NOT_FOUND"));
    assert_eq!(Browser::new(server).open("/_chappe/sso/client").await.status(), 400);
    // The host is named as it is, whatever the rest of the address says.
    let path = page_for_client(server, "test", "https://evil.example/?https://app.example#@app.example").await;
    let mut browser = Browser::new(server);
    let sent = setting.log_in(&mut browser, &path).await;
    assert!(browser.follow(&sent).await.text().contains("You will be sent to evil.example."));
}

#[tokio::test]
async fn log_ins_by_a_provider_are_limited_like_others() {
    let setting = setting_with(json!({}), |config| config.rate_limits.enabled = true).await;
    let mut browser = Browser::new(&setting.server);
    let mut statuses = Vec::new();
    for _ in 0..100 {
        statuses.push(browser.open("/_chappe/sso/begin/test").await.status());
    }
    assert_eq!((statuses[0], statuses[99]), (303, 429));
}
