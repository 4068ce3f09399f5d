//! axum and the endpoints: the only place that knows HTTP. A handler checks who asks, calls the domain, and shapes the
//! answer; its file is named as its section of the specification.

mod admin;
mod bodies;
mod client;
mod connection;
mod disposition;
mod error;
pub mod extract;
mod federation;
mod health;
pub mod listen;
mod mail;
pub mod metrics;
mod oauth;
mod old_identifier;
pub mod peer;
mod room_list;
mod signed;
pub mod tls;
pub mod trace;

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    handler::Handler,
    routing::{MethodFilter, on},
};
use http::{Method, StatusCode, header};
use ruma::api::{IncomingRequest, path_builder::PathBuilder};
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{Any, CorsLayer},
};

use crate::{Server, error::Error};

/// Everything that this server answers.
pub fn router(server: Arc<Server>) -> Router {
    let store_of = Arc::clone(&server);
    let router = Router::new()
        .merge(admin::router())
        .merge(client::router())
        .merge(federation::router())
        .merge(mail::router())
        .merge(metrics::route(&server.config.metrics))
        .merge(oauth::router())
        .merge(health::route(move || store_of.store.check_writable().map_err(|error| health::reason(&error))))
        .fallback(async || Error::unrecognized("Unrecognized request"))
        .method_not_allowed_fallback(async || {
            Error::unrecognized("Unrecognized request").with_status(StatusCode::METHOD_NOT_ALLOWED)
        })
        // For forms and what else axum reads, and for `Public`; `bodies` and `Upload` have bounds of their own.
        .layer(DefaultBodyLimit::max(bodies::SMALL))
        .layer(CatchPanicLayer::custom(|_| {
            axum::response::IntoResponse::into_response(Error::internal("a handler panicked"))
        }))
        .layer(cors())
        .layer(axum::middleware::from_fn(trace::trace));
    let router = match server.config.metrics.is_on() {
        true => {
            let requests = server.metrics.requests.clone();
            router.layer(axum::middleware::from_fn_with_state(requests, metrics::count))
        }
        false => router,
    };
    router.with_state(server)
}

/// <https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients>
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::OPTIONS,
            Method::PATCH,
        ])
        .allow_headers([
            header::ORIGIN,
            header::CONTENT_TYPE,
            header::ACCEPT,
            header::AUTHORIZATION,
            header::HeaderName::from_static("x-requested-with"),
            header::IF_MATCH,
            header::IF_NONE_MATCH,
        ])
        .expose_headers([header::ETAG]) // for the last two, of a rendezvous
}

/// Registers `handler` at every path that the specification ever gave this endpoint.
fn endpoint<R: IncomingRequest, H: Handler<T, Arc<Server>>, T: 'static>(handler: H) -> Router<Arc<Server>> {
    let method = MethodFilter::try_from(R::METHOD).expect("ruma uses standard methods");
    R::PATH_BUILDER.all_paths().fold(Router::new(), |all, path| all.route(path, on(method, handler.clone())))
}
