//! Requests, parsed by ruma and with a caller who is known. Which of these a handler takes is what its endpoint's
//! authentication in the specification allows; anything else does not compile.

use std::sync::Arc;

use axum::{
    RequestExt,
    extract::{FromRequest, RawPathParams, Request},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::StatusCode;
use ruma::api::{
    IncomingRequest, IncomingRequestExt, OutgoingResponse,
    auth_scheme::{
        AccessToken, AccessTokenOptional, AppserviceTokenOptional, AuthScheme, NoAccessToken, NoAuthentication,
    },
    error::ErrorKind,
};

use super::error::{shaped, unreadable};
use crate::{
    Server,
    error::Error,
    user::session::{self, Caller},
};

/// A client request whose access token was checked.
pub struct Client<R> {
    pub sender: Caller,
    pub body: R,
    /// The body as it came, for what ruma's types leave out.
    pub raw: Bytes,
}

/// A client request that may come without a token; one that has a wrong token is refused.
pub struct MaybeClient<R> {
    pub sender: Option<Caller>,
    pub body: R,
    pub raw: Bytes,
}

/// A client request that needs no token.
pub struct Public<R> {
    pub body: R,
    pub raw: Bytes,
}

/// The authentication schemes of endpoints that everybody may call.
pub trait Open: AuthScheme {}
impl Open for NoAuthentication {}
impl Open for NoAccessToken {}
impl Open for AppserviceTokenOptional {}

impl<R: IncomingRequest<Authentication = AccessToken> + Send> FromRequest<Arc<Server>> for Client<R> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let missing = || Error::refused(ErrorKind::MissingToken, "Missing access token");
        let token = bearer_token(&request)?.ok_or_else(missing)?;
        let sender = session::authenticate(server, &token)?;
        let (body, raw) = parse(request, server).await?;
        Ok(Self { sender, body, raw })
    }
}

impl<R: IncomingRequest<Authentication = AccessTokenOptional> + Send> FromRequest<Arc<Server>> for MaybeClient<R> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let token = bearer_token(&request)?;
        let sender = token.map(|token| session::authenticate(server, &token)).transpose()?;
        let (body, raw) = parse(request, server).await?;
        Ok(Self { sender, body, raw })
    }
}

impl<R: IncomingRequest<Authentication: Open> + Send> FromRequest<Arc<Server>> for Public<R> {
    type Rejection = Error;

    async fn from_request(request: Request, server: &Arc<Server>) -> Result<Self, Error> {
        let (body, raw) = parse(request, server).await?;
        Ok(Self { body, raw })
    }
}

/// A handler's answer.
pub struct Matrix<R>(pub R);

impl<R: OutgoingResponse> IntoResponse for Matrix<R> {
    fn into_response(self) -> Response {
        shaped(self.0)
    }
}

/// The token of `Authorization: Bearer`, or of the deprecated query parameter.
fn bearer_token(request: &Request) -> Result<Option<String>, Error> {
    AccessTokenOptional::extract_authentication(request)
        .map_err(|e| Error::refused(ErrorKind::MissingToken, format!("The access token can't be read: {e}")))
}

/// Reads the whole body, at most `max_request_size` of it, and parses path, query and body.
async fn parse<R: IncomingRequest>(mut request: Request, server: &Arc<Server>) -> Result<(R, Bytes), Error> {
    let path: RawPathParams =
        request.extract_parts().await.map_err(|_| Error::invalid_param("The path is not UTF-8"))?;
    let path: Vec<&str> = path.iter().map(|(_, value)| value).collect();
    let (parts, body) = request.into_parts();
    let limit = server.config.max_request_size.as_usize();
    let raw = axum::body::to_bytes(body, limit).await.map_err(|e| unread_body(&e))?;
    let request = http::Request::from_parts(parts, raw.as_ref());
    let body = R::try_from_http_request(request, &path).map_err(unreadable)?;
    Ok((body, raw))
}

fn unread_body(error: &axum::Error) -> Error {
    let cause = std::error::Error::source(error);
    if cause.is_some_and(|e| e.is::<http_body_util::LengthLimitError>()) {
        Error::too_large("The request is larger than this server accepts")
    } else {
        Error::refused(ErrorKind::Unknown, "The request ended early").with_status(StatusCode::BAD_REQUEST)
    }
}
