//! One span per request, so that every log line says to which request it belongs.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request},
    middleware::Next,
    response::Response,
};
use tracing::{Instrument, Span, debug, field::Empty, info_span, warn};

/// Middleware for [`axum::middleware::from_fn`], to be added by `Router::layer` after all routes.
///
/// The span names the route, never the path itself or the query: they hold room ids and, from old clients, access
/// tokens. A request whose client hangs up is not logged.
pub async fn trace(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let span = info_span!("request", method = %request.method(), route, status = Empty, ms = Empty);
    async {
        let begun = Instant::now();
        let response = next.run(request).await;
        let status = response.status();
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Span::current().record("status", status.as_u16()).record("ms", ms);
        if status.is_server_error() {
            warn!("answered");
        } else {
            debug!("answered");
        }
        response
    }
    .instrument(span)
    .await
}
