//! Administration by scripts, in the form that Synapse gave it.

mod register;

use std::sync::Arc;

use axum::Router;

use crate::Server;

pub fn router() -> Router<Arc<Server>> {
    register::router()
}
