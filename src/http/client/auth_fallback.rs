//! Pages on which a person goes through a stage of user-interactive authentication that his client does not know, or
//! logs in as a whole. They load nothing from anywhere; their scripts are allowed by their hash.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#fallback>

use std::{net::IpAddr, sync::Arc};

use axum::{
    Form, Router,
    extract::{Path, Query, Request, State},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{StatusCode, header};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use crate::{
    Server,
    error::{Error, Result},
    http::{mail::escaped, peer::client_ip},
    oauth::metadata::address,
    sso,
    user::uiaa::{self, OnPage},
};

const SSO: &str = "m.login.sso";

/// What tells the client that the stage is passed. Source: the specification.
const DONE: &str = r#"
if (window.onAuthDone) {
    window.onAuthDone();
} else if (window.opener && window.opener.postMessage) {
    window.opener.postMessage("authDone", "*");
}
"#;

/// Logs in, and hands what the server answers to the client, by a function that it puts into the page. Until v1.12 the
/// specification had it on `window` itself. An identity provider is found by the way of old clients, which leads back
/// here with a token.
const LOG_IN: &str = r##"
window.matrixLogin = window.matrixLogin || {};
const form = document.querySelector("form"), sso = document.querySelector("#sso"), problem = document.querySelector("#problem");
const asked = new URLSearchParams(location.search);
const logIn = async (body) => {
    for (const name of ["device_id", "initial_device_display_name"]) {
        if (asked.get(name)) body[name] = asked.get(name);
    }
    if (asked.get("refresh_token") === "true") body.refresh_token = true;
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch("/_matrix/client/v3/login", { method: "POST", headers, body: JSON.stringify(body) });
    const response = await answer.json();
    if (!answer.ok) {
        problem.textContent = response.error;
    } else if (window.matrixLogin.onLogin) {
        window.matrixLogin.onLogin(response);
    } else if (window.onLogin) {
        window.onLogin(response);
    } else {
        problem.textContent = "You are logged in, but there is no client to go on with.";
    }
};
form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = new FormData(form);
    const identifier = { type: "m.id.user", user: given.get("user") };
    logIn({ type: "m.login.password", identifier, password: given.get("password") });
});
if (sso) sso.href = "/_matrix/client/v3/login/sso/redirect?redirectUrl=" + encodeURIComponent(location.href);
if (asked.get("loginToken")) logIn({ type: "m.login.token", token: asked.get("loginToken") });
"##;

pub fn router() -> Router<Arc<Server>> {
    let stages = ["r0", "v3"].into_iter().fold(Router::new(), |all, version| {
        let path = format!("/_matrix/client/{version}/auth/{{stage}}/fallback/web");
        all.route(&path, get(stage).post(prove))
    });
    stages.route("/_matrix/static/client/login/", get(login))
}

#[derive(Deserialize)]
struct Session {
    session: String,
}

/// What a form sends.
#[derive(Deserialize)]
struct Given {
    session: String,
    #[serde(default)]
    secret: String,
}

/// `GET /auth/{stage}/fallback/web`
async fn stage(
    State(server): State<Arc<Server>>,
    Path(stage): Path<String>,
    Query(Session { session }): Query<Session>,
) -> Result<Response> {
    Ok(match uiaa::look_at(&server, &session, &stage)? {
        OnPage::Passed => done(),
        OnPage::Ended => ended(),
        OnPage::Open if stage == SSO => to_sso(&server, &session)?,
        OnPage::Open => form(&server, &stage, &session, "")?,
    })
}

/// Sends the browser to the page where whoever logs in approves what his client wants.
fn to_sso(server: &Server, session: &str) -> Result<Response> {
    let base = server.config.oauth_base().ok_or_else(|| Error::unrecognized("There is no page for that"))?;
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("session", session).finish();
    let location = format!("{}?{query}", address(&base, sso::paths::STAGE));
    Ok((StatusCode::FOUND, [(header::LOCATION, location)]).into_response())
}

