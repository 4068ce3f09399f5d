//! Where somebody agrees to the log-in of a device that has no browser.
//! <https://spec.matrix.org/v1.19/client-server-api/#device-authorisation-flow>

use std::sync::Arc;

use axum::{
    Form, Router,
    extract::{Query, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use maud::html;
use serde::Deserialize;

use super::{
    authorize::{asked, decision},
    page::{self, Page},
    visitor::Visitor,
};
use crate::{
    Server,
    oauth::{device_grant, paths},
    user::device,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().route(paths::LINK, get(show).post(decide))
}

#[derive(Deserialize)]
struct Link {
    user_code: Option<String>,
}

async fn show(State(server): State<Arc<Server>>, visitor: Visitor, Query(link): Query<Link>) -> Response {
    let Some(browser) = &visitor.browser else { return visitor.to_login() };
    let Some(user_code) = link.user_code.filter(|code| !code.is_empty()) else {
        return enter(&visitor, None, StatusCode::OK);
    };
    // Guesses count as log-ins.
    if let Err(error) = server.limits.login(visitor.address) {
        return page::refused(&visitor, error);
    }
    let words = visitor.words;
    let Some((client, scope)) = device_grant::look_up(&server, &user_code) else {
        return enter(&visitor, Some(words.no_such_code), StatusCode::NOT_FOUND);
    };
    let replaces = match device::get(&server.store.snapshot(), &browser.user_id, &scope.device_id) {
        Ok(device) => device.is_some(),
        Err(error) => return page::refused(&visitor, error),
    };
    let fields = html! {
        p.problem { (words.check_code) }
        p.code { (user_code) }
        (asked(words, &browser.user_id, &client, &scope, replaces))
        input type="hidden" name="user_code" value=(user_code);
        (decision(words))
    };
    let content = page::form(&server, &visitor, fields);
    visitor.answer(Page::new(words.let_in_title(client.shown_name()), content).show(words))
}

/// The page where a code is typed.
fn enter(visitor: &Visitor, problem: Option<&str>, status: StatusCode) -> Response {
    let words = visitor.words;
    let content = html! {
        (page::problem(problem))
        form method="get" action=(paths::LINK) {
            label { (words.type_code) input name="user_code" autocomplete="off" autocapitalize="characters" required; }
            button.main { (words.go_on) }
        }
    };
    visitor.answer(Page::new(words.link_title, content).with_status(status).show(words))
}

#[derive(Deserialize)]
struct Decision {
    form_token: String,
    user_code: String,
    decision: String,
}

async fn decide(State(server): State<Arc<Server>>, mut visitor: Visitor, Form(given): Form<Decision>) -> Response {
    if !visitor.sent(&server, &given.form_token) {
        return page::not_ours(&visitor);
    }
    if let Err(error) = server.limits.login(visitor.address) {
        return page::refused(&visitor, error);
    }
    let Some(user) = visitor.browser.as_ref().map(|browser| browser.user_id.clone()) else { return visitor.to_login() };
    let words = visitor.words;
    let (answered, text) = match given.decision.as_str() {
        "allow" => (device_grant::answer(&server, &given.user_code, Some(user)), words.device_allowed),
        "another" => {
            visitor.log_out(&server);
            return visitor.to_login();
        }
        _ => (device_grant::answer(&server, &given.user_code, None), words.device_denied),
    };
    match answered {
        true => visitor.answer(Page::of_text(words.done, text).show(words)),
        false => enter(&visitor, Some(words.no_such_code), StatusCode::NOT_FOUND),
    }
}
