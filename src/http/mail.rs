//! The page where the links of our letters lead. Opening it confirms nothing, since scanners of mail open links too: a
//! person presses a button.

use std::sync::Arc;

use axum::{
    Form, Router,
    extract::{Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use serde::Deserialize;

use crate::{
    Server,
    config::Language,
    mail::letter::{self, Ended},
    user::email::{CONFIRM_PATH, Confirmed},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().route(CONFIRM_PATH, get(ask).post(confirm))
}

/// What the link holds, and the form sends.
#[derive(Deserialize)]
struct Link {
    sid: String,
    client_secret: String,
    token: String,
    #[serde(default)]
    lang: String,
}

impl Link {
    fn language(&self) -> Language {
        if self.lang == "fr" { Language::French } else { Language::English }
    }

    fn ended(&self) -> Response {
        let Ended { title, text } = letter::ended(self.language());
        html(StatusCode::BAD_REQUEST, &self.lang, title, &format!("<p>{text}</p>"))
    }
}

async fn ask(State(server): State<Arc<Server>>, Query(link): Query<Link>) -> Response {
    let purpose = server.emails.purpose(server.clock.now_ms(), &link.sid, &link.client_secret);
    let Some(purpose) = purpose else { return link.ended() };
    let page = letter::page(link.language(), purpose);
    let field =
        |name: &str, value: &str| format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escaped(value));
    let fields = [
        field("sid", &link.sid),
        field("client_secret", &link.client_secret),
        field("token", &link.token),
        field("lang", &link.lang),
    ];
    let form = format!(
        "<p>{}</p><form method=\"post\" action=\"{CONFIRM_PATH}\">{}<button>{}</button></form>",
        page.ask,
        fields.concat(),
        page.button
    );
    html(StatusCode::OK, &link.lang, page.title, &form)
}

async fn confirm(State(server): State<Arc<Server>>, Form(link): Form<Link>) -> Response {
    match server.emails.confirm(server.clock.now_ms(), &link.sid, &link.client_secret, &link.token) {
        Confirmed::Yes(purpose, next_link) => {
            let page = letter::page(link.language(), purpose);
            let next = next_link.map(|next| format!("<p><a href=\"{}\">{}</a></p>", escaped(&next), page.go_on));
            let text = format!("<p>{}</p>{}", page.done, next.unwrap_or_default());
            html(StatusCode::OK, &link.lang, page.title, &text)
        }
        Confirmed::WrongToken | Confirmed::Ended => link.ended(),
    }
}

fn html(status: StatusCode, language: &str, title: &str, body: &str) -> Response {
    let language = if language == "fr" { "fr" } else { "en" };
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"{language}\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"></head><body><h1>{title}</h1>{body}</body></html>\n"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"), // the address of the page is a secret
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; form-action 'self'; frame-ancestors 'none'"),
    ];
    (status, headers, html).into_response()
}

pub(super) fn escaped(text: &str) -> String {
    let escape = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\'' => "&#39;".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}
