//! What is shown of a web page that somebody links to.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url>

mod fetch;
mod html;

use std::{io::Cursor, sync::Arc, time::Duration};

use futures_util::stream;
use http::StatusCode;
use image::{ImageFormat, ImageReader};
use quick_cache::sync::Cache;
use reqwest::Url;
use ruma::api::error::ErrorKind;
use serde_json::{Map, Value};
use tracing::debug;

use self::fetch::{Fetched, fetch};
use super::{ID_LENGTH, remote, tables::Stored, upload, uri};
use crate::{
    Server,
    error::{Error, Result},
    permits::Permits,
    user::session::Caller,
};

/// How long a preview is the answer to the same question, and how many are remembered.
const LIFETIME: Duration = Duration::from_secs(60 * 60);
const CACHED: usize = 200;

/// How many pages are fetched at a time, and how many of them one user may have running and waiting.
const MAX_RUNNING: usize = 16;
const MAX_OF_USER: usize = 8;

/// The previews of late, and who may have one made now.
pub struct Previews {
    cache: Cache<String, Arc<Preview>>,
    permits: Permits,
}

struct Preview {
    made_at_ms: u64,
    properties: Map<String, Value>,
}

impl Default for Previews {
    fn default() -> Self {
        Self { cache: Cache::new(CACHED), permits: Permits::new(MAX_RUNNING, MAX_OF_USER) }
    }
}

/// The properties of a page, in the names of Open Graph; none if it says nothing about itself.
///
/// Errors: `M_UNRECOGNIZED` if previews are off, `M_INVALID_PARAM` for what is no address of a web page, `M_FORBIDDEN` for
/// one of a host that is not allowed, and a status of 502 if there is no page. That does not tell why: users shall not
/// learn what is in networks that only we can reach.
pub async fn get(server: &Arc<Server>, caller: &Caller, url: &str) -> Result<Map<String, Value>> {
    if !server.config.url_previews.are_on() {
        return Err(Error::unrecognized("This server makes no previews of web pages"));
    }
    let url = fetch::page(url).ok_or_else(|| Error::invalid_param("That is not the address of a web page"))?;
    if !fetch::is_allowed(server, &url) {
        return Err(Error::forbidden("This server makes no previews of pages of that host"));
    }
    if let Some(known) = known(server, &url) {
        return Ok(known);
    }
    server.limits.upload(caller)?;
    let _permit = server.previews.permits.acquire(&caller.user_id).await?;
    if let Some(known) = known(server, &url) {
        return Ok(known); // somebody else asked at the same time
    }
    let properties = make(server, &url).await?;
    let preview = Arc::new(Preview { made_at_ms: server.clock.now_ms(), properties: properties.clone() });
    server.previews.cache.insert(url.into(), preview);
    Ok(properties)
}

fn known(server: &Server, url: &Url) -> Option<Map<String, Value>> {
    let known = server.previews.cache.get(url.as_str())?;
    let age = Duration::from_millis(server.clock.now_ms().saturating_sub(known.made_at_ms));
    (age < LIFETIME).then(|| known.properties.clone())
}

async fn make(server: &Arc<Server>, url: &Url) -> Result<Map<String, Value>> {
    let limits = &server.config.url_previews;
    let page = fetch(server, url, limits.max_page_size.as_usize()).await.map_err(|failure| {
        debug!(host = url.host_str(), %failure, "no preview");
        Error::refused(ErrorKind::Unknown, "The page can't be fetched").with_status(StatusCode::BAD_GATEWAY)
    })?;
    let mut preview = Map::new();
    if page.is_image() {
        // What could be read may have ended at the limit for pages.
        let image = if page.is_whole { Some(page) } else { picture(server, url).await };
        add_image(server, image, &mut preview).await?;
    } else if page.is_html() {
        let base = page.url.clone();
        let properties = server.blocking(move |_| Ok(html::properties(&page.text()))).await?;
        for (key, text) in properties.iter().filter(|(key, _)| !key.starts_with("og:image")) {
            preview.insert(key.clone(), text.as_str().into());
        }
        let image = properties.get("og:image").or(properties.get("og:image:url"));
        if let Some(image) = image.and_then(|image| fetch::page(base.join(image).ok()?.as_str())) {
            add_image(server, picture(server, &image).await, &mut preview).await?;
        }
    }
    Ok(preview)
}

/// A picture; `None` if there is none there, since a page is shown without it then.
async fn picture(server: &Server, url: &Url) -> Option<Fetched> {
    match fetch(server, url, server.config.url_previews.max_image_size.as_usize()).await {
        Ok(image) => Some(image),
        Err(failure) => {
            debug!(host = url.host_str(), %failure, "a preview without its picture");
            None
        }
    }
}

/// Keeps a picture among the files that go when there is no room, and tells of it. What is no image of a known format is
/// left out.
async fn add_image(server: &Arc<Server>, image: Option<Fetched>, preview: &mut Map<String, Value>) -> Result<()> {
    let Some(image) = image.filter(|image| image.is_whole) else { return Ok(()) };
    let content_type = match image::guess_format(&image.content) {
        Ok(ImageFormat::Gif) => "image/gif",
        Ok(ImageFormat::Jpeg) => "image/jpeg",
        Ok(ImageFormat::Png) => "image/png",
        Ok(ImageFormat::WebP) => "image/webp",
        _ => return Ok(()),
    };
    let header = ImageReader::new(Cursor::new(&image.content)).with_guessed_format();
    let Some((width, height)) = header.ok().and_then(|image| image.into_dimensions().ok()) else { return Ok(()) };
    let size = image.content.len();
    let content = stream::once(async move { Ok(image.content) });
    let received = upload::receive(server, content, server.config.url_previews.max_image_size).await?;
    let upload::Received { file, size: bytes, sha256 } = received;
    let stored = Stored { file: file.id, size: bytes, sha256, content_type: content_type.to_owned(), file_name: None };
    let settled = server.blocking(move |server| file.settle().map_err(|e| super::disk_failed(server, e))).await?;
    let media_id = server.random.text(ID_LENGTH);
    let uri = uri(server, &media_id);
    let for_row = Arc::clone(server);
    let keep = async move { remote::keep(&for_row, for_row.name(), &media_id, stored, settled).await };
    Server::detached(keep).await?;
    for (key, value) in [
        ("og:image", Value::from(uri.as_str())),
        ("og:image:type", content_type.into()),
        ("og:image:width", width.into()),
        ("og:image:height", height.into()),
        ("matrix:image:size", size.into()),
    ] {
        preview.insert(key.to_owned(), value);
    }
    Ok(())
}
