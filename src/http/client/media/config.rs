#![expect(deprecated, reason = "the older endpoint is still part of the specification")]

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    UInt,
    api::client::{authenticated_media::get_media_config as new, media::get_media_config as old},
};

use crate::{
    Server,
    http::{
        endpoint,
        extract::{Client, Matrix},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<new::v1::Request, _, _>(config))
        .merge(endpoint::<old::v3::Request, _, _>(older_config))
}

/// `GET /media/config`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediaconfig>
async fn config(State(server): State<Arc<Server>>, _: Client<new::v1::Request>) -> Matrix<new::v1::Response> {
    Matrix(new::v1::Response::new(upload_size(&server)))
}

/// `GET /_matrix/media/v3/config`, which needs a token as well.
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3config>
async fn older_config(State(server): State<Arc<Server>>, _: Client<old::v3::Request>) -> Matrix<old::v3::Response> {
    Matrix(old::v3::Response::new(upload_size(&server)))
}

fn upload_size(server: &Server) -> UInt {
    UInt::new_saturating(server.config.media.max_upload_size.bytes())
}
