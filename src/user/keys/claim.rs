//! Giving out one-time keys.

use std::collections::BTreeMap;

use ruma::{OwnedDeviceId, OwnedUserId};

use super::{one_time, tables::OneTimeKey};
use crate::{
    Server,
    error::Result,
    store::{self, Transaction},
};

/// How many keys one transaction takes: everybody else who writes waits for it.
const KEYS_PER_TRANSACTION: usize = 100;

/// The keys that were given out, by user and device.
pub type Claimed = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, OneTimeKey>>;

/// Takes one key of each device that has one: a one-time key while there are any, which nobody will ever get again, else
/// the fallback key. `wanted` has the algorithm of the key. That they are gone is durable when this returns.
pub async fn claim(server: &Server, wanted: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>>) -> Result<Claimed> {
    let mut wanted = wanted
        .into_iter()
        .flat_map(|(user, devices)| {
            devices.into_iter().map(move |(device, algorithm)| (user.clone(), device, algorithm))
        })
        .peekable();
    let mut claimed = Claimed::new();
    while wanted.peek().is_some() {
        let part: Vec<_> = wanted.by_ref().take(KEYS_PER_TRANSACTION).collect();
        for (user, device, key) in server.store.commit(move |tx| take_all(tx, part)).await? {
            claimed.entry(user).or_default().insert(device, key);
        }
    }
    Ok(claimed)
}

type Wanted = (OwnedUserId, OwnedDeviceId, String);

fn take_all(
    tx: &mut Transaction<'_>,
    wanted: Vec<Wanted>,
) -> store::Result<Vec<(OwnedUserId, OwnedDeviceId, OneTimeKey)>> {
    let keys = (0..).zip(wanted).map(|(index, (user, device, algorithm))| {
        let key = one_time::take(tx, &user, &device, &algorithm, index)?;
        Ok(key.map(|key| (user, device, key)))
    });
    keys.filter_map(Result::transpose).collect()
}
