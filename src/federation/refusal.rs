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
        _ => Error::Remote { source: RemoteError::Refused(answer), server },
    }
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
