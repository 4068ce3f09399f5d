//! What clients call: <https://spec.matrix.org/v1.19/client-server-api/#oauth-20-api>

use std::sync::Arc;

use axum::{
    Form, Router,
    extract::{State, rejection::FormRejection},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::{StatusCode, header};
use ruma::api::client::discovery::get_authorization_server_metadata;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{Json, Public},
        peer::ClientIp,
    },
    oauth::{
        self,
        client::{self, Client, GrantType},
        device_grant,
        failure::{Code, Failure},
        metadata::{self, address},
        paths,
        token::{self, Issued},
    },
};

/// Largest body of a request here. They are all small, and come from anybody.
const MAX_BODY_BYTES: usize = 64 << 10;

pub fn router() -> Router<Arc<Server>> {
    let limited = Router::new()
        .route(paths::REGISTER, post(register))
        .route(paths::TOKEN, post(token))
        .route(paths::REVOKE, post(revoke))
        .route(paths::DEVICE, post(device))
        .layer(tower_http::limit::RequestBodyLimitLayer::new(MAX_BODY_BYTES));
    limited
        .merge(endpoint::<get_authorization_server_metadata::v1::Request, _, _>(auth_metadata))
        .route("/_matrix/client/unstable/org.matrix.msc2965/auth_issuer", get(auth_issuer))
        // Where clients look that know the issuer only.
        .route("/.well-known/openid-configuration", get(well_known))
        .route("/.well-known/oauth-authorization-server", get(well_known))
}

fn metadata(server: &Server) -> Result<Value> {
    metadata::metadata(&server.config).ok_or_else(off)
}

/// As the specification has it where there is no OAuth.
pub(super) fn off() -> Error {
    Error::unrecognized("This server has no log-in by OAuth 2.0")
}

/// `GET /auth_metadata`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1auth_metadata>
async fn auth_metadata(
    State(server): State<Arc<Server>>,
    _: Public<get_authorization_server_metadata::v1::Request>,
) -> Result<Json<Value>> {
    metadata(&server).map(Json)
}

async fn well_known(State(server): State<Arc<Server>>) -> Result<Json<Value>> {
    metadata(&server).map(Json)
}

/// What clients asked for before there was `auth_metadata`.
async fn auth_issuer(State(server): State<Arc<Server>>) -> Result<Json<Value>> {
    let metadata = metadata(&server)?;
    Ok(Json(json!({ "issuer": metadata["issuer"] })))
}

/// An answer that nobody keeps: there are tokens in it, or could be. RFC 6749 wants both headers.
fn answer(status: StatusCode, body: Value) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")], Json(body)).into_response()
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Refused { code, description } => {
                let status = match code {
                    Code::InvalidClient => StatusCode::UNAUTHORIZED,
                    _ => StatusCode::BAD_REQUEST,
                };
                answer(status, json!({ "error": code.as_str(), "error_description": description }))
            }
            Self::Server(error) => error.into_response(),
        }
    }
}

/// The fields of a form, or why it has none.
fn read<T>(form: Result<Form<T>, FormRejection>) -> Result<T, Failure> {
    let unreadable = |_| Code::InvalidRequest.because("The body must be a form, and name nothing twice");
    form.map(|Form(fields)| fields).map_err(unreadable)
}

fn needed(field: Option<String>, what: &'static str) -> Result<String, Failure> {
    field.filter(|text| !text.is_empty()).ok_or_else(|| Code::InvalidRequest.because(what))
}

/// A client registers. <https://spec.matrix.org/v1.19/client-server-api/#dynamic-client-registration-flow>
async fn register(State(server): State<Arc<Server>>, ClientIp(ip): ClientIp, body: Bytes) -> Result<Response, Failure> {
    check_on(&server)?;
    server.limits.login(ip)?;
    let client = Client::parse(&body)?;
    let mut registered = client.metadata();
    registered.insert("client_id".to_owned(), client::register(&server, client).into());
    Ok(answer(StatusCode::CREATED, registered.into()))
}

fn check_on(server: &Server) -> Result<(), Failure> {
    if oauth::is_on(server) { Ok(()) } else { Err(Failure::Server(off())) }
}

