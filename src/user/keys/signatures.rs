//! Signatures that are added to keys after these were published.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde_json::value::RawValue;

use super::{
    Changed, announce, changed,
    signed::{self, SignedObject, is_signed},
    tables::{CrossSigningKeys, DeviceKeys, OwnSignatures, Usage, UserSignature, UserSignatureChanges, UserSignatures},
};
use crate::{
    Server,
    error::{Error, Result},
    store::{self, Scan, Snapshot, StreamPos, Transaction},
};

/// How many signatures one request may bring: each is verified. Source: our choice; clients send a few.
const MAX_SIGNATURES: usize = 1_000;

/// Signed objects by their owner and by the id of the device or the public key.
pub type SignedKeys = BTreeMap<OwnedUserId, BTreeMap<String, Box<RawValue>>>;

/// Why keys got no new signatures, in the same order.
pub type Failures = BTreeMap<OwnedUserId, BTreeMap<String, Error>>;

/// Stores the signatures that `signer` made about his own keys and about the master keys of others. Of each object all
/// that he signed is stored or, if anything in it is wrong, nothing.
pub async fn upload_signatures(server: &Arc<Server>, signer: OwnedUserId, keys: SignedKeys) -> Result<Failures> {
    let user = signer.clone();
    let verify = move |server: &Server| verify_all(&server.store.snapshot(), &user, keys);
    let (verified, mut failures) = server.blocking(verify).await?;
    if verified.is_empty() {
        return Ok(failures);
    }
    let user = signer.clone();
    let stored = server.store.commit(move |tx| store_all(tx, &user, verified)).await?;
    if stored.is_own_key_signed {
        announce(server, &signer);
    } else {
        server.wakers.user(server, &signer);
    }
    for (owner, name) in stored.outdated {
        failures.entry(owner).or_default().insert(name, Error::not_found("The key was replaced"));
    }
    Ok(failures)
}

/// The users whose master keys `signer` signed in the changes after `after`, up to `until`: his other devices have to
/// fetch those users' keys again.
pub fn users_signed(
    snapshot: &Snapshot<'_>,
    signer: &UserId,
    after: StreamPos,
    until: StreamPos,
) -> store::Result<Vec<OwnedUserId>> {
    let range = Scan::range::<UserSignatureChanges>(&(signer, after.next()), &(signer, until.next()));
    let rows = snapshot.scan::<UserSignatureChanges>(range);
    rows.map(|row| row.and_then(|row| Ok(row.key()?.2.to_owned()))).collect()
}

/// A key of a user, by what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum KeyOf {
    Device(OwnedDeviceId),
    CrossSigning(Usage),
}

impl KeyOf {
    /// The key with that device id or public key.
    fn find(snapshot: &Snapshot<'_>, user: &UserId, name: &str) -> store::Result<Option<Self>> {
        if snapshot.contains::<DeviceKeys>(&(user, name.into()))? {
            return Ok(Some(Self::Device(name.into())));
        }
        for row in snapshot.list::<CrossSigningKeys>(&user) {
            let row = row?;
            if row.value.public_key == name {
                return Ok(Some(Self::CrossSigning(row.key()?.1)));
            }
        }
        Ok(None)
    }

    /// What of it is signed, and the public key it signs with. Neither if the user has no such key.
    fn read(&self, snapshot: &Snapshot<'_>, user: &UserId) -> store::Result<Option<StoredKey>> {
        match self {
            Self::Device(device) => {
                let body = snapshot.get::<DeviceKeys>(&(user, device))?;
                Ok(body.map(|body| {
                    let public_key = signed::public_key(&body, &format!("ed25519:{device}"));
                    StoredKey { body, public_key: public_key.unwrap_or_default() }
                }))
            }
            Self::CrossSigning(usage) => {
                let key = snapshot.get::<CrossSigningKeys>(&(user, *usage))?;
                Ok(key.map(|key| StoredKey { body: key.body, public_key: key.public_key }))
            }
        }
    }

