//! Access tokens.

use ruma::{
    OwnedDeviceId, OwnedUserId,
    api::error::{ErrorKind, UnknownTokenErrorData},
};
use sha2::{Digest, Sha256};

use super::tables::AccessTokens;
use crate::{
    Server,
    error::{Error, Result},
};

/// Who calls: a user by one of his devices.
#[derive(Clone, Debug)]
pub struct Caller {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
}

/// The user and device that `token` was given to. `M_UNKNOWN_TOKEN` if it is none of ours, or expired.
pub fn authenticate(server: &Server, token: &str) -> Result<Caller> {
    let hash = Sha256::digest(token).into();
    let Some(row) = server.store.snapshot().get::<AccessTokens>(&hash)? else {
        return Err(unknown(false));
    };
    if row.expires_at_ms.is_some_and(|expires| expires <= server.clock.now_ms()) {
        return Err(unknown(true));
    }
    Ok(Caller { user_id: row.user_id, device_id: row.device_id })
}

/// `soft_logout`: the client may refresh the token and keep its data.
fn unknown(soft_logout: bool) -> Error {
    let mut data = UnknownTokenErrorData::new();
    data.soft_logout = soft_logout;
    Error::refused(ErrorKind::UnknownToken(data), "Unrecognized access token")
}
