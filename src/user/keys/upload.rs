//! What a device publishes: its identity keys, one-time keys and fallback keys.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    CanonicalJsonValue, DeviceId, OwnedOneTimeKeyId,
    encryption::{DeviceKeys as RawDeviceKeys, OneTimeKey as RawOneTimeKey},
    serde::Raw,
};
use vodozemac::{Curve25519PublicKey, base64_decode};

use super::{
    Changed, announce, changed, delete_signatures_of_device,
    one_time::{self, NewKey},
    signed::{self, SignedObject, is_signed},
    tables::{CrossSigningKeys, DeviceKeys, OwnSignatures, Usage},
};
use crate::{
    Server,
    error::{Error, Result},
    store::{self, Transaction},
    user::{device, session::Caller},
};

/// How many one-time and fallback keys one request may bring. Source: our choice; clients keep 50 to 100.
const MAX_KEYS_PER_REQUEST: usize = 500;

/// The body of `/keys/upload`.
pub struct Upload {
    pub device_keys: Option<Raw<RawDeviceKeys>>,
    pub one_time_keys: BTreeMap<OwnedOneTimeKeyId, Raw<RawOneTimeKey>>,
    pub fallback_keys: BTreeMap<OwnedOneTimeKeyId, Raw<RawOneTimeKey>>,
}

/// Stores the keys of the calling device, all or none. Gives the number of one-time keys that it now has, by algorithm.
pub async fn upload(server: &Arc<Server>, caller: Caller, upload: Upload) -> Result<BTreeMap<String, u64>> {
    let checked = check(server, &caller, upload).await?;
    store(server, caller, checked).await
}

/// Whether keys have the form of keys of that device.
pub async fn check(server: &Arc<Server>, device: &Caller, upload: Upload) -> Result<Checked> {
    let device = device.clone();
    server.blocking(move |_| Checked::new(&device, &upload)).await
}

/// Stores keys that were checked.
pub async fn store(server: &Arc<Server>, caller: Caller, checked: Checked) -> Result<BTreeMap<String, u64>> {
    let user = caller.user_id.clone();
    let stored = server.store.commit(move |tx| checked.store(tx, &caller)).await?;
    if stored.is_identity_changed {
        announce(server, &user);
    }
    Ok(stored.counts)
}

struct Stored {
    is_identity_changed: bool,
    counts: BTreeMap<String, u64>,
}

/// An upload whose form is right.
pub struct Checked {
    device_keys: Option<CheckedDeviceKeys>,
    one_time_keys: Vec<NewKey>,
    fallback_keys: Vec<NewKey>,
}

struct CheckedDeviceKeys {
    body: String,
    /// By the device itself: verified.
    self_signature: Option<(String, String)>,
    /// By other keys of the same user.
    other_signatures: Vec<(String, String)>,
}

impl Checked {
    fn new(caller: &Caller, upload: &Upload) -> Result<Self> {
        if upload.one_time_keys.len() + upload.fallback_keys.len() > MAX_KEYS_PER_REQUEST {
            return Err(Error::invalid_param(format!("More than {MAX_KEYS_PER_REQUEST} keys in one request")));
        }
        let device_keys = upload.device_keys.as_ref().map(|keys| CheckedDeviceKeys::new(caller, keys)).transpose()?;
        let new_keys = |keys: &BTreeMap<OwnedOneTimeKeyId, Raw<RawOneTimeKey>>| {
            keys.iter().map(|(id, key)| NewKey::new(id.as_str(), key.json().get())).collect::<Result<Vec<_>>>()
        };
        let fallback_keys = new_keys(&upload.fallback_keys)?;
        // They come sorted by their ids, which begin with the algorithm.
        if fallback_keys.windows(2).any(|pair| pair[0].algorithm() == pair[1].algorithm()) {
            return Err(Error::invalid_param("There can only be one fallback key per algorithm"));
        }
        Ok(Self { device_keys, one_time_keys: new_keys(&upload.one_time_keys)?, fallback_keys })
    }