/// `POST /auth/{stage}/fallback/web`, by the form.
async fn prove(
    State(server): State<Arc<Server>>,
    Path(stage): Path<String>,
    Address(address): Address,
    Form(Given { session, secret }): Form<Given>,
) -> Result<Response> {
    server.limits.registration(address)?;
    Ok(match uiaa::prove_on_page(&server, &session, &stage, secret).await? {
        OnPage::Passed => done(),
        OnPage::Ended => ended(),
        OnPage::Open => form(&server, &stage, &session, "<p>That was not right.</p>")?,
    })
}

/// Who sends the form.
struct Address(IpAddr);

impl axum::extract::FromRequestParts<Arc<Server>> for Address {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut http::request::Parts, server: &Arc<Server>) -> Result<Self> {
        Ok(Self(client_ip(parts, &server.config.trusted_proxies)))
    }
}

/// The form of a stage. `M_UNRECOGNIZED` if there is none.
fn form(server: &Server, stage: &str, session: &str, problem: &str) -> Result<Response> {
    let (title, fields) = match stage {
        "m.login.dummy" => ("Go on", String::new()),
        "m.login.registration_token" => (
            "Registration token",
            "<p><label>The token that you were given <input name=\"secret\" autocomplete=\"off\"></label></p>".to_owned(),
        ),
        "m.login.password" => (
            "Password",
            "<p><label>Your password <input name=\"secret\" type=\"password\" autocomplete=\"current-password\"></label></p>"
                .to_owned(),
        ),
        "m.login.terms" => ("Terms", terms(server)),
        _ => return Err(Error::unrecognized("There is no page for that")),
    };
    let body = format!(
        "{problem}<form method=\"post\">{fields}<input type=\"hidden\" name=\"session\" value=\"{}\">\
         <button>{}</button></form>",
        escaped(session),
        if stage == "m.login.terms" { "Accept" } else { "Go on" },
    );
    Ok(page(StatusCode::OK, title, &body, ""))
}

/// Links to all policies, in every language that they have.
fn terms(server: &Server) -> String {
    let link = |text: &crate::config::PolicyText| {
        let (url, name) = (escaped(&text.url), escaped(&text.name));
        format!("<li><a href=\"{url}\" target=\"_blank\" rel=\"noopener noreferrer\">{name}</a></li>")
    };
    let policies = server.config.registration_terms.values();
    let links: String = policies.flat_map(|policy| policy.languages.values().map(link)).collect();
    format!("<p>Read and accept:</p><ul>{links}</ul>")
}

fn done() -> Response {
    page(StatusCode::OK, "Done", "<p>You can close this page and go back to your client.</p>", DONE)
}

fn ended() -> Response {
    let body = "<p>This took too long, or was done already. Go back to your client and start again.</p>";
    page(StatusCode::BAD_REQUEST, "Ended", body, "")
}

/// `GET /_matrix/static/client/login/`
/// <https://spec.matrix.org/v1.19/client-server-api/#login-fallback>
async fn login(State(server): State<Arc<Server>>, _: Request) -> Response {
    let mut form = "<p id=\"problem\"></p><form>\
        <p><label>User name <input name=\"user\" autocomplete=\"username\"></label></p>\
        <p><label>Password <input name=\"password\" type=\"password\" autocomplete=\"current-password\"></label></p>\
        <button>Log in</button></form>"
        .to_owned();
    if !server.sso.providers.is_empty() {
        form.push_str("<p><a id=\"sso\">Other ways to log in</a></p>");
    }
    page(StatusCode::OK, "Log in", &form, LOG_IN)
}

/// `title`, `body` and `script` are ours, and what they hold of others is escaped.
fn page(status: StatusCode, title: &str, body: &str, script: &str) -> Response {
    let (tag, allowed) = match script {
        "" => (String::new(), "'none'".to_owned()),
        script => (
            format!("<script>{script}</script>"),
            format!("'sha256-{}'", STANDARD.encode(Sha256::digest(script.as_bytes()))),
        ),
    };
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"></head><body><h1>{title}</h1>{body}{tag}</body></html>\n"
    );
    let policy = format!(
        "default-src 'none'; script-src {allowed}; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; \
         base-uri 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()), // the address of the page has the session in it
        (header::X_FRAME_OPTIONS, "DENY".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (status, headers, html).into_response()
}
