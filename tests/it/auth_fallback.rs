//! Pages for stages of authentication that a client does not know, and for log-in:
//! <https://spec.matrix.org/v1.19/client-server-api/#fallback>

use std::collections::BTreeMap;

use chappe::config::{Policy, PolicyText, Secret};
use http::{Method, Request, header};
use serde_json::{Value, json};

use crate::support::{Answer, TestServer, User, auth_of, password_of};

fn page(stage: &str, session: &str) -> String {
    format!("/_matrix/client/v3/auth/{stage}/fallback/web?session={session}")
}

async fn post(server: &TestServer, stage: &str, form: &str) -> Answer {
    let uri = format!("/_matrix/client/v3/auth/{stage}/fallback/web");
    let request = Request::builder().method(Method::POST).uri(uri);
    let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    server.send(request.body(form.to_owned().into()).unwrap()).await
}

fn text(answer: &Answer) -> String {
    let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src ") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
    String::from_utf8(answer.bytes.clone()).unwrap()
}

fn is_done(answer: &Answer) -> bool {
    let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    text(answer).contains("window.onAuthDone()") && policy.contains("script-src 'sha256-")
}

/// A server where one needs a token and has to accept terms, one of which tries to be markup.
async fn strict() -> TestServer {
    TestServer::with(|config| {
        config.registration_token = Some(Secret::new("open sesame"));
        let name = "<script>alert(1)</script>".to_owned();
        let languages = BTreeMap::from([("en".to_owned(), PolicyText { name, url: "https://a/\"><b".to_owned() })]);
        config.registration_terms.insert("privacy".to_owned(), Policy { version: "1".to_owned(), languages });
    })
    .await
}

#[tokio::test]
async fn a_registration_goes_through_its_stages_on_pages() {
    let server = strict().await;
    let wish = json!({ "username": "alice", "password": password_of("alice") });
    let session = server.post("/v3/register", wish.clone()).await.body["session"].as_str().unwrap().to_owned();
    let token = server.get(&page("m.login.registration_token", &session)).await;
    assert!(text(&token).contains("<form method=\"post\">") && !is_done(&token));
    let early = post(&server, "m.login.terms", &format!("session={session}")).await;
    assert!(!is_done(&early), "the token comes first");
    let wrong = post(&server, "m.login.registration_token", &format!("session={session}&secret=wrong")).await;
    assert!(!is_done(&wrong));
    let right = post(&server, "m.login.registration_token", &format!("session={session}&secret=open+sesame")).await;
    assert!(is_done(&right));
    assert!(is_done(&server.get(&page("m.login.registration_token", &session)).await), "it stays passed");
    let terms = text(&server.get(&page("m.login.terms", &session)).await);
    assert!(
        !terms.contains("<script>") && terms.contains("&lt;script&gt;") && terms.contains("&quot;&gt;&lt;b"),
        "{terms}"
    );
    assert!(is_done(&post(&server, "m.login.terms", &format!("session={session}")).await));
    let mut whole = wish;
    whole["auth"] = json!({ "session": session });
    let alice = User::new(server.clone(), &server.post("/v3/register", whole).await.ok());
    alice.get("/v3/account/whoami").await.ok();
    let ended = post(&server, "m.login.terms", &format!("session={session}")).await;
    assert_eq!((ended.status.as_u16(), is_done(&ended)), (400, false));
}

#[tokio::test]
async fn a_user_proves_his_password_on_a_page() {
    let server = TestServer::new().await;
    let alice = server.user("alice").await;
    let change = json!({ "new_password": "another password" });
    let asked = alice.post("/v3/account/password", change.clone()).await;
    let session = asked.body["session"].as_str().unwrap();
    assert!(!is_done(&post(&server, "m.login.password", &format!("session={session}&secret=wrong")).await));
    assert!(!is_done(&post(&server, "m.login.dummy", &format!("session={session}")).await));
    let secret = password_of("alice").replace(' ', "+");
    assert!(is_done(&post(&server, "m.login.password", &format!("session={session}&secret={secret}")).await));
    let with_session = |auth: Value| json!({ "new_password": "another password", "auth": auth });
    alice.post("/v3/account/password", with_session(json!({ "session": session }))).await.ok();
    let old = alice.post("/v3/account/password", with_session(auth_of("alice"))).await;
    assert_eq!(old.error(), (401, "M_FORBIDDEN"), "the password is another one now");
}

#[tokio::test]
async fn there_are_no_pages_for_what_is_not_there() {
    let server = TestServer::new().await;
    let unknown = server.get(&page("m.login.dummy", "%3Cb%3E")).await;
    assert_eq!(unknown.status, 400);
    assert!(!text(&unknown).contains("<b>"));
    assert_eq!(server.get(&page("m.login.recaptcha", "x")).await.error(), (404, "M_UNRECOGNIZED"));
    let login = server.get("/_matrix/static/client/login/").await;
    assert_eq!(login.status, 200);
    let script = text(&login);
    for part in [
        "window.matrixLogin = window.matrixLogin || {};",
        "window.matrixLogin.onLogin(response)",
        "window.onLogin(response)",
        "body.refresh_token = true",
    ] {
        assert!(script.contains(part), "{part}");
    }
}
