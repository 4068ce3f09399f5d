use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryFutureExt, stream};
use http::{HeaderMap, StatusCode, header};
use ruma::{
    ServerName,
    api::{error::ErrorKind, federation::authenticated_media::get_content},
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{multipart, take};
use crate::{
    Server,
    error::{Error, RemoteError, Result},
    federation::{self, backoff},
    media::{
        disk_failed,
        files::Settled,
        tables::Stored,
        upload::{self, Description, Received},
    },
    outgoing::{Body, Failure, Limits},
    user::session::Caller,
};

/// How long a whole file may take, beside the time until there is one.
const TIME: Duration = Duration::from_secs(10 * 60);
/// And how long it may be between two pieces of it.
const PAUSE: Duration = Duration::from_secs(30);
/// More bytes than the file has: what is around it.
const AROUND: usize = 128 << 10;

/// A file that was fetched and has no row yet.
pub struct Fetched {
    pub stored: Stored,
    received: Received,
}

impl Fetched {
    /// Makes the file durable.
    pub async fn settle(self, server: &Arc<Server>) -> Result<(Stored, Settled)> {
        let Self { stored, received } = self;
        let settle = move |server: &Server| received.file.settle().map_err(|error| disk_failed(server, error));
        Ok((stored, server.blocking(settle).await?))
    }
}

/// What comes from the other server.
struct Content {
    content_type: Option<String>,
    file_name: Option<String>,
    body: Body,
}

/// Fetches a file, each piece of which counts for `caller`, whether or not it becomes whole.
pub async fn fetch(
    server: &Arc<Server>,
    caller: &Caller,
    other: &ServerName,
    media_id: &str,
    patience: Duration,
) -> Result<Fetched> {
    let max = server.config.media.max_remote_file_size;
    let limits = Limits { time: TIME + patience, bytes: max.as_usize().saturating_add(AROUND), redirects: false };
    let deadline = Instant::now() + patience + server.config.federation.request_timeout;
    let asked = authenticated(server, other, media_id, patience, limits, deadline).await;
    let Content { content_type, file_name, body } = match asked {
        Err(error) if is_unrecognized(&error) => frozen(server, other, media_id, patience, limits, deadline).await?,
        other => other?,
    };
    let mut taken = 0;
    let body = without_pauses(body, PAUSE).map(|piece| {
        let piece = piece.map_err(|failure| failed(other, failure))?;
        take(server, caller, &mut taken, piece.len() as u64)?;
        Ok::<_, Error>(piece)
    });
    let received = upload::receive(server, body, max).await.map_err(|error| match error {
        Error::Refused { kind: ErrorKind::TooLarge, .. } => too_large(),
        error => error,
    })?;
    let description = Description::new(content_type, file_name.filter(|name| name.len() <= upload::MAX_FILE_NAME))?;
    let stored = Stored {
        file: received.file.id,
        size: received.size,
        sha256: received.sha256,
        content_type: description.content_type,
        file_name: description.file_name,
    };
    Ok(Fetched { stored, received })
}

/// The status of a file that is too large is the specification's for those of other servers.
fn failed(other: &ServerName, failure: Failure) -> Error {
    match failure {
        Failure::TooLarge(_) => too_large(),
        failure => Error::remote(other, failure.into()),
    }
}

fn too_large() -> Error {
    Error::too_large("The file is larger than this server fetches").with_status(StatusCode::BAD_GATEWAY)
}

/// What `other` answers, and a failure of that server if it has not by `deadline`.
async fn in_time<T>(
    server: &Server,
    other: &ServerName,
    deadline: Instant,
    answer: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Ok(answer) = timeout_at(deadline, answer).await else {
        backoff::failed(server, other, &Failure::TimedOut.to_string()).await?;
        return Err(failed(other, Failure::TimedOut));
    };
    answer
}

/// The body, with an error in place of a piece that does not come within `pause`.
fn without_pauses(body: Body, pause: Duration) -> Body {
    stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match timeout(pause, body.next()).await {
            Ok(piece) => piece.map(|piece| (piece, Some(body))),
            Err(_) => Some((Err(Failure::TimedOut), None)),
        }
    })
    .boxed()
}

