//! How requests of OAuth fail: <https://datatracker.ietf.org/doc/html/rfc6749#section-5.2>

use std::borrow::Cow;

use ruma::api::error::ErrorKind;

use crate::error::Error;

/// Why a request of OAuth was not done.
#[derive(Debug)]
pub enum Failure {
    /// Told as the standards of OAuth have it.
    Refused { code: Code, description: Cow<'static, str> },
    /// Too many requests, a full disk, a bug.
    Server(Error),
}

/// The errors that the standards name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    InvalidRequest,
    InvalidClient,
    InvalidGrant,
    UnauthorizedClient,
    UnsupportedGrantType,
    UnsupportedResponseType,
    InvalidScope,
    AccessDenied,
    /// RFC 7591: of the registration of clients.
    InvalidRedirectUri,
    InvalidClientMetadata,
    /// RFC 8628: of the device grant.
    AuthorizationPending,
    SlowDown,
    ExpiredToken,
    /// OpenID Connect: a page was asked to show nothing.
    InteractionRequired,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidClient => "invalid_client",
            Self::InvalidGrant => "invalid_grant",
            Self::UnauthorizedClient => "unauthorized_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::UnsupportedResponseType => "unsupported_response_type",
            Self::InvalidScope => "invalid_scope",
            Self::AccessDenied => "access_denied",
            Self::InvalidRedirectUri => "invalid_redirect_uri",
            Self::InvalidClientMetadata => "invalid_client_metadata",
            Self::AuthorizationPending => "authorization_pending",
            Self::SlowDown => "slow_down",
            Self::ExpiredToken => "expired_token",
            Self::InteractionRequired => "interaction_required",
        }
    }

    pub fn because(self, description: impl Into<Cow<'static, str>>) -> Failure {
        Failure::Refused { code: self, description: description.into() }
    }
}

impl From<Error> for Failure {
    /// What the standing of an account or device forbids. A locked user gets no new session. A device id that can't be
    /// had, be it too long or the name of a key, is a wrong scope.
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::Refused { kind: ErrorKind::UserLocked, .. } => Code::AccessDenied,
            Error::Refused { kind: ErrorKind::UserDeactivated | ErrorKind::UnknownToken(_), .. } => Code::InvalidGrant,
            Error::Refused { kind: ErrorKind::InvalidParam | ErrorKind::Forbidden, .. } => Code::InvalidScope,
            _ => return Self::Server(error),
        };
        match error {
            Error::Refused { message, .. } => Self::Refused { code, description: message },
            other => Self::Server(other),
        }
    }
}

impl From<crate::store::Error> for Failure {
    fn from(error: crate::store::Error) -> Self {
        Self::Server(error.into())
    }
}
