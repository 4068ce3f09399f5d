use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, response::Response};
use http::HeaderMap;
use ruma::{
    ServerName,
    api::client::authenticated_media::{get_content, get_content_as_filename},
};

use super::answer::Content;
use crate::{
    Server,
    error::Result,
    http::{disposition, endpoint, extract::GuestClient},
    media::{Asker, download},
};

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_content::v1::Request, _, _>(download)).merge(endpoint::<
        get_content_as_filename::v1::Request,
        _,
        _,
    >(download_as))
}

/// `GET /media/download/{serverName}/{mediaId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid>
async fn download(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    GuestClient { sender, body, .. }: GuestClient<get_content::v1::Request>,
) -> Result<Response> {
    let uri = (&*body.server_name, body.media_id.as_str());
    serve(&server, &headers, Asker::User(&sender), uri, None, body.timeout_ms).await
}

/// `GET /media/download/{serverName}/{mediaId}/{fileName}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaidfilename>
async fn download_as(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    GuestClient { sender, body, .. }: GuestClient<get_content_as_filename::v1::Request>,
) -> Result<Response> {
    let uri = (&*body.server_name, body.media_id.as_str());
    serve(&server, &headers, Asker::User(&sender), uri, Some(body.filename), body.timeout_ms).await
}

/// The content of a URI, under the name it was uploaded with or another.
pub async fn serve(
    server: &Arc<Server>,
    headers: &HeaderMap,
    asker: Asker<'_>,
    uri: (&ServerName, &str),
    other_name: Option<String>,
    patience: Duration,
) -> Result<Response> {
    let item = download::find(server, asker, uri, patience).await?;
    let turn = server.media.open_files.turn(asker).await?;
    let content = Content {
        turn,
        file: download::open(server, &item).await?,
        size: item.size,
        tag: item.tag(),
        disposition: disposition::of(&item.content_type, other_name.or(item.file_name)),
        media_type: item.content_type,
    };
    content.answer(headers).await
}
