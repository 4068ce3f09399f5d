//! Log-in by an identity provider: <https://spec.matrix.org/v1.19/client-server-api/#sso-client-loginauthentication>

mod accounts;
mod attacks;
mod provider;
mod stages;

use chappe::config::{Config, IdentityProvider};
use serde_json::{Value, json};

use self::provider::{CLIENT_ID, ISSUER, Provider, SECRET};
use crate::support::{
    Answer, TestNetwork, TestServer, User,
    browser::{Browser, Page},
    query,
};

const BASE: &str = "https://matrix.example.org";
const CLIENT: &str = "https://app.example/?a=b#/c";

struct Setting {
    server: TestServer,
    provider: Provider,
    network: TestNetwork,
}

/// The provider's entry in the configuration, with some keys changed.
fn entry(changes: Value) -> IdentityProvider {
    let mut entry = json!({
        "id": "test",
        "name": "Test & Co",
        "issuer": ISSUER,
        "client_id": CLIENT_ID,
        "client_secret": SECRET,
    });
    for (key, value) in changes.as_object().unwrap() {
        entry[key] = value.clone();
    }
    serde_json::from_value(entry).unwrap()
}

async fn setting(changes: Value) -> Setting {
    setting_with(changes, |_| ()).await
}

async fn setting_with(changes: Value, change: impl FnOnce(&mut Config)) -> Setting {
    let network = TestNetwork::new();
    let provider = Provider::new(&network);
    provider.says(json!({ "sub": "1", "preferred_username": "Alice", "name": "Alice A." }));
    let server = TestServer::in_network(network.clone(), "example.org", |config| {
        config.well_known.client = Some(BASE.to_owned());
        config.identity_providers = vec![entry(changes)];
        change(config);
    })
    .await;
    Setting { server, provider, network }
}

/// An address of ours, without the host.
#[track_caller]
fn local(url: &str) -> &str {
    url.strip_prefix(BASE).unwrap_or_else(|| panic!("{url} is not ours"))
}

/// `GET /login/sso/redirect`, with the provider's id or an empty text.
async fn redirect(server: &TestServer, id: &str, parameters: &[(&str, &str)]) -> Answer {
    let slash = if id.is_empty() { "" } else { "/" };
    server.get(&format!("/v3/login/sso/redirect{slash}{id}{}", query(parameters))).await
}

/// Where the browser is sent that a client opens.
async fn page_for_client(server: &TestServer, id: &str, client: &str) -> String {
    let answer = redirect(server, id, &[("redirectUrl", client)]).await;
    assert_eq!(answer.status, 302, "{}", answer.body);
    local(answer.headers["location"].to_str().unwrap()).to_owned()
}

impl Setting {
    /// Opens a page that leads to the provider by its button, or at once; where the provider sends the browser back to.
    async fn at_provider(&self, browser: &mut Browser, path: &str) -> String {
        let mut page = browser.open(path).await;
        while page.status() == 303 && page.location().starts_with('/') {
            page = browser.follow(&page).await;
        }
        if page.status() == 200 {
            let text = page.text();
            let (_, link) = text.split_once("href=\"/_chappe/sso/begin/").expect("the page has the provider's button");
            let link = link.split('"').next().unwrap().replace("&amp;", "&");
            page = browser.open(&format!("/_chappe/sso/begin/{link}")).await;
        }
        self.provider.logs_in(page.location())
    }

    /// The same, and back: the page after that, where the browser is sent.
    async fn log_in(&self, browser: &mut Browser, path: &str) -> Page {
        let back = self.at_provider(browser, path).await;
        browser.open(local(&back)).await
    }

    /// The whole way of a client of the older kind, to what `POST /login` says.
    async fn session(&self) -> Answer {
        let mut browser = Browser::new(&self.server);
        let path = page_for_client(&self.server, "test", CLIENT).await;
        let sent = self.log_in(&mut browser, &path).await;
        let page = browser.follow(&sent).await;
        let sent = browser.submit(&page, &[("decision", "allow")]).await;
        use_token(&self.server, &login_token(&sent)).await
    }

    async fn user(&self) -> User {
        User::new(self.server.clone(), &self.session().await.ok())
    }

    /// Nobody is let in: the status, and what the person is told.
    async fn refused(&self) -> (u16, String) {
        let mut browser = Browser::new(&self.server);
        let page = self.log_in(&mut browser, "/_chappe/account").await;
        assert!(page.status() >= 400, "{}", page.status());
        assert!(browser.open("/_chappe/account").await.location().starts_with("/_chappe/login?"), "he is logged in");
        (page.status(), page.text())
    }
}

/// The login token with which a browser is sent to a client.
#[track_caller]
fn login_token(sent: &Page) -> String {
    let url = url::Url::parse(sent.location()).unwrap();
    let token = url.query_pairs().find(|(name, _)| name == "loginToken").expect("there is a token");
    token.1.into_owned()
}

async fn use_token(server: &TestServer, token: &str) -> Answer {
    server.post("/v3/login", json!({ "type": "m.login.token", "token": token })).await
}

