//! Fetching what a user, or a page, gave the address of: nothing here may be trusted.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use encoding_rs::Encoding;
use futures_util::StreamExt;
use http::{HeaderMap, header};
use reqwest::Url;

use crate::{
    Server,
    outgoing::{Body, Failure, Limits},
};

/// What fetching a page, or a picture of it, may take altogether.
const MAX_TIME: Duration = Duration::from_secs(10);
const MAX_REDIRECTS: usize = 3;
const MAX_URL_BYTES: usize = 2_000;
/// Within how many bytes of its beginning a page says how it is encoded. Source: the HTML standard.
const ENCODING_WITHIN: usize = 1_024;

/// The address of something on the web; `None` if it is none, or one with somebody's password in it.
pub fn page(text: &str) -> Option<Url> {
    let mut url = Url::parse(text).ok().filter(|_| text.len() <= MAX_URL_BYTES)?;
    let is_page = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some()
        && url.username().is_empty()
        && url.password().is_none();
    url.set_fragment(None);
    is_page.then_some(url)
}

/// Whether the configuration lets us fetch from there. Where the name leads is looked at when a connection is made.
pub fn is_allowed(server: &Server, url: &Url) -> bool {
    url.host_str().is_some_and(|host| server.config.url_previews.allow(host))
}

/// What a web server answered.
pub struct Fetched {
    /// Where it was in the end.
    pub url: Url,
    /// Without parameters, in small letters.
    media_type: String,
    charset: Option<String>,
    /// As much as was asked for at most.
    pub content: Bytes,
    pub is_whole: bool,
}

impl Fetched {
    pub fn is_html(&self) -> bool {
        is_html(&self.media_type)
    }

    pub fn is_image(&self) -> bool {
        is_image(&self.media_type)
    }

    /// As text, in the encoding that its headers or its first bytes name.
    pub fn text(&self) -> String {
        let start = self.content.get(..self.content.len().min(ENCODING_WITHIN)).unwrap_or_default();
        let start = String::from_utf8_lossy(start).to_lowercase();
        let by_page = || {
            let (_, label) = start.split_once("charset=")?;
            let label = label.trim_start_matches(['"', '\'']);
            label.split(['"', '\'', ' ', '>', ';', '/']).next().map(str::to_owned)
        };
        let label = self.charset.clone().or_else(by_page);
        let encoding = label.and_then(|label| Encoding::for_label(label.as_bytes())).unwrap_or(encoding_rs::UTF_8);
        encoding.decode(&self.content).0.into_owned()
    }
}

fn is_html(media_type: &str) -> bool {
    matches!(media_type, "text/html" | "application/xhtml+xml")
}

fn is_image(media_type: &str) -> bool {
    media_type.starts_with("image/")
}

/// Fetches at most `max_bytes` of what is there. The body of what is neither page nor image is not read.
pub async fn fetch(server: &Server, url: &Url, max_bytes: usize) -> Result<Fetched, Failure> {
    match tokio::time::timeout(MAX_TIME, follow(server, url.clone(), max_bytes)).await {
        Ok(fetched) => fetched,
        Err(_) => Err(Failure::TimedOut),
    }
}

/// Follows redirects itself: each must lead to where we may go.
async fn follow(server: &Server, mut url: Url, max_bytes: usize) -> Result<Fetched, Failure> {
    for _ in 0..=MAX_REDIRECTS {
        if !is_allowed(server, &url) {
            return Err(Failure::Denied(url.host_str().unwrap_or_default().to_owned()));
        }
        let response = ask(server, &url, max_bytes).await?;
        let status = response.status();
        if status.is_redirection() {
            let location = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
            let next = location.and_then(|to| page(url.join(to).ok()?.as_str()));
            let next = next.ok_or_else(|| Failure::Unreachable("it leads nowhere".to_owned()))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(Failure::Unreachable("a redirect leads out of encryption".to_owned()));
            }
            url = next;
            continue;
        }
        if !status.is_success() {
            return Err(Failure::Unreachable(format!("it answered {status}")));
        }
        return read(url, response).await;
    }
    Err(Failure::Unreachable("too many redirects".to_owned()))
}

async fn ask(server: &Server, url: &Url, max_bytes: usize) -> Result<http::Response<Body>, Failure> {
    let request = http::Request::get(url.as_str())
        .header(header::ACCEPT, "text/html,application/xhtml+xml,image/*;q=0.8")
        .header(header::ACCEPT_LANGUAGE, "en,*;q=0.5");
    let request = request.body(Bytes::new()).map_err(|error| Failure::Unreachable(error.to_string()))?;
    let limits = Limits { time: MAX_TIME, bytes: max_bytes, redirects: false };
    server.outgoing.send(request, limits).await
}

async fn read(url: Url, response: http::Response<Body>) -> Result<Fetched, Failure> {
    let (media_type, charset) = type_of(response.headers());
    let is_readable = is_html(&media_type) || is_image(&media_type);
    let (mut content, mut is_whole) = (BytesMut::new(), is_readable);
    let mut body = response.into_body();
    while is_readable && let Some(piece) = body.next().await {
        match piece {
            Ok(piece) => content.extend_from_slice(&piece),
            Err(Failure::TooLarge(_)) => is_whole = false, // what a page says about itself is at its beginning
            Err(failure) => return Err(failure),
        }
    }
    Ok(Fetched { url, media_type, charset, content: content.freeze(), is_whole })
}

/// The media type and the encoding of text.
fn type_of(headers: &HeaderMap) -> (String, Option<String>) {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_lowercase();
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((&content_type, ""));
    let charset = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("charset="));
    (media_type.trim().to_owned(), charset.map(|charset| charset.trim_matches('"').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_page_names_a_host_and_no_password() {
        assert_eq!(page("https://a.example/b?c#d").unwrap().as_str(), "https://a.example/b?c");
        let long = format!("https://a.example/{}", "x".repeat(MAX_URL_BYTES));
        for bad in ["", "a.example", "//a.example", "file:///etc/passwd", "ftp://a.example/", "data:text/html,x", &long]
        {
            assert_eq!(page(bad), None, "{bad}");
        }
        for bad in ["http://me@a.example/", "https://me:secret@a.example/", "https://"] {
            assert_eq!(page(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_page_is_read_in_its_encoding() {
        let fetched = |charset: Option<&str>, content: &'static [u8]| Fetched {
            url: page("https://a.example/").unwrap(),
            media_type: "text/html".to_owned(),
            charset: charset.map(str::to_owned),
            content: Bytes::from_static(content),
            is_whole: true,
        };
        assert_eq!(fetched(None, "é".as_bytes()).text(), "é");
        assert_eq!(fetched(Some("iso-8859-1"), b"\xe9").text(), "é");
        assert_eq!(fetched(None, b"<meta charset=\"latin1\">\xe9").text(), "<meta charset=\"latin1\">é");
        assert_eq!(fetched(Some("nonsense"), b"\xff").text(), "\u{fffd}");
    }
}
