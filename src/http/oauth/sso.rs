//! The pages around a log-in by an identity provider: to it, back from it, and what clients of the older way need.

use std::sync::Arc;

use axum::{
    Form, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::Response,
    routing::get,
};
use http::StatusCode;
use maud::html;
use ruma::UserId;
use serde::Deserialize;
use url::{Url, form_urlencoded};

use super::{
    authorize,
    page::{self, Page},
    sign_up,
    visitor::{FormToken, Visitor, next, with_next},
};
use crate::{
    Server,
    error::Error,
    oauth::{
        browser::Proof,
        paths as oauth_paths,
        redirect::{self, Place},
    },
    sso::{
        self, Arrived, Failure, Returned, client_address, paths,
        provider::{Prompt, Provider},
    },
    user::{registration, session, uiaa},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .route(&format!("{}/{{id}}", paths::BEGIN), get(begin))
        .route(&format!("{}/{{id}}", paths::CALLBACK), get(back))
        .route(paths::NEWCOMER, get(newcomer).post(accept))
        .route(paths::CLIENT, get(ask_for_client).post(decide_for_client))
        .route(paths::STAGE, get(stage).post(approve_stage))
}

#[derive(Default, Deserialize)]
struct Way {
    next: Option<String>,
    action: Option<String>,
}

/// The page that sends a browser to a provider, and on to `next_page` when it is back.
pub fn begin_at(provider: &Provider, next_page: &str) -> String {
    with_next(&format!("{}/{}", paths::BEGIN, provider.config.id), next_page)
}

async fn begin(
    State(server): State<Arc<Server>>,
    visitor: Visitor,
    Path(id): Path<String>,
    Query(way): Query<Way>,
) -> Response {
    let Some(provider) = server.sso.provider(&id) else { return no_provider(&visitor) };
    if let Err(error) = server.limits.login(visitor.address) {
        return page::refused(&visitor, error);
    }
    let prompt = match (&visitor.browser, way.action.as_deref()) {
        // He is known here, but has to prove anew who he is.
        (Some(_), _) => Some(Prompt::Login),
        (None, Some("register")) => Some(Prompt::Create),
        (None, _) => None,
    };
    match sso::begin(&server, provider, visitor.cookie(), next(way.next.as_deref()), prompt).await {
        Ok(url) => visitor.go_to(&url),
        Err(failure) => failed(&visitor, provider, failure),
    }
}

fn no_provider(visitor: &Visitor) -> Response {
    let words = visitor.words;
    let page = Page::of_text(words.not_possible, words.unknown_action).with_status(StatusCode::NOT_FOUND);
    visitor.answer(page.show(words))
}

fn failed(visitor: &Visitor, provider: &Provider, failure: Failure) -> Response {
    let (words, name) = (visitor.words, provider.config.name.as_str());
    let (status, text) = match failure {
        Failure::Ended => return ended(visitor),
        Failure::Denied => (StatusCode::FORBIDDEN, words.denied_by(name)),
        Failure::Provider => (StatusCode::BAD_GATEWAY, words.no_use_of(name)),
        Failure::Refused(refusal) => (StatusCode::FORBIDDEN, words.not_admitted(refusal, name)),
        Failure::Other(error) => return page::refused(visitor, error),
    };
    visitor.answer(Page::of_text(words.not_possible, text).with_status(status).show(words))
}

fn ended(visitor: &Visitor) -> Response {
    let words = visitor.words;
    let page = Page::of_text(words.not_possible, words.log_in_ended).with_status(StatusCode::FORBIDDEN);
    visitor.answer(page.show(words))
}

