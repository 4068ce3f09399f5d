//! Previews of web pages.
#![expect(deprecated, reason = "the older endpoint is still part of the specification")]

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::api::client::{authenticated_media::get_media_preview as new, media::get_media_preview as old};
use serde_json::{Map, Value};

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{Client, Json},
    },
    media::preview,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<new::v1::Request, _, _>(preview_url))
        .merge(endpoint::<old::v3::Request, _, _>(older_preview_url))
}

/// `GET /media/preview_url`. A page is as it is now, whatever `ts` asks for.
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url>
async fn preview_url(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<new::v1::Request>,
) -> Result<Json<Map<String, Value>>> {
    preview::get(&server, &sender, &body.url).await.map(Json)
}

/// `GET /_matrix/media/v3/preview_url`, which needs a token as well.
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3preview_url>
async fn older_preview_url(
    State(server): State<Arc<Server>>,
    Client { sender, body, .. }: Client<old::v3::Request>,
) -> Result<Json<Map<String, Value>>> {
    preview::get(&server, &sender, &body.url).await.map(Json)
}
