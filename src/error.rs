use std::{borrow::Cow, time::Duration};

use http::StatusCode;
use ruma::{
    OwnedServerName, ServerName,
    api::{
        client::uiaa::UiaaInfo,
        error::{Error as MatrixError, ErrorKind, LimitExceededErrorData, RetryAfter},
    },
};

use crate::{outgoing::Failure, store};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request was not done. Making one does not log; the edge does, once.
#[derive(Debug)]
pub enum Error {
    /// Wrong or not allowed; the client gets both as they are. `status` is set where an endpoint's differs from the
    /// usual one of its errcode.
    Refused { kind: ErrorKind, message: Cow<'static, str>, status: Option<StatusCode> },
    /// User-interactive authentication has stages left.
    AuthRequired(Box<UiaaInfo>),
    /// Another server failed us.
    Remote { server: OwnedServerName, source: RemoteError },
    /// Disk, corruption or a bug: logged with its whole chain, told to the client as `M_UNKNOWN`.
    Internal(anyhow::Error),
}

/// How another server failed us.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It failed before; until then, in milliseconds since the Unix epoch, it is left alone.
    #[error("it failed before and is not tried again yet")]
    BackingOff { until_ms: u64 },
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    /// It answered with an error.
    #[error("it answered: {0}")]
    Refused(Box<MatrixError>),
    /// Its answer is not what the specification says.
    #[error("its answer can't be used: {0}")]
    Malformed(String),
}

impl From<Failure> for RemoteError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::TooLarge(_) | Failure::Compressed => Self::Malformed(failure.to_string()),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

impl Error {
    pub fn remote(server: &ServerName, source: RemoteError) -> Self {
        Self::Remote { server: server.to_owned(), source }
    }

    pub fn refused(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self::Refused { kind, message: message.into(), status: None }
    }

    pub fn missing_token() -> Self {
        Self::refused(ErrorKind::MissingToken, "Missing access token")
    }

    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::refused(ErrorKind::Forbidden, message)
    }

    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::refused(ErrorKind::NotFound, message)
    }

    pub fn bad_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::refused(ErrorKind::BadJson, message)
    }

    pub fn invalid_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::refused(ErrorKind::InvalidParam, message)
    }

    pub fn missing_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::refused(ErrorKind::MissingParam, message)
    }

    pub fn unrecognized(message: impl Into<Cow<'static, str>>) -> Self {
        Self::refused(ErrorKind::Unrecognized, message)
    }

    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::refused(ErrorKind::TooLarge, message)
    }

    /// `M_INVALID_SIGNATURE`, which ruma knows as a custom errcode only.
    pub fn invalid_signature(message: impl Into<Cow<'static, str>>) -> Self {
        Self::custom("M_INVALID_SIGNATURE", message)
    }

    /// An errcode that ruma does not know.
    pub fn custom(errcode: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let kind = serde_json::from_value(serde_json::json!({ "errcode": errcode }));
        Self::refused(kind.expect("ruma reads any errcode"), message)
    }

    /// The time is rounded up to whole seconds: the header has no smaller unit, and clients obey it before the body.
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let mut data = LimitExceededErrorData::new();
        let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
        data.retry_after = Some(RetryAfter::Delay(Duration::from_secs(seconds)));
        Self::refused(ErrorKind::LimitExceeded(data), "Too many requests")
    }

    /// The same refusal with another status than its errcode usually has.
    #[must_use]
    pub fn with_status(mut self, code: StatusCode) -> Self {
        if let Self::Refused { status, .. } = &mut self {
            *status = Some(code);
        }
        self
    }

    /// What should not happen: a bug, or data on disk that contradicts itself.
    pub fn internal(what: impl std::fmt::Display + std::fmt::Debug + Send + Sync + 'static) -> Self {
        Self::Internal(anyhow::Error::msg(what))
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Internal(error.into())
    }
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Internal(error.into())
    }
}
