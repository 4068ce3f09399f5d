//! One-time keys, each of which is given out once, in the order of their uploads, and fallback keys for when there are
//! none left.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{DeviceId, UserId};
use vodozemac::Curve25519PublicKey;

use super::{
    signed::{self, SignedObject},
    tables::{
        ClaimedKeys, FallbackKey, FallbackKeys, KeyPlace, OneTimeKey, OneTimeKeyCounts, OneTimeKeyPlaces, OneTimeKeys,
    },
};
use crate::{
    error::{Error, Result},
    metrics::CacheUse,
    store::{self, Group, Memos, Row, Snapshot, Store, Transaction},
};

/// How many one-time keys of a device are kept. Source: our choice; clients keep 50 to 100.
const MAX_KEYS: u64 = 1_000;

/// For how many algorithms a device may have fallback keys. Source: our choice; clients use one.
const MAX_FALLBACK_KEYS: usize = 16;

/// How many of the keys that were given out last are remembered. Source: our choice, more than a client has at a time.
const MAX_CLAIMED: usize = 256;

/// The longest `algorithm:name`, in bytes. Source: our choice, the limit of other identifiers.
const MAX_ID_BYTES: usize = 255;

const SIGNED_CURVE25519: &str = "signed_curve25519";

/// A one-time or fallback key whose form is right.
#[derive(Debug)]
pub struct NewKey {
    id: String,
    algorithm_len: usize,
    /// Canonical JSON.
    key: String,
}

impl NewKey {
    /// `id` and `json` come from a client.
    pub fn new(id: &str, json: &str) -> Result<Self> {
        let malformed = || Error::invalid_param("The id of a key is not of the form `algorithm:name`");
        let (algorithm, name) = id.split_once(':').ok_or_else(malformed)?;
        if algorithm.is_empty() || name.is_empty() || id.len() > MAX_ID_BYTES {
            return Err(malformed());
        }
        let key = match algorithm {
            SIGNED_CURVE25519 => signed_key(id, json)?,
            // Algorithms that only clients know: a string or an object.
            _ if json.starts_with('"') => text_key(json)?,
            _ => signed::canonical(&signed::parse_object(json)?),
        };
        Ok(Self { id: id.to_owned(), algorithm_len: algorithm.len(), key })
    }

    pub fn algorithm(&self) -> &str {
        &self.id[..self.algorithm_len]
    }
}

/// <https://spec.matrix.org/v1.19/client-server-api/#key-algorithms>
fn signed_key(id: &str, json: &str) -> Result<String> {
    let object = SignedObject::parse(json)?;
    let key = object.text("key").ok_or_else(|| Error::bad_json(format!("The key {id:?} has no `key`")))?;
    if !object.has_signatures {
        return Err(Error::bad_json(format!("The key {id:?} has no `signatures`")));
    }
    if Curve25519PublicKey::from_base64(key).is_err() {
        return Err(Error::invalid_param(format!("The key {id:?} is not the base64 of 32 bytes")));
    }
    Ok(object.with_signatures())
}

fn text_key(json: &str) -> Result<String> {
    let key: String = serde_json::from_str(json).map_err(|e| Error::bad_json(e.to_string()))?;
    if key.len() > signed::MAX_BYTES {
        return Err(Error::too_large(format!("A key has more than {} bytes", signed::MAX_BYTES)));
    }
    Ok(serde_json::to_string(&key).expect("a string serializes"))
}

/// The one-time and fallback keys of a device that is uploading some.
pub struct Keys<'t, 'db> {
    tx: &'t mut Transaction<'db>,
    user: &'t UserId,
    device: &'t DeviceId,
    /// Whether this transaction deleted what was there: reads still show it.
    is_emptied: bool,
    counts: BTreeMap<String, u64>,
}

impl<'t, 'db> Keys<'t, 'db> {
    pub fn open(
        tx: &'t mut Transaction<'db>,
        user: &'t UserId,
        device: &'t DeviceId,
        is_emptied: bool,
    ) -> store::Result<Self> {
        let counts = if is_emptied { BTreeMap::new() } else { stored_counts(tx.before(), user, device)? };
        Ok(Self { tx, user, device, is_emptied, counts })
    }

