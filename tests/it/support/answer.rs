use axum::{body::Body, response::Response};
use http::{HeaderMap, StatusCode};
use serde_json::Value;

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// `Null` if the body is not JSON.
    pub body: Value,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub async fn read(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        Self { status: parts.status, headers: parts.headers, body, bytes }
    }

    /// The JSON of an answer that must be a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body
    }

    /// The errcode of an answer that must be an error.
    #[track_caller]
    pub fn errcode(&self) -> &str {
        assert!(!self.status.is_success(), "{}", self.body);
        self.body["errcode"].as_str().unwrap_or_else(|| panic!("no errcode: {} {}", self.status, self.body))
    }

    /// Status and errcode of an error, to be compared with `(403, "M_FORBIDDEN")`.
    #[track_caller]
    pub fn error(&self) -> (u16, &str) {
        (self.status.as_u16(), self.errcode())
    }
}
