//! Users who register themselves: what the configuration asks of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::{
        client::uiaa::{AuthFlow, AuthType},
        error::ErrorKind,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{
    account::{self, NewAccount},
    email::Proven,
    guests,
    session::{DeviceRequest, NewSession, Session},
};
use crate::{
    Server,
    config::{Config, RegistrationTerms},
    error::{Error, Result},
};

/// Letters and digits of a user name that the server makes up.
const MADE_UP_NAME_LENGTH: usize = 12;

/// The parameters of `POST /register`, apart from `auth`.
#[derive(Debug, Default, Deserialize)]
pub struct Wish {
    pub username: Option<String>,
    password: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
    #[serde(default)]
    refresh_token: bool,
    /// Of a guest who wants an account like others.
    guest_access_token: Option<String>,
}

/// How long a registration is answered once more, as it was, to a client that lost the answer; and of how many.
pub const ANSWERED_AGAIN: Duration = Duration::from_secs(5 * 60);
pub const MAX_ANSWERED_AGAIN: usize = 1_000;

/// A new account, and its first session unless the client wants none.
#[derive(Clone)]
pub struct Registered {
    pub user_id: OwnedUserId,
    pub session: Option<Session>,
}

/// `M_FORBIDDEN` if users can't register themselves.
pub fn check_open(config: &Config) -> Result<()> {
    if config.allow_registration { Ok(()) } else { Err(Error::forbidden("Registration is disabled")) }
}

/// Whether users can register themselves on our own pages, which know all stages but the proof of an e-mail address.
pub fn is_open_on_pages(config: &Config) -> bool {
    config.allow_registration && !config.mail.as_ref().is_some_and(|mail| mail.required_to_register)
}

/// What somebody gives on our own page to register.
pub struct OnPage<'a> {
    pub name: &'a str,
    pub password: String,
    pub token: &'a str,
    pub accepts_terms: bool,
}

/// `M_FORBIDDEN` if users can't register themselves there.
pub fn check_open_on_pages(config: &Config) -> Result<()> {
    if is_open_on_pages(config) { Ok(()) } else { Err(Error::forbidden("Registration is disabled")) }
}

/// Makes the account that somebody asks for on our own page. Errors: as the stages and parameters of `POST /register`;
/// `M_UNAUTHORIZED` if the token is wrong.
pub async fn register_on_page(server: &Arc<Server>, wish: OnPage<'_>) -> Result<OwnedUserId> {
    check_open_on_pages(&server.config)?;
    if server.config.registration_token.is_some() && !is_valid_token(&server.config, wish.token) {
        return Err(Error::refused(ErrorKind::Unauthorized, "Invalid registration token"));
    }
    if !server.config.registration_terms.is_empty() && !wish.accepts_terms {
        return Err(Error::missing_param("The terms must be accepted"));
    }
    let user_id = account::new_user_id(server.name(), wish.name)?;
    server.appservices.check_user(&user_id, None)?;
    let accepted_terms = terms_in_effect(&server.config);
    let new = NewAccount { accepted_terms, ..NewAccount::new(user_id, wish.password) };
    Ok(create_with_session(server, new, None).await?.user_id)
}

/// The stages that lead to an account. There is always one.
pub fn flows(config: &Config) -> Vec<AuthFlow> {
    let mut stages = Vec::new();
    if config.registration_token.is_some() {
        stages.push(AuthType::RegistrationToken);
    }
    if !config.registration_terms.is_empty() {
        stages.push(AuthType::Terms);
    }
    if config.mail.as_ref().is_some_and(|mail| mail.required_to_register) {
        stages.push(AuthType::EmailIdentity);
    }
    if stages.is_empty() {
        stages.push(AuthType::Dummy);
    }
    vec![AuthFlow::new(stages)]
}

/// What clients need to know for the stages: the terms.
pub fn params(config: &Config) -> Box<RawValue> {
    #[derive(Serialize)]
    struct Params<'a> {
        #[serde(rename = "m.login.terms", skip_serializing_if = "Option::is_none")]
        terms: Option<Terms<'a>>,
    }
    #[derive(Serialize)]
    struct Terms<'a> {
        policies: &'a RegistrationTerms,
    }
    let policies = &config.registration_terms;
    let terms = (!policies.is_empty()).then_some(Terms { policies });
    to_raw_value(&Params { terms }).expect("terms can be written as JSON")
}

/// Whether somebody who knows `token` may register. Takes as long wherever they differ.
pub fn is_valid_token(config: &Config, token: &str) -> bool {
    config.registration_token.as_ref().is_some_and(|right| right.matches(token))
}

/// Makes the account that a client asks for, after it has gone through all stages.
pub async fn register(server: &Arc<Server>, wish: Wish, email: Option<Proven>) -> Result<Registered> {
    let name = wish.username.unwrap_or_else(|| server.random.text(MADE_UP_NAME_LENGTH));
    let user_id = account::new_user_id(server.name(), &name)?;
    let password = wish.password.ok_or_else(password_needed)?;
    let device = DeviceRequest {
        device_id: wish.device_id,
        display_name: wish.initial_device_display_name,
        can_refresh: wish.refresh_token,
    };
    let accepted_terms = terms_in_effect(&server.config);
    let new = NewAccount { accepted_terms, email, ..NewAccount::new(user_id, password) };
    let device = (!wish.inhibit_login).then_some(device);
    match wish.guest_access_token {
        Some(token) => guests::upgrade(server, &token, new, device).await,
        None => create_with_session(server, new, device).await,
    }
}

pub fn password_needed() -> Error {
    Error::missing_param("A password is needed")
}

/// Makes an account and, if `device` is given, logs it in: both or neither.
pub async fn create_with_session(
    server: &Arc<Server>,
    account: NewAccount,
    device: Option<DeviceRequest>,
) -> Result<Registered> {
    account::check_free(&server.store.snapshot(), &account.user_id)?; // before anything slow
    let user_id = account.user_id.clone();
    let session = device.map(|device| NewSession::prepare(server, user_id.clone(), device)).transpose()?;
    let account = account.prepare(server).await?;
    server
        .store
        .commit(move |tx| {
            account.write(tx)?;
            let session = session.map(|session| session.write(tx)).transpose()?;
            Ok(Registered { user_id, session })
        })
        .await
}

/// The policies that whoever registers now accepts, and their versions.
pub fn terms_in_effect(config: &Config) -> BTreeMap<String, String> {
    config.registration_terms.iter().map(|(id, policy)| (id.clone(), policy.version.clone())).collect()
}
