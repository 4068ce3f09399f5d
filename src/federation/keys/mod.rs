//! The keys with which servers sign: ours, which we publish, and those of others, which are stored with their validity
//! and fetched when they are missing or have run out.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#server-keys>

mod document;
mod fetch;
mod notary;
pub mod own;
mod publish;
pub mod strangers;
mod verify;
mod weak;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{OwnedServerName, serde::Base64, signatures::PublicKeyMap};

pub use self::{
    document::end_old_keys,
    fetch::Fetches,
    notary::answer,
    publish::publish,
    verify::{Parse, verify, verify_all, verify_received},
    weak::is_weak,
};
use super::tables::{VerifyKey, VerifyKeys};
use crate::{
    Server,
    error::Result,
    metrics::CacheUse,
    store::{self, Memos, Store},
};

/// What is to be known of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Such as `ed25519:auto`.
    pub key_ids: BTreeSet<String>,
    /// When the keys must be valid, in milliseconds since the Unix epoch; 0 if any time will do.
    pub valid_at_ms: u64,
    /// It has just sent us something: it is asked even if it failed lately.
    pub is_calling: bool,
}

/// Keys of servers, by their ids.
#[derive(Clone, Debug, Default)]
pub struct Keys(BTreeMap<OwnedServerName, BTreeMap<String, VerifyKey>>);

impl Keys {
    /// The keys that may have signed what was made at that time, as ruma takes them.
    pub fn valid_at(&self, ms: u64) -> PublicKeyMap {
        self.only(|key| key.is_valid_at(ms))
    }

    /// The keys that may sign something now: an old one may have signed events only.
    pub fn in_use_at(&self, now_ms: u64) -> PublicKeyMap {
        self.only(|key| key.expired_ms.is_none() && key.is_valid_at(now_ms))
    }

    /// All keys, whenever they were valid: in rooms of the first versions that does not matter.
    pub fn of_any_time(&self) -> PublicKeyMap {
        self.only(|_| true)
    }

    fn only(&self, is_good: impl Fn(&VerifyKey) -> bool) -> PublicKeyMap {
        let of_server = |keys: &BTreeMap<String, VerifyKey>| {
            // One that was stored before it was known to be weak counts no more than one that comes now.
            let good = keys.iter().filter(|(_, key)| is_good(key) && !is_weak(&key.key));
            good.map(|(id, key)| (id.clone(), Base64::new(key.key.clone()))).collect()
        };
        self.0.iter().map(|(server, keys)| (server.to_string(), of_server(keys))).collect()
    }

    /// What of `wanted` is not here and may be found by asking.
    fn missing(&self, wanted: &BTreeMap<OwnedServerName, Wanted>) -> BTreeMap<OwnedServerName, Wanted> {
        let is_missing =
            |server: &OwnedServerName, id: &String, at: u64| match self.0.get(server).and_then(|k| k.get(id)) {
                // A key that went out of use stays so.
                Some(key) => key.expired_ms.is_none() && !key.is_valid_at(at),
                None => true,
            };
        let of_server = |(server, wanted): (&OwnedServerName, &Wanted)| {
            let ids = wanted.key_ids.iter().filter(|id| is_missing(server, id, wanted.valid_at_ms));
            let key_ids: BTreeSet<_> = ids.cloned().collect();
            let left = Wanted { key_ids, ..*wanted };
            (!left.key_ids.is_empty()).then(|| (server.clone(), left))
        };
        wanted.iter().filter_map(of_server).collect()
    }

    fn collect<E>(
        wanted: &BTreeMap<OwnedServerName, Wanted>,
        find: impl Fn(&(&str, &str)) -> Result<Option<Arc<VerifyKey>>, E>,
    ) -> Result<Self, E> {
        let mut keys = Self::default();
        for (server, wanted) in wanted {
            for id in &wanted.key_ids {
                if let Some(key) = find(&(server.as_str(), id))? {
                    keys.0.entry(server.clone()).or_default().insert(id.clone(), (*key).clone());
                }
            }
        }
        Ok(keys)
    }
}

/// Keys that were read, which each request of another server and each event of theirs is checked by.
pub struct KnownKeys(Memos<VerifyKeys, Option<Arc<VerifyKey>>>);

impl KnownKeys {
    /// `memory_bytes`: for all that is kept.
    pub fn new(memory_bytes: u64) -> Self {
        Self(Memos::new(memory_bytes, |_| size_of::<VerifyKey>() + 32))
    }

    pub fn cache_use(&self) -> CacheUse {
        self.0.cache_use()
    }

    /// `None` unless all of them are in memory, or known to be nowhere.
    fn kept(&self, store: &Store, wanted: &BTreeMap<OwnedServerName, Wanted>) -> Option<Keys> {
        Keys::collect(wanted, |key| self.0.kept_row(store, key).ok_or(())).ok()
    }

    fn read(&self, store: &Store, wanted: &BTreeMap<OwnedServerName, Wanted>) -> store::Result<Keys> {
        Keys::collect(wanted, |key| self.0.row(store, key))
    }
}

/// The keys of `wanted` that are stored.
async fn stored(server: &Arc<Server>, wanted: &BTreeMap<OwnedServerName, Wanted>) -> Result<Keys> {
    if let Some(kept) = server.verify_keys.kept(&server.store, wanted) {
        return Ok(kept);
    }
    let wanted = wanted.clone();
    server.blocking(move |server| Ok(server.verify_keys.read(&server.store, &wanted)?)).await
}

/// The keys of `wanted`, as far as they can be had: what is not stored is fetched, in as few requests as possible.
pub async fn get(server: &Arc<Server>, mut wanted: BTreeMap<OwnedServerName, Wanted>) -> Result<Keys> {
    let ours = wanted.remove(server.name());
    let mut keys = stored(server, &wanted).await?;
    let missing = keys.missing(&wanted);
    if !missing.is_empty() {
        fetch::fetch(server, missing).await?;
        keys = stored(server, &wanted).await?;
    }
    if ours.is_some() {
        let key = VerifyKey { key: server.key.public_key().to_vec(), valid_until_ms: u64::MAX, expired_ms: None };
        let ours = keys.0.entry(server.owned_name()).or_default();
        ours.clone_from(&server.old_keys);
        ours.insert(own::id(&server.key), key);
    }
    Ok(keys)
}
