//! Where a client sends its user, who agrees or not.
//! <https://spec.matrix.org/v1.19/client-server-api/#authorisation-code-flow>

use std::sync::Arc;

use axum::{
    Form, Router,
    extract::{Query, State, rejection::QueryRejection},
    response::Response,
    routing::get,
};
use http::StatusCode;
use maud::{Markup, html};
use ruma::UserId;
use serde::Deserialize;
use url::form_urlencoded;

use super::{
    page::{self, Page},
    visitor::{Visitor, with_next},
    words::Words,
};
use crate::{
    Server,
    oauth::{
        authorization::{Parameters, Prompt, Request, Unfit},
        client::Client,
        failure::{Code, Failure},
        paths,
        redirect::{self, Place},
        scope::Scope,
    },
    user::device,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().route(paths::AUTHORIZE, get(show).post(decide))
}

type Parsed = Result<Query<Parameters>, QueryRejection>;

async fn show(State(server): State<Arc<Server>>, visitor: Visitor, parameters: Parsed) -> Response {
    let hint = parameters.as_ref().ok().and_then(|Query(parameters)| parameters.login_hint.clone());
    let request = match parse(&server, parameters) {
        Ok(request) => request,
        Err(unfit) => return answer_to(&visitor, unfit),
    };
    // Whoever was asked to log in has done so when he comes back.
    let back = without_prompt(&visitor.here);
    match (request.prompt, &visitor.browser) {
        (Some(Prompt::Create), _) => visitor.go_to(&with_next(paths::SIGN_UP, &back)),
        (Some(Prompt::Login), _) | (None, None) => {
            let hint = hint.map(|hint| {
                let query = form_urlencoded::Serializer::new(String::new()).append_pair("login_hint", &hint).finish();
                format!("&{query}")
            });
            visitor.go_to(&format!("{}{}", with_next(paths::LOGIN, &back), hint.unwrap_or_default()))
        }
        (None, Some(browser)) => consent(&server, &visitor, &browser.user_id, &request),
    }
}

/// The request of the address.
fn parse(server: &Server, parameters: Parsed) -> Result<Request, Unfit> {
    let given_twice = |_| Unfit::Shown(Code::InvalidRequest.because("A parameter is there twice"));
    parameters.map_err(given_twice).and_then(|Query(given)| Request::parse(server, given))
}

/// The answer to a request that can't be granted.
fn answer_to(visitor: &Visitor, unfit: Unfit) -> Response {
    match unfit {
        Unfit::Told(address) => visitor.go_to(&address),
        Unfit::Shown(Failure::Server(error)) => page::refused(visitor, error),
        Unfit::Shown(Failure::Refused { description, .. }) => {
            let words = visitor.words;
            let content = html! { p { (words.bad_client_request) } p.note { (description) } };
            visitor.answer(Page::new(words.not_possible, content).with_status(StatusCode::BAD_REQUEST).show(words))
        }
    }
}

fn without_prompt(here: &str) -> String {
    let (path, query) = here.split_once('?').unwrap_or((here, ""));
    let kept = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key != "prompt");
    format!("{path}?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(kept).finish())
}

fn consent(server: &Server, visitor: &Visitor, user: &UserId, request: &Request) -> Response {
    let words = visitor.words;
    let replaces = match device::get(&server.store.snapshot(), user, &request.scope.device_id) {
        Ok(device) => device.is_some(),
        Err(error) => return page::refused(visitor, error),
    };
    let place = match redirect::place_of(&request.redirect_uri) {
        Place::Host(host) => words.sends_to(&host),
        Place::App(scheme) => words.sends_to(&scheme),
        Place::ThisMachine => words.sends_to_this_machine.to_owned(),
    };
    let fields = html! {
        (asked(words, user, &request.client, &request.scope, replaces))
        p { (place) }
        (decision(words))
    };
    let page = Page {
        leads_to: redirect::policy_source(&request.redirect_uri),
        ..Page::new(words.let_in_title(request.client.shown_name()), page::form(server, visitor, fields))
    };
    visitor.answer(page.show(words))
}

/// What a client asks a user for.
pub fn asked(words: &Words, user: &UserId, client: &Client, scope: &Scope, replaces: bool) -> Markup {
    html! {
        p { (words.let_in(client.shown_name(), user)) }
        p.note { (words.client_page) " " a href=(client.uri) rel="noopener noreferrer" { (client.uri) } }
        @for (key, page) in client.pages.iter().filter(|(key, _)| *key != "logo_uri") {
            p.note {
                a href=(page) rel="noopener noreferrer" {
                    @if key == "tos_uri" { (words.client_terms) } @else { (words.client_policy) }
                }
            }
        }
        @if replaces { p.problem { (words.replaces_device(&scope.device_id)) } }
    }
}

pub fn decision(words: &Words) -> Markup {
    html! {
        button.main name="decision" value="allow" { (words.allow) }
        button name="decision" value="deny" { (words.deny) }
        button name="decision" value="another" { (words.another_account) }
    }
}

#[derive(Deserialize)]
struct Decision {
    form_token: String,
    decision: String,
}

async fn decide(
    State(server): State<Arc<Server>>,
    mut visitor: Visitor,
    parameters: Parsed,
    Form(given): Form<Decision>,
) -> Response {
    if !visitor.sent(&server, &given.form_token) {
        return page::not_ours(&visitor);
    }
    let request = match parse(&server, parameters) {
        Ok(request) => request,
        Err(unfit) => return answer_to(&visitor, unfit),
    };
    let Some(user) = visitor.browser.as_ref().map(|browser| browser.user_id.clone()) else { return visitor.to_login() };
    match given.decision.as_str() {
        "allow" => visitor.go_to(&request.allow(&server, user)),
        "another" => {
            visitor.log_out(&server);
            visitor.to_login()
        }
        _ => visitor.go_to(&request.deny()),
    }
}
