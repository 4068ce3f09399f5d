//! E-mail addresses: <https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information>

use std::time::Duration;

use axum::body::Body;
use chappe::{
    background,
    config::{Config, Encryption, Language, Mail},
};
use futures_util::FutureExt;
use http::{Method, Request, header};
use serde_json::{Value, json};

use crate::support::{Answer, TestServer, User, auth_of, smtp::Smtp};

struct Office {
    server: TestServer,
    smtp: Smtp,
}

impl Office {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Mail)) -> Self {
        Self::configured(|config| change(config.mail.as_mut().unwrap())).await
    }

    async fn configured(change: impl FnOnce(&mut Config)) -> Self {
        let smtp = Smtp::new().await;
        let mail = Mail {
            smtp_host: smtp.address.ip().to_string(),
            smtp_port: Some(smtp.address.port()),
            encryption: Encryption::None,
            username: None,
            password: None,
            password_file: None,
            from: "Chappe <chappe@example.org>".to_owned(),
            public_url: "https://matrix.example.org/".to_owned(),
            language: Language::English,
            required_to_register: false,
            notification_delay: Duration::ZERO,
        };
        let server = TestServer::with(|config| {
            config.mail = Some(mail);
            change(config);
        })
        .await;
        Self { server, smtp }
    }

    async fn request(&self, purpose: &str, email: &str, secret: &str, attempt: u64) -> Answer {
        let body = json!({ "email": email, "client_secret": secret, "send_attempt": attempt });
        self.server.post(&format!("/v3/{purpose}/email/requestToken"), body).await
    }

    /// Does what the link of the next letter is for.
    async fn follow_link(&self) -> String {
        let letter = self.smtp.next().await;
        let link = letter.link();
        let local = link.strip_prefix("https://matrix.example.org").expect("the link leads to the public address");
        let page = self.server.get(local).await;
        assert_eq!(page.status, 200);
        assert!(String::from_utf8_lossy(&page.bytes).contains("<button>"));
        let form = local.split_once('?').unwrap().1;
        let page = self.confirm(form).await;
        assert_eq!(page.status, 200);
        form.to_owned()
    }

    async fn confirm(&self, form: &str) -> Answer {
        let request = Request::post("/_chappe/mail/confirm");
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.server.send(request.body(Body::from(form.to_owned())).unwrap()).await
    }

    /// A user with a confirmed address.
    async fn user_with(&self, name: &str, email: &str) -> User {
        let user = self.server.user(name).await;
        let sid = self.request("account/3pid", email, "secret", 1).await.ok()["sid"].clone();
        self.follow_link().await;
        let body = json!({ "sid": sid, "client_secret": "secret", "auth": auth_of(name) });
        user.post("/v3/account/3pid/add", body).await.ok();
        user
    }
}