    fn store(self, tx: &mut Transaction<'_>, caller: &Caller) -> Result<Stored> {
        let (user, device) = (&*caller.user_id, &*caller.device_id);
        if device::get(tx.before(), user, device)?.is_none() {
            return Err(Error::not_found("The device was deleted"));
        }
        let mut is_identity_changed = false;
        let mut has_new_identity = false;
        if let Some(keys) = self.device_keys {
            let before = tx.get::<DeviceKeys>(&(user, device))?;
            has_new_identity = before.as_ref().is_some_and(|before| !has_same_keys(before, &keys.body));
            if has_new_identity {
                // One-time keys belong to the identity that signed them: nobody could use them with the new one.
                one_time::delete_all(tx, user, device);
            }
            is_identity_changed = keys.store(tx, caller, before.as_deref())?;
            if is_identity_changed {
                changed(tx, user, Changed::Device(device))?;
            }
        }
        let mut keys = one_time::Keys::open(tx, user, device, has_new_identity)?;
        keys.add(self.one_time_keys)?;
        keys.replace_fallback(self.fallback_keys)?;
        Ok(Stored { is_identity_changed, counts: keys.into_counts() })
    }
}

impl CheckedDeviceKeys {
    fn new(caller: &Caller, keys: &Raw<RawDeviceKeys>) -> Result<Self> {
        let object = SignedObject::parse(keys.json().get())?;
        let (user, device) = (&*caller.user_id, &*caller.device_id);
        let text =
            |field: &str| object.text(field).ok_or_else(|| Error::bad_json(format!("`{field}` must be a string")));
        if text("user_id")? != user || text("device_id")? != device {
            return Err(Error::invalid_param("The keys are not those of the calling user and device"));
        }
        check_algorithms(object.fields.get("algorithms"))?;
        check_keys(device, object.fields.get("keys"))?;
        if !object.has_signatures {
            return Err(Error::bad_json("`signatures` is missing"));
        }
        let body = object.body();
        let own_id = format!("ed25519:{device}");
        let mut checked = Self { self_signature: None, other_signatures: Vec::new(), body };
        for (id, signature) in object.signatures_of(user) {
            let signed = (id.to_owned(), signature.to_owned());
            if id == own_id { checked.self_signature = Some(signed) } else { checked.other_signatures.push(signed) }
        }
        checked.verify_self(&own_id)?;
        Ok(checked)
    }

    /// NOTSPEC: keys that their device did not sign are taken, as by other servers: Complement's device-list tests upload
    /// such. No client trusts them, since it must check that signature itself. A wrong signature is refused.
    fn verify_self(&self, own_id: &str) -> Result<()> {
        let Some((_, signature)) = &self.self_signature else { return Ok(()) };
        let key = signed::public_key(&self.body, own_id);
        if key.is_some_and(|key| is_signed(&self.body, &key, signature)) {
            Ok(())
        } else {
            Err(Error::invalid_signature("The device keys are not signed by the device"))
        }
    }

    /// Whether there was anything new.
    fn store(self, tx: &mut Transaction<'_>, caller: &Caller, before: Option<&str>) -> Result<bool, store::Error> {
        let (user, device) = (&*caller.user_id, &*caller.device_id);
        let mut is_changed = false;
        if before != Some(&self.body) {
            delete_signatures_of_device(tx, user, device)?;
            tx.put::<DeviceKeys>(&(user, device), &self.body);
            is_changed = true;
        }
        // Others than the device and the self-signing key have no say in whether a device is its user's.
        let self_signing = tx.get::<CrossSigningKeys>(&(user, Usage::SelfSigning))?;
        let by_self_signing = self.other_signatures.into_iter().find(|(id, signature)| {
            let key = self_signing.as_ref().filter(|key| id.strip_prefix("ed25519:") == Some(&key.public_key));
            key.is_some_and(|key| is_signed(&self.body, &key.public_key, signature))
        });
        for (id, signature) in self.self_signature.into_iter().chain(by_self_signing) {
            let key = (user, device.as_str(), id.as_str());
            if is_changed || tx.get::<OwnSignatures>(&key)?.as_ref() != Some(&signature) {
                tx.put::<OwnSignatures>(&key, &signature);
                is_changed = true;
            }
        }
        Ok(is_changed)
    }
}

fn check_algorithms(algorithms: Option<&CanonicalJsonValue>) -> Result<()> {
    match algorithms {
        Some(CanonicalJsonValue::Array(all)) if all.iter().all(|one| one.as_str().is_some()) => Ok(()),
        _ => Err(Error::bad_json("`algorithms` must be an array of strings")),
    }
}

