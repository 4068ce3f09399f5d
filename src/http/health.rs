//! `GET /_chappe/health`: for load balancers, containers and monitoring. Our own; no Matrix client asks it.

use axum::{Router, routing::get};
use http::{StatusCode, header};
use serde_json::json;

use crate::store;

/// The route. `is_writable` says whether the server can store what it acknowledges, else why not, in words that
/// anyone may read.
pub fn route<S: Clone + Send + Sync + 'static>(
    is_writable: impl Fn() -> Result<(), String> + Clone + Send + Sync + 'static,
) -> Router<S> {
    let answer = move || async move {
        let (status, body) = match is_writable() {
            Ok(()) => (StatusCode::OK, json!({ "status": "ok" })),
            Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, json!({ "status": "unavailable", "reason": reason })),
        };
        (status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body.to_string())
    };
    Router::new().route("/_chappe/health", get(answer))
}

/// Why no write is accepted, without the paths that the log names.
pub fn reason(error: &store::Error) -> String {
    match error {
        store::Error::NoSpace { free, .. } => format!("the disk is nearly full: {free} bytes are free"),
        _ => "the disk does not accept writes".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn ask(is_writable: Result<(), String>) -> (StatusCode, String) {
        let router: Router = route(move || is_writable.clone());
        let request = Request::get("/_chappe/health").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn health_says_whether_writes_are_accepted() {
        assert_eq!(ask(Ok(())).await, (StatusCode::OK, r#"{"status":"ok"}"#.to_owned()));
        let (status, body) = ask(Err("the disk is full".to_owned())).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("the disk is full"), "{body}");
    }
}