    /// Adds those that are not there yet. `M_INVALID_PARAM` if another key has the same id, or if they get too many.
    pub fn add(&mut self, keys: Vec<NewKey>) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let claimed = self.claimed()?;
        for (index, new) in (0..).zip(keys) {
            let is_claimed = claimed.iter().any(|claimed| claimed.id == new.id && claimed.key == new.key);
            if !is_claimed && !self.has(&new)? {
                self.put(index, new);
            }
        }
        if self.counts.values().sum::<u64>() > MAX_KEYS {
            return Err(Error::invalid_param(format!("A device may have {MAX_KEYS} one-time keys at most")));
        }
        for (algorithm, count) in &self.counts {
            self.tx.put::<OneTimeKeyCounts>(&(self.user, self.device, algorithm), count);
        }
        Ok(())
    }

    fn has(&self, new: &NewKey) -> Result<bool> {
        if self.is_emptied {
            return Ok(false);
        }
        let place = (self.user, self.device, new.algorithm(), new.id.as_str());
        let Some(KeyPlace { uploaded, index }) = self.tx.get::<OneTimeKeyPlaces>(&place)? else {
            return Ok(false);
        };
        let known = self.tx.get::<OneTimeKeys>(&(self.user, self.device, new.algorithm(), uploaded, index))?;
        if known.is_some_and(|known| known.key != new.key) {
            return Err(Error::invalid_param(format!("Another one-time key has the id {:?}", new.id)));
        }
        Ok(true)
    }

    fn put(&mut self, index: u32, new: NewKey) {
        let (user, device, uploaded) = (self.user, self.device, self.tx.pos());
        let algorithm = new.algorithm().to_owned();
        self.tx.put::<OneTimeKeyPlaces>(&(user, device, &algorithm, &new.id), &KeyPlace { uploaded, index });
        let row = OneTimeKey { id: new.id, key: new.key };
        self.tx.put::<OneTimeKeys>(&(user, device, &algorithm, uploaded, index), &row);
        *self.counts.entry(algorithm).or_default() += 1;
    }

    /// The keys that were given out last; forgets the older ones.
    fn claimed(&mut self) -> store::Result<Vec<OneTimeKey>> {
        if self.is_emptied {
            return Ok(Vec::new());
        }
        let rows: Vec<_> =
            self.tx.before().list::<ClaimedKeys>(&(self.user, self.device)).collect::<store::Result<_>>()?;
        let (old, kept) = rows.split_at(rows.len().saturating_sub(MAX_CLAIMED));
        for row in old {
            self.tx.delete::<ClaimedKeys>(&row.key()?);
        }
        Ok(kept.iter().map(|row| row.value.clone()).collect())
    }

    /// Puts each in the place of the one with the same algorithm. The same key again stays as used as it was.
    pub fn replace_fallback(&mut self, keys: Vec<NewKey>) -> Result<()> {
        let mut rest = if self.is_emptied {
            BTreeMap::new()
        } else {
            stored_fallback_keys(self.tx.before(), self.user, self.device)?
        };
        let algorithms = rest.len() + keys.iter().filter(|new| !rest.contains_key(new.algorithm())).count();
        if algorithms > MAX_FALLBACK_KEYS {
            return Err(Error::invalid_param(format!("A device may have {MAX_FALLBACK_KEYS} fallback keys at most")));
        }
        for new in keys {
            let before = rest.remove(new.algorithm());
            if !before.is_some_and(|before| before.id == new.id && before.key == new.key) {
                let place = (self.user, self.device, &new.id[..new.algorithm_len]);
                let row = FallbackKey { id: new.id.clone(), key: new.key, is_used: false };
                self.tx.put::<FallbackKeys>(&place, &row);
            }
        }
        Ok(())
    }

    /// The number of one-time keys by algorithm, with what was added.
    pub fn into_counts(self) -> BTreeMap<String, u64> {
        with_usual_algorithm(self.counts)
    }
}

