//! Asks for keys: the servers themselves, and notaries where there are many or where a server does not answer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, OwnedServerSigningKeyId, ServerName, UInt,
    api::federation::discovery::{
        get_remote_server_keys_batch::{self, v2::QueryCriteria},
        get_server_keys,
    },
    signatures::PublicKeySet,
};
use tokio::sync::OwnedMutexGuard;
use tracing::debug;

use super::{
    Keys, Wanted,
    document::{self, Document},
    strangers::Newcomers,
};
use crate::{
    Server,
    error::{Error, RemoteError, Result},
    federation::{allows, request_unsigned, request_unsigned_now, tables::VerifyKeys},
    keyed_locks::KeyedLocks,
    outgoing::Limits,
    store::Snapshot,
};

/// What one request for keys may cost: requests of others wait for it, and anybody can make us send it anywhere.
const LIMITS: Limits = Limits { time: Duration::from_secs(10), bytes: document::MAX_BYTES, redirects: false };
/// The same of a notary, which tells of many servers.
const LIMITS_OF_NOTARY: Limits = Limits { bytes: BATCH * document::MAX_BYTES, ..LIMITS };
/// A server is not asked again before this has passed, whatever keys others say that it has.
const PAUSE_MS: u64 = 60_000;
/// How many servers are asked at a time.
const AT_ONCE: usize = 32;
/// From how many servers on notaries are asked first.
const MANY: usize = 8;
/// For how many servers a notary is asked in one request.
const BATCH: usize = 100;
/// Of how many servers it is remembered that they were asked.
const REMEMBERED: usize = 10_000;

/// What is being fetched, and what was lately.
pub struct Fetches {
    running: KeyedLocks<OwnedServerName>,
    /// When a server was last asked, and the notaries if it had no answer, in milliseconds since the Unix epoch.
    asked: Cache<OwnedServerName, u64>,
    /// When it was last asked for somebody whose notary we are: anybody can have us do that, and no notary is asked.
    refreshed: Cache<OwnedServerName, u64>,
    pub(super) newcomers: Newcomers,
}

impl Default for Fetches {
    fn default() -> Self {
        Self {
            running: KeyedLocks::default(),
            asked: Cache::new(REMEMBERED),
            refreshed: Cache::new(REMEMBERED),
            newcomers: Newcomers::default(),
        }
    }
}

/// Whether a server is among those asked lately.
fn is_lately(asked_ms: &Cache<OwnedServerName, u64>, server: &OwnedServerName, now_ms: u64) -> bool {
    // It may have been a little later than `now_ms`; much later is what a clock said that was set back since.
    asked_ms.get(server).is_some_and(|asked_ms| now_ms.abs_diff(asked_ms) < PAUSE_MS)
}

/// The servers that one fetch asks. Others who want to ask one of them wait until it is released.
struct Held<'f> {
    fetches: &'f Fetches,
    now_ms: u64,
    locks: Mutex<BTreeMap<OwnedServerName, OwnedMutexGuard<()>>>,
}

impl Held<'_> {
    /// What can be had of that server is stored by now.
    fn release(&self, other: &OwnedServerName) {
        self.fetches.asked.insert(other.clone(), self.now_ms);
        self.locks.lock().remove(other);
    }

    fn release_all_but(&self, kept: &BTreeMap<OwnedServerName, Wanted>) {
        let held: Vec<_> = self.locks.lock().keys().cloned().collect();
        held.iter().filter(|other| !kept.contains_key(*other)).for_each(|other| self.release(other));
    }
}

