//! An errcode becomes a status here, and nowhere else.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use http::StatusCode;
use ruma::ServerName;
use ruma::api::{
    OutgoingResponseExt,
    client::uiaa::UiaaResponse,
    error::{
        DeserializationError, Error as MatrixError, ErrorBody, ErrorKind, FromHttpRequestError, StandardErrorBody,
    },
};
use tracing::{debug, error};

use crate::error::{Error, RemoteError};

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match self {
            Self::Refused { kind, message, status } => {
                let status = status.unwrap_or_else(|| status_of(&kind));
                matrix_error(status, kind, message.into_owned())
            }
            Self::AuthRequired(info) => shaped(UiaaResponse::AuthResponse(*info)),
            Self::Remote { server, source } => {
                debug!(%server, "{source}");
                remote_error(&server, source)
            }
            Self::Internal(cause) => {
                error!("{cause:#}");
                if let Some(crate::store::Error::NoSpace { .. } | crate::store::Error::Stopped(_)) =
                    cause.downcast_ref()
                {
                    let message = "The server's disk does not accept writes; its administrator must look into it";
                    return matrix_error(StatusCode::SERVICE_UNAVAILABLE, ErrorKind::Unknown, message.to_owned());
                }
                matrix_error(StatusCode::INTERNAL_SERVER_ERROR, ErrorKind::Unknown, "Internal server error".to_owned())
            }
        }
    }
}

/// What a client is told when another server failed us. A refusal is passed on where it is about what was asked for,
/// and not about us, the form of our request or our standing with that server: a client must not take that for its own.
fn remote_error(server: &ServerName, error: RemoteError) -> Response {
    if let RemoteError::Refused(refusal) = &error
        && let ErrorBody::Standard(body) = &refusal.body
        && matches!(
            body.kind,
            ErrorKind::BadJson
                | ErrorKind::BadState
                | ErrorKind::Forbidden
                | ErrorKind::IncompatibleRoomVersion(_)
                | ErrorKind::NotFound
                | ErrorKind::NotYetUploaded
                | ErrorKind::TooLarge
                | ErrorKind::UnableToAuthorizeJoin
                | ErrorKind::UnableToGrantJoin
                | ErrorKind::UnsupportedRoomVersion
        )
    {
        let status = match &body.kind {
            ErrorKind::TooLarge => StatusCode::BAD_GATEWAY, // what the client sent is not too large
            kind => status_of(kind),
        };
        return matrix_error(status, body.kind.clone(), body.message.clone());
    }
    let message = format!("The server {server} failed: {error}");
    matrix_error(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, message)
}

fn matrix_error(status: StatusCode, kind: ErrorKind, message: String) -> Response {
    shaped(MatrixError::new(status, ErrorBody::Standard(StandardErrorBody::new(kind, message))))
}

/// The usual status of an errcode.
fn status_of(kind: &ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Forbidden
        | ErrorKind::UserDeactivated
        | ErrorKind::ThreepidAuthFailed
        | ErrorKind::GuestAccessForbidden
        | ErrorKind::UserSuspended
        | ErrorKind::WrongRoomKeysVersion(_)
        | ErrorKind::CannotLeaveServerNoticeRoom => StatusCode::FORBIDDEN,
        ErrorKind::UnknownToken(_) | ErrorKind::MissingToken | ErrorKind::Unauthorized | ErrorKind::UserLocked => {
            StatusCode::UNAUTHORIZED
        }
        ErrorKind::NotFound | ErrorKind::Unrecognized => StatusCode::NOT_FOUND,
        ErrorKind::LimitExceeded(_) => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::CannotOverwriteMedia => StatusCode::CONFLICT,
        ErrorKind::NotYetUploaded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// What was wrong with a request that could not be parsed.
pub fn unreadable(error: FromHttpRequestError) -> Error {
    let FromHttpRequestError::Deserialization(error) = error else {
        return Error::unrecognized("Unrecognized request").with_status(StatusCode::METHOD_NOT_ALLOWED);
    };
    match error {
        DeserializationError::Json(e) if e.is_syntax() || e.is_eof() || e.is_io() => {
            Error::refused(ErrorKind::NotJson, format!("The body is not JSON: {e}"))
        }
        DeserializationError::Utf8(_) => Error::refused(ErrorKind::NotJson, "The body is not UTF-8"),
        DeserializationError::Json(e) => Error::bad_json(e.to_string()),
        DeserializationError::Query(e) if e.to_string().contains("missing field") => {
            Error::missing_param(format!("A query parameter is missing: {e}"))
        }
        DeserializationError::Query(e) => Error::invalid_param(format!("A query parameter is wrong: {e}")),
        DeserializationError::Ident(e) => Error::invalid_param(format!("An identifier in the path is wrong: {e}")),
        other => Error::bad_json(other.to_string()),
    }
}

/// A ruma response as an HTTP response. One that ruma can't serialize is a bug, told as a 500.
pub fn shaped(response: impl OutgoingResponseExt) -> Response {
    match response.try_into_http_response::<BytesMut>() {
        Ok(response) => response.map(|body| Body::from(body.freeze())),
        Err(e) => {
            error!("a response could not be written: {e}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
