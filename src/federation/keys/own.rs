//! The key that signs for us, and those that did before: events that they signed stay.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use ruma::signatures::Ed25519KeyPair;

use super::weak::is_weak;
use crate::{
    federation::tables::VerifyKey,
    random::Random,
    store::{self, Snapshot, Store, Transaction},
    tables::{KeptSigningKey, OldSigningKeys, SigningKey},
};

/// The length of the part of a key's id that we make up.
const VERSION_LENGTH: usize = 6;

/// Our old keys by their ids, `ed25519:…`: what is needed to verify.
pub type OldKeys = BTreeMap<String, VerifyKey>;

/// Which key took the place of which.
#[derive(Debug)]
pub struct Rotated {
    pub old: String,
    pub new: String,
}

/// Our keys: made at the first start, then kept.
pub fn open(store: &Store, random: &Random) -> anyhow::Result<(Ed25519KeyPair, OldKeys)> {
    let kept = match store.snapshot().get::<SigningKey>(&())? {
        Some(kept) => kept,
        None => {
            let made = make(random, &OldKeys::new());
            let put = made.clone();
            store.commit_blocking(move |tx| {
                tx.put::<SigningKey>(&(), &put);
                Ok::<_, store::Error>(())
            })?;
            made
        }
    };
    let current = key_pair(&kept)?;
    ensure!(
        !is_weak(&current.public_key()),
        "others can sign with the key of this server, too: nobody believes it; make a new one with `chappe rotate-key`"
    );
    Ok((current, old_keys(&store.snapshot())?))
}

/// Makes a new key for a server that does not run. Of the old one nothing is kept that could sign.
pub fn rotate(store: &Store, random: &Random, now_ms: u64) -> anyhow::Result<Rotated> {
    let current = store.snapshot().get::<SigningKey>(&())?;
    let current = key_pair(&current.context("this server has no key yet: it never ran")?)?;
    let old = id(&current);
    let mut olds = old_keys(&store.snapshot())?;
    let expired = VerifyKey { key: current.public_key().to_vec(), valid_until_ms: 0, expired_ms: Some(now_ms) };
    olds.insert(old.clone(), expired.clone());
    let made = make(random, &olds);
    let new = id(&key_pair(&made)?);
    let expired_id = old.clone();
    let put = move |tx: &mut Transaction<'_>| {
        tx.put::<SigningKey>(&(), &made);
        tx.put::<OldSigningKeys>(&&*expired_id, &expired);
        Ok::<_, store::Error>(())
    };
    store.commit_blocking(put)?;
    Ok(Rotated { old, new })
}

/// A key with an id that none had before.
fn make(random: &Random, olds: &OldKeys) -> KeptSigningKey {
    let mut version = random.text(VERSION_LENGTH);
    while olds.contains_key(&format!("ed25519:{version}")) {
        version = random.text(VERSION_LENGTH);
    }
    KeptSigningKey { version, document: Ed25519KeyPair::generate().to_vec() }
}

fn key_pair(kept: &KeptSigningKey) -> anyhow::Result<Ed25519KeyPair> {
    Ok(Ed25519KeyPair::from_der(&kept.document, kept.version.clone())?)
}

fn old_keys(snapshot: &Snapshot<'_>) -> store::Result<OldKeys> {
    let rows = snapshot.list::<OldSigningKeys>(&());
    rows.map(|row| row.and_then(|row| Ok((row.key()?.to_owned(), row.value)))).collect()
}

/// The id of a key: `ed25519:…`.
pub fn id(key: &Ed25519KeyPair) -> String {
    format!("ed25519:{}", key.version())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Options;

    /// A database that somebody made by other means than ours.
    #[test]
    fn a_key_that_everybody_has_is_not_signed_with_and_can_be_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::for_tests(directory.path())).unwrap();
        let random = Random::from_seed(1);
        let mut document = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        document.extend([0; 32]);
        let kept = KeptSigningKey { version: "1".to_owned(), document };
        let put = move |tx: &mut Transaction<'_>| {
            tx.put::<SigningKey>(&(), &kept);
            Ok::<_, store::Error>(())
        };
        store.commit_blocking(put).unwrap();
        assert!(open(&store, &random).unwrap_err().to_string().contains("rotate-key"));
        rotate(&store, &random, 5).unwrap();
        open(&store, &random).unwrap();
    }

    #[test]
    fn a_rotated_key_is_kept_to_verify_and_not_to_sign() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::for_tests(directory.path())).unwrap();
        let random = Random::from_seed(1);
        assert!(rotate(&store, &random, 5).is_err(), "there is none yet");
        let (first, olds) = open(&store, &random).unwrap();
        assert!(olds.is_empty());
        assert_eq!(id(&open(&store, &random).unwrap().0), id(&first), "it is kept");
        let rotated = rotate(&store, &random, 5).unwrap();
        rotate(&store, &random, 9).unwrap();
        let (third, olds) = open(&store, &random).unwrap();
        assert_eq!(rotated.old, id(&first));
        assert_eq!(olds.keys().collect::<std::collections::BTreeSet<_>>(), [&rotated.old, &rotated.new].into());
        assert_eq!((&*olds[&rotated.old].key, olds[&rotated.old].expired_ms), (&first.public_key()[..], Some(5)));
        assert_eq!(olds[&rotated.new].expired_ms, Some(9));
        assert!(!olds.contains_key(&id(&third)) && third.public_key() != first.public_key());
    }
}