/// Fetches and stores what is wanted, as far as it can be had.
pub async fn fetch(server: &Arc<Server>, wanted: BTreeMap<OwnedServerName, Wanted>) -> Result<()> {
    let fetches = &server.federation.fetches;
    let now = server.clock.now_ms();
    let (mut locks, mut left) = (BTreeMap::new(), BTreeMap::new());
    // In the order of their names, so that no two wait for each other.
    for (other, wanted) in wanted.into_iter().filter(|(other, _)| allows(server, other)) {
        let lock = fetches.running.lock(&other).await;
        if !is_lately(&fetches.asked, &other, now) {
            locks.insert(other.clone(), lock);
            left.insert(other, wanted);
        }
    }
    let held = Held { fetches, now_ms: now, locks: Mutex::new(locks) };
    let has_notaries = !server.config.trusted_servers.is_empty();
    if left.len() >= MANY && has_notaries {
        left = from_notaries(server, left).await?;
        held.release_all_but(&left);
        // Who asks one of them is not held up by all the others.
        from_themselves(server, left, |other| held.release(other)).await?;
    } else if has_notaries {
        left = from_themselves(server, left, |_| ()).await?;
        held.release_all_but(&left);
        from_notaries(server, left).await?;
    } else {
        from_themselves(server, left, |other| held.release(other)).await?;
    }
    held.release_all_but(&BTreeMap::new());
    Ok(())
}

/// Fetches and stores the keys of these servers from themselves, unless that was done lately. For whoever asks us as
/// their notary.
pub async fn refresh(server: &Arc<Server>, others: Vec<OwnedServerName>) -> Result<()> {
    let (fetches, now) = (&server.federation.fetches, server.clock.now_ms());
    let was_asked =
        |other: &OwnedServerName| [&fetches.asked, &fetches.refreshed].iter().any(|asked| is_lately(asked, other, now));
    let others = others.into_iter().filter(|other| allows(server, other) && !was_asked(other));
    let wanted: BTreeMap<_, _> = others.map(|other| (other, Wanted::default())).collect();
    for other in wanted.keys() {
        fetches.refreshed.insert(other.clone(), now);
    }
    from_themselves(server, wanted, |_| ()).await.map(drop)
}

/// Asks each server for its own keys, and stores them as they come; what is still missing afterwards. `done` is told of
/// each.
async fn from_themselves(
    server: &Arc<Server>,
    wanted: BTreeMap<OwnedServerName, Wanted>,
    done: impl Fn(&OwnedServerName) + Sync,
) -> Result<BTreeMap<OwnedServerName, Wanted>> {
    let names: Vec<_> = wanted.iter().map(|(other, wanted)| (other.clone(), wanted.is_calling)).collect();
    let done = &done;
    let ask = |(other, is_calling): (OwnedServerName, bool)| async move {
        match from_itself(server, &other, is_calling).await {
            Ok(document) => document::store(server, vec![document]).await?,
            Err(error) => debug!(%other, ?error, "no keys"),
        }
        done(&other);
        Ok::<_, Error>(())
    };
    stream::iter(names).map(ask).buffer_unordered(AT_ONCE).try_for_each(async |()| Ok(())).await?;
    still_missing(server, wanted).await
}

async fn from_itself(server: &Arc<Server>, other: &ServerName, is_calling: bool) -> Result<Document> {
    let request = get_server_keys::v2::Request::new();
    let response = match is_calling {
        true => request_unsigned_now(server, other, request, LIMITS).await?,
        false => request_unsigned(server, other, request, LIMITS).await?,
    };
    let malformed = |why: String| Error::remote(other, RemoteError::Malformed(why));
    let document = Document::read(response.server_key.json(), server.clock.now_ms());
    let mut document = document.map_err(|error| malformed(error.to_string()))?;
    document.is_current = true;
    if document.server == other { Ok(document) } else { Err(malformed(format!("keys of {}", document.server))) }
}

/// Asks all notaries at once; what is still missing afterwards.
async fn from_notaries(
    server: &Arc<Server>,
    wanted: BTreeMap<OwnedServerName, Wanted>,
) -> Result<BTreeMap<OwnedServerName, Wanted>> {
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let notaries = server.config.trusted_servers.iter().filter(|notary| allows(server, notary));
    let ask = |notary: &OwnedServerName| {
        let (notary, wanted) = (notary.clone(), &wanted);
        async move { from_notary(server, &notary, wanted).await }
    };
    let answers = futures_util::future::join_all(notaries.map(ask)).await;
    for answer in answers {
        match answer {
            Ok(documents) => document::store(server, documents).await?,
            Err(error) => debug!(?error, "a notary failed"),
        }
    }
    still_missing(server, wanted).await
}

