//! The endpoints without authentication. The specification froze them: they serve only what was uploaded before a
//! server enacted the freeze. A server of ours never served anything there, so there is nothing but the icons of identity
//! providers, unless `allow_legacy_media` turns the freeze off.
//!
//! `allow_remote` and `allow_redirect` are permissions that are not made use of: nothing is fetched from other servers,
//! and no answer is a redirect. But who sends a token all the same is served as at the endpoints that took their place.

#![expect(deprecated, reason = "frozen, but part of the specification")]

use std::{net::IpAddr, sync::Arc};

use axum::{Router, extract::State, response::Response};
use http::HeaderMap;
use ruma::{
    ServerName,
    api::client::media::{get_content, get_content_as_filename, get_content_thumbnail},
};

use super::{download, thumbnail};
use crate::{
    Server,
    error::{Error, Result},
    http::{
        endpoint,
        extract::{MaybeClient, WithOptionalToken},
    },
    media::{self, Asker},
    user::session::Caller,
};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        .merge(endpoint::<WithOptionalToken<get_content::v3::Request>, _, _>(get))
        .merge(endpoint::<WithOptionalToken<get_content_as_filename::v3::Request>, _, _>(get_as))
        .merge(endpoint::<WithOptionalToken<get_content_thumbnail::v3::Request>, _, _>(get_thumbnail))
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3downloadservernamemediaid>
async fn get(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    MaybeClient { sender, address, body: WithOptionalToken(body), .. }: MaybeClient<
        WithOptionalToken<get_content::v3::Request>,
    >,
) -> Result<Response> {
    let uri = (&*body.server_name, body.media_id.as_str());
    check_not_frozen(&server, uri)?;
    download::serve(&server, &headers, asker(sender.as_ref(), address), uri, None, body.timeout_ms).await
}

/// `GET /_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3downloadservernamemediaidfilename>
async fn get_as(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    MaybeClient { sender, address, body: WithOptionalToken(body), .. }: MaybeClient<
        WithOptionalToken<get_content_as_filename::v3::Request>,
    >,
) -> Result<Response> {
    let uri = (&*body.server_name, body.media_id.as_str());
    check_not_frozen(&server, uri)?;
    download::serve(&server, &headers, asker(sender.as_ref(), address), uri, Some(body.filename), body.timeout_ms).await
}

/// `GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}`
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3thumbnailservernamemediaid>
async fn get_thumbnail(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    MaybeClient { sender, address, body: WithOptionalToken(body), .. }: MaybeClient<
        WithOptionalToken<get_content_thumbnail::v3::Request>,
    >,
) -> Result<Response> {
    let uri = (&*body.server_name, body.media_id.as_str());
    check_not_frozen(&server, uri)?;
    let (width, height) = (body.width.into(), body.height.into());
    let animated = body.animated.unwrap_or_default();
    let request = media::thumbnail::Request::new(body.method.as_ref(), width, height, animated)?;
    thumbnail::serve(&server, &headers, asker(sender.as_ref(), address), uri, request, body.timeout_ms).await
}

fn asker(sender: Option<&Caller>, address: IpAddr) -> Asker<'_> {
    sender.map_or(Asker::Address(address), Asker::User)
}

/// The same answer for what exists and what does not: who is not logged in learns nothing.
fn check_not_frozen(server: &Server, uri: (&ServerName, &str)) -> Result<()> {
    if server.config.media.allow_legacy_media || is_icon(server, uri) {
        return Ok(());
    }
    Err(Error::not_found("Not found: media is served to users who are logged in, at /_matrix/client/v1/media"))
}

/// Whether this is a picture of ours that clients show where one logs in, before anybody has a token.
/// <https://spec.matrix.org/v1.19/client-server-api/#definition-mloginsso-flow-schema>
fn is_icon(server: &Server, uri: (&ServerName, &str)) -> bool {
    let mut icons = server.config.identity_providers.iter().filter_map(|provider| provider.icon.as_ref());
    uri.0 == server.name() && icons.any(|icon| icon.parts().is_ok_and(|parts| parts == uri))
}