/// What the token endpoint is sent; which of it counts, the grant type says.
#[derive(Deserialize)]
struct TokenRequest {
    grant_type: Option<String>,
    client_id: Option<String>,
    code: Option<String>,
    redirect_uri: Option<String>,
    code_verifier: Option<String>,
    refresh_token: Option<String>,
    device_code: Option<String>,
}

/// A client gets or renews its tokens. <https://spec.matrix.org/v1.19/client-server-api/#grant-types>
async fn token(
    State(server): State<Arc<Server>>,
    form: Result<Form<TokenRequest>, FormRejection>,
) -> Result<Response, Failure> {
    check_on(&server)?;
    let request = read(form)?;
    let grant_type = needed(request.grant_type, "`grant_type` is missing")?;
    let client_id = needed(request.client_id, "`client_id` is missing")?;
    // A client that hangs up must not leave half of a session behind.
    let issued = Server::detached(async move {
        Ok(match GrantType::named(&grant_type) {
            Some(GrantType::AuthorizationCode) => {
                let fields = (request.code, request.redirect_uri, request.code_verifier);
                by_code(&server, &client_id, fields).await
            }
            Some(GrantType::RefreshToken) => match needed(request.refresh_token, "`refresh_token` is missing") {
                Ok(token) => token::by_refresh_token(&server, &client_id, &token).await,
                Err(missing) => Err(missing),
            },
            Some(GrantType::DeviceCode) => match needed(request.device_code, "`device_code` is missing") {
                Ok(code) => token::by_device_code(&server, &client_id, &code).await,
                Err(missing) => Err(missing),
            },
            None => Err(Code::UnsupportedGrantType.because("This `grant_type` is not supported")),
        })
    });
    let Issued { tokens, scope } = issued.await??;
    Ok(answer(
        StatusCode::OK,
        json!({
            "access_token": tokens.access,
            "token_type": "Bearer",
            "expires_in": tokens.expires_in.map(|lifetime| lifetime.as_secs()),
            "refresh_token": tokens.refresh,
            "scope": scope,
        }),
    ))
}

async fn by_code(
    server: &Arc<Server>,
    client_id: &str,
    (code, redirect_uri, verifier): (Option<String>, Option<String>, Option<String>),
) -> Result<Issued, Failure> {
    let code = needed(code, "`code` is missing")?;
    let redirect_uri = needed(redirect_uri, "`redirect_uri` is missing")?;
    let verifier = needed(verifier, "`code_verifier` is missing")?;
    token::by_code(server, client_id, &code, &redirect_uri, &verifier).await
}

#[derive(Deserialize)]
struct Revocation {
    token: Option<String>,
}

/// A client logs out. <https://spec.matrix.org/v1.19/client-server-api/#token-revocation>
async fn revoke(
    State(server): State<Arc<Server>>,
    form: Result<Form<Revocation>, FormRejection>,
) -> Result<Response, Failure> {
    check_on(&server)?;
    token::revoke(&server, &needed(read(form)?.token, "`token` is missing")?).await?;
    Ok(answer(StatusCode::OK, json!({})))
}

#[derive(Deserialize)]
struct DeviceRequest {
    client_id: Option<String>,
    scope: Option<String>,
}

/// A client without a browser asks to be let in.
/// <https://spec.matrix.org/v1.19/client-server-api/#device-authorisation-flow>
async fn device(
    State(server): State<Arc<Server>>,
    ClientIp(ip): ClientIp,
    form: Result<Form<DeviceRequest>, FormRejection>,
) -> Result<Response, Failure> {
    let base = server.config.oauth_base().ok_or_else(|| Failure::Server(off()))?;
    server.limits.login(ip)?;
    let request = read(form)?;
    let client_id = needed(request.client_id, "`client_id` is missing")?;
    let codes = device_grant::begin(&server, &client_id, &request.scope.unwrap_or_default())?;
    let page = address(&base, paths::LINK);
    Ok(answer(
        StatusCode::OK,
        json!({
            "device_code": codes.device_code,
            "user_code": codes.user_code,
            "verification_uri": page,
            "verification_uri_complete": format!("{page}?user_code={}", codes.user_code),
            "expires_in": device_grant::LIFETIME.as_secs(),
            "interval": device_grant::INTERVAL.as_secs(),
        }),
    ))
}
