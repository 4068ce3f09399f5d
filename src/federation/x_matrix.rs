//! Requests that other servers signed.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#request-authentication>

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use http::{StatusCode, header};
use ruma::{
    OwnedServerName, OwnedServerSigningKeyId, ServerName,
    api::{error::ErrorKind, federation::authentication::XMatrix},
    serde::Base64,
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
    let keys = keys.in_use_at(now);
    let signed = signed_text(request, &origin, server.name())?;
    let is_signed = claims.iter().any(|claim| is_right(claim, &signed, &keys));
    if !is_signed {
        return Err(unauthorized(format!("No signature of {origin} on this request could be checked")));
    }
    backoff::succeeded(server, &origin).await?;
    queue::is_alive(server, &origin);
    Ok(origin)
}

/// What an `Authorization` header says: who signed, and for whom.
struct Claim {
    origin: OwnedServerName,
    /// Older servers leave it out.
    destination: Option<OwnedServerName>,
    key: OwnedServerSigningKeyId,
    sig: Base64,
}

impl Claim {
    fn read(header: &str) -> Option<Self> {
        let mut parameters = parameters(header)?;
        let destination = parameters.remove("destination").map(OwnedServerName::try_from).transpose();
        Some(Self {
            origin: OwnedServerName::try_from(parameters.remove("origin")?).ok()?,
            destination: destination.ok()?,
            key: OwnedServerSigningKeyId::try_from(parameters.remove("key")?).ok()?,
            sig: Base64::parse(parameters.remove("sig")?).ok()?,
        })
    }
}

/// The parameters of the header, each of which is there once, by their names in small letters. ruma's parser takes
/// neither several spaces after the scheme nor colons outside quotes, as the specification wants it.
fn parameters(header: &str) -> Option<BTreeMap<String, String>> {
    const SPACES: [char; 2] = [' ', '\t'];
    let (scheme, mut rest) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case(XMatrix::AUTH_SCHEME) {
        return None;
    }
    let mut parameters = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(parameters);
        }
        let (name, given) = rest.split_once('=')?;
        let name = name.trim_end_matches(SPACES).to_ascii_lowercase();
        let given = given.trim_start_matches(SPACES);
        let (value, left) = match given.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let (value, left) = given.split_at(given.find([' ', '\t', ',']).unwrap_or(given.len()));
                (value.to_owned(), left)
            }
        };
        rest = left.trim_start_matches(SPACES);
        let is_whole = rest.is_empty() || rest.starts_with(',');
        if !is_whole || name.contains([' ', '\t', ',', '"']) || parameters.insert(name, value).is_some() {
            return None;
        }
    }
}

/// What stands between quotes, of which the first was read, and what comes after them.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.chars();
    loop {
        match letters.next()? {
            '"' => return Some((value, letters.as_str())),
            '\\' => value.push(letters.next()?),
            letter => value.push(letter),
        }
    }
}

/// The signatures that the request has.
fn claims(request: &http::Request<Bytes>) -> Result<Vec<Claim>> {
    let headers = request.headers().get_all(header::AUTHORIZATION).iter().take(MAX_SIGNATURES);
    let claims: Option<Vec<_>> = headers.map(|header| Claim::read(header.to_str().ok()?)).collect();
    match claims {
        Some(claims) if claims.is_empty() => Err(unauthorized("The request is not signed".to_owned())),
        Some(claims) => Ok(claims),
        None => Err(unauthorized("The signature of the request can't be read".to_owned())),
    }
}

/// The one server that claims to have signed, for us.
fn origin(server: &Server, claims: &[Claim]) -> Result<OwnedServerName> {
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

fn is_right(claim: &Claim, signed: &str, keys: &PublicKeyMap) -> bool {
    let key = keys.get(claim.origin.as_str()).and_then(|keys| keys.get(claim.key.as_str()));
    key.is_some_and(|key| {
        let algorithm = claim.key.algorithm();
        verify_canonical_json_bytes(&algorithm, key.as_bytes(), claim.sig.as_bytes(), signed.as_bytes()).is_ok()
    })
}

fn unauthorized(message: String) -> Error {
    Error::refused(ErrorKind::Unauthorized, message).with_status(StatusCode::UNAUTHORIZED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_the_specification_are_read() {
        for header in [
            r#"X-Matrix origin="a.test:8448",destination="b.test",key="ed25519:auto",sig="AAAA""#,
            "X-Matrix origin=a.test:8448,destination=b.test,key=ed25519:auto,sig=AAAA",
            "X-Matrix   sig=AAAA,key=ed25519:auto,destination=b.test,origin=a.test:8448",
            r#"x-matrix Origin="a.test:8448" , DESTINATION=b.test	,	key=ed25519:auto,sig="AAAA""#,
            r#"X-Matrix origin=a.test:8448,destination="b.test",key="ed25519:auto",sig=AAAA,other="a,b=\"c",more=1"#,
            r#"X-Matrix origin="a\.test:8448",destination="b.test",key="ed25519\:auto",sig="AAA\A""#,
            r#"X-Matrix origin = a.test:8448, destination="b.test",, key=ed25519:auto, sig=AAAA,"#,
        ] {
            let claim = Claim::read(header).expect(header);
            assert_eq!((claim.origin.as_str(), claim.key.as_str()), ("a.test:8448", "ed25519:auto"), "{header}");
            assert_eq!(
                (claim.destination.unwrap().as_str(), claim.sig.as_bytes()),
                ("b.test", &[0; 3][..]),
                "{header}"
            );
        }
        let old = Claim::read("X-Matrix origin=a.test,key=ed25519:auto,sig=AAAA").unwrap();
        assert_eq!(old.destination, None);
    }

    #[test]
    fn what_says_nothing_clear_is_not_read() {
        for header in [
            "",
            "X-Matrix",
            "X-Matrix ",
            "Bearer AAAA",
            "Bearer origin=a.test,key=ed25519:auto,sig=AAAA",
            "X-Matrix origin=a.test,key=ed25519:auto",
            "X-Matrix origin=a.test,origin=a.test,key=ed25519:auto,sig=AAAA",
            "X-Matrix origin=a.test,key=ed25519:auto,sig=AAAA,destination=/",
            r#"X-Matrix origin="a.test,key=ed25519:auto,sig=AAAA"#,
            r#"X-Matrix origin="a.test"b,key=ed25519:auto,sig=AAAA"#,
            r#"X-Matrix origin="a.test\"#,
            "X-Matrix origin=a.test key=ed25519:auto,sig=AAAA",
            "X-Matrix origin,key=ed25519:auto,sig=AAAA",
        ] {
            assert!(Claim::read(header).is_none(), "{header}");
        }
    }
}