async fn from_notary(
    server: &Arc<Server>,
    notary: &ServerName,
    wanted: &BTreeMap<OwnedServerName, Wanted>,
) -> Result<Vec<Document>> {
    let mut keys = keys_of_notary(server, notary).await?;
    let mut is_renewed = false;
    let mut documents = Vec::new();
    let names: Vec<_> = wanted.keys().filter(|name| *name != notary).collect();
    for batch in names.chunks(BATCH) {
        let asked: BTreeMap<_, _> = batch.iter().map(|name| ((*name).clone(), criteria(&wanted[*name]))).collect();
        let request = get_remote_server_keys_batch::v2::Request::new(asked);
        let response = request_unsigned(server, notary, request, LIMITS_OF_NOTARY).await?;
        let now = server.clock.now_ms();
        for raw in response.server_keys {
            match Document::read(raw.json(), now) {
                Ok(document) if wanted.contains_key(&document.server) => {
                    let mut is_signed = document.is_signed_by(notary, keys.clone());
                    if !is_signed && !is_renewed && document.names_another_key(notary, &keys) {
                        is_renewed = true;
                        keys = new_keys_of_notary(server, notary).await?;
                        is_signed = document.is_signed_by(notary, keys.clone());
                    }
                    match is_signed {
                        true => documents.push(document),
                        false => debug!(%notary, of = %document.server, "not signed by the notary"),
                    }
                }
                Ok(document) => debug!(%notary, of = %document.server, "not asked for"),
                Err(error) => debug!(%notary, %error, "a notary's answer can't be used"),
            }
        }
    }
    Ok(documents)
}

fn criteria(wanted: &Wanted) -> BTreeMap<OwnedServerSigningKeyId, QueryCriteria> {
    let mut criteria = QueryCriteria::new();
    criteria.minimum_valid_until_ts =
        (wanted.valid_at_ms > 0).then(|| MilliSecondsSinceUnixEpoch(UInt::new_saturating(wanted.valid_at_ms)));
    let ids = wanted.key_ids.iter().filter_map(|id| OwnedServerSigningKeyId::try_from(id.as_str()).ok());
    ids.map(|id| (id, criteria.clone())).collect()
}

/// The keys that a notary uses now, which come from itself.
async fn keys_of_notary(server: &Arc<Server>, notary: &ServerName) -> Result<PublicKeySet> {
    let known = stored_keys(server, notary).await?;
    if known.is_empty() { new_keys_of_notary(server, notary).await } else { Ok(known) }
}

/// As [`keys_of_notary`], asked for whatever is stored.
async fn new_keys_of_notary(server: &Arc<Server>, notary: &ServerName) -> Result<PublicKeySet> {
    let document = from_itself(server, notary, false).await?;
    document::store(server, vec![document]).await?;
    stored_keys(server, notary).await
}

async fn stored_keys(server: &Arc<Server>, other: &ServerName) -> Result<PublicKeySet> {
    let (other, now) = (other.to_owned(), server.clock.now_ms());
    let read = move |snapshot: &Snapshot<'_>| {
        let mut keys = BTreeMap::new();
        for row in snapshot.list::<VerifyKeys>(&other.as_str()) {
            let row = row?;
            keys.insert(row.key()?.1.to_owned(), row.value);
        }
        Ok(Keys([(other, keys)].into()))
    };
    let keys = server.read(read).await?;
    Ok(keys.in_use_at(now).into_values().next().unwrap_or_default())
}

async fn still_missing(
    server: &Arc<Server>,
    wanted: BTreeMap<OwnedServerName, Wanted>,
) -> Result<BTreeMap<OwnedServerName, Wanted>> {
    Ok(super::stored(server, &wanted).await?.missing(&wanted))
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn a_clock_that_was_set_back_keeps_no_keys_out_of_reach() {
        let (fetches, other) = (Fetches::default(), server_name!("b.test").to_owned());
        fetches.asked.insert(other.clone(), 100_000);
        for (now_ms, was_asked) in [(40_000, false), (99_999, true), (159_999, true), (160_000, false)] {
            assert_eq!(is_lately(&fetches.asked, &other, now_ms), was_asked, "{now_ms}");
        }
    }
}