fn addresses(answer: &Value) -> Vec<&str> {
    answer["threepids"].as_array().unwrap().iter().map(|id| id["address"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_address_is_added_used_and_removed() {
    let office = Office::new().await;
    let alice = office.user_with("alice", "Alice@Example.org").await;
    let listed = alice.get("/v3/account/3pid").await.ok();
    assert_eq!(addresses(&listed), ["alice@example.org"]);
    assert_eq!(listed["threepids"][0]["medium"], "email");
    assert_eq!(listed["threepids"][0]["validated_at"], 1_767_225_600_000_u64);
    for identifier in [
        json!({ "type": "m.id.thirdparty", "medium": "email", "address": "ALICE@example.org" }),
        json!({ "type": "m.id.user", "user": "alice" }),
    ] {
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": "password of alice" });
        assert_eq!(office.server.post("/v3/login", body).await.ok()["user_id"], alice.id);
    }
    let remove = json!({ "medium": "email", "address": "alice@EXAMPLE.org" });
    let bob = office.server.user("bob").await;
    bob.post("/v3/account/3pid/delete", remove.clone()).await.ok();
    assert_eq!(addresses(&alice.get("/v3/account/3pid").await.ok()).len(), 1, "it is not bob's");
    let removed = alice.post("/v3/account/3pid/delete", remove).await.ok();
    assert_eq!(removed, json!({ "id_server_unbind_result": "no-support" }));
    assert!(addresses(&alice.get("/v3/account/3pid").await.ok()).is_empty());
    let identifier = json!({ "type": "m.id.thirdparty", "medium": "email", "address": "alice@example.org" });
    let body = json!({ "type": "m.login.password", "identifier": identifier, "password": "password of alice" });
    assert_eq!(office.server.post("/v3/login", body).await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn a_proof_is_bound_to_what_it_was_begun_for() {
    let office = Office::new().await;
    let alice = office.server.user("alice").await;
    let sid = office.request("account/3pid", "alice@example.org", "secret", 1).await.ok()["sid"].clone();
    let add = async |user: &User, name: &str, sid: &Value, secret: &str| {
        let body = json!({ "sid": sid, "client_secret": secret, "auth": auth_of(name) });
        user.post("/v3/account/3pid/add", body).await
    };
    assert_eq!(add(&alice, "alice", &sid, "secret").await.error(), (403, "M_THREEPID_AUTH_FAILED"), "not confirmed");
    office.follow_link().await;
    assert_eq!(add(&alice, "alice", &sid, "other").await.error(), (403, "M_THREEPID_AUTH_FAILED"));
    add(&alice, "alice", &sid, "secret").await.ok();
    assert_eq!(add(&alice, "alice", &sid, "secret").await.error(), (403, "M_THREEPID_AUTH_FAILED"), "good once");
    // One for a password does not add an address, and the other way round.
    let sid = office.request("account/password", "alice@example.org", "secret", 1).await.ok()["sid"].clone();
    office.follow_link().await;
    let bob = office.server.user("bob").await;
    assert_eq!(add(&bob, "bob", &sid, "secret").await.error(), (403, "M_THREEPID_AUTH_FAILED"));
    let sid = office.request("account/3pid", "new@example.org", "secret", 1).await.ok()["sid"].clone();
    office.follow_link().await;
    let reset = reset(&office, &sid, "secret").await;
    assert_eq!((reset.status, reset.errcode()), (http::StatusCode::UNAUTHORIZED, "M_FORBIDDEN"));
    office.server.advance(Duration::from_secs(3601));
    assert_eq!(add(&bob, "bob", &sid, "secret").await.error(), (403, "M_THREEPID_AUTH_FAILED"), "it has ended");
}

/// Resets the password of whoever has the address of a proof.
async fn reset(office: &Office, sid: &Value, secret: &str) -> Answer {
    let begun = office.server.post("/v3/account/password", json!({ "new_password": "new one" })).await;
    assert_eq!(begun.body["flows"], json!([{ "stages": ["m.login.email.identity"] }]));
    let credentials = json!({ "sid": sid, "client_secret": secret });
    let auth = json!({
        "type": "m.login.email.identity", "session": begun.body["session"], "threepid_creds": credentials,
    });
    office.server.post("/v3/account/password", json!({ "new_password": "new one", "auth": auth })).await
}

#[tokio::test]
async fn a_forgotten_password_is_reset() {
    let office = Office::new().await;
    let alice = office.user_with("alice", "alice@example.org").await;
    let sid = office.request("account/password", "alice@example.org", "s", 1).await.ok()["sid"].clone();
    assert_eq!(reset(&office, &sid, "s").await.status, 401, "not confirmed yet");
    let form = office.follow_link().await;
    reset(&office, &sid, "s").await.ok();
    assert_eq!(alice.get("/v3/account/whoami").await.error(), (401, "M_UNKNOWN_TOKEN"), "all devices are logged out");
    let log_in = async |password: &str| {
        let identifier = json!({ "type": "m.id.user", "user": "alice" });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": password });
        office.server.post("/v3/login", body).await
    };
    log_in("new one").await.ok();
    assert_eq!(log_in("password of alice").await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(office.confirm(&form).await.status, 400, "the link is good for one reset");
    assert_eq!(reset(&office, &sid, "s").await.status, 401);
}

#[tokio::test]
async fn a_password_is_reset_though_the_client_hangs_up_after_it_has_used_its_proof() {
    let office = Office::new().await;
    let alice = office.user_with("alice", "alice@example.org").await;
    let sid = office.request("account/password", "alice@example.org", "s", 1).await.ok()["sid"].clone();
    let form = office.follow_link().await;
    let mut places = Vec::new();
    while let Some(place) = office.server.inside().passwords.place().now_or_never() {
        places.push(place);
    }
    let used = async {
        while office.confirm(&form).await.status != 400 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        _ = reset(&office, &sid, "s") => panic!("no password can be hashed"),
        () = used => {} // as when the client hangs up
    }
    drop(places);
    for _ in 0..1_000 {
        if alice.get("/v3/account/whoami").await.status == 401 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the proof is used up for nothing");
}

#[tokio::test]
async fn answers_do_not_tell_who_has_an_account() {
    let office = Office::new().await;
    office.user_with("alice", "alice@example.org").await;
    for purpose in ["register", "account/password", "account/3pid"] {
        let known = office.request(purpose, "alice@example.org", "x", 1).await.ok();
        let unknown = office.request(purpose, "nobody@example.org", "x", 1).await.ok();
        let sid = |answer: &Value| answer["sid"].as_str().unwrap().len();
        assert_eq!((sid(&known), known.as_object().unwrap().len()), (sid(&unknown), 1), "{purpose}");
    }
    // Whoever reads the mail is told: of the two others, alice's has no link, and nobody is written to about a reset.
    let mut letters = Vec::new();
    for _ in 0..5 {
        letters.push(office.smtp.next().await);
    }
    assert!(office.smtp.is_quiet().await);
    let of = |to: &str| letters.iter().filter(|letter| letter.to == to).collect::<Vec<_>>();
    assert_eq!(of("alice@example.org").iter().filter(|letter| letter.text.contains("http")).count(), 1);
    assert_eq!(of("alice@example.org").len(), 3);
    assert_eq!(of("nobody@example.org").len(), 2);
}

#[tokio::test]
async fn wrong_passwords_do_not_tell_which_addresses_have_accounts() {
    let office = Office::configured(|config| config.rate_limits.enabled = true).await;
    office.user_with("alice", "alice@example.org").await;
    let guess = async |address: &str| {
        let identifier = json!({ "type": "m.id.thirdparty", "medium": "email", "address": address });
        let body = json!({ "type": "m.login.password", "identifier": identifier, "password": "guess" });
        office.server.post("/v3/login", body).await
    };
    for address in ["alice@example.org", "nobody@example.org"] {
        for _ in 0..10 {
            assert_eq!(guess(address).await.error(), (403, "M_FORBIDDEN"), "{address}");
        }
        assert_eq!(guess(&address.to_uppercase()).await.error(), (429, "M_LIMIT_EXCEEDED"), "{address}");
    }
    let body = json!({ "type": "m.login.password", "user": "alice", "password": "guess" });
    let by_name = office.server.post("/v3/login", body).await;
    assert_eq!(by_name.error(), (403, "M_FORBIDDEN"), "whose the address is, her limit does not tell either");
    assert_eq!(guess("somebody@example.org").await.error(), (403, "M_FORBIDDEN"));
    assert_eq!(guess("no address").await.error(), (403, "M_FORBIDDEN"));
}

#[tokio::test]
async fn a_letter_that_the_limit_held_back_is_sent_to_whoever_asks_again() {
    let office = Office::configured(|config| config.rate_limits.enabled = true).await;
    for secret in ["1", "2", "3", "4", "5"] {
        office.request("account/3pid", "a@example.org", secret, 1).await.ok();
        office.smtp.next().await;
    }
    let limited = office.request("account/3pid", "a@example.org", "6", 1).await;
    assert_eq!(limited.error(), (429, "M_LIMIT_EXCEEDED"));
    office.server.advance(Duration::from_secs(10 * 60));
    office.request("account/3pid", "a@example.org", "6", 1).await.ok();
    office.smtp.next().await;
    office.request("account/3pid", "a@example.org", "6", 1).await.ok();
    assert!(office.smtp.is_quiet().await);
}

#[tokio::test]
async fn resets_from_one_address_are_limited() {
    let office = Office::configured(|config| config.rate_limits.enabled = true).await;
    let body = json!({ "new_password": "new one" });
    for _ in 0..20 {
        assert_eq!(office.server.post("/v3/account/password", body.clone()).await.status, 401);
    }
    assert_eq!(office.server.post("/v3/account/password", body).await.error(), (429, "M_LIMIT_EXCEEDED"));
}

#[tokio::test]
async fn who_waits_for_his_letter_may_ask_as_often_as_he_likes() {
    let office = Office::configured(|config| {
        config.rate_limits.enabled = true;
        config.mail.as_mut().unwrap().required_to_register = true;
    })
    .await;
    for (path, purpose, body) in [
        ("/v3/register", "register", json!({ "username": "alice", "password": "secret" })),
        ("/v3/account/password", "account/password", json!({ "new_password": "new one" })),
    ] {
        let session = office.server.post(path, body.clone()).await.body["session"].clone();
        let sid = office.request(purpose, "alice@example.org", "s", 1).await.ok()["sid"].clone();
        let ask = async |changes: Value, auth: Value| {
            let mut body = body.clone();
            body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            body["auth"] = auth;
            body["auth"]["session"] = session.clone();
            office.server.post(path, body).await
        };
        let creds = json!({ "sid": sid, "client_secret": "s" });
        let proof = json!({ "type": "m.login.email.identity", "threepid_creds": creds });
        for auth in [&proof, &json!({})] {
            for _ in 0..30 {
                assert_eq!(ask(json!({}), auth.clone()).await.status, 401, "{path}");
            }
        }
        let counts = async |changes: Value, auth: &Value| {
            for _ in 0..20 {
                ask(changes.clone(), auth.clone()).await;
            }
            let last = ask(changes, auth.clone()).await;
            assert_eq!(last.error(), (429, "M_LIMIT_EXCEEDED"), "{path} {auth}");
            office.server.advance(Duration::from_secs(200));
        };
        // Another name or password might be tried by it, and tokens be guessed.
        counts(json!({ "username": "bob", "new_password": "another" }), &json!({})).await;
        counts(json!({}), &json!({ "type": "m.login.registration_token", "token": "x" })).await;
        office.follow_link().await;
        ask(json!({}), proof.clone()).await.ok();
        counts(json!({}), &proof).await; // its session has ended
    }
}

#[tokio::test]
async fn a_letter_is_sent_once_for_each_attempt() {
    let office = Office::new().await;
    let request =
        async |attempt: u64| office.request("account/3pid", "a@example.org", "s", attempt).await.ok()["sid"].clone();
    let sid = request(1).await;
    let first = office.smtp.next().await;
    assert_eq!(first.from, "chappe@example.org");
    assert!(first.headers.contains("Auto-Submitted: auto-generated"), "{}", first.headers);
    assert_eq!(request(1).await, sid);
    assert_eq!(request(2).await, sid);
    assert_eq!(office.smtp.next().await.link(), first.link());
    assert_eq!(request(1).await, sid);
    for attempt in 3..=20 {
        request(attempt).await;
    }
    for _ in 0..3 {
        office.smtp.next().await;
    }
    assert!(office.smtp.is_quiet().await, "five for one proof");
}

#[tokio::test]
async fn letters_speak_the_language_of_the_client() {
    let office = Office::with(|mail| mail.language = Language::French).await;
    let request = async |language: Option<&str>, secret: &str| {
        let body = json!({ "email": "a@example.org", "client_secret": secret, "send_attempt": 1 });
        let mut request = Request::post("/_matrix/client/v3/account/3pid/email/requestToken");
        if let Some(language) = language {
            request = request.header(header::ACCEPT_LANGUAGE, language);
        }
        office.server.send(request.body(Body::from(body.to_string())).unwrap()).await.ok();
        office.smtp.next().await.text
    };
    assert!(request(None, "a").await.starts_with("Bonjour"));
    assert!(request(Some("en-GB,en;q=0.9"), "b").await.starts_with("Hello"));
    assert!(request(Some("de"), "c").await.contains("compte"));
}

#[tokio::test]
async fn links_confirm_nothing_when_they_are_wrong_or_only_looked_at() {
    let office = Office::new().await;
    let alice = office.server.user("alice").await;
    let sid = office.request("account/3pid", "a@example.org", "s", 1).await.ok()["sid"].clone();
    let letter = office.smtp.next().await;
    let form = letter.link().split_once('?').unwrap().1;
    office.server.get(&format!("/_chappe/mail/confirm?{form}")).await;
    let add = async || {
        let body = json!({ "sid": sid, "client_secret": "s", "auth": auth_of("alice") });
        alice.post("/v3/account/3pid/add", body).await
    };
    assert_eq!(add().await.error(), (403, "M_THREEPID_AUTH_FAILED"), "a scanner of mail opened the link");
    for _ in 0..10 {
        let wrong = form.replace("token=", "token=x");
        assert_eq!(office.confirm(&wrong).await.status, 400);
    }
    assert_eq!(office.confirm(form).await.status, 400, "after ten wrong ones it has ended");
    let evil = "sid=%22%3E%3Cscript%3E&client_secret=x&token=y";
    let page = office.server.get(&format!("/_chappe/mail/confirm?{evil}")).await;
    assert!(!String::from_utf8_lossy(&page.bytes).contains("<script>"));
    assert!(page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().contains("default-src 'none'"));
}

#[tokio::test]
async fn the_page_of_a_link_says_what_is_asked() {
    let office = Office::new().await;
    office.user_with("alice", "alice@example.org").await;
    let page = async |link: &str| {
        let answer = office.server.get(link.strip_prefix("https://matrix.example.org").unwrap()).await;
        (answer.status.as_u16(), String::from_utf8(answer.bytes).unwrap())
    };
    for (purpose, email, part, in_french) in [
        ("register", "new@example.org", "making an account with this e-mail address", "compte est en cours"),
        ("account/password", "alice@example.org", "<button>Allow a new password</button>", "Autoriser un nouveau"),
        ("account/3pid", "other@example.org", "add this e-mail address to an account", "ajout de cette adresse"),
    ] {
        office.request(purpose, email, "s", 1).await.ok();
        let letter = office.smtp.next().await;
        let (status, text) = page(letter.link()).await;
        assert!(status == 200 && text.contains(part), "{purpose}: {text}");
        let (_, text) = page(&letter.link().replace("lang=en", "lang=fr")).await;
        assert!(text.contains(in_french), "{purpose}: {text}");
        let (status, text) = page(&letter.link().replace("client_secret=s", "client_secret=x")).await;
        assert!(status == 400 && text.contains("This link has ended"), "{purpose}: {text}");
    }
}

#[tokio::test]
async fn registration_can_ask_for_an_address() {
    let office = Office::with(|mail| mail.required_to_register = true).await;
    let body = json!({ "username": "alice", "password": "secret" });
    let begun = office.server.post("/v3/register", body.clone()).await;
    assert_eq!(begun.body["flows"], json!([{ "stages": ["m.login.email.identity"] }]));
    let sid = office.request("register", "alice@example.org", "s", 1).await.ok()["sid"].clone();
    let register = async |body: &Value, session: &Value| {
        let mut body = body.clone();
        body["auth"] = json!({
            "type": "m.login.email.identity", "session": session,
            "threepid_creds": { "sid": sid, "client_secret": "s" },
        });
        office.server.post("/v3/register", body).await
    };
    assert_eq!(register(&body, &begun.body["session"]).await.status, 401);
    office.follow_link().await;
    let alice = User::new(office.server.clone(), &register(&body, &begun.body["session"]).await.ok());
    assert_eq!(addresses(&alice.get("/v3/account/3pid").await.ok()), ["alice@example.org"]);
    let other = json!({ "username": "mallory", "password": "secret" });
    let begun = office.server.post("/v3/register", other.clone()).await;
    assert_eq!(register(&other, &begun.body["session"]).await.status, 401, "the proof was used");
}

#[tokio::test]
async fn what_is_not_there_is_said_plainly() {
    let server = TestServer::new().await; // it sends no mail
    let alice = server.user("alice").await;
    let body = json!({ "email": "a@example.org", "client_secret": "s", "send_attempt": 1 });
    for purpose in ["register", "account/password", "account/3pid"] {
        let answer = server.post(&format!("/v3/{purpose}/email/requestToken"), body.clone()).await;
        assert_eq!(answer.error(), (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"), "{purpose}");
        let telephone = json!({ "country": "FR", "phone_number": "1", "client_secret": "s", "send_attempt": 1 });
        let answer = server.post(&format!("/v3/{purpose}/msisdn/requestToken"), telephone).await;
        assert_eq!(answer.error(), (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"), "{purpose}");
    }
    let capability = |answer: Value| answer["capabilities"]["m.3pid_changes"]["enabled"].clone();
    assert_eq!(capability(alice.get("/v3/capabilities").await.ok()), false);
    let unbound = alice.post("/v3/account/3pid/unbind", json!({ "medium": "email", "address": "a@x.org" })).await;
    assert_eq!(unbound.ok(), json!({ "id_server_unbind_result": "no-support" }));
    let office = Office::new().await;
    assert_eq!(capability(office.server.user("alice").await.get("/v3/capabilities").await.ok()), true);
    assert_eq!(office.request("register", "nonsense", "s", 1).await.error(), (400, "M_INVALID_PARAM"));
    let trusting = json!({ "email": "a@example.org", "client_secret": "s", "send_attempt": 1,
        "id_server": "id.example", "id_access_token": "x" });
    let answer = office.server.post("/v3/register/email/requestToken", trusting).await.ok();
    assert!(answer["sid"].is_string(), "we send the mail ourselves, whomever the client trusts: {answer}");
    let link =
        json!({ "email": "a@example.org", "client_secret": "s", "send_attempt": 1, "next_link": "javascript:x" });
    assert_eq!(office.server.post("/v3/register/email/requestToken", link).await.error(), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn unread_messages_are_told_by_letter() {
    let office = Office::new().await;
    background::start(office.server.inside());
    let alice = office.server.user("alice").await;
    let bob = office.user_with("bob", "bob@example.org").await;
    let pusher = |address: &str| {
        json!({
            "kind": "email", "app_id": "m.email", "pushkey": address, "app_display_name": "E-mail",
            "device_display_name": address, "lang": "fr", "data": {},
        })
    };
    let refused = bob.post("/v3/pushers/set", pusher("alice@example.org")).await;
    assert_eq!(refused.error(), (400, "M_INVALID_PARAM"), "not his address");
    bob.post("/v3/pushers/set", pusher("bob@example.org")).await.ok();
    let room = alice.create_room(json!({ "preset": "public_chat", "name": "Bureau" })).await;
    bob.join(&room).await;
    alice.say(&room, "où es-tu ?").await;
    let letter = office.smtp.next().await;
    assert_eq!(letter.to, "bob@example.org");
    assert!(letter.text.starts_with("Bonjour"), "{}", letter.text);
    assert!(letter.text.contains("Bureau") && letter.text.contains("où es-tu ?"), "{}", letter.text);
    let remove = json!({ "medium": "email", "address": "bob@example.org" });
    bob.post("/v3/account/3pid/delete", remove).await.ok();
    assert_eq!(bob.get("/v3/pushers").await.ok()["pushers"], json!([]), "it goes with the address");
    let request = office.server.request(Method::GET, "/v3/pushers", Some(&alice.token), None).await;
    assert_eq!(request.ok()["pushers"], json!([]));
}
