//! What all pages look like, and what their browser may do with them.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{StatusCode, header};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::{visitor::Visitor, words::Words};
use crate::{Server, error::Error};

const STYLE: &str = "
:root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5; }
body { max-width: 26rem; margin: 3rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; }
label, button, a.button { display: block; width: 100%; box-sizing: border-box; margin: 1rem 0; }
label.check, ul label { display: flex; gap: .5rem; align-items: baseline; }
label.check input { width: auto; }
input { font: inherit; display: block; width: 100%; box-sizing: border-box; padding: .5rem; margin-top: .25rem; }
button, a.button { font: inherit; padding: .6rem; border: 1px solid; border-radius: .4rem; cursor: pointer;
  background: none; color: inherit; text-align: center; text-decoration: none; }
button.main { background: #000091; color: #fff; border-color: #000091; }
button.danger { background: #b00020; color: #fff; border-color: #b00020; }
.problem { border-left: .3rem solid #b00020; padding-left: .7rem; }
.note { font-size: .9rem; }
.code { font-family: monospace; font-size: 1.5rem; text-align: center; }
dd { margin: 0 0 .7rem 0; overflow-wrap: anywhere; }
dt { font-size: .9rem; }
";

/// By its hash the style of our pages is allowed, and no other.
static STYLE_SOURCE: LazyLock<String> =
    LazyLock::new(|| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(STYLE.as_bytes()))));

/// A page to be shown.
pub struct Page {
    pub title: String,
    pub status: StatusCode,
    /// Where a form of the page may lead to besides this server, as a source of a `Content-Security-Policy`: browsers
    /// apply it to where an answer to the form sends them, too.
    pub leads_to: Option<String>,
    pub content: Markup,
}

impl Page {
    pub fn new(title: impl Into<String>, content: Markup) -> Self {
        Self { title: title.into(), status: StatusCode::OK, leads_to: None, content }
    }

    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Nothing but a text.
    pub fn of_text(title: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        Self::new(title, html! { p { (text) } })
    }

    pub fn show(self, words: &Words) -> Response {
        let page = html! {
            (DOCTYPE)
            html lang=(words.language) {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width";
                    meta name="robots" content="noindex";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body { main { h1 { (self.title) } (self.content) } }
            }
        };
        let leads_to = self.leads_to.map(|source| format!(" {source}")).unwrap_or_default();
        let policy = format!(
            "default-src 'none'; style-src {}; form-action 'self'{leads_to}; frame-ancestors 'none'; base-uri 'none'",
            *STYLE_SOURCE
        );
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
            (header::CACHE_CONTROL, "no-store".to_owned()),
            (header::REFERRER_POLICY, "no-referrer".to_owned()), // addresses of pages have requests of clients in them
            (header::X_FRAME_OPTIONS, "DENY".to_owned()),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            (header::CONTENT_SECURITY_POLICY, policy),
        ];
        (self.status, headers, page.into_string()).into_response()
    }
}

/// A form that this server will take for its own; it is sent to the page that it is on.
pub fn form(server: &Server, visitor: &Visitor, fields: Markup) -> Markup {
    html! {
        form method="post" action=(visitor.here) {
            input type="hidden" name="form_token" value=(visitor.form_token(server));
            (fields)
        }
    }
}

pub fn problem(text: Option<&str>) -> Markup {
    html! { @if let Some(text) = text { p.problem role="alert" { (text) } } }
}

/// A page in place of one that can't be shown. What is no fault of the visitor is told as everywhere.
pub fn refused(visitor: &Visitor, error: Error) -> Response {
    match visitor.words.of_error(&error) {
        Some(text) => {
            let status = error_status(&error);
            visitor.answer(Page::of_text(visitor.words.not_possible, text).with_status(status).show(visitor.words))
        }
        None => error.into_response(),
    }
}

pub fn error_status(error: &Error) -> StatusCode {
    match error {
        Error::Refused { kind: ruma::api::error::ErrorKind::LimitExceeded(_), .. } => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::FORBIDDEN,
    }
}

/// The page where a form leads that did not come from a page of ours, or came much later.
pub fn not_ours(visitor: &Visitor) -> Response {
    let words = visitor.words;
    let content = html! { p { (words.form_ended) } a.button href=(visitor.here) { (words.again) } };
    visitor.answer(Page::new(words.not_possible, content).with_status(StatusCode::FORBIDDEN).show(words))
}
