//! The keys by which users vouch for their devices and for each other.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#cross-signing>

use ruma::{
    CanonicalJsonValue, DeviceId, OwnedUserId, UserId, encryption::CrossSigningKey as RawCrossSigningKey, serde::Raw,
};
use vodozemac::Ed25519PublicKey;

use super::{
    Changed, announce, changed,
    signed::{self, SignedObject, is_signed},
    tables::{
        CrossSigningKey, CrossSigningKeys, DeviceKeys, OwnSignatures, Usage, UserSignatureChanges, UserSignatures,
    },
};
use crate::{
    Server,
    error::{Error, Result},
    store::{self, Snapshot, Transaction},
    user::device,
};

/// How many signatures of devices a new master key may bring: each is verified. Source: our choice, clients send one.
const MAX_DEVICE_SIGNATURES: usize = 16;

/// The body of `/keys/device_signing/upload`.
#[derive(Clone, Default)]
pub struct SigningKeys {
    pub master: Option<Raw<RawCrossSigningKey>>,
    pub self_signing: Option<Raw<RawCrossSigningKey>>,
    pub user_signing: Option<Raw<RawCrossSigningKey>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploaded {
    Done,
    /// Nothing was stored: the user has keys already and must prove again who he is before he may replace or add some.
    AuthenticationNeeded,
}

/// Stores the cross-signing keys of `user`, all or none. `is_authenticated` is whether he has just completed
/// user-interactive authentication: without, only the first keys are taken, and the same ones again.
///
/// `M_MISSING_PARAM` without a master key, `M_INVALID_PARAM` for keys that are no such keys, `M_INVALID_SIGNATURE` for
/// keys that the master key did not sign, `M_FORBIDDEN` for one with the name of a device.
pub async fn upload_signing_keys(
    server: &Server,
    user: OwnedUserId,
    keys: SigningKeys,
    is_authenticated: bool,
) -> Result<Uploaded> {
    let checked = Checked::new(&user, &keys)?;
    let owner = user.clone();
    let outcome = server.store.commit(move |tx| checked.store(tx, &owner, is_authenticated)).await?;
    if outcome == Outcome::Stored {
        announce(server, &user);
    }
    Ok(if outcome == Outcome::AuthenticationNeeded { Uploaded::AuthenticationNeeded } else { Uploaded::Done })
}

/// Whether a device of `user` may not have this id because one of his cross-signing keys has it as its name.
pub fn is_signing_key(snapshot: &Snapshot<'_>, user: &UserId, device: &DeviceId) -> store::Result<bool> {
    let mut keys = snapshot.list::<CrossSigningKeys>(&user);
    keys.try_fold(false, |found, row| Ok(found || row?.value.public_key == device.as_str()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Stored,
    Unchanged,
    AuthenticationNeeded,
}

/// Keys of the right form, in the order of `Usage`. Their signatures were not verified.
struct Checked(Vec<NewKey>);

pub(super) struct NewKey {
    pub usage: Usage,
    pub key: CrossSigningKey,
    /// By the user's own keys: key id and signature.
    signatures: Vec<(String, String)>,
}

impl Checked {
    fn new(user: &UserId, keys: &SigningKeys) -> Result<Self> {
        let given = [
            (Usage::Master, &keys.master),
            (Usage::SelfSigning, &keys.self_signing),
            (Usage::UserSigning, &keys.user_signing),
        ];
        let keys = given.into_iter().filter_map(|(usage, key)| Some((usage, key.as_ref()?)));
        let keys: Vec<_> =
            keys.map(|(usage, key)| NewKey::new(user, usage, key.json().get())).collect::<Result<_>>()?;
        if keys.is_empty() {
            return Err(Error::missing_param("The request has no key"));
        }
        let is_twice =
            |(n, new): (usize, &NewKey)| keys[..n].iter().any(|other| other.key.public_key == new.key.public_key);
        if keys.iter().enumerate().any(is_twice) {
            return Err(Error::invalid_param("Each use needs a key of its own"));
        }
        Ok(Self(keys))
    }

    fn store(self, tx: &mut Transaction<'_>, user: &UserId, is_authenticated: bool) -> Result<Outcome> {
        let before = Before::load(tx.before(), user)?;
        let master = self.master().or(before.get(Usage::Master));
        let master = master.ok_or_else(|| Error::missing_param("The user has no master key"))?.clone();
        for new in &self.0 {
            new.check(tx.before(), user, &master)?;
        }
        let is_new = |new: &NewKey| before.get(new.usage).is_none_or(|before| before.body != new.key.body);
        if !self.0.iter().any(is_new) {
            return Ok(Outcome::Unchanged);
        }
        if before.get(Usage::Master).is_some() && !is_authenticated {
            return Ok(Outcome::AuthenticationNeeded);
        }
        // Keys that a former master key signed are worth nothing without it.
        let is_master_new = before.get(Usage::Master) != Some(&master);
        for usage in Usage::ALL {
            let is_replaced = is_master_new || self.0.iter().any(|new| new.usage == usage && is_new(new));
            if let Some(old) = before.get(usage).filter(|_| is_replaced) {
                forget(tx, user, usage, &old.public_key)?;
            }
        }
        for new in self.0.iter().filter(|new| is_master_new || is_new(new)) {
            new.put(tx, user, &master)?;
        }
        changed(tx, user, Changed::SigningKeys)?;
        Ok(Outcome::Stored)
    }

    fn master(&self) -> Option<&CrossSigningKey> {
        self.0.iter().find(|new| new.usage == Usage::Master).map(|new| &new.key)
    }
}

/// The keys that are stored.
struct Before(Vec<(Usage, CrossSigningKey)>);

impl Before {
    fn load(snapshot: &Snapshot<'_>, user: &UserId) -> store::Result<Self> {
        let rows = snapshot.list::<CrossSigningKeys>(&user);
        rows.map(|row| row.and_then(|row| Ok((row.key()?.1, row.value)))).collect::<store::Result<_>>().map(Self)
    }

    fn get(&self, usage: Usage) -> Option<&CrossSigningKey> {
        self.0.iter().find(|(of, _)| *of == usage).map(|(_, key)| key)
    }
}

impl NewKey {
    pub fn new(user: &UserId, usage: Usage, json: &str) -> Result<Self> {
        let object = SignedObject::parse(json)?;
        let owner = object.text("user_id").ok_or_else(|| Error::bad_json("`user_id` must be a string"))?;
        if owner != user {
            return Err(Error::invalid_param("The keys are not those of the calling user"));
        }
        check_usage(usage, object.fields.get("usage"))?;
        let public_key = read_public_key(object.fields.get("keys"))?;
        let signatures = object.signatures_of(user).map(|(id, signature)| (id.to_owned(), signature.to_owned()));
        Ok(Self { usage, signatures: signatures.collect(), key: CrossSigningKey { public_key, body: object.body() } })
    }

    /// Whether the user may have this key, with that master key.
    fn check(&self, before: &Snapshot<'_>, user: &UserId, master: &CrossSigningKey) -> Result<()> {
        if device::get(before, user, self.key.public_key.as_str().into())?.is_some() {
            return Err(Error::forbidden("Key ID in use"));
        }
        if self.usage == Usage::Master || self.signature_of(master).is_some() {
            return Ok(());
        }
        Err(Error::invalid_signature(format!("The {} key is not signed by the master key", self.usage.as_str())))
    }

    /// The key id and signature of the master key, verified.
    fn signature_of(&self, master: &CrossSigningKey) -> Option<&(String, String)> {
        let by_master = |(id, _): &&(String, String)| id.strip_prefix("ed25519:") == Some(&master.public_key);
        let signed = self.signatures.iter().find(by_master)?;
        is_signed(&self.key.body, &master.public_key, &signed.1).then_some(signed)
    }

    fn put(&self, tx: &mut Transaction<'_>, user: &UserId, master: &CrossSigningKey) -> store::Result<()> {
        tx.put::<CrossSigningKeys>(&(user, self.usage), &self.key);
        let signatures = match self.usage {
            Usage::Master => self.device_signatures(tx.before(), user)?,
            Usage::SelfSigning | Usage::UserSigning => self.signature_of(master).into_iter().collect(),
        };
        for (key_id, signature) in signatures {
            tx.put::<OwnSignatures>(&(user, &self.key.public_key, key_id), signature);
        }
        Ok(())
    }

    /// The signatures of the user's devices, verified.
    fn device_signatures(&self, before: &Snapshot<'_>, user: &UserId) -> store::Result<Vec<&(String, String)>> {
        let mut verified = Vec::new();
        for signed in self.signatures.iter().take(MAX_DEVICE_SIGNATURES) {
            let (key_id, signature) = signed;
            let Some(device) = key_id.strip_prefix("ed25519:") else { continue };
            let device_keys = before.get::<DeviceKeys>(&(user, device.into()))?;
            let public_key = device_keys.and_then(|body| signed::public_key(&body, key_id));
            if public_key.is_some_and(|key| is_signed(&self.key.body, &key, signature)) {
                verified.push(signed);
            }
        }
        Ok(verified)
    }
}

fn check_usage(usage: Usage, given: Option<&CanonicalJsonValue>) -> Result<()> {
    let Some(CanonicalJsonValue::Array(given)) = given else {
        return Err(Error::bad_json("`usage` must be an array"));
    };
    match given.as_slice() {
        [only] if only.as_str() == Some(usage.as_str()) => Ok(()),
        _ => Err(Error::invalid_param(format!("`usage` must be [{:?}]", usage.as_str()))),
    }
}

/// The one public key in `keys`, which is also its name.
fn read_public_key(keys: Option<&CanonicalJsonValue>) -> Result<String> {
    let Some(CanonicalJsonValue::Object(keys)) = keys else {
        return Err(Error::bad_json("`keys` must be an object"));
    };
    let invalid = || Error::invalid_param("`keys` must hold one key, as `ed25519:PUBLIC+KEY: PUBLIC+KEY`");
    let mut keys = keys.iter();
    let (Some((id, key)), None) = (keys.next(), keys.next()) else { return Err(invalid()) };
    let key = key.as_str().ok_or_else(|| Error::bad_json("The key must be a string"))?;
    // A key has one name only if it can be written in one way only.
    let is_key = Ed25519PublicKey::from_base64(key).is_ok_and(|decoded| decoded.to_base64() == key);
    if is_key && id.strip_prefix("ed25519:") == Some(key) { Ok(key.to_owned()) } else { Err(invalid()) }
}

/// Deletes a key and all signatures about it and by it.
fn forget(tx: &mut Transaction<'_>, user: &UserId, usage: Usage, public_key: &str) -> store::Result<()> {
    tx.delete::<CrossSigningKeys>(&(user, usage));
    tx.delete_all::<OwnSignatures>(&(user, public_key));
    match usage {
        Usage::Master => {}
        Usage::SelfSigning => {
            let key_id = format!("ed25519:{public_key}");
            let devices: Vec<_> = tx.before().list::<DeviceKeys>(&user).collect::<store::Result<_>>()?;
            for row in &devices {
                tx.delete::<OwnSignatures>(&(user, row.key()?.1.as_str(), &key_id));
            }
        }
        Usage::UserSigning => {
            tx.delete_all::<UserSignatures>(&user);
            tx.delete_all::<UserSignatureChanges>(&user);
        }
    }
    Ok(())
}

/// Forgets the cross-signing keys of an account that is being deactivated, and notes the change if it had any.
pub fn delete_user(tx: &mut Transaction<'_>, user: &UserId) -> store::Result<()> {
    let before = Before::load(tx.before(), user)?;
    for (usage, key) in &before.0 {
        forget(tx, user, *usage, &key.public_key)?;
    }
    if before.0.is_empty() { Ok(()) } else { changed(tx, user, Changed::SigningKeys) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use vodozemac::Ed25519Keypair;

    use super::*;

    #[test]
    fn every_field_of_a_key_is_checked() {
        let public_key = Ed25519Keypair::new().public_key().to_base64();
        let id = format!("ed25519:{public_key}");
        let good = json!({ "user_id": "@a:x", "usage": ["master"], "keys": { &id: public_key } });
        let check = |key: &Value| NewKey::new(&UserId::parse("@a:x").unwrap(), Usage::Master, &key.to_string());
        assert!(check(&good).is_ok());
        for (field, wrong) in [
            ("user_id", json!("@b:x")),
            ("user_id", json!(1)),
            ("usage", json!("master")),
            ("usage", json!([])),
            ("usage", json!(["self_signing"])),
            ("usage", json!(["master", "self_signing"])),
            ("keys", json!([])),
            ("keys", json!({})),
            ("keys", json!({ &id: public_key, "ed25519:B": "B" })),
            ("keys", json!({ &id: 1 })),
            ("keys", json!({ "ed25519:A": public_key })),
            ("keys", json!({ "ed25519:AAAA": "AAAA" })),
            ("keys", json!({ format!("{id}="): format!("{public_key}=") })),
            ("signatures", json!([])),
        ] {
            let mut key = good.clone();
            key[field] = wrong.clone();
            assert!(check(&key).is_err(), "{field}: {wrong}");
        }
    }
}