/// The public keys of a device: each is named `algorithm:DEVICE`, and an Ed25519 key is among them.
fn check_keys(device: &DeviceId, keys: Option<&CanonicalJsonValue>) -> Result<()> {
    let Some(CanonicalJsonValue::Object(keys)) = keys else {
        return Err(Error::bad_json("`keys` must be an object"));
    };
    let mut has_signing_key = false;
    for (id, key) in keys {
        let key = key.as_str().ok_or_else(|| Error::bad_json("Every one of `keys` must be a string"))?;
        let Some((algorithm, name)) = id.split_once(':').filter(|(algorithm, _)| !algorithm.is_empty()) else {
            return Err(Error::invalid_param(format!("{id:?} is no id of a key")));
        };
        if name != device {
            return Err(Error::invalid_param(format!("{id:?} is not the id of a key of the calling device")));
        }
        let is_key = match algorithm {
            // Not every 32 bytes are a key that verifies signatures, but those that are not harm only their own device.
            "ed25519" => base64_decode(key).is_ok_and(|bytes| bytes.len() == 32),
            "curve25519" => Curve25519PublicKey::from_base64(key).is_ok(),
            _ => true,
        };
        if !is_key {
            return Err(Error::invalid_param(format!("{id:?} is not the base64 of 32 bytes")));
        }
        has_signing_key |= algorithm == "ed25519";
    }
    if has_signing_key { Ok(()) } else { Err(Error::invalid_param("`keys` has no Ed25519 key")) }
}

fn has_same_keys(before: &str, after: &str) -> bool {
    #[derive(serde::Deserialize, PartialEq)]
    struct Identity {
        keys: BTreeMap<String, String>,
    }
    let read = |body| serde_json::from_str::<Identity>(body).ok();
    read(before) == read(after)
}

#[cfg(test)]
mod tests {
    use ruma::UserId;
    use serde_json::{Value, json};
    use vodozemac::{Curve25519SecretKey, Ed25519Keypair};

    use super::*;

    fn caller() -> Caller {
        Caller::on_device(UserId::parse("@a:x").unwrap(), "D".into())
    }

    fn keys() -> Value {
        let identity = Curve25519PublicKey::from(&Curve25519SecretKey::new()).to_base64();
        json!({
            "user_id": "@a:x", "device_id": "D", "algorithms": ["m.megolm.v1.aes-sha2"],
            "keys": { "ed25519:D": Ed25519Keypair::new().public_key().to_base64(), "curve25519:D": identity },
            "signatures": {},
        })
    }

    fn check(keys: &Value) -> Result<CheckedDeviceKeys> {
        CheckedDeviceKeys::new(&caller(), &Raw::from_json_string(keys.to_string()).unwrap())
    }

    #[test]
    fn every_field_of_device_keys_is_checked() {
        assert!(check(&keys()).is_ok());
        for (field, wrong) in [
            ("user_id", json!("@b:x")),
            ("user_id", json!(null)),
            ("device_id", json!("E")),
            ("algorithms", json!("m.megolm.v1.aes-sha2")),
            ("algorithms", json!([1])),
            ("keys", json!({})),
            ("keys", json!([])),
            ("keys", json!({ "ed25519:E": keys()["keys"]["ed25519:D"] })),
            ("keys", json!({ "ed25519": keys()["keys"]["ed25519:D"] })),
            ("keys", json!({ "ed25519:D": "AAAA" })),
            ("keys", json!({ "ed25519:D": 1 })),
            ("keys", json!({ "curve25519:D": keys()["keys"]["curve25519:D"] })),
            ("signatures", json!([])),
            ("signatures", json!({ "@a:x": { "ed25519:D": "AAAA" } })),
        ] {
            let mut keys = keys();
            keys[field] = wrong.clone();
            assert!(check(&keys).is_err(), "{field}: {wrong}");
        }
        for field in ["user_id", "device_id", "algorithms", "keys", "signatures"] {
            let mut keys = keys();
            keys.as_object_mut().unwrap().remove(field);
            assert!(check(&keys).is_err(), "without {field}");
        }
    }
}
