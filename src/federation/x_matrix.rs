//! Requests that other servers signed.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use http::{StatusCode, header};
use ruma::{
    OwnedServerName, ServerName,
    api::{error::ErrorKind, federation::authentication::XMatrix},
    signatures::{PublicKeyMap, verify_canonical_json_bytes},
};

use super::{
    backoff, check_allowed,
    keys::{self, Wanted},
    queue, signed_json,
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
    let signed = signed_text(request, &origin, server.name())?;
    let is_signed = claims.iter().any(|claim| is_right(claim, &signed, &keys));
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

/// What the signatures of the request are of. ruma would take it from the parsed body, which fails as a whole if one event
/// in it has a number that is none of canonical JSON.
fn signed_text(request: &http::Request<Bytes>, origin: &ServerName, destination: &ServerName) -> Result<String> {
    let mut head = http::Request::new([0_u8; 0]);
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    let head = XMatrix::request_object(&head, origin, destination).map_err(Error::internal)?;
    let mut text = serde_json::to_string(&head).map_err(Error::internal)?;
    if !request.body().is_empty() {
        let body = signed_json::canonical(request.body());
        let body =
            body.map_err(|why| unauthorized(format!("The body of the request can't have been signed: {why}")))?;
        text.insert_str(1, &format!("\"content\":{body},")); // which comes before all the others
    }
    Ok(text)
}

fn is_right(claim: &XMatrix, signed: &str, keys: &PublicKeyMap) -> bool {
    let key = keys.get(claim.origin.as_str()).and_then(|keys| keys.get(claim.key.as_str()));
    key.is_some_and(|key| {
        let algorithm = claim.key.algorithm();
        verify_canonical_json_bytes(&algorithm, key.as_bytes(), claim.sig.as_bytes(), signed.as_bytes()).is_ok()
    })
}

fn unauthorized(message: String) -> Error {
    Error::refused(ErrorKind::Unauthorized, message).with_status(StatusCode::UNAUTHORIZED)
}