/// Whether the other server knows no such endpoint: an older one, which need not say so in the form of Matrix.
fn is_unrecognized(error: &Error) -> bool {
    let Error::Remote { source: RemoteError::Refused(refusal), .. } = error else { return false };
    match refusal.error_kind() {
        Some(kind) => *kind == ErrorKind::Unrecognized,
        None => refusal.status_code.is_client_error(),
    }
}

async fn authenticated(
    server: &Arc<Server>,
    other: &ServerName,
    media_id: &str,
    patience: Duration,
    limits: Limits,
    deadline: Instant,
) -> Result<Content> {
    let mut request = get_content::v1::Request::new(media_id.to_owned());
    request.timeout_ms = patience;
    let response = federation::exchange_signed(server, other, request, limits);
    let response = in_time(server, other, deadline, response).await?;
    let malformed = |why: &str| Error::remote(other, RemoteError::Malformed(why.to_owned()));
    let content_type = text(response.headers(), header::CONTENT_TYPE).unwrap_or_default();
    let boundary = multipart::boundary(&content_type).ok_or_else(|| malformed("it is not multipart/mixed"))?;
    let failed = |failure| failed(other, failure);
    let part = multipart::read(response.into_body(), &boundary).map_err(failed);
    let part = in_time(server, other, deadline, part).await?;
    let Some(location) = part.location else {
        return Ok(Content { content_type: part.content_type, file_name: part.file_name, body: part.content });
    };
    // A signature is for the other server only; who has the file there is asked without one.
    if !location.starts_with("https://") {
        return Err(malformed("the file is at an address without encryption"));
    }
    let request = http::Request::get(location).body(Bytes::new()).map_err(|_| malformed("a wrong address"))?;
    let response = server.outgoing.send(request, Limits { redirects: true, ..limits });
    let response = timeout_at(deadline, response).await.unwrap_or(Err(Failure::TimedOut)).map_err(failed)?;
    if !response.status().is_success() {
        return Err(malformed("the file is not where it should be"));
    }
    Ok(of_response(response))
}

/// Asks at the endpoint that the specification froze, which older servers still have.
async fn frozen(
    server: &Arc<Server>,
    other: &ServerName,
    media_id: &str,
    patience: Duration,
    limits: Limits,
    deadline: Instant,
) -> Result<Content> {
    let timeout_ms = patience.as_millis();
    let uri = format!(
        "https://destination.invalid/_matrix/media/v3/download/{other}/{media_id}?allow_remote=false&timeout_ms={timeout_ms}"
    );
    let request = http::Request::get(uri).body(Bytes::new()).map_err(|_| Error::not_found("This is not a media ID"))?;
    let response = federation::exchange(server, other, request, limits);
    Ok(of_response(in_time(server, other, deadline, response).await?))
}

fn of_response(response: http::Response<Body>) -> Content {
    let headers = response.headers();
    let disposition = headers.get(header::CONTENT_DISPOSITION);
    Content {
        content_type: text(headers, header::CONTENT_TYPE),
        file_name: disposition.and_then(|value| multipart::file_name_of(value.as_bytes())),
        body: response.into_body().boxed(),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outgoing;

    #[tokio::test]
    async fn a_body_ends_with_an_error_where_nothing_comes_for_long() {
        let pieces = || stream::iter([Ok::<_, Failure>(Bytes::from_static(b"a")), Ok(Bytes::from_static(b"b"))]);
        let pause = Duration::from_millis(10);
        assert_eq!(outgoing::read(without_pauses(pieces().boxed(), pause)).await.unwrap(), "ab");
        let stopping = without_pauses(pieces().chain(stream::pending()).boxed(), pause);
        let answer = timeout(Duration::from_secs(10), outgoing::read(stopping)).await;
        assert!(matches!(answer.expect("it ends"), Err(Failure::TimedOut)));
    }
}
