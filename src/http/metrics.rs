//! Figures for Prometheus: `/metrics` at a listener of their own, or `/_chappe/metrics` beside everything else for who has
//! the token. Our own; no Matrix client asks for them.

use std::sync::Arc;

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, header};

use crate::{
    Server,
    config::Secret,
    metrics::{self, Requests},
};

/// What the listener of `[global.metrics]` answers.
pub fn router(server: Arc<Server>) -> Router {
    Router::new().route("/metrics", get(answer)).with_state(server)
}

/// The route beside everything else; none if it is not configured, or there is a listener of its own.
pub(super) fn route(config: &crate::config::Metrics) -> Router<Arc<Server>> {
    match config.listen.is_none() && config.token.is_some() {
        true => Router::new().route("/_chappe/metrics", get(answer)),
        false => Router::new(),
    }
}

async fn answer(State(server): State<Arc<Server>>, headers: HeaderMap) -> Response {
    if server.config.metrics.token.as_ref().is_some_and(|token| !knows(&headers, token)) {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response();
    }
    match server.blocking(metrics::text).await {
        Ok(text) => {
            ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE), (header::CACHE_CONTROL, "no-store")], text).into_response()
        }
        Err(error) => error.into_response(),
    }
}

fn knows(headers: &HeaderMap, token: &Secret) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    given.and_then(|given| given.strip_prefix("Bearer ")).is_some_and(|given| token.matches(given))
}

/// Middleware that counts each request by the pattern of its path: the path itself would be a figure for each room.
pub(super) async fn count(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let under_way = requests.begin(request.method(), route);
    let response = next.run(request).await;
    under_way.answered(response.status());
    response
}
