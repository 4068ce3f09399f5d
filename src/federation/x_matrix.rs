//! Requests that other servers signed.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use http::{StatusCode, header};
use ruma::{
    OwnedServerName,
    api::{error::ErrorKind, federation::authentication::XMatrix},
};

use super::{
    backoff, check_allowed,
    keys::{self, Wanted},
    queue,
};
use crate::{
    Server,
    error::{Error, Result},
};

/// How many signatures of one request are looked at: a server has few keys.
const MAX_SIGNATURES: usize = 5;

/// Who signed `request`, which has the URI with which it came in and its whole body.
///
/// Errors: `M_UNAUTHORIZED` (401), and `M_FORBIDDEN` for servers with which nothing is exchanged.
pub async fn authenticate(server: &Arc<Server>, request: &http::Request<Bytes>) -> Result<OwnedServerName> {
    if !server.config.allow_federation {
        return Err(Error::forbidden("This server does not federate"));
    }
    let claims = claims(request)?;
    let origin = origin(server, &claims)?;
    check_allowed(server, &origin)?;
    let now = server.clock.now_ms();
    let key_ids: BTreeSet<_> = claims.iter().map(|claim| claim.key.to_string()).collect();
    // However long it was away: until its keys are known, nothing that it sends shows that it is back.
    let wanted = Wanted { key_ids, valid_at_ms: now, is_calling: true };
    let keys = keys::get(server, [(origin.clone(), wanted)].into()).await?;
    let keys = keys.valid_at(now);
    let is_signed = claims.iter().any(|claim| claim.verify_http_request(request, server.name(), &keys).is_ok());
    if !is_signed {
        return Err(unauthorized(format!("No signature of {origin} on this request could be checked")));
    }
    backoff::succeeded(server, &origin).await?;
    queue::is_alive(server, &origin);
    Ok(origin)
}

/// The signatures that the request has.
fn claims(request: &http::Request<Bytes>) -> Result<Vec<XMatrix>> {
    let headers = request.headers().get_all(header::AUTHORIZATION);
    let parsed: Vec<_> = headers.iter().take(MAX_SIGNATURES).map(XMatrix::try_from).collect();
    if parsed.is_empty() {
        return Err(unauthorized("The request is not signed".to_owned()));
    }
    let parsed: Result<Vec<_>, _> = parsed.into_iter().collect();
    parsed.map_err(|error| unauthorized(format!("The signature of the request can't be read: {error}")))
}

/// The one server that claims to have signed, for us.
fn origin(server: &Server, claims: &[XMatrix]) -> Result<OwnedServerName> {
    let first = claims.first().ok_or_else(|| Error::internal("no signatures"))?;
    if claims.iter().any(|claim| claim.origin != first.origin) {
        return Err(unauthorized("The request is signed by several servers".to_owned()));
    }
    if claims.iter().any(|claim| claim.destination.as_deref().is_some_and(|to| to != server.name())) {
        return Err(unauthorized("The request is for another server".to_owned()));
    }
    if first.origin == server.name() {
        return Err(unauthorized("This server sends nothing to itself".to_owned()));
    }
    Ok(first.origin.clone())
}

fn unauthorized(message: String) -> Error {
    Error::refused(ErrorKind::Unauthorized, message).with_status(StatusCode::UNAUTHORIZED)
}
