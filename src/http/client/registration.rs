//! Account registration: <https://spec.matrix.org/v1.19/client-server-api/#legacy-account-registration>

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::{
        client::{
            account::{
                check_registration_token_validity, get_username_availability,
                register::{self, LoginType, RegistrationKind},
            },
            uiaa::AuthData,
        },
        error::ErrorKind,
    },
};
use serde::Serialize;

use crate::{
    Server, appservice,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Json, Matrix, Public},
    },
    user::{
        account, device, guests, password,
        registration::{self, Registered},
        session::DeviceRequest,
        uiaa::{self, Operation},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<register::v3::Request, _, _>(register))
        .merge(endpoint::<get_username_availability::v3::Request, _, _>(is_username_available))
        .merge(endpoint::<check_registration_token_validity::v1::Request, _, _>(is_registration_token_valid))
}

/// `POST /register`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3register>
async fn register(
    State(server): State<Arc<Server>>,
    Public { body, raw, address, token }: Public<register::v3::Request>,
) -> Result<Json<Answer>> {
    let is_guest = body.kind == RegistrationKind::Guest;
    if !is_guest && body.login_type == Some(LoginType::ApplicationService) {
        return register_for_appservice(&server, body, token.as_deref()).await;
    }
    if is_guest {
        server.limits.registration(address)?;
        // Whatever else the body says is to be ignored.
        let device = DeviceRequest { display_name: body.initial_device_display_name, ..DeviceRequest::default() };
        return Ok(Json(shape(guests::register(&server, device).await?)));
    }
    check_kind(&body)?;
    registration::check_open(&server.config)?;
    let operation = Operation::of::<register::v3::Request>("", &raw)?.keeping_parameters();
    uiaa::limit_stranger(&server, &operation, body.auth.as_ref(), address)?;
    let known_by = body.auth.as_ref().and_then(AuthData::session).and_then(|session| operation.known_by(session));
    let done_before = |name: &String| server.registered.with(server.clock.now_ms(), name, |done| done.clone());
    if let Some(registered) = known_by.as_ref().and_then(done_before) {
        return Ok(Json(shape(registered))); // the client lost the answer
    }
    let user_id = body.username.as_ref().map(|name| account::new_user_id(server.name(), name)).transpose()?;
    match (&body.guest_access_token, user_id) {
        (Some(token), Some(user_id)) if guests::with_token(&server, token)? == user_id => {}
        (Some(_), Some(_)) => return Err(guests::not_his_name()),
        (Some(_), None) => return Err(Error::missing_param("`username` is missing: a guest keeps his")),
        (None, Some(user_id)) => {
            account::check_free(&server.store.snapshot(), &user_id)?;
            server.appservices.check_user(&user_id, None)?;
        }
        (None, None) => {}
    }
    check_parameters(&server, &body)?;
    // A client that hangs up must not have used up what it proved, or find its name taken by its own account.
    let registering = Server::detached(async move {
        let passed = uiaa::confirm_registration(&server, operation, body.auth).await?;
        let wish = serde_json::from_str(&passed.parameters).map_err(|e| Error::bad_json(e.to_string()))?;
        let registered = registration::register(&server, wish, passed.email).await?;
        if let Some(name) = known_by {
            server.registered.insert(server.clock.now_ms(), &name, registered.clone());
        }
        Ok(registered)
    });
    Ok(Json(shape(registering.await?)))
}

/// An application service makes one of its users. <https://spec.matrix.org/v1.19/application-service-api/>
async fn register_for_appservice(
    server: &Arc<Server>,
    request: register::v3::Request,
    token: Option<&str>,
) -> Result<Json<Answer>> {
    let service = appservice::accounts::service(server, token)?;
    let username = request.username.as_deref().ok_or_else(|| Error::missing_param("`username` is missing"))?;
    let user_id = account::new_user_id(server.name(), username)?;
    let device = (!request.inhibit_login).then(|| device_of(request));
    Ok(Json(shape(appservice::accounts::register(server, &service, user_id, device).await?)))
}

/// Refuses the kinds of accounts that there are none of here.
fn check_kind(request: &register::v3::Request) -> Result<()> {
    if request.login_type.is_some() {
        return Err(Error::refused(ErrorKind::Unknown, "Unknown type of registration"));
    }
    match request.kind {
        RegistrationKind::User => Ok(()),
        _ => Err(Error::invalid_param("Unknown kind of account")),
    }
}

/// Refuses what no account would be made of after all stages, when what was proved in them is used up. A request may
/// leave all of its parameters out.
fn check_parameters(server: &Server, request: &register::v3::Request) -> Result<()> {
    match &request.password {
        Some(password) => password::check_acceptable(&server.config.password_policy, password)?,
        None if request.username.is_some() && request.auth.is_some() => return Err(registration::password_needed()),
        None => {}
    }
    if request.inhibit_login {
        return Ok(());
    }
    request.device_id.as_deref().map_or(Ok(()), device::check_id)?;
    device::check_display_name(request.initial_device_display_name.as_deref())
}

fn device_of(request: register::v3::Request) -> DeviceRequest {
    DeviceRequest {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
        can_refresh: request.refresh_token,
    }
}

/// The answer to a registration. ruma's type for it has a `device_id` of `null` where there is none.
#[derive(Serialize)]
pub(in crate::http) struct Answer {
    user_id: OwnedUserId,
    #[serde(flatten)]
    session: Option<Session>,
}

#[derive(Serialize)]
struct Session {
    device_id: OwnedDeviceId,
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<u64>,
}

pub(in crate::http) fn shape(Registered { user_id, session }: Registered) -> Answer {
    let session = session.map(|session| Session {
        device_id: session.device_id,
        access_token: session.tokens.access,
        refresh_token: session.tokens.refresh,
        expires_in_ms: session.tokens.expires_in.map(|life| u64::try_from(life.as_millis()).unwrap_or(u64::MAX)),
    });
    Answer { user_id, session }
}

/// `GET /register/available`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3registeravailable>
async fn is_username_available(
    State(server): State<Arc<Server>>,
    Public { body, address, .. }: Public<get_username_availability::v3::Request>,
) -> Result<Matrix<get_username_availability::v3::Response>> {
    server.limits.registration(address)?;
    registration::check_open(&server.config)?; // where nobody registers, nobody needs to know whether a name is free
    let user_id = account::new_user_id(server.name(), &body.username)?;
    account::check_free(&server.store.snapshot(), &user_id)?;
    server.appservices.check_user(&user_id, None)?;
    Ok(Matrix(get_username_availability::v3::Response::new(true)))
}

/// `GET /register/m.login.registration_token/validity`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1registermloginregistration_tokenvalidity>
async fn is_registration_token_valid(
    State(server): State<Arc<Server>>,
    Public { body, address, .. }: Public<check_registration_token_validity::v1::Request>,
) -> Result<Matrix<check_registration_token_validity::v1::Response>> {
    server.limits.registration(address)?;
    registration::check_open(&server.config)?;
    let is_valid = registration::is_valid_token(&server.config, &body.token);
    Ok(Matrix(check_registration_token_validity::v1::Response::new(is_valid)))
}
