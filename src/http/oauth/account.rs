//! Where users look after their account, since clients that log in by OAuth have no endpoints for that.
//! <https://spec.matrix.org/v1.19/client-server-api/#oauth-20-account-management>

use std::sync::Arc;

use axum::{
    Form, Router,
    extract::{Query, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use maud::{Markup, html};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use url::form_urlencoded;

use super::{
    page::{self, Page},
    visitor::Visitor,
};
use crate::{
    Server,
    error::{Error, Result},
    oauth::{
        client,
        metadata::{
            ACCOUNT_DEACTIVATE, CROSS_SIGNING_RESET, DEVICE_DELETE, DEVICE_VIEW, DEVICES_LIST, PROFILE, stable_action,
        },
        paths,
        tables::Sessions,
    },
    user::{
        account,
        deactivate::deactivate,
        device::{self, Selection},
        email, profile, session,
        tables::Device,
        uiaa::{self, OnPage},
    },
};

/// An action of ours: clients that log in by OAuth can't change passwords themselves.
const PASSWORD: &str = "chappe.password";

pub fn router() -> Router<Arc<Server>> {
    Router::new().route(paths::ACCOUNT, get(show).post(act))
}

#[derive(Default, Deserialize)]
struct Wish {
    action: Option<String>,
    device_id: Option<OwnedDeviceId>,
    /// Of the user-interactive authentication that is to be approved.
    session: Option<String>,
}

impl Wish {
    fn action(&self) -> &str {
        self.action.as_deref().map_or("", stable_action)
    }

    /// Whether who does it must have proved just now who he is.
    fn needs_fresh(&self) -> bool {
        matches!(self.action(), DEVICE_DELETE | ACCOUNT_DEACTIVATE | CROSS_SIGNING_RESET)
    }

    fn device(&self) -> Result<&DeviceId> {
        self.device_id.as_deref().ok_or_else(device::unknown)
    }
}

/// The page of an action.
fn at(action: &str, device: Option<&DeviceId>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("action", action);
    if let Some(device) = device {
        query.append_pair("device_id", device.as_str());
    }
    format!("{}?{}", paths::ACCOUNT, query.finish())
}

async fn show(State(server): State<Arc<Server>>, visitor: Visitor, Query(wish): Query<Wish>) -> Response {
    match user(&server, &visitor, &wish) {
        Some(user) => page(&server, &visitor, &wish, &user, None),
        None => visitor.to_login(),
    }
}

/// Who is here; `None` if he has to say so first.
fn user(server: &Server, visitor: &Visitor, wish: &Wish) -> Option<OwnedUserId> {
    let browser = visitor.browser.as_ref()?;
    (!wish.needs_fresh() || browser.is_fresh(server)).then(|| browser.user_id.clone())
}

fn page(server: &Arc<Server>, visitor: &Visitor, wish: &Wish, user: &UserId, problem: Option<&str>) -> Response {
    let made = match wish.action() {
        "" => overview(server, visitor, user),
        PROFILE => profile_page(server, visitor, user, problem),
        DEVICES_LIST => devices(server, visitor, user),
        DEVICE_VIEW => device_page(server, visitor, user, wish),
        DEVICE_DELETE => device_deletion(server, visitor, user, wish),
        PASSWORD => Ok(password(server, visitor, problem)),
        ACCOUNT_DEACTIVATE => Ok(deactivation(server, visitor, user, problem)),
        CROSS_SIGNING_RESET => Ok(reset(server, visitor, user, wish)),
        _ => {
            let words = visitor.words;
            Ok(Page::of_text(words.not_possible, words.unknown_action).with_status(StatusCode::NOT_FOUND))
        }
    };
    match made {
        Ok(page) => visitor.answer(page.show(visitor.words)),
        Err(error) => page::refused(visitor, error),
    }
}

fn back(visitor: &Visitor) -> Markup {
    html! { p { a href=(paths::ACCOUNT) { (visitor.words.back) } } }
}

fn overview(server: &Server, visitor: &Visitor, user: &UserId) -> Result<Page> {
    let words = visitor.words;
    // Who logs in by an identity provider only has none to change.
    let has_password =
        account::get(&server.store.snapshot(), user)?.is_some_and(|account| account.password_hash.is_some());
    let actions = [
        Some((PROFILE, words.profile)),
        Some((DEVICES_LIST, words.devices)),
        has_password.then_some((PASSWORD, words.change_password)),
        Some((ACCOUNT_DEACTIVATE, words.deactivate)),
    ];
    let content = html! {
        p { (user) }
        @for (action, text) in actions.into_iter().flatten() { a.button href=(at(action, None)) { (text) } }
        form method="post" action=(paths::LOGOUT) {
            input type="hidden" name="form_token" value=(visitor.form_token(server));
            button { (words.log_out) }
        }
    };
    Ok(Page::new(words.account, content))
}

fn profile_page(server: &Server, visitor: &Visitor, user: &UserId, problem: Option<&str>) -> Result<Page> {
    let words = visitor.words;
    let snapshot = server.store.snapshot();
    let name = profile::get(&snapshot, user, profile::DISPLAY_NAME)?;
    let name: Option<String> = name.map(|name| name.parse().map_err(Error::internal)).transpose()?;
    let addresses = email::list(&snapshot, user)?;
    let fields = html! {
        label { (words.display_name) input name="display_name" value=(name.unwrap_or_default()) autocomplete="name"; }
        button.main { (words.save) }
    };
    let content = html! {
        p { (user) }
        (page::problem(problem))
        (page::form(server, visitor, fields))
        @if !addresses.is_empty() {
            p { (words.email_addresses) }
            ul { @for (address, _) in &addresses { li { (address) } } }
        }
        (back(visitor))
    };
    Ok(Page::new(words.profile, content))
}

/// A device's name, or its id if it has none.
fn name_of<'a>(id: &'a DeviceId, device: &'a Device) -> &'a str {
    device.display_name.as_deref().filter(|name| !name.trim().is_empty()).unwrap_or(id.as_str())
}

fn devices(server: &Server, visitor: &Visitor, user: &UserId) -> Result<Page> {
    let content = html! {
        @for (id, device) in device::list(&server.store.snapshot(), user)? {
            a.button href=(at(DEVICE_VIEW, Some(&id))) { (name_of(&id, &device)) }
        }
        (back(visitor))
    };
    Ok(Page::new(visitor.words.devices, content))
}

/// What is known of a device.
fn described(server: &Server, visitor: &Visitor, user: &UserId, id: &DeviceId) -> Result<(String, Markup)> {
    let words = visitor.words;
    let snapshot = server.store.snapshot();
    let device = device::get(&snapshot, user, id)?.ok_or_else(|| Error::not_found(words.no_such_device))?;
    let session = snapshot.get::<Sessions>(&(user, id))?;
    let client = session.and_then(|session| client::find(server, &session.client_id).ok());
    let facts = html! {
        dl {
            dt { (words.device_id) } dd { (id) }
            dt { (words.last_seen) }
            dd {
                @match device.last_seen {
                    Some(seen) => { (date(seen.at_ms)) ", " (seen.address) }
                    None => (words.never),
                }
            }
            @if let Some(client) = client { dt { (words.client) } dd { (client.uri) } }
        }
    };
    Ok((name_of(id, &device).to_owned(), facts))
}

/// Day and minute.
fn date(at_ms: u64) -> String {
    let seconds = i64::try_from(at_ms / 1_000).unwrap_or(i64::MAX);
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", at.hour(), at.minute())
}

fn device_page(server: &Server, visitor: &Visitor, user: &UserId, wish: &Wish) -> Result<Page> {
    let id = wish.device()?;
    let (name, facts) = described(server, visitor, user, id)?;
    let content = html! {
        (facts)
        a.button href=(at(DEVICE_DELETE, Some(id))) { (visitor.words.log_out_device) }
        p { a href=(at(DEVICES_LIST, None)) { (visitor.words.back) } }
    };
    Ok(Page::new(name, content))
}

fn device_deletion(server: &Server, visitor: &Visitor, user: &UserId, wish: &Wish) -> Result<Page> {
    let words = visitor.words;
    let (name, facts) = described(server, visitor, user, wish.device()?)?;
    let content = html! {
        p.problem { (words.logs_out_device) }
        p { (name) }
        (facts)
        (page::form(server, visitor, html! { button.danger { (words.log_out_device) } }))
        p { a href=(at(DEVICES_LIST, None)) { (words.back) } }
    };
    Ok(Page::new(words.log_out_device, content))
}

fn password(server: &Server, visitor: &Visitor, problem: Option<&str>) -> Page {
    let words = visitor.words;
    let fields = html! {
        label { (words.old_password) input name="old_password" type="password" autocomplete="current-password" required; }
        label { (words.new_password) input name="new_password" type="password" autocomplete="new-password" required; }
        label { (words.password_again) input name="password_again" type="password" autocomplete="new-password" required; }
        label.check { input type="checkbox" name="log_out" value="yes"; (words.log_out_others) }
        button.main { (words.change_password) }
    };
    let content = html! { (page::problem(problem)) (page::form(server, visitor, fields)) (back(visitor)) };
    Page::new(words.change_password, content)
}

fn deactivation(server: &Server, visitor: &Visitor, user: &UserId, problem: Option<&str>) -> Page {
    let words = visitor.words;
    let fields = html! {
        label { (words.user_id_again(user)) input name="user" autocomplete="off" autocapitalize="none" required; }
        label.check { input type="checkbox" name="erase" value="yes"; (words.erase) }
        button.danger { (words.deactivate) }
    };
    let content = html! {
        p.problem { (words.deactivate_warning) }
        (page::problem(problem))
        (page::form(server, visitor, fields))
        (back(visitor))
    };
    Page::new(words.deactivate, content)
}

fn reset(server: &Server, visitor: &Visitor, user: &UserId, wish: &Wish) -> Page {
    let words = visitor.words;
    let standing = wish.session.as_deref().map(|session| uiaa::reset_on_page(server, session, user));
    match standing {
        Some(OnPage::Passed) => Page::of_text(words.reset_keys, words.reset_keys_approved),
        Some(OnPage::Open) => {
            let content = html! {
                p { (user) }
                p.problem { (words.reset_keys_warning) }
                (page::form(server, visitor, html! { button.danger { (words.reset_keys) } }))
                (back(visitor))
            };
            Page::new(words.reset_keys, content)
        }
        Some(OnPage::Ended) | None => Page::of_text(words.reset_keys, words.reset_keys_from_client),
    }
}

/// What the forms send; each of them some of it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Given {
    form_token: String,
    display_name: Option<String>,
    old_password: String,
    new_password: String,
    password_again: String,
    log_out: Option<String>,
    user: String,
    erase: Option<String>,
}

async fn act(
    State(server): State<Arc<Server>>,
    mut visitor: Visitor,
    Query(wish): Query<Wish>,
    Form(given): Form<Given>,
) -> Response {
    if !visitor.sent(&server, &given.form_token) {
        return page::not_ours(&visitor);
    }
    let Some(user) = user(&server, &visitor, &wish) else { return visitor.to_login() };
    let words = visitor.words;
    let done = match wish.action() {
        PROFILE => set_name(&server, &user, given).await.map(|()| words.done),
        DEVICE_DELETE => delete_device(&server, &user, &wish).await.map(|()| words.device_logged_out),
        PASSWORD => set_password(&server, &visitor, &user, given).await.map(|()| words.password_changed),
        ACCOUNT_DEACTIVATE => close(&server, &visitor, &user, given).await.map(|()| words.deactivated),
        CROSS_SIGNING_RESET => {
            if let Some(session) = &wish.session {
                uiaa::approve_reset(&server, session, &user);
            }
            return page(&server, &visitor, &wish, &user, None);
        }
        _ => return page(&server, &visitor, &wish, &user, None),
    };
    match done {
        Ok(text) => {
            if wish.action() == ACCOUNT_DEACTIVATE {
                visitor.log_out(&server);
                return visitor.answer(Page::of_text(words.done, text).show(words));
            }
            let content = html! { p { (text) } (back(&visitor)) };
            visitor.answer(Page::new(words.done, content).show(words))
        }
        Err(error) => match words.of_error(&error) {
            Some(problem) => page(&server, &visitor, &wish, &user, Some(&problem)),
            None => page::refused(&visitor, error),
        },
    }
}

async fn set_name(server: &Arc<Server>, user: &UserId, given: Given) -> Result<()> {
    let name = given.display_name.ok_or_else(|| Error::missing_param("`display_name` is missing"))?;
    profile::set(server, user, profile::DISPLAY_NAME, Value::from(name.trim())).await
}

async fn delete_device(server: &Arc<Server>, user: &UserId, wish: &Wish) -> Result<()> {
    let device = wish.device()?.to_owned();
    device::log_out(Arc::clone(server), user.to_owned(), Selection::These([device].into())).await
}

async fn set_password(server: &Arc<Server>, visitor: &Visitor, user: &UserId, given: Given) -> Result<()> {
    if given.new_password != given.password_again {
        return Err(Error::invalid_param(visitor.words.passwords_differ));
    }
    if !account::check_password(server, user, given.old_password).await? {
        return Err(Error::forbidden("Wrong password"));
    }
    let logged_out = if given.log_out.is_some() { Selection::All } else { Selection::None };
    account::set_password(Arc::clone(server), user.to_owned(), given.new_password, logged_out).await
}

async fn close(server: &Arc<Server>, visitor: &Visitor, user: &UserId, given: Given) -> Result<()> {
    if account::of_name(server.name(), given.user.trim()).as_deref() != Some(user) {
        return Err(Error::invalid_param(visitor.words.user_id_again(user)));
    }
    session::check_in_use(&server.store.snapshot(), user)?;
    deactivate(Arc::clone(server), user.to_owned(), given.erase.is_some()).await
}
