//! Events from other servers: from bytes to [`Verified`].

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    CanonicalJsonValue, OwnedServerName,
    events::room::policy::POLICY_SERVER_ED25519_SIGNING_KEY_ID,
    room_version_rules::RoomVersionRules,
    signatures::{PublicKeyMap, required_server_signatures_to_verify_event},
};
use serde_json::value::RawValue;

use super::{Keys, Wanted};
use crate::{
    Server,
    cores::cores,
    error::Result,
    event::{FormatError, Received, Verified, format, hash},
};

pub use crate::event::hash::VerifyError;

/// Signatures of one server on one event that are looked at.
const MAX_SIGNATURES: usize = 5;
/// From how many events on they are checked on several cores.
const MANY: usize = 32;
/// How far in the future an event's time may lie for new keys to be asked for, and the end of an old key.
pub(super) const FUTURE_MS: u64 = 60 * 60 * 1_000;

/// How an event is read.
pub type Parse = fn(&[u8], &RoomVersionRules) -> Result<Received, FormatError>;

/// Reads and checks events of one room, as other servers sent them: their format, their signatures with the keys that
/// were valid at their time, and their hashes. What is wrong with an event stands in its place; the error outside is
/// one of our own disk.
///
/// All keys that are missing are fetched together. An event whose content does not have its hash becomes its redacted
/// form.
pub async fn verify_all(
    server: &Arc<Server>,
    rules: &'static RoomVersionRules,
    events: Vec<Box<RawValue>>,
    parse: Parse,
) -> Result<Vec<Result<Verified, VerifyError>>> {
    let received = parallel(events, move |event| parse(event.get().as_bytes(), rules)).await?;
    verify_received(server, rules, received).await
}

/// As [`verify_all`], of what was read, or was none.
pub async fn verify_received(
    server: &Arc<Server>,
    rules: &'static RoomVersionRules,
    received: Vec<Result<Received, FormatError>>,
) -> Result<Vec<Result<Verified, VerifyError>>> {
    let now = server.clock.now_ms();
    let mut wanted: BTreeMap<OwnedServerName, Wanted> = BTreeMap::new();
    for event in received.iter().flatten() {
        for (signer, ids) in signers(event, rules) {
            let wanted = wanted.entry(signer).or_default();
            wanted.key_ids.extend(ids);
            wanted.valid_at_ms = wanted.valid_at_ms.max(valid_at(event, rules).min(now.saturating_add(FUTURE_MS)));
        }
    }
    let keys = Arc::new(super::get(server, wanted).await?);
    let verify = move |event: Result<Received, _>| {
        let event = event?;
        let keys = keys_for(&event, rules, &keys);
        hash::verify(event, rules, &keys)
    };
    parallel(received, verify).await
}

/// As [`verify_all`], for one event.
pub async fn verify(
    server: &Arc<Server>,
    rules: &'static RoomVersionRules,
    event: Box<RawValue>,
) -> Result<Result<Verified, VerifyError>> {
    let mut verified = verify_all(server, rules, vec![event], format::parse).await?;
    verified.pop().ok_or_else(|| crate::error::Error::internal("an event was lost"))
}

/// The servers whose signatures an event needs, with the ids of the keys that signed it.
fn signers(event: &Received, rules: &RoomVersionRules) -> Vec<(OwnedServerName, Vec<String>)> {
    let rules = hash::signature_rules(event.json(), rules);
    // Where this fails, verification does, too.
    let Ok(servers) = required_server_signatures_to_verify_event(event.json(), &rules.signatures) else {
        return Vec::new();
    };
    let Some(CanonicalJsonValue::Object(signatures)) = event.json().get("signatures") else { return Vec::new() };
    let ids = |server: &OwnedServerName| match signatures.get(server.as_str()) {
        Some(CanonicalJsonValue::Object(of_server)) => {
            // The key of a policy server stands in the room, not among those of its server.
            let is_of_server = |id: &&String| id.starts_with("ed25519:") && *id != POLICY_SERVER_ED25519_SIGNING_KEY_ID;
            let ids = of_server.keys().filter(is_of_server).take(MAX_SIGNATURES);
            ids.cloned().collect()
        }
        _ => Vec::new(),
    };
    servers.into_iter().map(|server| (server.clone(), ids(&server))).collect()
}

/// When the keys that signed an event must have been valid: at any time (0) in the first room versions.
fn valid_at(event: &Received, rules: &RoomVersionRules) -> u64 {
    if rules.enforce_key_validity { event.pdu().origin_server_ts.get().into() } else { 0 }
}

fn keys_for(event: &Received, rules: &RoomVersionRules, keys: &Keys) -> PublicKeyMap {
    let of_event = signers(event, rules).into_iter().map(|(server, ids)| {
        let known = keys.0.get(&server);
        let found = ids.into_iter().filter_map(|id| Some((id.clone(), known?.get(&id)?.clone())));
        (server, found.collect())
    });
    let keys = Keys(of_event.collect());
    match valid_at(event, rules) {
        0 if !rules.enforce_key_validity => keys.of_any_time(),
        ms => keys.valid_at(ms),
    }
}

/// What `work` makes of each item, in their order, on all cores where there are many.
async fn parallel<T: Send + 'static, R: Send + 'static>(
    items: Vec<T>,
    work: impl Fn(T) -> R + Clone + Send + 'static,
) -> Result<Vec<R>> {
    let total = items.len();
    let size = if total < MANY { total } else { total.div_ceil(cores()) };
    let mut items = items.into_iter();
    let mut running = Vec::new();
    loop {
        let part: Vec<T> = items.by_ref().take(size).collect();
        if part.is_empty() {
            break;
        }
        let work = work.clone();
        running.push(tokio::task::spawn_blocking(move || part.into_iter().map(work).collect::<Vec<R>>()));
    }
    let mut done = Vec::with_capacity(total);
    for part in running {
        done.extend(part.await?);
    }
    Ok(done)
}
