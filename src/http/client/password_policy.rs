//! What the server asks of passwords, so that clients can say it before somebody thinks one up.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/2000>

use std::sync::Arc;

use axum::{Router, extract::State, routing::get};
use serde_json::{Map, Value};

use crate::{Server, http::extract::Json};

pub fn router() -> Router<Arc<Server>> {
    // Never accepted, and yet these are the paths that clients of Tchap ask.
    ["r0", "v3", "unstable"].into_iter().fold(Router::new(), |all, version| {
        all.route(&format!("/_matrix/client/{version}/password_policy"), get(password_policy))
    })
}

async fn password_policy(State(server): State<Arc<Server>>) -> Json<Value> {
    let policy = &server.config.password_policy;
    let mut shown = Map::new();
    if policy.minimum_length > 0 {
        shown.insert("m.minimum_length".to_owned(), policy.minimum_length.into());
    }
    for (rule, is_set) in [
        ("m.require_digit", policy.require_digit),
        ("m.require_symbol", policy.require_symbol),
        ("m.require_lowercase", policy.require_lowercase),
        ("m.require_uppercase", policy.require_uppercase),
    ] {
        if is_set {
            shown.insert(rule.to_owned(), true.into());
        }
    }
    Json(Value::Object(shown))
}
