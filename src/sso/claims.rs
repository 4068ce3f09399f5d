//! Claims in signed tokens. The `id_token` is judged by the library; what it does not do is here.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openidconnect::{
    JsonWebKey, JsonWebKeyId,
    core::{CoreJsonWebKeySet, CoreJwsSigningAlgorithm as Algorithm},
};
use serde::Deserialize;
use serde_json::{Map, Value};

pub type Claims = Map<String, Value>;

/// The algorithms with which a provider may sign: all that need a key which only it has. With the others, `none` and those
/// with a shared secret, a token proves nothing to who knows the secret.
pub const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RsaSsaPkcs1V15Sha256,
    Algorithm::RsaSsaPkcs1V15Sha384,
    Algorithm::RsaSsaPkcs1V15Sha512,
    Algorithm::RsaSsaPssSha256,
    Algorithm::RsaSsaPssSha384,
    Algorithm::RsaSsaPssSha512,
    Algorithm::EcdsaP256Sha256,
    Algorithm::EcdsaP384Sha384,
    Algorithm::EdDsa,
];

#[derive(Deserialize)]
struct Header {
    alg: Algorithm,
    kid: Option<JsonWebKeyId>,
    crit: Option<Value>,
}

/// For whom a signed answer must be, and when it must be good.
pub struct Expected<'a> {
    pub issuer: &'a str,
    pub audience: &'a str,
    pub now_s: u64,
}

/// What a token says, unverified.
pub fn payload(token: &str) -> Option<Claims> {
    let part = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// What a signed answer of the userinfo endpoint says, as ProConnect gives it. Unlike an `id_token` it need not name issuer,
/// audience and end, but must be right where it does; whom it is about is compared by the caller.
pub fn verified(token: &str, keys: &CoreJsonWebKeySet, expected: &Expected<'_>) -> Result<Claims, String> {
    let malformed = || "it is no signed token".to_owned();
    let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
    let header = signed.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok()).ok_or_else(malformed)?;
    let header: Header =
        serde_json::from_slice(&header).map_err(|error| format!("its header can't be read: {error}"))?;
    if header.crit.is_some() || !ALGORITHMS.contains(&header.alg) {
        return Err(format!("its algorithm {:?} is not allowed", header.alg));
    }
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?;
    let is_named = |key: &&_| header.kid.is_none() || JsonWebKey::key_id(*key) == header.kid.as_ref();
    // A key that is not for this algorithm refuses.
    let is_right = keys
        .keys()
        .iter()
        .filter(is_named)
        .any(|key| key.verify_signature(&header.alg, signed.as_bytes(), &signature).is_ok());
    if !is_right {
        return Err("none of the provider's keys made its signature".to_owned());
    }
    let claims = payload(token).ok_or_else(malformed)?;
    let is_for_us = match claims.get("aud") {
        None => true,
        Some(Value::Array(all)) => all.iter().any(|aud| aud == expected.audience),
        Some(one) => one == expected.audience,
    };
    if !is_for_us || claims.get("iss").is_some_and(|issuer| issuer != expected.issuer) {
        return Err("its issuer or audience is another".to_owned());
    }
    match claims.get("exp").map(Value::as_f64) {
        Some(None) => Err("its end is no time".to_owned()),
        Some(Some(end)) if end <= expected.now_s as f64 => Err("it has expired".to_owned()),
        _ => Ok(claims),
    }
}
