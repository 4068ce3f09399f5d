//! What a server publishes of its keys: read, checked and stored.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    mem,
    sync::Arc,
    time::Duration,
};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    api::federation::discovery::ServerSigningKeys,
    serde::Base64,
    signatures::{self, PublicKeyMap, PublicKeySet},
};
use serde_json::value::RawValue;

use super::{strangers, verify::FUTURE_MS, weak::is_weak};
use crate::{
    Server,
    error::Result,
    federation::tables::{KeyDocument, KeyDocuments, VerifyKey, VerifyKeys},
    store,
};

/// How long what a server says of its keys is believed at most. Source: the specification.
const BELIEVED: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// How many keys, old ones included, a server may have. Source: our choice.
const MAX_KEYS: usize = 100;
/// The largest document that is looked at, in bytes. Source: our choice.
pub const MAX_BYTES: usize = 64 << 10;
/// How many keys are kept of a server; if it had more, those that it says nothing of any more are forgotten.
const MAX_STORED: usize = 500;
/// The length of an Ed25519 public key.
const KEY_BYTES: usize = 32;

/// A document that its server signed.
#[derive(Debug)]
pub struct Document {
    pub server: OwnedServerName,
    json: CanonicalJsonObject,
    keys: BTreeMap<String, VerifyKey>,
    /// Without our limit.
    valid_until_ms: u64,
    /// The server says it itself, and now: what a notary has may be older than what is stored.
    pub is_current: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("not a document of keys: {0}")]
    Json(#[from] serde_json::Error),
    #[error("more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("more than {MAX_KEYS} keys")]
    TooManyKeys,
    #[error("not signed by {0}")]
    Signature(OwnedServerName),
}

impl Document {
    /// Reads a document, which must be signed with one of its own keys.
    pub fn read(raw: &RawValue, now_ms: u64) -> Result<Self, DocumentError> {
        if raw.get().len() > MAX_BYTES {
            return Err(DocumentError::TooLarge);
        }
        let json: CanonicalJsonObject = serde_json::from_str(raw.get())?;
        let said: ServerSigningKeys = serde_json::from_str(raw.get())?;
        if said.verify_keys.len() + said.old_verify_keys.len() > MAX_KEYS {
            return Err(DocumentError::TooManyKeys);
        }
        let is_usable = |id: &str, key: &Base64| {
            let key = key.as_bytes();
            id.starts_with("ed25519:") && key.len() == KEY_BYTES && !is_weak(key)
        };
        let valid_until_ms: u64 = said.valid_until_ts.get().into();
        let believed_until_ms = believed_until_ms(valid_until_ms, now_ms);
        let mut keys = BTreeMap::new();
        for (id, old) in said.old_verify_keys.iter().filter(|(id, old)| is_usable(id.as_str(), &old.key)) {
            let said_ms: u64 = old.expired_ts.get().into();
            // Clocks differ a little. An end that lies further in the future is none.
            let expired_ms = Some(if said_ms > now_ms.saturating_add(FUTURE_MS) { now_ms } else { said_ms });
            let key = VerifyKey { key: old.key.as_bytes().to_vec(), valid_until_ms: 0, expired_ms };
            keys.insert(id.to_string(), key);
        }
        let mut own = PublicKeySet::new();
        for (id, current) in said.verify_keys.iter().filter(|(id, current)| is_usable(id.as_str(), &current.key)) {
            let bytes = current.key.as_bytes().to_vec();
            own.insert(id.to_string(), Base64::new(bytes.clone()));
            let key = VerifyKey { key: bytes, valid_until_ms: believed_until_ms, expired_ms: None };
            keys.insert(id.to_string(), key);
        }
        let document = Self { server: said.server_name, json, keys, valid_until_ms, is_current: false };
        if document.is_signed_by(&document.server, own) {
            Ok(document)
        } else {
            Err(DocumentError::Signature(document.server))
        }
    }

    /// Whether one of `keys` of `server` signed the document, and none of those that are said to have did not.
    pub fn is_signed_by(&self, server: &ServerName, keys: PublicKeySet) -> bool {
        // ruma is content with an object that nobody signed.
        if !self.signatures_of(server).is_some_and(|ids| ids.keys().any(|id| keys.contains_key(id))) {
            return false;
        }
        let keys = PublicKeyMap::from([(server.to_string(), keys)]);
        let mut json = self.json.clone();
        keep_signatures(&mut json, server); // of everybody else who signed, ruma asks for a key
        signatures::verify_json(&keys, &json).is_ok()
    }

    /// Whether `server` is said to have signed the document with a key that is none of `keys`.
    pub fn names_another_key(&self, server: &ServerName, keys: &PublicKeySet) -> bool {
        self.signatures_of(server).is_some_and(|ids| ids.keys().any(|id| !keys.contains_key(id)))
    }

    fn signatures_of(&self, server: &ServerName) -> Option<&CanonicalJsonObject> {
        self.json.get("signatures")?.as_object()?.get(server.as_str())?.as_object()
    }

    /// Takes in another document of the server. Of the one that is valid for longer, the text stays.
    fn merge(&mut self, mut other: Self) {
        if other.valid_until_ms >= self.valid_until_ms {
            mem::swap(self, &mut other);
        }
        for (id, key) in other.keys {
            if let Some(ours) = self.keys.get_mut(&id) {
                take_in(ours, &key);
            } else if self.keys.len() < MAX_STORED {
                self.keys.insert(id, key);
            }
        }
    }

