//! Shared-secret registration: <https://element-hq.github.io/synapse/latest/admin_api/register_api.html>

use std::sync::Arc;

use axum::{Router, extract::State, routing::get};
use serde::Serialize;

use crate::{
    Server,
    error::Result,
    http::{
        client::registration::{Answer, shape},
        extract::{Json, PublicJson},
    },
    user::shared_secret::{self, Wish},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().route("/_synapse/admin/v1/register", get(nonce).post(register))
}

#[derive(Serialize)]
struct Nonce {
    nonce: String,
}

/// `GET /_synapse/admin/v1/register`
async fn nonce(State(server): State<Arc<Server>>) -> Result<Json<Nonce>> {
    shared_secret::make_nonce(&server).map(|nonce| Json(Nonce { nonce }))
}

/// `POST /_synapse/admin/v1/register`
async fn register(
    State(server): State<Arc<Server>>,
    PublicJson { body, address, .. }: PublicJson<Wish>,
) -> Result<Json<Answer>> {
    Ok(Json(shape(shared_secret::register(&server, body, address).await?)))
}
