use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use ruma::{
    ServerName,
    api::{client::authenticated_media::get_content_thumbnail, error::ErrorKind},
};

use super::answer::Content;
use crate::{
    Server,
    error::{Error, Result},
    http::{disposition, endpoint, extract::GuestClient},
    media::{Asker, download, thumbnail},
};

pub fn router() -> Router<Arc<Server>> {
    endpoint::<get_content_thumbnail::v1::Request, _, _>(get)
}

/// `GET /media/thumbnail/{serverName}/{mediaId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid>
async fn get(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    GuestClient { sender, body, .. }: GuestClient<get_content_thumbnail::v1::Request>,
) -> Result<Response> {
    let animated = body.animated.unwrap_or_default();
    let request = thumbnail::Request::new(body.method.as_ref(), body.width.into(), body.height.into(), animated)?;
    let uri = (&*body.server_name, body.media_id.as_str());
    serve(&server, &headers, Asker::User(&sender), uri, request, body.timeout_ms).await
}

/// A thumbnail of the content of a URI.
pub async fn serve(
    server: &Arc<Server>,
    headers: &HeaderMap,
    asker: Asker<'_>,
    uri: (&ServerName, &str),
    request: thumbnail::Request,
    patience: Duration,
) -> Result<Response> {
    let item = download::find(server, asker, uri, patience).await?;
    let turn = server.media.open_files.turn(asker).await?;
    let thumbnail = thumbnail::get(server, asker, &item, request).await.map_err(|error| match error {
        Error::Refused { kind: ErrorKind::TooLarge, .. } if uri.0 != server.name() => {
            error.with_status(StatusCode::BAD_GATEWAY)
        }
        other => other,
    })?;
    let content = Content {
        turn,
        size: thumbnail.size,
        file: thumbnail.file,
        tag: format!("{}-{}", item.tag(), request.name()),
        disposition: disposition::of(thumbnail.media_type, Some(thumbnail.file_name)),
        media_type: thumbnail.media_type.to_owned(),
    };
    content.answer(headers).await
}
