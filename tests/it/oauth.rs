//! Log-in by OAuth 2.0: <https://spec.matrix.org/v1.19/client-server-api/#oauth-20-api>

mod account;
mod authorization;
mod clients;
mod device_grant;
mod tokens;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe::config::Config;
use http::{Method, Request, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{
    Answer, TestServer, User,
    browser::{Browser, Page},
    password_of, query,
};

const AUTHORIZE: &str = "/_chappe/oauth/authorize";
const TOKEN: &str = "/_chappe/oauth/token";
const CLIENTS: &str = "/_chappe/oauth/clients";
const DEVICE_GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";

const REDIRECT: &str = "io.element.test:/callback";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk-and-more";

async fn server() -> TestServer {
    with(|_| {}).await
}

async fn with(change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::with(|config| {
        config.well_known.client = Some("https://matrix.example.org".to_owned());
        change(config);
    })
    .await
}

/// What an app says of itself.
fn app() -> Value {
    json!({
        "client_name": "Element X",
        "client_uri": "https://element.io",
        "logo_uri": "https://element.io/logo.png",
        "tos_uri": "https://element.io/terms",
        "redirect_uris": [REDIRECT, "http://127.0.0.1/callback", "https://app.element.io/callback?x=y"],
        "response_types": ["code"],
        "grant_types": ["authorization_code", "refresh_token", DEVICE_GRANT],
        "token_endpoint_auth_method": "none",
        "application_type": "native",
    })
}

async fn register(server: &TestServer, metadata: Value) -> String {
    let answer = server.post(CLIENTS, metadata).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    answer.body["client_id"].as_str().unwrap().to_owned()
}

/// The address to which a client sends its user, with some parameters changed, or left out where they are empty.
fn request(client_id: &str, device: &str, changes: &[(&str, &str)]) -> String {
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER));
    let scope = format!("urn:matrix:client:api:* urn:matrix:client:device:{device}");
    let mut parameters = vec![
        ("response_type", "code"),
        ("client_id", client_id),
        ("redirect_uri", REDIRECT),
        ("scope", &scope),
        ("state", "a state & more"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    for (name, value) in changes {
        parameters.retain(|(other, _)| other != name);
        if !value.is_empty() {
            parameters.push((*name, *value));
        }
    }
    format!("{AUTHORIZE}{}", query(&parameters))
}

async fn form(server: &TestServer, path: &str, fields: &[(&str, &str)]) -> Answer {
    let request = Request::builder().method(Method::POST).uri(path);
    let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    server.send(request.body(query(fields)[1..].to_owned().into()).unwrap()).await
}

/// Status and error of an answer of OAuth.
#[track_caller]
fn error(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.body["error"].as_str().unwrap_or_else(|| panic!("no error: {}", answer.body)))
}

/// The page on which `name` is asked whether he lets the client in.
async fn asked(server: &TestServer, request: &str, name: &str) -> (Browser, Page) {
    let mut browser = Browser::new(server);
    let page = browser.open_as(request, name, &password_of(name)).await;
    (browser, page)
}

/// A code, after `name` has agreed.
async fn code(server: &TestServer, client_id: &str, device: &str, name: &str) -> String {
    let (mut browser, page) = asked(server, &request(client_id, device, &[]), name).await;
    let sent = browser.submit(&page, &[("decision", "allow")]).await;
    sent.sent_with("code").unwrap_or_else(|| panic!("no code: {}", sent.location()))
}

/// The use of a code, with some fields changed, or left out where they are empty.
async fn redeem(server: &TestServer, client_id: &str, code: &str, changes: &[(&str, &str)]) -> Answer {
    let mut fields = vec![
        ("grant_type", "authorization_code"),
        ("client_id", client_id),
        ("code", code),
        ("redirect_uri", REDIRECT),
        ("code_verifier", VERIFIER),
    ];
    for (name, value) in changes {
        fields.retain(|(other, _)| other != name);
        if !value.is_empty() {
            fields.push((*name, *value));
        }
    }
    form(server, TOKEN, &fields).await
}

async fn refresh(server: &TestServer, client_id: &str, token: &Value) -> Answer {
    let token = token.as_str().unwrap();
    form(server, TOKEN, &[("grant_type", "refresh_token"), ("client_id", client_id), ("refresh_token", token)]).await
}

/// A session by OAuth: the user on the device, and the answer with the tokens.
async fn log_in(server: &TestServer, client_id: &str, device: &str, name: &str) -> (User, Value) {
    let code = code(server, client_id, device, name).await;
    let tokens = redeem(server, client_id, &code, &[]).await.ok();
    (session(server, &tokens).await, tokens)
}

async fn session(server: &TestServer, tokens: &Value) -> User {
    let token = tokens["access_token"].as_str().unwrap();
    let who = server.request(Method::GET, "/v3/account/whoami", Some(token), None).await.ok();
    let mut user = who;
    user["access_token"] = token.into();
    User::new(server.clone(), &user)
}

/// What is kept of sessions and clients has to be whole.
fn check(server: &TestServer) {
    let report = chappe::check::check(&server.inside().store, server.inside().name()).unwrap();
    assert!(report.is_clean(), "{report:?}");
}
