//! Who is logged in, which each request asks, and each that waited asks again: from memory, where the rows behind it did
//! not change.
//!
//! Whoever logs out or is locked out is refused from the very change on that says so, as if the rows were read each time:
//! [`Memos`] knows of each change before anybody can see it.

use std::sync::Arc;

use ruma::{DeviceId, UserId};

use super::{
    moderation,
    session::{self, Hash},
    tables::{AccessToken, AccessTokens, Account, Accounts, Device, Devices},
};
use crate::{
    error::Result,
    metrics::CacheUse,
    store::{self, Memos, Store},
};

pub struct Logins {
    tokens: Memos<AccessTokens, Option<Arc<AccessToken>>>,
    devices: Memos<Devices, Option<Arc<Device>>>,
    accounts: Memos<Accounts, Option<Arc<Account>>>,
}

/// An access token, and whose it is.
pub struct Login {
    pub token: Arc<AccessToken>,
    pub device: Arc<Device>,
    pub account: Arc<Account>,
}

impl Logins {
    /// `memory_bytes`: for all that is kept.
    pub fn new(memory_bytes: u64) -> Self {
        let third = memory_bytes / 3;
        Self {
            tokens: Memos::new(third, |token| {
                let ids =
                    token.as_ref().map_or(0, |token| token.user_id.as_str().len() + token.device_id.as_str().len());
                size_of::<AccessToken>() + ids
            }),
            devices: Memos::new(third, |device| {
                let name = device.as_ref().and_then(|device| device.display_name.as_ref());
                size_of::<Device>() + name.map_or(0, String::len)
            }),
            accounts: Memos::new(third, |account| {
                let terms = account.as_ref().map_or(0, |account| account.accepted_terms.len());
                let hash = account.as_ref().and_then(|account| account.password_hash.as_ref());
                size_of::<Account>() + 100 * terms + hash.map_or(0, String::len)
            }),
        }
    }

    pub fn cache_uses(&self) -> [(&'static str, CacheUse); 3] {
        [
            ("access_tokens", self.tokens.cache_use()),
            ("devices", self.devices.cache_use()),
            ("accounts", self.accounts.cache_use()),
        ]
    }

    /// The log-in of a token, be it expired; `None` if the token, its device or its account is not there or not active.
    pub fn find(&self, store: &Store, hash: &Hash) -> store::Result<Option<Login>> {
        let Some(token) = self.tokens.row(store, hash)? else { return Ok(None) };
        let device = self.devices.row(store, &(&token.user_id, &token.device_id))?;
        let account = self.accounts.row(store, &&*token.user_id)?.filter(|account| account.is_active());
        Ok(device.zip(account).map(|(device, account)| Login { token, device, account }))
    }

    /// `M_UNKNOWN_TOKEN` if a device whose request has been waiting was logged out meanwhile, `M_USER_LOCKED` if the
    /// account was locked.
    pub fn check(&self, store: &Store, user_id: &UserId, device_id: &DeviceId) -> Result<()> {
        self.accounts.row(store, &user_id)?.map_or(Ok(()), |account| moderation::check_unlocked(&account))?;
        session::check_device(device_id, || Ok(self.devices.row(store, &(user_id, device_id))?.is_some()))
    }

    /// Whether a request that has been waiting may still be told something: not if its token was replaced meanwhile, by
    /// a refresh or because the device was logged in anew. That is no error, for which a client would take it that
    /// refreshes while it waits; it asks again by its new token. Errors: those of [`Self::check`].
    pub fn may_be_told(
        &self,
        store: &Store,
        user_id: &UserId,
        device_id: &DeviceId,
        token: Option<&Hash>,
    ) -> Result<bool> {
        self.check(store, user_id, device_id)?;
        Ok(token.map_or(Ok(true), |token| self.tokens.row(store, token).map(|row| row.is_some()))?)
    }
}
