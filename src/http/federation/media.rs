//! Files of our users, for other servers.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header;
use ruma::api::federation::authenticated_media::{get_content, get_content_thumbnail};
use tokio_util::io::ReaderStream;

use crate::{
    Server,
    error::{Error, Result},
    http::{disposition, endpoint, extract::Federation},
    media::{Asker, download, open_files::Reading, thumbnail},
};

/// How much of a file is in memory at a time. Bytes.
const READ_AT_ONCE: usize = 64 << 10;
const BOUNDARY_LENGTH: usize = 32;

pub fn router() -> Router<Arc<Server>> {
    Router::new().merge(endpoint::<get_content::v1::Request, _, _>(content)).merge(endpoint::<
        get_content_thumbnail::v1::Request,
        _,
        _,
    >(small))
}

/// `GET /_matrix/federation/v1/media/download/{mediaId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid>
async fn content(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<get_content::v1::Request>,
) -> Result<Response> {
    let item = download::find_ours(&server, server.name(), &body.media_id, body.timeout_ms).await?;
    let turn = server.media.open_files.turn(Asker::Server(&origin)).await?;
    let file = Reading::begin(download::open(&server, &item).await?, 0, turn).await.map_err(Error::internal)?;
    Ok(answer(&server, file, item.size, &item.content_type, item.file_name))
}

/// `GET /_matrix/federation/v1/media/thumbnail/{mediaId}`
/// <https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediathumbnailmediaid>
async fn small(
    State(server): State<Arc<Server>>,
    Federation { origin, body, .. }: Federation<get_content_thumbnail::v1::Request>,
) -> Result<Response> {
    let animated = body.animated.unwrap_or_default();
    let request = thumbnail::Request::new(body.method.as_ref(), body.width.into(), body.height.into(), animated)?;
    let item = download::find_ours(&server, server.name(), &body.media_id, body.timeout_ms).await?;
    let asker = Asker::Server(&origin);
    let turn = server.media.open_files.turn(asker).await?;
    let made = thumbnail::get(&server, asker, &item, request).await?;
    let file = Reading::begin(made.file, 0, turn).await.map_err(Error::internal)?;
    Ok(answer(&server, file, made.size, made.media_type, Some(made.file_name)))
}

/// Two parts: an object without anything in it, and the file as it is read.
fn answer(server: &Server, file: Reading, size: u64, media_type: &str, name: Option<String>) -> Response {
    let boundary = server.random.text(BOUNDARY_LENGTH);
    let disposition = disposition::of(media_type, name);
    // What came in as a header has no line breaks in it.
    let before = format!(
        "\r\n--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\nContent-Type: \
         {media_type}\r\nContent-Disposition: {disposition}\r\n\r\n"
    );
    let after = format!("\r\n--{boundary}--\r\n");
    let length = before.len() as u64 + size + after.len() as u64;
    let file = ReaderStream::with_capacity(file, READ_AT_ONCE);
    let piece = |text: String| stream::iter([Ok(Bytes::from(text))]);
    let body = Body::from_stream(piece(before).chain(file).chain(piece(after)));
    let headers = [
        (header::CONTENT_TYPE, format!("multipart/mixed; boundary={boundary}")),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    (headers, body).into_response()
}
