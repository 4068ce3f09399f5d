//! Server notices: <https://element-hq.github.io/synapse/latest/admin_api/server_notices.html>

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, State},
    routing::{post, put},
};
use ruma::{OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Server,
    error::Result,
    http::extract::{AdminJson, Checked, Json},
    room::{
        append::TransactionKey,
        server_notices::{self, Notice},
    },
};

const PATH: &str = "/_synapse/admin/v1/send_server_notice";

pub fn router() -> Router<Arc<Server>> {
    Router::new().route(PATH, post(send)).route(&format!("{PATH}/{{txn_id}}"), put(send_once))
}

#[derive(Deserialize)]
struct Wish {
    user_id: OwnedUserId,
    r#type: Option<String>,
    state_key: Option<String>,
    content: Box<RawValue>,
}

#[derive(Serialize)]
struct Sent {
    event_id: OwnedEventId,
}

/// `POST /_synapse/admin/v1/send_server_notice`
async fn send(State(server): State<Arc<Server>>, AdminJson { body, .. }: AdminJson<Wish>) -> Result<Json<Sent>> {
    let event_id = server_notices::send(&server, notice(body), None).await?;
    Ok(Json(Sent { event_id }))
}

/// `PUT /_synapse/admin/v1/send_server_notice/{txnId}`
async fn send_once(
    State(server): State<Arc<Server>>,
    Checked(Path(txn_id)): Checked<Path<String>>,
    AdminJson { sender, body }: AdminJson<Wish>,
) -> Result<Json<Sent>> {
    let scope = format!("server_notice/{}", sender.user_id);
    let transaction = TransactionKey { device_id: sender.device_id, scope, txn_id };
    let event_id = server_notices::send(&server, notice(body), Some(transaction)).await?;
    Ok(Json(Sent { event_id }))
}

fn notice(wish: Wish) -> Notice {
    Notice {
        user_id: wish.user_id,
        event_type: wish.r#type.unwrap_or_else(|| "m.room.message".to_owned()),
        state_key: wish.state_key,
        content: wish.content,
    }
}