/// Gives out a key of the device, if it has one of that algorithm: the oldest one-time key, for good, else the fallback
/// key. `index` tells the keys of one transaction apart; one transaction takes one key of a device at most.
pub fn take(
    tx: &mut Transaction<'_>,
    user: &UserId,
    device: &DeviceId,
    algorithm: &str,
    index: u32,
) -> store::Result<Option<OneTimeKey>> {
    let oldest = tx.before().list::<OneTimeKeys>(&(user, device, algorithm)).next().transpose()?;
    let Some(row) = oldest else { return take_fallback(tx, user, device, algorithm) };
    tx.delete::<OneTimeKeys>(&row.key()?);
    tx.delete::<OneTimeKeyPlaces>(&(user, device, algorithm, &row.value.id));
    let count = (user, device, algorithm);
    match tx.get::<OneTimeKeyCounts>(&count)?.unwrap_or_default().saturating_sub(1) {
        0 => tx.delete::<OneTimeKeyCounts>(&count),
        left => tx.put::<OneTimeKeyCounts>(&count, &left),
    }
    tx.put::<ClaimedKeys>(&(user, device, tx.pos(), index), &row.value);
    Ok(Some(row.value))
}

fn take_fallback(
    tx: &mut Transaction<'_>,
    user: &UserId,
    device: &DeviceId,
    algorithm: &str,
) -> store::Result<Option<OneTimeKey>> {
    let place = (user, device, algorithm);
    let Some(fallback) = tx.get::<FallbackKeys>(&place)? else { return Ok(None) };
    let key = OneTimeKey { id: fallback.id.clone(), key: fallback.key.clone() };
    if !fallback.is_used {
        tx.put::<FallbackKeys>(&place, &FallbackKey { is_used: true, ..fallback });
    }
    Ok(Some(key))
}

/// Forgets all one-time and fallback keys of a device.
pub fn delete_all(tx: &mut Transaction<'_>, user: &UserId, device: &DeviceId) {
    tx.delete_all::<OneTimeKeys>(&(user, device));
    tx.delete_all::<OneTimeKeyPlaces>(&(user, device));
    tx.delete_group::<OneTimeKeyCounts>(&(user, device), Group::of((user, device)));
    tx.delete_all::<ClaimedKeys>(&(user, device));
    tx.delete_group::<FallbackKeys>(&(user, device), Group::of((user, device)));
}

/// Forgets the one-time keys of all devices, some of which were given out in a future that was lost; their clients upload
/// new ones when they see that there are none. Fallback keys stay, since they may be given out again, and a device that is
/// seldom on would be out of reach without; but they count as used, so that their clients replace them: who was here in
/// that future may have replaced them already.
pub fn forget_all(tx: &mut Transaction<'_>) -> store::Result<()> {
    tx.delete_all::<OneTimeKeys>(&());
    tx.delete_all::<OneTimeKeyPlaces>(&());
    tx.delete_all::<OneTimeKeyCounts>(&());
    let rows: Vec<Row<FallbackKeys>> = tx.before().list::<FallbackKeys>(&()).collect::<store::Result<_>>()?;
    for mut row in rows {
        row.value.is_used = true;
        tx.put::<FallbackKeys>(&row.key()?, &row.value);
    }
    Ok(())
}

/// What devices have left, as far as it was read. Each answer to a device tells it so.
pub struct LeftKeys {
    counts: Memos<OneTimeKeyCounts, Arc<BTreeMap<String, u64>>>,
    fallback: Memos<FallbackKeys, Arc<[String]>>,
}

impl LeftKeys {
    /// `memory_bytes`: for all that is kept.
    pub fn new(memory_bytes: u64) -> Self {
        let half = memory_bytes / 2;
        Self {
            counts: Memos::new(half, |counts| counts.keys().map(|algorithm| algorithm.len() + 50).sum()),
            fallback: Memos::new(half, |types| types.iter().map(|algorithm| algorithm.len() + 50).sum()),
        }
    }

