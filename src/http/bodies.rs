//! The bodies of requests, read whole into memory: so much of one, and so much of all together.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use hyper::body::Body as _;

use super::extract::unread_body;
use crate::{Server, error::Error, memory::Held};

/// A body of this size counts for nothing, so that ordinary requests go on while large ones are refused. Strangers may
/// send no larger one, except where the specification has them do so.
pub(super) const SMALL: usize = 64 << 10;

/// When a client whose body did not fit may try again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The body and the memory that it holds until nobody has a part of it any more.
struct Counted {
    bytes: Vec<u8>,
    _held: Held,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The whole body. Errors: `M_TOO_LARGE` beyond `max_request_size`; `M_LIMIT_EXCEEDED` if those of other requests leave no
/// room. What has come counts, and not what was announced: nobody keeps others out by a promise.
pub(super) async fn read(body: Body, server: &Server) -> Result<Bytes, Error> {
    let limit = server.config.max_request_size.as_usize();
    if body.size_hint().upper().is_some_and(|upper| upper <= SMALL as u64) {
        return axum::body::to_bytes(body, limit).await.map_err(|e| unread_body(&e));
    }
    let too_large = || Error::too_large("The request is larger than this server accepts");
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let (mut bytes, mut held) = (Vec::new(), Held::nothing());
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| unread_body(&e))?;
        let size = bytes.len() + chunk.len();
        if size > limit {
            return Err(too_large());
        }
        if size > SMALL && !server.body_memory.grow(&mut held, size) {
            return Err(Error::limit_exceeded(RETRY_AFTER));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Bytes::from_owner(Counted { bytes, _held: held }))
}
