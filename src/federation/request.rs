use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Uri, header};
use ruma::{
    ServerName,
    api::{
        IncomingResponseExt, OutgoingRequest, OutgoingRequestExt,
        auth_scheme::{AuthScheme, NoAuthentication},
        error::{Error as MatrixError, ErrorKind, FromHttpResponseError},
        federation::authentication::{ServerSignatures, XMatrix, XMatrixSigningInput},
        path_builder::SinglePath,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::{backoff, check_allowed, discovery};
use crate::{
    Server,
    error::{Error, RemoteError, Result},
    outgoing::{self, Body, Limits},
};

/// Asks another server, signed as the specification wants it, within the limits of the configuration.
///
/// Errors: `M_FORBIDDEN` if federation with it is not allowed, and [`Error::Remote`].
pub async fn request<R>(server: &Arc<Server>, destination: &ServerName, request: R) -> Result<R::IncomingResponse>
where
    R: OutgoingRequest<
            Authentication = ServerSignatures,
            PathBuilder = SinglePath,
            EndpointError = MatrixError,
            IncomingResponse: IncomingResponseExt<EndpointError = MatrixError>,
        >,
{
    request_within(server, destination, request, ordinary(server)).await
}

/// As [`request`], with limits of its own.
pub async fn request_within<R>(
    server: &Arc<Server>,
    destination: &ServerName,
    request: R,
    limits: Limits,
) -> Result<R::IncomingResponse>
where
    R: OutgoingRequest<
            Authentication = ServerSignatures,
            PathBuilder = SinglePath,
            EndpointError = MatrixError,
            IncomingResponse: IncomingResponseExt<EndpointError = MatrixError>,
        >,
{
    let signer = XMatrixSigningInput::new(server.owned_name(), destination.to_owned(), &server.key);
    let request = http_request(request, signer)?;
    parsed(destination, exchange(server, destination, request, limits).await?).await
}

/// As [`request_within`], for answers that are read as they come.
pub async fn exchange_signed<R>(
    server: &Arc<Server>,
    destination: &ServerName,
    request: R,
    limits: Limits,
) -> Result<http::Response<Body>>
where
    R: OutgoingRequest<Authentication = ServerSignatures, PathBuilder = SinglePath>,
{
    let signer = XMatrixSigningInput::new(server.owned_name(), destination.to_owned(), &server.key);
    exchange(server, destination, http_request(request, signer)?, limits).await
}

/// As [`request`], for an endpoint with JSON bodies that ruma has no type for. `path` begins with a slash.
pub async fn request_json<A: DeserializeOwned>(
    server: &Arc<Server>,
    destination: &ServerName,
    method: http::Method,
    path: &str,
    body: &impl Serialize,
) -> Result<A> {
    let body = serde_json::to_vec(body).map_err(Error::internal)?;
    let mut request = http::Request::builder()
        .method(method)
        .uri(format!("https://destination.invalid{path}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Bytes::from(body))
        .map_err(Error::internal)?;
    let signer = XMatrixSigningInput::new(server.owned_name(), destination.to_owned(), &server.key);
    let signature = XMatrix::sign_http_request(&request, signer).map_err(unsendable)?;
    request.headers_mut().insert(header::AUTHORIZATION, (&signature).into());
    let answer = exchange(server, destination, request, ordinary(server)).await?;
    let malformed = |why: String| Error::remote(destination, RemoteError::Malformed(why));
    if !answer.status().is_success() {
        return Err(malformed(format!("it answers {}", answer.status())));
    }
    let answer =
        outgoing::read(answer.into_body()).await.map_err(|failure| Error::remote(destination, failure.into()))?;
    serde_json::from_slice(&answer).map_err(|error| malformed(error.to_string()))
}

/// Endpoints that need no signature: those of keys and of the version.
pub trait Unsigned:
    OutgoingRequest<
        Authentication = NoAuthentication,
        PathBuilder = SinglePath,
        EndpointError = MatrixError,
        IncomingResponse: IncomingResponseExt<EndpointError = MatrixError>,
    >
{
}

impl<R> Unsigned for R where
    R: OutgoingRequest<
            Authentication = NoAuthentication,
            PathBuilder = SinglePath,
            EndpointError = MatrixError,
            IncomingResponse: IncomingResponseExt<EndpointError = MatrixError>,
        >
{
}

/// Asks another server for what it tells anybody.
pub async fn request_unsigned<R: Unsigned>(
    server: &Arc<Server>,
    destination: &ServerName,
    request: R,
    limits: Limits,
) -> Result<R::IncomingResponse> {
    check_not_failing(server, destination)?;
    request_unsigned_now(server, destination, request, limits).await
}

/// As [`request_unsigned`], even if the server failed lately.
pub async fn request_unsigned_now<R: Unsigned>(
    server: &Arc<Server>,
    destination: &ServerName,
    request: R,
    limits: Limits,
) -> Result<R::IncomingResponse> {
    let request = http_request(request, ())?;
    parsed(destination, exchange_now(server, destination, request, limits).await?).await
}

/// What an ordinary request may cost.
pub(super) fn ordinary(server: &Server) -> Limits {
    let config = &server.config.federation;
    Limits { time: config.request_timeout, bytes: config.max_response_size.as_usize(), redirects: false }
}

/// The request as ruma makes it: its URI has a placeholder for the host.
fn http_request<R: OutgoingRequest<PathBuilder = SinglePath>>(
    request: R,
    signer: <R::Authentication as AuthScheme>::Input<'_>,
) -> Result<http::Request<Bytes>> {
    let request = request.try_into_http_request::<BytesMut>("https://destination.invalid", signer, ());
    Ok(request.map_err(unsendable)?.map(BytesMut::freeze))
}

/// Somebody gave us what canonical JSON does not have, and nobody can sign.
fn unsendable(error: impl std::fmt::Display) -> Error {
    Error::bad_json(format!("This can't be sent to other servers: {error}"))
}

/// Sends a finished request to `destination`, whose host and port replace those of the request's URI. The answer is a
/// success, and its body is read as it comes.
pub async fn exchange(
    server: &Arc<Server>,
    destination: &ServerName,
    request: http::Request<Bytes>,
    limits: Limits,
) -> Result<http::Response<Body>> {
    check_not_failing(server, destination)?;
    exchange_now(server, destination, request, limits).await
}

fn check_not_failing(server: &Server, destination: &ServerName) -> Result<()> {
    check_allowed(server, destination)?;
    backoff::check(server, destination)
}

async fn exchange_now(
    server: &Arc<Server>,
    destination: &ServerName,
    mut request: http::Request<Bytes>,
    limits: Limits,
) -> Result<http::Response<Body>> {
    check_allowed(server, destination)?;
    let place = discovery::find(server, destination).await;
    if let Err(Error::Remote { source, .. }) = &place {
        backoff::failed(server, destination, &source.to_string()).await?;
    }
    let place = place?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = Uri::builder()
        .scheme("https")
        .authority(place.authority)
        .path_and_query(path)
        .build()
        .map_err(|error| Error::remote(destination, RemoteError::Unreachable(error.to_string())))?;
    let host = HeaderValue::from_str(&place.host).map_err(Error::internal)?;
    request.headers_mut().insert(header::HOST, host);
    let response = match server.outgoing.send(request, limits).await {
        Ok(response) => response,
        Err(failure) => {
            backoff::failed(server, destination, &failure.to_string()).await?;
            return Err(Error::remote(destination, failure.into()));
        }
    };
    let status = response.status();
    if status.is_success() {
        backoff::succeeded(server, destination).await?;
        return Ok(response);
    }
    let refusal = refusal(response).await;
    // The specification has a status of 5xx for these, and yet they say that the server works.
    let is_of_file = matches!(refusal.error_kind(), Some(ErrorKind::NotYetUploaded | ErrorKind::TooLarge));
    if status.is_server_error() && !is_of_file {
        backoff::failed(server, destination, &format!("it answered {status}")).await?;
    } else {
        backoff::succeeded(server, destination).await?;
    }
    Err(Error::remote(destination, RemoteError::Refused(Box::new(refusal))))
}

async fn refusal(response: http::Response<Body>) -> MatrixError {
    use ruma::api::EndpointError;
    let (parts, body) = response.into_parts();
    let body = outgoing::read(body).await.unwrap_or_default();
    MatrixError::from_http_response(http::Response::from_parts(parts, body.as_ref()))
}

async fn parsed<R: IncomingResponseExt<EndpointError = MatrixError>>(
    destination: &ServerName,
    response: http::Response<Body>,
) -> Result<R> {
    let (parts, body) = response.into_parts();
    let body = outgoing::read(body).await.map_err(|failure| Error::remote(destination, failure.into()))?;
    R::try_from_http_response(http::Response::from_parts(parts, body.as_ref())).map_err(|error| {
        let error = match error {
            FromHttpResponseError::Server(error) => RemoteError::Refused(Box::new(error)),
            other => RemoteError::Malformed(other.to_string()),
        };
        Error::remote(destination, error)
    })
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde::de::IgnoredAny;
    use serde_json::json;

    use super::*;
    use crate::room::testing::TestRoom;

    #[test]
    fn what_cannot_be_signed_is_a_mistake_of_who_gave_it() {
        let room = TestRoom::new();
        let body = json!({ "n": 1.5 });
        let asked = request_json::<IgnoredAny>(&room.server, server_name!("b.test"), http::Method::PUT, "/x", &body);
        assert!(matches!(room.block_on(asked), Err(Error::Refused { kind: ErrorKind::BadJson, .. })));
    }
}
