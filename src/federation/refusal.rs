//! What a client is told when other servers refuse what it asked for.

use ruma::api::error::{ErrorBody, ErrorKind};

use crate::error::{Error, RemoteError};

/// The error of several servers that says most: that somebody refused says more than that another was not there.
pub fn more_telling(so_far: Option<Error>, next: Error) -> Error {
    let next = as_ours(next);
    match so_far {
        Some(so_far) if weight(&so_far) >= weight(&next) => so_far,
        _ => next,
    }
}

/// A refusal that concerns the user, as if it were ours; others stay what they are.
pub fn as_ours(error: Error) -> Error {
    let Error::Remote { source: RemoteError::Refused(answer), server } = error else { return error };
    let ErrorBody::Standard(body) = &answer.body else {
        return Error::Remote { source: RemoteError::Refused(answer), server };
    };
    match &body.kind {
        ErrorKind::Forbidden | ErrorKind::UnableToAuthorizeJoin | ErrorKind::UnableToGrantJoin => {
            Error::forbidden(body.message.clone())
        }
        kind @ (ErrorKind::NotFound
        | ErrorKind::InviteBlocked
        | ErrorKind::IncompatibleRoomVersion(_)
        | ErrorKind::UnsupportedRoomVersion) => {
            Error::refused(kind.clone(), body.message.clone()).with_status(answer.status_code)
        }
        // "SHOULD fail with a 5xx error rather than being passed through": what is refused is a request of our making.
        ErrorKind::MissingParam | ErrorKind::InvalidParam => {
            Error::Remote { source: RemoteError::Refused(answer), server }
        }
        // "The error should be passed through to clients": what is wrong with the request itself. What would end the
        // client's session here is not theirs to say.
        kind if answer.status_code == 400 && !is_of_session(kind) => {
            Error::refused(kind.clone(), body.message.clone()).with_status(answer.status_code)
        }
        _ => Error::Remote { source: RemoteError::Refused(answer), server },
    }
}

fn is_of_session(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnknownToken(_)
            | ErrorKind::MissingToken
            | ErrorKind::UserDeactivated
            | ErrorKind::UserLocked
            | ErrorKind::UserSuspended
            | ErrorKind::GuestAccessForbidden
    )
}

/// Whether a server that knows the room does not let the user in.
pub fn is_by_the_room(error: &Error) -> bool {
    matches!(error, Error::Refused { kind: ErrorKind::Forbidden, .. })
}

fn weight(error: &Error) -> u8 {
    match error {
        Error::Refused { kind: ErrorKind::Forbidden | ErrorKind::InviteBlocked, .. } => 4,
        Error::Refused { .. } => 3,
        Error::Remote { source: RemoteError::Refused(_), .. } => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use ruma::{
        api::error::{Error as MatrixError, StandardErrorBody, UnknownTokenErrorData},
        server_name,
    };

    use super::*;

    #[test]
    fn what_is_wrong_with_the_request_is_passed_on_and_what_would_end_the_session_is_not() {
        let told = |status, kind| {
            let body = ErrorBody::Standard(StandardErrorBody::new(kind, "no".to_owned()));
            let refused = RemoteError::Refused(Box::new(MatrixError::new(status, body)));
            matches!(as_ours(Error::remote(server_name!("there"), refused)), Error::Refused { .. })
        };
        assert!(told(StatusCode::BAD_REQUEST, ErrorKind::BadJson));
        assert!(told(StatusCode::BAD_REQUEST, crate::appservice::custom("EXAMPLE_REFUSAL")));
        assert!(!told(StatusCode::BAD_REQUEST, ErrorKind::MissingParam));
        assert!(!told(StatusCode::BAD_REQUEST, ErrorKind::InvalidParam));
        assert!(!told(StatusCode::BAD_REQUEST, ErrorKind::UnknownToken(UnknownTokenErrorData::new())));
        assert!(!told(StatusCode::INTERNAL_SERVER_ERROR, ErrorKind::Unknown));
    }
}
