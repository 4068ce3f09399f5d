//! Accounts of others: <https://element-hq.github.io/synapse/latest/admin_api/user_admin_api.html>

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    routing::post,
};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Server,
    error::Result,
    http::extract::{AdminJson, Checked, Json},
    user::{
        deactivate,
        moderation::{self, Measure},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().route("/_synapse/admin/v1/deactivate/{user_id}", post(deactivate))
}

#[derive(Deserialize)]
struct Wish {
    #[serde(default)]
    erase: bool,
}

/// `POST /_synapse/admin/v1/deactivate/{userId}`: as the user's own `POST /account/deactivate`, for good. Until that is
/// done the account is locked, so that its user can't come back meanwhile and join rooms; a call that was cut short can be
/// repeated.
async fn deactivate(
    State(server): State<Arc<Server>>,
    Checked(Path(target)): Checked<Path<OwnedUserId>>,
    AdminJson { sender, body }: AdminJson<Wish>,
) -> Result<Json<Value>> {
    moderation::set(&server, &sender.user_id, &target, Measure::Lock, true).await?;
    deactivate::deactivate(server, target, body.erase).await?;
    // No address of anybody was ever given to an identity server, so there is none to unbind.
    Ok(Json(json!({ "id_server_unbind_result": "success" })))
}