    pub fn use_of_counts(&self) -> CacheUse {
        self.counts.cache_use()
    }

    pub fn use_of_fallback(&self) -> CacheUse {
        self.fallback.cache_use()
    }

    /// As [`one_time_key_counts`].
    pub fn counts(
        &self,
        store: &Store,
        snapshot: &Snapshot<'_>,
        user: &UserId,
        device: &DeviceId,
    ) -> store::Result<Arc<BTreeMap<String, u64>>> {
        let read = || one_time_key_counts(snapshot, user, device).map(Arc::new);
        self.counts.get(store, snapshot, &(user, device), Group::of((user, device)), read)
    }

    /// As [`unused_fallback_key_types`].
    pub fn fallback_types(
        &self,
        store: &Store,
        snapshot: &Snapshot<'_>,
        user: &UserId,
        device: &DeviceId,
    ) -> store::Result<Arc<[String]>> {
        let read = || unused_fallback_key_types(snapshot, user, device).map(Arc::from);
        self.fallback.get(store, snapshot, &(user, device), Group::of((user, device)), read)
    }
}

/// How many one-time keys a device has that nobody claimed, by algorithm. The usual algorithm is always there, so that a
/// device without keys is told so.
pub fn one_time_key_counts(
    snapshot: &Snapshot<'_>,
    user: &UserId,
    device: &DeviceId,
) -> store::Result<BTreeMap<String, u64>> {
    stored_counts(snapshot, user, device).map(with_usual_algorithm)
}

/// The algorithms of which a device has a fallback key that was never given out.
pub fn unused_fallback_key_types(
    snapshot: &Snapshot<'_>,
    user: &UserId,
    device: &DeviceId,
) -> store::Result<Vec<String>> {
    let keys = stored_fallback_keys(snapshot, user, device)?;
    Ok(keys.into_iter().filter(|(_, key)| !key.is_used).map(|(algorithm, _)| algorithm).collect())
}

fn stored_counts(snapshot: &Snapshot<'_>, user: &UserId, device: &DeviceId) -> store::Result<BTreeMap<String, u64>> {
    let rows = snapshot.list::<OneTimeKeyCounts>(&(user, device));
    rows.map(|row| row.and_then(|row| Ok((row.key()?.2.to_owned(), row.value)))).collect()
}

fn stored_fallback_keys(
    snapshot: &Snapshot<'_>,
    user: &UserId,
    device: &DeviceId,
) -> store::Result<BTreeMap<String, FallbackKey>> {
    let rows = snapshot.list::<FallbackKeys>(&(user, device));
    rows.map(|row| row.and_then(|row| Ok((row.key()?.2.to_owned(), row.value)))).collect()
}

fn with_usual_algorithm(mut counts: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    counts.entry(SIGNED_CURVE25519.to_owned()).or_default();
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_keys_have_a_grammar() {
        let key = r#"{"signatures":{},"key":"06UzBknVHFMwgi7AVloY7ylC+xhOhEX4PkNge14Grl8"}"#;
        let new = NewKey::new("signed_curve25519:AAAA", key).unwrap();
        assert_eq!(new.algorithm(), "signed_curve25519");
        assert!(new.key.starts_with(r#"{"key":"#), "canonical: {}", new.key);
        assert!(NewKey::new("curve25519:A", r#""text""#).is_ok());
        let long = format!("x:{}", "a".repeat(255));
        for id in ["", ":", "x", "x:", ":x", &long] {
            assert!(NewKey::new(id, r#""text""#).is_err(), "{id}");
        }
        for key in [r#""text""#, "1", "[]", "{}", r#"{"key":"AAAA","signatures":{}}"#, r#"{"key":1,"signatures":{}}"#] {
            assert!(NewKey::new("signed_curve25519:A", key).is_err(), "{key}");
        }
        for key in ["1", "null", "[]", "\"\\ud800\"", "{\"a\":1.5}"] {
            assert!(NewKey::new("x:A", key).is_err(), "{key}");
        }
    }
}
