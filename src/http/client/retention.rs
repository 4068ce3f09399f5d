//! For how long messages are kept, so that clients can show it, and what they can ask for.
//!
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/1763>

use std::sync::Arc;

use axum::{Router, extract::State, routing::get};
use serde_json::{Value, json};

use crate::{
    Server,
    config::Retention,
    error::{Error, Result},
    http::extract::{Json, UntypedClient},
    room::retention::ms,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().route("/_matrix/client/unstable/org.matrix.msc1763/retention/configuration", get(configuration))
}

/// `GET …/retention/configuration`. Where nothing expires there is no such endpoint, by which clients know it.
async fn configuration(State(server): State<Arc<Server>>, _: UntypedClient) -> Result<Json<Value>> {
    let retention = &server.config.retention;
    if !retention.enabled {
        return Err(Error::unrecognized("Messages do not expire on this server"));
    }
    Ok(Json(shown(retention)))
}

fn shown(retention: &Retention) -> Value {
    let mut answer = json!({
        "policies": {},
        "limits": { "max_lifetime": { "min": ms(retention.allowed_lifetime_min) } },
    });
    if let Some(default) = retention.default_lifetime {
        answer["policies"]["*"] = json!({ "max_lifetime": ms(default) });
    }
    if let Some(longest) = retention.allowed_lifetime_max {
        answer["limits"]["max_lifetime"]["max"] = ms(longest).into();
    }
    answer
}
