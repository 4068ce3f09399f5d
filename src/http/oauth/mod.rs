//! The endpoints and pages of log-in by OAuth 2.0. Clients call the endpoints; people see the pages, which run no script,
//! load nothing, and are shown in no frame.

mod account;
mod authorize;
mod endpoints;
mod link;
mod login;
mod page;
mod sign_up;
mod sso;
mod visitor;
mod words;

use std::sync::Arc;

use axum::Router;

use crate::Server;

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(account::router())
        .merge(authorize::router())
        .merge(endpoints::router())
        .merge(link::router())
        .merge(login::router())
        .merge(sign_up::router())
        .merge(sso::router())
}
