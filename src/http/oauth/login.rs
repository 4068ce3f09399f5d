//! Where people log in to our pages, and out.

use std::sync::Arc;

use axum::{
    Form, Router,
    extract::{Query, State},
    response::Response,
    routing::{get, post},
};
use http::StatusCode;
use maud::html;
use ruma::OwnedUserId;
use serde::Deserialize;

use super::{
    page::{self, Page},
    sso,
    visitor::{FormToken, Visitor, next, with_next},
};
use crate::{
    Server,
    error::{Error, Result},
    oauth::{browser::Proof, paths},
    user::{
        account::{self, Named},
        registration, session,
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().route(paths::LOGIN, get(show).post(log_in)).route(paths::LOGOUT, post(log_out))
}

#[derive(Default, Deserialize)]
pub struct Way {
    pub next: Option<String>,
    /// Who the client thinks wants to log in.
    login_hint: Option<String>,
}

#[derive(Deserialize)]
struct Given {
    form_token: String,
    user: String,
    password: String,
}

async fn show(State(server): State<Arc<Server>>, visitor: Visitor, Query(way): Query<Way>) -> Response {
    let hint = way.login_hint.as_deref().unwrap_or_default();
    let user = hint.strip_prefix("mxid:").unwrap_or(hint); // MSC4198
    login_page(&server, &visitor, &way, user, None, StatusCode::OK)
}

fn login_page(
    server: &Server,
    visitor: &Visitor,
    way: &Way,
    user: &str,
    problem: Option<&str>,
    status: StatusCode,
) -> Response {
    let words = visitor.words;
    let fields = html! {
        label { (words.user_name) input name="user" value=(user) autocomplete="username" autocapitalize="none" required; }
        label { (words.password) input name="password" type="password" autocomplete="current-password" required; }
        button.main { (words.log_in) }
    };
    let content = html! {
        p { (words.on_server(server.name())) }
        (page::problem(problem))
        (page::form(server, visitor, fields))
        @for provider in &server.sso.providers {
            a.button href=(sso::begin_at(provider, next(way.next.as_deref()))) { (words.log_in_with(&provider.config.name)) }
        }
        @if registration::is_open_on_pages(&server.config) {
            p { a href=(with_next(paths::SIGN_UP, next(way.next.as_deref()))) { (words.sign_up) } }
        }
    };
    visitor.answer(Page::new(words.log_in, content).with_status(status).show(words))
}

async fn log_in(
    State(server): State<Arc<Server>>,
    mut visitor: Visitor,
    Query(way): Query<Way>,
    Form(given): Form<Given>,
) -> Response {
    if !visitor.sent(&server, &given.form_token) {
        return page::not_ours(&visitor);
    }
    let done = match user_by_password(&server, &visitor, &given.user, given.password).await {
        Ok((user, password_hash)) => log_in_by_password(&server, &mut visitor, user, &password_hash),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => visitor.go_to(next(way.next.as_deref())),
        Err(error) => match visitor.words.of_error(&error) {
            Some(problem) => {
                let status = page::error_status(&error);
                login_page(&server, &visitor, &way, &given.user, Some(&problem), status)
            }
            None => page::refused(&visitor, error),
        },
    }
}

fn log_in_by_password(server: &Server, visitor: &mut Visitor, user: OwnedUserId, password_hash: &str) -> Result<()> {
    visitor.log_in(server, user.clone(), Proof::Now)?;
    // Only now: a change of the password that this does not see finds the browser, and forgets it.
    let is_still = session::check_password_hash(&server.store.snapshot(), &user, password_hash);
    is_still.inspect_err(|_| visitor.log_out(server))
}

async fn user_by_password(
    server: &Arc<Server>,
    visitor: &Visitor,
    name: &str,
    password: String,
) -> Result<(OwnedUserId, String)> {
    server.limits.login(visitor.address)?;
    let name = name.trim();
    let is_address = !name.starts_with('@') && name.contains('@');
    let named = match is_address {
        true => account::with_address(server, name)?,
        false => account::of_name(server.name(), name).map(Named::from),
    };
    session::user_by_password(server, named, password).await.map_err(|error| match error {
        // Whether there was such a user is nobody's business who does not know the password.
        Error::Refused { kind: ruma::api::error::ErrorKind::UserDeactivated, .. } => {
            Error::forbidden("Wrong username or password")
        }
        error => error,
    })
}

async fn log_out(
    State(server): State<Arc<Server>>,
    mut visitor: Visitor,
    Form(FormToken { form_token }): Form<FormToken>,
) -> Response {
    if !visitor.sent(&server, &form_token) {
        return page::not_ours(&visitor);
    }
    visitor.log_out(&server);
    visitor.go_to(paths::LOGIN)
}