/// What is kept of identities has to be whole.
fn check(server: &TestServer) {
    let report = chappe::check::check(&server.inside().store, server.inside().name()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test]
async fn clients_learn_which_providers_there_are() {
    let icon = json!({ "icon": "mxc://example.org/abc", "brand": "test" });
    let Setting { server, .. } = setting(icon).await;
    let flows = server.get("/v3/login").await.ok()["flows"].clone();
    let types: Vec<_> = flows.as_array().unwrap().iter().map(|flow| flow["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["m.login.password", "m.login.token", "m.login.application_service", "m.login.sso"]);
    let described = json!([{ "id": "test", "name": "Test & Co", "icon": "mxc://example.org/abc", "brand": "test" }]);
    assert_eq!(flows[3]["identity_providers"], described);
    assert_eq!(flows[3]["oauth_aware_preferred"], true);

    let Setting { server, .. } = setting(json!({})).await;
    let flows = server.get("/v3/login").await.ok()["flows"].clone();
    assert_eq!(flows[3]["identity_providers"], json!([{ "id": "test", "name": "Test & Co" }]));
    let without = TestServer::new().await;
    assert_eq!(without.get("/v3/login").await.ok()["flows"].as_array().unwrap().len(), 3);
    assert_eq!(redirect(&without, "", &[("redirectUrl", CLIENT)]).await.error(), (404, "M_UNRECOGNIZED"));
    assert!(!without.get("/_matrix/static/client/login/").await.bytes.windows(9).any(|part| part == b"id=\"sso\">"));
}

#[tokio::test]
async fn a_client_of_the_older_way_gets_a_token_after_its_user_agreed() {
    let setting = setting(json!({})).await;
    let Setting { server, provider, .. } = &setting;
    let mut browser = Browser::new(server);
    let path = page_for_client(server, "test", CLIENT).await;
    let back = setting.at_provider(&mut browser, &path).await;
    assert_eq!(provider.asked("redirect_uri").unwrap(), provider::CALLBACK);
    assert_eq!(provider.asked("scope").unwrap(), "openid profile email");
    assert_eq!((provider.asked("prompt"), provider.asked("acr_values")), (None, None));
    let sent = browser.open(local(&back)).await;
    assert_eq!(sent.location(), path, "the browser goes on with what it came for");
    let page = browser.follow(&sent).await;
    let text = page.text();
    assert!(text.contains("app.example wants") && text.contains("@alice:example.org"), "{text}");
    assert!(
        text.contains("You will be sent to app.example.") && text.contains("if you have just begun this"),
        "{text}"
    );
    assert!(page.policy().contains("form-action 'self' https://app.example;"), "{}", page.policy());
    assert_eq!(browser.post(&path, &[("form_token", ""), ("decision", "allow")]).await.status(), 403);
    assert!(browser.submit(&page, &[("decision", "deny")]).await.text().contains("Nobody was let in"));

    let sent = browser.submit(&page, &[("decision", "allow")]).await;
    let token = url::Url::parse(sent.location()).unwrap();
    assert_eq!((token.host_str(), token.fragment()), (Some("app.example"), Some("/c")));
    let token = token.query().unwrap().strip_prefix("a=b&loginToken=").unwrap().to_owned();
    let alice = use_token(server, &token).await.ok();
    assert_eq!(alice["user_id"], "@alice:example.org");
    assert_eq!(use_token(server, &token).await.error(), (403, "M_FORBIDDEN"), "a token is good once");
    let alice = User::new(server.clone(), &alice);
    assert_eq!(alice.get("/v3/profile/@alice:example.org/displayname").await.ok()["displayname"], "Alice A.");

    let late = login_token(&browser.submit(&page, &[("decision", "allow")]).await);
    server.advance(std::time::Duration::from_secs(2 * 60));
    assert_eq!(use_token(server, &late).await.error(), (403, "M_FORBIDDEN"), "a token is good for two minutes");
    check(server);
}

#[tokio::test]
async fn whoever_comes_again_is_the_same_user() {
    let setting = setting(json!({})).await;
    let alice = setting.user().await;
    setting.provider.says(json!({ "sub": "1", "preferred_username": "married", "name": "Another Name" }));
    let again = setting.user().await;
    assert_eq!(again.id, alice.id);
    assert_ne!(again.device_id, alice.device_id);
    let name = alice.get("/v3/profile/@alice:example.org/displayname").await.ok();
    assert_eq!(name["displayname"], "Alice A.", "the name is the user's to change");
    setting.provider.says(json!({ "sub": "2", "preferred_username": "bob" }));
    assert_eq!(setting.user().await.id, "@bob:example.org");
    check(&setting.server);
}

#[tokio::test]
async fn the_page_of_the_client_knows_who_is_logged_in() {
    let setting = setting(json!({})).await;
    let server = &setting.server;
    server.user("carol").await;
    let mut browser = Browser::new(server);
    // Without a provider in the address, people choose, and may have a password.
    let path = page_for_client(server, "", "http://localhost:1234/").await;
    let page = browser.open_as(&path, "carol", "password of carol").await;
    assert!(page.text().contains("a program on this machine wants") && page.text().contains("@carol:example.org"));
    let again = browser.open(&page_for_client(server, "test", CLIENT).await).await;
    assert_eq!(again.status(), 200, "who is logged in is asked at once");
    let sent = browser.submit(&again, &[("decision", "another")]).await;
    assert!(sent.location().starts_with("/_chappe/login?next="));
    let login = browser.follow(&sent).await;
    assert!(login.text().contains("Log in with Test &amp; Co"), "{}", login.text());
    let way_on = "/_chappe/sso/begin/test?next=%2F_chappe%2Fsso%2Fclient%3FredirectUrl";
    assert!(login.text().contains(way_on), "{}", login.text());
}

#[tokio::test]
async fn an_app_that_knows_oauth_lets_in_who_comes_from_a_provider() {
    let setting = setting(json!({})).await;
    let server = &setting.server;
    let app = json!({
        "client_uri": "https://element.io",
        "redirect_uris": ["io.element.test:/callback"],
        "token_endpoint_auth_method": "none",
        "application_type": "native",
    });
    let client = server.post("/_chappe/oauth/clients", app).await.body["client_id"].as_str().unwrap().to_owned();
    let request = query(&[
        ("response_type", "code"),
        ("client_id", &client),
        ("redirect_uri", "io.element.test:/callback"),
        ("scope", "urn:matrix:client:api:* urn:matrix:client:device:PHONE"),
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("code_challenge_method", "S256"),
    ]);
    let mut browser = Browser::new(server);
    let sent = setting.log_in(&mut browser, &format!("/_chappe/oauth/authorize{request}")).await;
    assert!(sent.location().starts_with("/_chappe/oauth/authorize?"), "{}", sent.location());
    let page = browser.follow(&sent).await;
    assert!(page.text().contains("as @alice:example.org"), "{}", page.text());
    let sent = browser.submit(&page, &[("decision", "allow")]).await;
    let tokens = [
        ("grant_type", "authorization_code"),
        ("client_id", &client),
        ("code", &sent.sent_with("code").unwrap()),
        ("redirect_uri", "io.element.test:/callback"),
        ("code_verifier", "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
    ];
    let tokens = browser.post("/_chappe/oauth/token", &tokens).await.answer.ok();
    let who = server.request(http::Method::GET, "/v3/account/whoami", tokens["access_token"].as_str(), None).await;
    assert_eq!(who.ok()["user_id"], "@alice:example.org");
    // Who has no password has none to change.
    assert!(!browser.open("/_chappe/account").await.text().contains("chappe.password"));
    check(server);
}

#[tokio::test]
async fn a_client_may_ask_for_a_new_account() {
    let setting = setting(json!({})).await;
    let register = [("redirectUrl", CLIENT), ("action", "register")];
    let page = |answer: Answer| local(answer.headers["location"].to_str().unwrap()).to_owned();
    let path = page(redirect(&setting.server, "", &register).await);
    assert!(Browser::new(&setting.server).open(&path).await.location().starts_with("/_chappe/sign_up?next="));
    let path = page(redirect(&setting.server, "test", &register).await);
    setting.at_provider(&mut Browser::new(&setting.server), &path).await;
    assert_eq!(setting.provider.asked("prompt"), None, "the provider has no page for that");
    setting.provider.describes("prompt_values_supported", json!(["none", "create"]));
    setting.server.advance(std::time::Duration::from_secs(60 * 60)); // what is known of a provider is kept for an hour
    let unstable = [("redirectUrl", CLIENT), ("org.matrix.msc3824.action", "register")];
    let path = page(redirect(&setting.server, "test", &unstable).await);
    setting.at_provider(&mut Browser::new(&setting.server), &path).await;
    assert_eq!(setting.provider.asked("prompt").unwrap(), "create");
}

#[tokio::test]
async fn the_page_for_clients_that_know_no_way_to_log_in_leads_to_the_providers() {
    let setting = setting(json!({})).await;
    let page = setting.server.get("/_matrix/static/client/login/").await;
    let text = String::from_utf8(page.bytes).unwrap();
    assert!(text.contains("<a id=\"sso\">") && text.contains("loginToken"), "{text}");
}

#[tokio::test]
async fn what_the_configuration_says_is_asked_of_the_provider() {
    let changes = json!({
        "scopes": ["openid", "email", "usual_name"],
        "acr_values": ["eidas1", "eidas2"],
        "parameters": { "idp_hint": "a b" },
    });
    let setting = setting(changes).await;
    setting.provider.describes("token_endpoint_auth_methods_supported", json!(["client_secret_post"]));
    setting.provider.says(json!({ "sub": "1", "preferred_username": "alice", "acr": "eidas2" }));
    assert_eq!(setting.user().await.id, "@alice:example.org");
    let asked = ["scope", "acr_values", "idp_hint"].map(|name| setting.provider.asked(name).unwrap());
    assert_eq!(asked, ["openid email usual_name", "eidas1 eidas2", "a b"]);
    for acr in [json!({ "acr": "eidas3" }), json!({})] {
        let mut claims = acr;
        claims["sub"] = "1".into();
        setting.provider.says(claims);
        assert_eq!(setting.refused().await.0, 502);
    }
}