    /// Writes what is known now. A key that went out of use does not come back into use by an older document.
    pub fn store(mut self, tx: &mut store::Transaction<'_>, now_ms: u64) -> store::Result<()> {
        let server = self.server.as_str();
        let stored: Vec<_> = tx.before().list::<VerifyKeys>(&server).collect::<store::Result<_>>()?;
        if stored.len() + self.keys.len() > MAX_STORED {
            for row in &stored {
                tx.delete::<VerifyKeys>(&row.key()?);
            }
        }
        for (id, mut key) in self.keys {
            if let Some(known) = tx.get::<VerifyKeys>(&(server, &id))? {
                take_in(&mut key, &known);
            }
            tx.put::<VerifyKeys>(&(server, &id), &key);
        }
        let known = tx.get::<KeyDocuments>(&server)?;
        let until_ms = believed_until_ms(self.valid_until_ms, now_ms);
        let is_last = |known: &KeyDocument| believed_until_ms(known.valid_until_ms, known.fetched_ms) <= until_ms;
        if self.is_current || known.as_ref().is_none_or(is_last) {
            keep_signatures(&mut self.json, &self.server);
            let json = CanonicalJsonValue::Object(self.json).to_string();
            let document = KeyDocument { json, fetched_ms: now_ms, valid_until_ms: self.valid_until_ms };
            tx.put::<KeyDocuments>(&server, &document);
        }
        Ok(())
    }
}

/// Until when a document counts that was told at a time, in milliseconds since the Unix epoch.
pub fn believed_until_ms(valid_until_ms: u64, told_ms: u64) -> u64 {
    valid_until_ms.min(told_ms.saturating_add(BELIEVED.as_millis() as u64))
}

/// Adds what was said of the same key elsewhere.
fn take_in(key: &mut VerifyKey, said: &VerifyKey) {
    if said.key == key.key {
        key.expired_ms = key.expired_ms.or(said.expired_ms);
        key.valid_until_ms = key.valid_until_ms.max(said.valid_until_ms);
    }
}

/// A migration: the end of an old key was stored as its server said it, be it in a thousand years. It is capped at when
/// the server was last heard of.
pub fn end_old_keys(tx: &mut store::Transaction<'_>, _cursor: &[u8]) -> store::Result<store::Step> {
    let rows: Vec<_> = tx.before().list::<VerifyKeys>(&()).collect::<store::Result<_>>()?;
    for row in rows {
        let Some(expired_ms) = row.value.expired_ms else { continue };
        let (server, id) = row.key()?;
        let heard_ms = tx.get::<KeyDocuments>(&server)?.map_or(0, |document| document.fetched_ms);
        if expired_ms > heard_ms {
            tx.put::<VerifyKeys>(&(server, id), &VerifyKey { expired_ms: Some(heard_ms), ..row.value.clone() });
        }
    }
    Ok(store::Step::Done)
}

/// Leaves the signatures of `server` only.
fn keep_signatures(json: &mut CanonicalJsonObject, server: &ServerName) {
    if let Some(CanonicalJsonValue::Object(signatures)) = json.get_mut("signatures") {
        signatures.retain(|signer, _| signer == server.as_str());
    }
}

/// Writes documents, together.
pub async fn store(server: &Arc<Server>, documents: Vec<Document>) -> Result<()> {
    if documents.is_empty() {
        return Ok(());
    }
    let now = server.clock.now_ms();
    let put = move |tx: &mut store::Transaction<'_>| {
        // A notary may have a document for each key of a server. They are written as one: a transaction does not see
        // what it has put itself.
        let mut merged: BTreeMap<_, Document> = BTreeMap::new();
        for document in documents {
            match merged.entry(document.server.clone()) {
                Entry::Occupied(mut known) => known.get_mut().merge(document),
                Entry::Vacant(place) => {
                    place.insert(document);
                }
            }
        }
        let mut newcomers = 0;
        for document in merged.into_values() {
            newcomers += usize::from(!tx.before().contains::<KeyDocuments>(&document.server.as_str())?);
            document.store(tx, now)?;
        }
        Ok::<_, store::Error>(newcomers)
    };
    let newcomers = server.store.write(put).await?.value;
    strangers::note(server, newcomers).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::testing::TestRoom;

    #[test]
    fn old_keys_that_were_stored_with_an_end_in_the_future_are_ended() {
        let room = TestRoom::new();
        room.change(|tx| {
            let document = KeyDocument { json: "{}".to_owned(), fetched_ms: 10, valid_until_ms: 20 };
            tx.put::<KeyDocuments>(&"a.test", &document);
            for (id, expired_ms) in [("ed25519:now", None), ("ed25519:old", Some(5)), ("ed25519:x", Some(u64::MAX))] {
                let key = VerifyKey { key: vec![1; 32], valid_until_ms: 20, expired_ms };
                tx.put::<VerifyKeys>(&("a.test", id), &key);
            }
        });
        room.change(|tx| assert!(matches!(end_old_keys(tx, &[]).unwrap(), store::Step::Done)));
        let snapshot = room.server.store.snapshot();
        let ends: Vec<_> = snapshot.list::<VerifyKeys>(&"a.test").map(|row| row.unwrap().value.expired_ms).collect();
        assert_eq!(ends, [None, Some(5), Some(10)]);
    }
}