/// Back from a provider.
async fn back(
    State(server): State<Arc<Server>>,
    mut visitor: Visitor,
    Path(id): Path<String>,
    returned: Result<Query<Returned>, QueryRejection>,
) -> Response {
    let Some(provider) = server.sso.provider(&id) else { return no_provider(&visitor) };
    let Ok(Query(returned)) = returned else { return ended(&visitor) };
    let landed = match sso::finish(&server, provider, visitor.cookie(), returned).await {
        Ok(landed) => landed,
        Err(failure) => return failed(&visitor, provider, failure),
    };
    match landed.arrived {
        Arrived::Newcomer => visitor.go_to(&with_next(paths::NEWCOMER, &landed.next)),
        Arrived::User(user) => match visitor.log_in(&server, user, landed.proof) {
            Ok(()) => visitor.go_to(&landed.next),
            Err(error) => page::refused(&visitor, error),
        },
    }
}

/// The terms, for somebody who gets an account.
async fn newcomer(State(server): State<Arc<Server>>, visitor: Visitor) -> Response {
    if sso::provider_of_newcomer(&server, visitor.cookie()).is_none() {
        return ended(&visitor);
    }
    let words = visitor.words;
    let fields = html! {
        (sign_up::terms_to_accept(&server, words))
        button.main { (words.sign_up) }
    };
    visitor.answer(Page::new(words.sign_up, page::form(&server, &visitor, fields)).show(words))
}

#[derive(Deserialize)]
struct Accepted {
    form_token: String,
    accept: Option<String>,
}

async fn accept(
    State(server): State<Arc<Server>>,
    mut visitor: Visitor,
    Query(way): Query<Way>,
    Form(given): Form<Accepted>,
) -> Response {
    if !visitor.sent(&server, &given.form_token) {
        return page::not_ours(&visitor);
    }
    if given.accept.is_none() {
        return page::refused(&visitor, Error::missing_param("The terms must be accepted"));
    }
    let Some(provider) = sso::provider_of_newcomer(&server, visitor.cookie()) else { return ended(&visitor) };
    match sso::accept_terms(&server, provider, visitor.cookie()).await {
        Ok(user) => match visitor.log_in(&server, user, Proof::Earlier) {
            Ok(()) => visitor.go_to(next(way.next.as_deref())),
            Err(error) => page::refused(&visitor, error),
        },
        Err(failure) => failed(&visitor, provider, failure),
    }
}

/// What a client of the older way asks for.
#[derive(Deserialize)]
struct ForClient {
    #[serde(rename = "redirectUrl")]
    redirect_url: String,
    /// The provider that its user chose.
    idp: Option<String>,
    action: Option<String>,
}

type ParsedForClient = Result<Query<ForClient>, QueryRejection>;

/// What is asked for, and where the token would go. The inner error is for the person.
fn parse(asked: ParsedForClient) -> Result<(ForClient, Url), Error> {
    let Query(asked) = asked.map_err(|_| Error::missing_param("`redirectUrl` is missing"))?;
    let url = client_address::parse(&asked.redirect_url)?;
    Ok((asked, url))
}

async fn ask_for_client(State(server): State<Arc<Server>>, visitor: Visitor, asked: ParsedForClient) -> Response {
    let (asked, url) = match parse(asked) {
        Ok(parsed) => parsed,
        Err(_) => return bad_client(&visitor),
    };
    match &visitor.browser {
        Some(browser) => client_page(&server, &visitor, &browser.user_id, &url),
        None => visitor.go_to(&way_in(&server, &visitor, &asked)),
    }
}

/// Where somebody logs in who then comes back here.
fn way_in(server: &Server, visitor: &Visitor, asked: &ForClient) -> String {
    let registers = asked.action.as_deref() == Some("register");
    match asked.idp.as_deref().and_then(|id| server.sso.provider(id)) {
        Some(provider) if registers => format!("{}&action=register", begin_at(provider, &visitor.here)),
        Some(provider) => begin_at(provider, &visitor.here),
        None if registers && registration::is_open_on_pages(&server.config) => {
            with_next(oauth_paths::SIGN_UP, &visitor.here)
        }
        None => with_next(oauth_paths::LOGIN, &visitor.here),
    }
}

fn bad_client(visitor: &Visitor) -> Response {
    let words = visitor.words;
    let page = Page::of_text(words.not_possible, words.bad_client_request).with_status(StatusCode::BAD_REQUEST);
    visitor.answer(page.show(words))
}

