//! Login: <https://spec.matrix.org/v1.19/client-server-api/#legacy-login>

use std::sync::Arc;

use axum::{Router, extract::State};
use http::StatusCode;
use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::{
        client::{
            session::{
                get_login_token,
                get_login_types::{self, v3::LoginType},
                login::{self, v3::DiscoveryInfo},
                refresh_token,
            },
            uiaa::UserIdentifier,
        },
        error::ErrorKind,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::sso;
use crate::{
    Server, appservice,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Client, Json, Matrix, Public, PublicJson},
        old_identifier::OldIdentifier,
    },
    user::{
        account,
        session::{self, Api, DeviceRequest},
        uiaa::{self, Operation},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<get_login_types::v3::Request, _, _>(login_types))
        .merge(endpoint::<login::v3::Request, _, _>(log_in))
        .merge(endpoint::<get_login_token::v1::Request, _, _>(login_token))
        .merge(endpoint::<refresh_token::v3::Request, _, _>(refresh))
}

/// `GET /login`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3login>
async fn login_types(
    State(server): State<Arc<Server>>,
    _: Public<get_login_types::v3::Request>,
) -> Result<Json<Value>> {
    let mut by_token = get_login_types::v3::TokenLoginType::new();
    by_token.get_login_token = true;
    let flows = [
        LoginType::Password(get_login_types::v3::PasswordLoginType::new()),
        LoginType::Token(by_token),
        LoginType::ApplicationService(get_login_types::v3::ApplicationServiceLoginType::new()),
    ];
    let mut flows: Vec<Value> =
        flows.iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(Error::internal)?;
    flows.extend(sso::flow(&server));
    Ok(Json(json!({ "flows": flows })))
}

/// The body of `POST /login`. ruma's own type panics if `type` is missing.
#[derive(Deserialize)]
struct LogIn {
    r#type: Option<String>,
    identifier: Option<UserIdentifier>,
    #[serde(flatten)]
    old_identifier: OldIdentifier,
    password: Option<String>,
    token: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

/// `POST /login`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3login>
async fn log_in(
    State(server): State<Arc<Server>>,
    PublicJson { body, token, address }: PublicJson<LogIn>,
) -> Result<Matrix<login::v3::Response>> {
    let identifier = body.identifier.or_else(|| body.old_identifier.identifier());
    let identifier = identifier.ok_or_else(|| Error::missing_param("`identifier` is missing"));
    let is_appservice = body.r#type.as_deref() == Some("m.login.application_service");
    if !is_appservice {
        server.limits.login(address)?;
    }
    let (user_id, password_hash) = match body.r#type.as_deref() {
        Some("m.login.application_service") => (user_of_appservice(&server, &identifier?, token.as_deref())?, None),
        Some("m.login.password") => {
            let named = account::named(&server, &identifier?)?;
            let password = body.password.ok_or_else(|| Error::missing_param("`password` is missing"))?;
            let (user_id, password_hash) = session::user_by_password(&server, named, password).await?;
            (user_id, Some(password_hash))
        }
        Some("m.login.token") => {
            let token = body.token.ok_or_else(|| Error::missing_param("`token` is missing"))?;
            (session::use_login_token(&server, &token)?, None)
        }
        Some(other) => return Err(Error::refused(ErrorKind::Unknown, format!("Unknown login type {other}"))),
        None => return Err(Error::missing_param("`type` is missing")),
    };
    let request = DeviceRequest {
        device_id: body.device_id,
        display_name: body.initial_device_display_name,
        can_refresh: body.refresh_token,
    };
    let session = session::log_in(&server, user_id, password_hash, request).await?;
    let mut response = login::v3::Response::new(session.user_id, session.tokens.access, session.device_id);
    response.refresh_token = session.tokens.refresh;
    response.expires_in = session.tokens.expires_in;
    let base_url = server.config.well_known.client.clone();
    response.well_known = base_url.map(|url| DiscoveryInfo::new(login::v3::HomeserverInfo::new(url)));
    Ok(Matrix(response))
}

/// The user whom an application service logs in. Errors: `M_MISSING_TOKEN`; `M_EXCLUSIVE` for those who do not belong
/// to it; `M_FORBIDDEN` for those who do not exist, and if the token is none of a service.
fn user_of_appservice(server: &Arc<Server>, identifier: &UserIdentifier, token: Option<&str>) -> Result<OwnedUserId> {
    let service = appservice::accounts::service(server, token).map_err(appservice::accounts::forbid_unknown_token)?;
    let named = account::named(server, identifier)?;
    let user_id = named.ok_or_else(|| Error::forbidden("There is no such user"))?.user_id;
    appservice::accounts::check_own(server, &service, &user_id)?;
    match account::get(&server.store.snapshot(), &user_id)? {
        Some(_) => Ok(user_id),
        None => Err(Error::forbidden("There is no such user")),
    }
}

/// `POST /login/get_token`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv1loginget_token>
async fn login_token(
    State(server): State<Arc<Server>>,
    Client { sender, body, raw }: Client<get_login_token::v1::Request>,
) -> Result<Matrix<get_login_token::v1::Response>> {
    let operation = Operation::of::<get_login_token::v1::Request>("", &raw)?;
    uiaa::confirm(&server, &sender, operation, body.auth).await.map_err(|error| match error {
        // The specification's status for who can't do this: a client that logged in by OAuth.
        Error::Refused { kind: ErrorKind::Forbidden, .. } => error.with_status(StatusCode::BAD_REQUEST),
        other => other,
    })?;
    let token = session::make_login_token(&server, sender.user_id.clone());
    // Only now: a change of the password that this does not see ends the token.
    server.logins.check(&server.store, &sender.user_id, &sender.device_id)?;
    let lifetime = server.config.sessions.login_token_lifetime;
    Ok(Matrix(get_login_token::v1::Response::new(lifetime, token)))
}

/// `POST /refresh`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3refresh>
async fn refresh(
    State(server): State<Arc<Server>>,
    Public { body, .. }: Public<refresh_token::v3::Request>,
) -> Result<Matrix<refresh_token::v3::Response>> {
    let (tokens, _) = session::refresh(&server, &body.refresh_token, Api::Legacy).await?;
    let mut response = refresh_token::v3::Response::new(tokens.access);
    response.refresh_token = tokens.refresh;
    response.expires_in_ms = tokens.expires_in;
    Ok(Matrix(response))
}
