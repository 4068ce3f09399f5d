use std::time::Duration;

use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, UInt,
    api::federation::discovery::{OldVerifyKey, ServerSigningKeys, VerifyKey},
    serde::{Base64, Raw},
    signatures::sign_json,
};

use super::own;
use crate::{
    Server,
    error::{Error, Result},
};

/// How long others may keep our keys before they ask again.
const VALID_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Our keys, signed by ourselves.
pub fn publish(server: &Server) -> Result<Raw<ServerSigningKeys>> {
    let valid_until_ms = server.clock.now_ms().saturating_add(VALID_FOR.as_millis() as u64);
    let valid_until = MilliSecondsSinceUnixEpoch(UInt::new_saturating(valid_until_ms));
    let mut keys = ServerSigningKeys::new(server.owned_name(), valid_until);
    let parse = |id: &str| id.try_into().map_err(Error::internal);
    let key = VerifyKey::new(Base64::new(server.key.public_key().to_vec()));
    keys.verify_keys.insert(parse(&own::id(&server.key))?, key);
    for (id, old) in &server.old_keys {
        let expired = MilliSecondsSinceUnixEpoch(UInt::new_saturating(old.expired_ms.unwrap_or_default()));
        keys.old_verify_keys.insert(parse(id)?, OldVerifyKey::new(expired, Base64::new(old.key.clone())));
    }
    let json = serde_json::to_string(&keys).map_err(Error::internal)?;
    signed(server, &json)
}

/// A document of keys, ours or another server's, with our signature.
pub fn signed(server: &Server, json: &str) -> Result<Raw<ServerSigningKeys>> {
    let mut json: CanonicalJsonObject = serde_json::from_str(json).map_err(Error::internal)?;
    sign_json(server.name().as_str(), &server.key, &mut json).map_err(Error::internal)?;
    Ok(Raw::new(&json).map_err(Error::internal)?.cast_unchecked())
}