/// Asks whether a login token may go to this address. Nothing else tells who the client is.
fn client_page(server: &Server, visitor: &Visitor, user: &UserId, url: &Url) -> Response {
    let words = visitor.words;
    let (name, place) = match redirect::place_of(url.as_str()) {
        Place::Host(host) => (host.clone(), words.sends_to(&host)),
        Place::App(scheme) => (scheme.clone(), words.sends_to(&scheme)),
        Place::ThisMachine => (words.program_here.to_owned(), words.sends_to_this_machine.to_owned()),
    };
    let fields = html! {
        p { (words.let_in(&name, user)) }
        p { (place) }
        p.problem { (words.only_if_begun) }
        (authorize::decision(words))
    };
    let page = Page {
        leads_to: redirect::policy_source(url.as_str()),
        ..Page::new(words.let_in_title(&name), page::form(server, visitor, fields))
    };
    visitor.answer(page.show(words))
}

#[derive(Deserialize)]
struct Decision {
    form_token: String,
    decision: String,
}

async fn decide_for_client(
    State(server): State<Arc<Server>>,
    mut visitor: Visitor,
    asked: ParsedForClient,
    Form(given): Form<Decision>,
) -> Response {
    if !visitor.sent(&server, &given.form_token) {
        return page::not_ours(&visitor);
    }
    let url = match parse(asked) {
        Ok((_, url)) => url,
        Err(_) => return bad_client(&visitor),
    };
    let Some(user) = visitor.browser.as_ref().map(|browser| browser.user_id.clone()) else { return visitor.to_login() };
    match given.decision.as_str() {
        "allow" => {
            let token = session::make_login_token(&server, user);
            visitor.go_to(&client_address::with_token(url, &token))
        }
        "another" => {
            visitor.log_out(&server);
            visitor.to_login()
        }
        _ => visitor.answer(Page::of_text(visitor.words.done, visitor.words.not_let_in).show(visitor.words)),
    }
}

#[derive(Deserialize)]
struct OfStage {
    session: String,
}

/// The page of the stage `m.login.sso` of user-interactive authentication: whoever logged in here just now as the user who is
/// asked for may say that it is he who wants it.
async fn stage(State(server): State<Arc<Server>>, visitor: Visitor, Query(of): Query<OfStage>) -> Response {
    let Some(asked) = uiaa::asked_by_sso(&server, &of.session) else { return ended(&visitor) };
    let words = visitor.words;
    match &visitor.browser {
        Some(browser) if browser.user_id != asked.user => {
            let content = html! {
                p { (words.as_other_user(&asked.user)) }
                a.button href=(with_next(oauth_paths::LOGIN, &visitor.here)) { (words.log_in) }
            };
            visitor.answer(Page::new(words.not_possible, content).with_status(StatusCode::FORBIDDEN).show(words))
        }
        Some(browser) if browser.is_fresh(&server) => {
            let fields = html! {
                p { (words.app_wants(&asked.user, words.operation(&asked.endpoint))) }
                p.problem { (words.only_if_begun) }
                button.main { (words.allow) }
            };
            visitor.answer(Page::new(words.is_it_you, page::form(&server, &visitor, fields)).show(words))
        }
        _ => visitor.to_login(),
    }
}

async fn approve_stage(
    State(server): State<Arc<Server>>,
    visitor: Visitor,
    Query(of): Query<OfStage>,
    Form(FormToken { form_token }): Form<FormToken>,
) -> Response {
    if !visitor.sent(&server, &form_token) {
        return page::not_ours(&visitor);
    }
    match &visitor.browser {
        Some(browser) if browser.is_fresh(&server) => uiaa::approve_sso(&server, &of.session, &browser.user_id),
        _ => return visitor.to_login(),
    }
    // That page tells the client, by a script, that the stage is passed; or the person, that it is not.
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("session", &of.session).finish();
    visitor.go_to(&format!("/_matrix/client/v3/auth/m.login.sso/fallback/web?{query}"))
}
