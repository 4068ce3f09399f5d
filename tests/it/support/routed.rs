//! The way of a request from one server to another in the same process. `benches/receive.rs` goes it, too.

use axum::{Router, body::Body as AxumBody};
use bytes::Bytes;
use chappe::outgoing::{Body, Failure};
use futures_util::{StreamExt, TryStreamExt};
use tower::ServiceExt;

/// What a server answers, of whom this is the router.
pub async fn answer(router: Router, request: http::Request<Bytes>) -> http::Response<Body> {
    // A server sees the path of a request only.
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    parts.uri = path.parse().expect("a path is a URI");
    let request = http::Request::from_parts(parts, AxumBody::from(body));
    let response = router.oneshot(request).await.expect("a router always answers");
    let (parts, body) = response.into_parts();
    let failed = |error: axum::Error| Failure::Unreachable(error.to_string());
    http::Response::from_parts(parts, body.into_data_stream().map_err(failed).boxed())
}
