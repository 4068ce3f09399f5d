//! Where people register, if the configuration lets them.

use std::sync::Arc;

use axum::{
    Form, Router,
    extract::{Query, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use maud::{Markup, html};
use ruma::OwnedUserId;
use serde::Deserialize;

use super::{
    login::Way,
    page::{self, Page},
    visitor::{Visitor, next, with_next},
    words::Words,
};
use crate::{
    Server,
    config::PolicyText,
    error::{Error, Result},
    oauth::{browser::Proof, paths},
    user::registration::{self, OnPage},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().route(paths::SIGN_UP, get(show).post(sign_up))
}

#[derive(Default, Deserialize)]
struct Given {
    #[serde(default)]
    form_token: String,
    user: String,
    password: String,
    password_again: String,
    #[serde(default)]
    registration_token: String,
    #[serde(default)]
    accept: Option<String>,
}

async fn show(State(server): State<Arc<Server>>, visitor: Visitor, Query(way): Query<Way>) -> Response {
    match registration::check_open_on_pages(&server.config) {
        Ok(()) => form(&server, &visitor, &way, &Given::default(), None, StatusCode::OK),
        Err(error) => page::refused(&visitor, error),
    }
}

fn form(
    server: &Server,
    visitor: &Visitor,
    way: &Way,
    given: &Given,
    problem: Option<&str>,
    status: StatusCode,
) -> Response {
    let words = visitor.words;
    let fields = html! {
        label {
            (words.new_user_name)
            input name="user" value=(given.user) autocomplete="username" autocapitalize="none" required;
        }
        label { (words.password) input name="password" type="password" autocomplete="new-password" required; }
        label { (words.password_again) input name="password_again" type="password" autocomplete="new-password" required; }
        @if server.config.registration_token.is_some() {
            label { (words.registration_token) input name="registration_token" autocomplete="off" required; }
        }
        (terms_to_accept(server, words))
        button.main { (words.sign_up) }
    };
    let content = html! {
        p { (words.on_server(server.name())) }
        (page::problem(problem))
        (page::form(server, visitor, fields))
        p { a href=(with_next(paths::LOGIN, next(way.next.as_deref()))) { (words.have_account) } }
    };
    visitor.answer(Page::new(words.sign_up, content).with_status(status).show(words))
}

/// What a new user must read and accept, if there is anything.
pub fn terms_to_accept(server: &Server, words: &Words) -> Markup {
    html! {
        @if !server.config.registration_terms.is_empty() {
            p { (words.read_terms) }
            ul { (terms(server)) }
            label.check { input type="checkbox" name="accept" value="yes" required; (words.accept_terms) }
        }
    }
}

/// Links to all policies, in every language that they have.
fn terms(server: &Server) -> Markup {
    let policies = server.config.registration_terms.values();
    let texts = policies.flat_map(|policy| policy.languages.values());
    html! {
        @for PolicyText { name, url } in texts {
            li { a href=(url) target="_blank" rel="noopener noreferrer" { (name) } }
        }
    }
}

async fn sign_up(
    State(server): State<Arc<Server>>,
    mut visitor: Visitor,
    Query(way): Query<Way>,
    Form(given): Form<Given>,
) -> Response {
    if !visitor.sent(&server, &given.form_token) {
        return page::not_ours(&visitor);
    }
    let done = match register(&server, &visitor, &given).await {
        Ok(user) => visitor.log_in(&server, user, Proof::Now),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => visitor.go_to(next(way.next.as_deref())),
        Err(error) => match visitor.words.of_error(&error) {
            Some(problem) => form(&server, &visitor, &way, &given, Some(&problem), page::error_status(&error)),
            None => page::refused(&visitor, error),
        },
    }
}

async fn register(server: &Arc<Server>, visitor: &Visitor, given: &Given) -> Result<OwnedUserId> {
    server.limits.registration(visitor.address)?;
    if given.password != given.password_again {
        return Err(Error::invalid_param(visitor.words.passwords_differ));
    }
    let wish = OnPage {
        name: given.user.trim(),
        password: given.password.clone(),
        token: &given.registration_token,
        accepts_terms: given.accept.is_some(),
    };
    registration::register_on_page(server, wish).await
}