    fn as_changed(&self) -> Changed<'_> {
        match self {
            Self::Device(device) => Changed::Device(device),
            Self::CrossSigning(_) => Changed::SigningKeys,
        }
    }

    /// The relations of the specification between keys of one user.
    fn may_sign(&self, target: &Self) -> bool {
        match (self, target) {
            (Self::Device(signer), Self::Device(target)) => signer == target,
            (Self::Device(_), Self::CrossSigning(usage)) => *usage == Usage::Master,
            (Self::CrossSigning(signer), Self::Device(_)) => *signer == Usage::SelfSigning,
            (Self::CrossSigning(signer), Self::CrossSigning(target)) => {
                *signer == Usage::Master && *target != Usage::Master
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct StoredKey {
    body: String,
    /// Base64; empty, which verifies nothing, if it has none.
    public_key: String,
}

/// Signatures of one object, verified with keys as they were then.
struct Verified {
    owner: OwnedUserId,
    /// The device id or public key.
    name: String,
    target: (KeyOf, StoredKey),
    signatures: Vec<VerifiedSignature>,
}

struct VerifiedSignature {
    key_id: String,
    signature: String,
    signer: (KeyOf, StoredKey),
}

fn verify_all(snapshot: &Snapshot<'_>, signer: &UserId, keys: SignedKeys) -> Result<(Vec<Verified>, Failures)> {
    let (mut verified, mut failures, mut count) = (Vec::new(), Failures::new(), 0);
    for (owner, keys) in keys {
        for (name, json) in keys {
            let object = match SignedObject::parse(json.get()) {
                Ok(object) => object,
                Err(error) => {
                    failures.entry(owner.clone()).or_default().insert(name, error);
                    continue;
                }
            };
            count += object.signatures_of(signer).count();
            if count > MAX_SIGNATURES {
                return Err(Error::too_large(format!("More than {MAX_SIGNATURES} signatures in one request")));
            }
            match Verified::new(snapshot, signer, &owner, &name, &object) {
                Ok(signatures) => verified.push(signatures),
                Err(error @ Error::Refused { .. }) => {
                    failures.entry(owner.clone()).or_default().insert(name, error);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok((verified, failures))
}

impl Verified {
    fn new(
        snapshot: &Snapshot<'_>,
        signer: &UserId,
        owner: &UserId,
        name: &str,
        object: &SignedObject,
    ) -> Result<Self> {
        let unknown = || Error::not_found("The user has no such key");
        let target = KeyOf::find(snapshot, owner, name)?.ok_or_else(unknown)?;
        // Whoever is no owner sees only this one, and may sign no other.
        if owner != signer && target != KeyOf::CrossSigning(Usage::Master) {
            return Err(unknown());
        }
        let stored = target.read(snapshot, owner)?.ok_or_else(unknown)?;
        if stored.body != object.body() {
            return Err(Error::invalid_signature("The signed object is not the key that was uploaded"));
        }
        let mut signatures = Vec::new();
        for (key_id, signature) in object.signatures_of(signer) {
            let by = Self::signer(snapshot, signer, owner, key_id, &target)?;
            if !is_signed(&stored.body, &by.1.public_key, signature) {
                return Err(Error::invalid_signature("Invalid signature"));
            }
            signatures.push(VerifiedSignature {
                key_id: key_id.to_owned(),
                signature: signature.to_owned(),
                signer: by,
            });
        }
        if signatures.is_empty() {
            return Err(Error::invalid_signature("There is no signature of the calling user"));
        }
        Ok(Self { owner: owner.to_owned(), name: name.to_owned(), target: (target, stored), signatures })
    }

    /// The key of `signer` with the id `key_id`, if it is one that may sign the target.
    fn signer(
        snapshot: &Snapshot<'_>,
        signer: &UserId,
        owner: &UserId,
        key_id: &str,
        target: &KeyOf,
    ) -> Result<(KeyOf, StoredKey)> {
        let wrong = || Error::invalid_signature(format!("{key_id:?} is not a key that signs this one"));
        let name = key_id.strip_prefix("ed25519:").ok_or_else(wrong)?;
        let key = KeyOf::find(snapshot, signer, name)?.ok_or_else(wrong)?;
        let may_sign =
            if owner == signer { key.may_sign(target) } else { key == KeyOf::CrossSigning(Usage::UserSigning) };
        let stored = key.read(snapshot, signer)?.filter(|_| may_sign).ok_or_else(wrong)?;
        Ok((key, stored))
    }

    /// Whether all keys are still those that the signatures were verified with.
    fn holds(&self, now: &Snapshot<'_>, signer: &UserId) -> store::Result<bool> {
        if self.target.0.read(now, &self.owner)?.as_ref() != Some(&self.target.1) {
            return Ok(false);
        }
        for VerifiedSignature { signer: (key, stored), .. } in &self.signatures {
            if key.read(now, signer)?.as_ref() != Some(stored) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[derive(Default)]
struct Stored {
    is_own_key_signed: bool,
    /// Owners and names of keys that changed while their signatures were verified.
    outdated: Vec<(OwnedUserId, String)>,
}

fn store_all(tx: &mut Transaction<'_>, signer: &UserId, verified: Vec<Verified>) -> store::Result<Stored> {
    let mut stored = Stored::default();
    for key in verified {
        if !key.holds(tx.before(), signer)? {
            stored.outdated.push((key.owner, key.name));
        } else if key.owner == *signer {
            if put_own(tx, signer, &key)? {
                stored.is_own_key_signed = true;
                changed(tx, signer, key.target.0.as_changed())?;
            }
        } else {
            put_of_user(tx, signer, key)?;
        }
    }
    Ok(stored)
}

/// Whether any of them was new.
fn put_own(tx: &mut Transaction<'_>, user: &UserId, key: &Verified) -> store::Result<bool> {
    let mut is_new = false;
    for VerifiedSignature { key_id, signature, .. } in &key.signatures {
        let place = (user, key.name.as_str(), key_id.as_str());
        if tx.get::<OwnSignatures>(&place)?.as_ref() != Some(signature) {
            tx.put::<OwnSignatures>(&place, signature);
            is_new = true;
        }
    }
    Ok(is_new)
}

/// A user-signing key signs each master key once, so this keeps the last signature of each pair of users.
fn put_of_user(tx: &mut Transaction<'_>, signer: &UserId, key: Verified) -> store::Result<()> {
    let Some(VerifiedSignature { key_id, signature, .. }) = key.signatures.into_iter().next() else { return Ok(()) };
    let changed = tx.pos();
    let row = UserSignature { master_key: key.name, key_id, signature, changed };
    let place = (signer, &*key.owner);
    if let Some(before) = tx.get::<UserSignatures>(&place)? {
        if (UserSignature { changed, ..before.clone() }) == row {
            return Ok(());
        }
        tx.delete::<UserSignatureChanges>(&(signer, before.changed, &key.owner));
    }
    tx.put::<UserSignatures>(&place, &row);
    tx.put::<UserSignatureChanges>(&(signer, changed, &key.owner), &());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_relations_of_the_specification_are_taken() {
        let device = |id: &str| KeyOf::Device(id.into());
        let [master, self_signing, user_signing] = Usage::ALL.map(KeyOf::CrossSigning);
        let allowed = [
            (device("A"), device("A")),
            (device("A"), master.clone()),
            (self_signing.clone(), device("A")),
            (master.clone(), self_signing.clone()),
            (master.clone(), user_signing.clone()),
        ];
        let all = [device("A"), device("B"), master, self_signing, user_signing];
        for signer in &all {
            for target in &all {
                let is_allowed = allowed.contains(&(signer.clone(), target.clone()))
                    || *signer == device("B") && (*target == device("B") || *target == all[2])
                    || *signer == all[3] && *target == device("B");
                assert_eq!(signer.may_sign(target), is_allowed, "{signer:?} signs {target:?}");
            }
        }
    }
}
