use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::media::{create_content, create_content_async, create_mxc_uri},
};
use serde_json::{Value, json};

use crate::{
    Server,
    error::Result,
    http::{
        endpoint,
        extract::{Client, Json, Matrix, Upload},
    },
    media::{
        pending,
        upload::{self, Description},
    },
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<create_content::v3::Request, _, _>(upload))
        .merge(endpoint::<create_content_async::v3::Request, _, _>(upload_to))
        .merge(endpoint::<create_mxc_uri::v1::Request, _, _>(create))
}

/// `POST /_matrix/media/v3/upload`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav3upload>
async fn upload(
    State(server): State<Arc<Server>>,
    Upload { sender, head, content, length }: Upload<create_content::v3::Request>,
) -> Result<Matrix<create_content::v3::Response>> {
    server.limits.upload(&sender)?;
    upload::check_size(&server, length.unwrap_or_default())?;
    let description = Description::new(head.content_type, head.filename)?;
    let uri = upload::upload(server, sender.user_id, description, content).await?;
    Ok(Matrix(create_content::v3::Response::new(uri)))
}

/// `PUT /_matrix/media/v3/upload/{serverName}/{mediaId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#put_matrixmediav3uploadservernamemediaid>
async fn upload_to(
    State(server): State<Arc<Server>>,
    Upload { sender, head, content, length }: Upload<create_content_async::v3::Request>,
) -> Result<Json<Value>> {
    server.limits.upload(&sender)?;
    upload::check_size(&server, length.unwrap_or_default())?;
    let description = Description::new(head.content_type, head.filename)?;
    let uri = (&*head.server_name, head.media_id);
    upload::upload_to(server, sender.user_id, uri, description, content).await?;
    Ok(Json(json!({}))) // ruma's response can't be made outside of ruma
}

/// `POST /_matrix/media/v1/create`
/// <https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav1create>
async fn create(
    State(server): State<Arc<Server>>,
    Client { sender, .. }: Client<create_mxc_uri::v1::Request>,
) -> Result<Matrix<create_mxc_uri::v1::Response>> {
    server.limits.upload(&sender)?;
    let (uri, expires_at_ms) = pending::create(&server, sender.user_id).await?;
    let mut response = create_mxc_uri::v1::Response::new(uri);
    response.unused_expires_at = Some(MilliSecondsSinceUnixEpoch(UInt::new_saturating(expires_at_ms)));
    Ok(Matrix(response))
}
