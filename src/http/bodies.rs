//! The bodies of requests: read whole into memory, so much of one, and so much of all together; those of uploads as they come.

use std::{pin::pin, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::StatusCode;
use hyper::body::Body as _;
use ruma::api::error::ErrorKind;
use tokio::time::{Instant, timeout_at};

use super::extract::unread_body;
use crate::{
    Server,
    error::Error,
    memory::{Held, SharedMemory},
};

/// A body of this size counts for nothing, so that ordinary requests go on while large ones are refused. Strangers may
/// send no larger one, except where the specification has them do so.
pub(super) const SMALL: usize = 64 << 10;

/// When a client whose body did not fit may try again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// How long a large body may take, beside what its size takes at the slowest pace. What has come of it holds memory that
/// others wait for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes in a second.
const SLOWEST_PACE: usize = 64 << 10;
/// Those of an upload, which holds a file open and no memory: a telephone at the edge of its network gets it done.
const SLOWEST_UPLOAD: usize = 8 << 10;

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
/// room; 408 if it comes too slowly. What has come counts, and not what was announced: nobody keeps others out by a promise.
pub(super) async fn read(body: Body, server: &Server) -> Result<Bytes, Error> {
    let limit = server.config.max_request_size.as_usize();
    if body.size_hint().upper().is_some_and(|upper| upper <= SMALL as u64) {
        return axum::body::to_bytes(body, limit).await.map_err(|e| unread_body(&e));
    }
    read_large(body, limit, &server.body_memory, PATIENCE).await
}

async fn read_large(body: Body, limit: usize, memory: &SharedMemory, patience: Duration) -> Result<Bytes, Error> {
    let too_large = || Error::too_large("The request is larger than this server accepts");
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let (mut bytes, mut held) = (Vec::new(), Held::nothing());
    let mut parts = pin!(paced(body, patience, SLOWEST_PACE));
    while let Some(part) = parts.next().await {
        let part = part?;
        let size = bytes.len() + part.len();
        if size > limit {
            return Err(too_large());
        }
        if size > SMALL && !memory.grow(&mut held, size) {
            return Err(Error::limit_exceeded(RETRY_AFTER));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(Bytes::from_owner(Counted { bytes, _held: held }))
}

/// The parts of an upload as they come; 408 if they come too slowly. The time begins when the first is asked for.
pub(super) fn parts(body: Body) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    paced(body, PATIENCE, SLOWEST_UPLOAD)
}

/// `pace`: the slowest, in bytes a second.
fn paced(body: Body, patience: Duration, pace: usize) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    let begin = (body.into_data_stream(), 0_usize, None::<Instant>);
    stream::try_unfold(begin, move |(mut parts, size, begun)| async move {
        let begun = begun.unwrap_or_else(Instant::now);
        let for_size = Duration::from_secs((size / pace) as u64);
        let next = timeout_at(begun + patience + for_size, parts.next()).await;
        let Some(part) = next.map_err(|_| too_slow())? else { return Ok(None) };
        let part = part.map_err(|e| unread_body(&e))?;
        let size = size + part.len();
        Ok::<_, Error>(Some((part, (parts, size, Some(begun)))))
    })
}

fn too_slow() -> Error {
    Error::refused(ErrorKind::Unknown, "The request comes too slowly").with_status(StatusCode::REQUEST_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::time::{sleep, timeout};

    use super::*;

    async fn read_within(patience: Duration, body: Body) -> Result<Bytes, Error> {
        let reading = timeout(Duration::from_secs(10), async move {
            read_large(body, 1 << 20, &SharedMemory::new(1 << 20), patience).await
        });
        reading.await.expect("nobody waits for ever")
    }

    async fn late(bytes: usize, by_ms: u64) -> Result<Bytes, Infallible> {
        sleep(Duration::from_millis(by_ms)).await;
        Ok(Bytes::from(vec![b' '; bytes]))
    }

    #[tokio::test]
    async fn a_body_that_comes_in_drops_is_given_up() {
        let drops = stream::unfold((), |()| async { Some((late(1, 5).await, ())) });
        let refused = read_within(Duration::from_millis(100), Body::from_stream(drops)).await.unwrap_err();
        assert!(matches!(refused, Error::Refused { status: Some(StatusCode::REQUEST_TIMEOUT), .. }), "{refused:?}");
    }

    #[tokio::test]
    async fn what_has_come_earns_time_for_the_rest() {
        let body = stream::once(late(10 * SLOWEST_PACE, 0)).chain(stream::once(late(1, 50)));
        let read = read_within(Duration::from_millis(10), Body::from_stream(body)).await.unwrap();
        assert_eq!(read.len(), 10 * SLOWEST_PACE + 1);
    }

    /// How much of an upload comes, and whether all of it does.
    async fn upload_within(patience: Duration, body: Body) -> (usize, Result<(), Error>) {
        let mut parts = Box::pin(paced(body, patience, SLOWEST_UPLOAD));
        sleep(2 * patience).await; // as when it waits for its turn
        let mut size = 0;
        while let Some(part) = parts.next().await {
            match part {
                Ok(part) => size += part.len(),
                Err(error) => return (size, Err(error)),
            }
        }
        (size, Ok(()))
    }

    #[tokio::test]
    async fn an_upload_that_comes_in_drops_is_given_up_and_what_has_come_earns_time() {
        let drops = stream::unfold((), |()| async { Some((late(1, 5).await, ())) });
        let (size, end) = upload_within(Duration::from_millis(100), Body::from_stream(drops)).await;
        let refused = end.unwrap_err();
        assert!(matches!(refused, Error::Refused { status: Some(StatusCode::REQUEST_TIMEOUT), .. }), "{refused:?}");
        assert!(size > 0, "the time begins with the first part");
        let body = stream::once(late(10 * SLOWEST_UPLOAD, 0)).chain(stream::once(late(1, 50)));
        let (size, end) = upload_within(Duration::from_millis(10), Body::from_stream(body)).await;
        end.unwrap();
        assert_eq!(size, 10 * SLOWEST_UPLOAD + 1);
    }
}
