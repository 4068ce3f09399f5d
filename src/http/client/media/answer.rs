//! A file as an HTTP answer: its headers keep a browser from running what users uploaded.

use std::fs::File;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use ruma::http_headers::{APPLICATION_OCTET_STREAM, CROSS_ORIGIN_RESOURCE_POLICY, ContentDisposition};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::range::{self, Part};
use crate::{
    error::{Error, Result},
    media::open_files::{Reading, Turn},
};

/// <https://spec.matrix.org/v1.19/client-server-api/#content-repository>
const CONTENT_SECURITY_POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                                       style-src 'unsafe-inline'; object-src 'self';";

/// What has a URI never changes. Only the client itself may keep it: others may not see it.
const CACHE_CONTROL: &str = "private, max-age=31536000, immutable";

/// How much of a file is in memory at a time. Bytes.
const READ_AT_ONCE: usize = 64 << 10;

/// What is served.
pub struct Content {
    pub file: File,
    /// For as long as it is open.
    pub turn: Turn,
    /// Bytes.
    pub size: u64,
    /// From the uploader, or one of ours.
    pub media_type: String,
    pub disposition: ContentDisposition,
    /// Differs for what differs; without quotation marks.
    pub tag: String,
}

impl Content {
    /// The answer to a `GET` with these headers: all of it, a part, or that the client has it already.
    pub async fn answer(self, asked: &HeaderMap) -> Result<Response> {
        let etag = format!("\"{}\"", self.tag);
        if range::is_known(asked, &etag) {
            let headers = [(header::ETAG, etag), (header::CACHE_CONTROL, CACHE_CONTROL.to_owned())];
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        let mut headers = self.headers(&etag)?;
        let (status, first, length) = match range::asked_for(asked, self.size, &etag) {
            Part::Whole => (StatusCode::OK, 0, self.size),
            Part::Bytes(first, last) => {
                headers.insert(header::CONTENT_RANGE, value(&format!("bytes {first}-{last}/{}", self.size))?);
                (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
            }
            Part::Nothing => {
                let content_range = [(header::CONTENT_RANGE, format!("bytes */{}", self.size))];
                return Ok((StatusCode::RANGE_NOT_SATISFIABLE, content_range).into_response());
            }
        };
        headers.insert(header::CONTENT_LENGTH, length.into());
        Ok((status, headers, read(self.file, self.turn, first, length).await?).into_response())
    }

    fn headers(&self, etag: &str) -> Result<HeaderMap> {
        Ok(HeaderMap::from_iter([
            // What came in as a header goes out as one; anything else would be a bug.
            (header::CONTENT_TYPE, HeaderValue::try_from(&self.media_type).unwrap_or(APPLICATION_OCTET_STREAM)),
            (header::CONTENT_DISPOSITION, value(&self.disposition.to_string())?),
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY)),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("cross-origin")),
            (header::CACHE_CONTROL, HeaderValue::from_static(CACHE_CONTROL)),
            (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
            (header::ETAG, value(etag)?),
        ]))
    }
}

fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::try_from(text).map_err(Error::internal)
}

/// `length` bytes of a file from `first` on, read as the client takes them.
async fn read(file: File, turn: Turn, first: u64, length: u64) -> Result<Body> {
    let reading = Reading::begin(file, first, turn).await.map_err(Error::internal)?;
    Ok(Body::from_stream(ReaderStream::with_capacity(reading.take(length), READ_AT_ONCE)))
}
