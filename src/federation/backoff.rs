//! Servers that fail are left alone, for longer each time. Every request and the queue of what is to be sent obey.

use std::{sync::Arc, time::Duration};

use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};

use super::{
    queue::tables::Destinations,
    tables::{Backoff, Backoffs, Deliveries},
};
use crate::{
    Server,
    error::{Error, RemoteError, Result},
    store::{self, Memos, Snapshot, Transaction},
};

/// How long a server is left alone after its first failure; twice as long after each further one.
const FIRST: Duration = Duration::from_secs(5);
/// And at most so long. A server that sends us something is tried at once.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// How many failing servers are remembered for which nothing waits.
const REMEMBERED: usize = 10_000;

/// For what was read of others, in bytes: some thousand servers.
const READ_BYTES: u64 = 1 << 20;

/// How long a reason may be that is kept, in bytes: the other server may have made it.
const MAX_REASON: usize = 300;

/// What is in memory of servers that fail.
pub struct Failing {
    /// Those to which we never sent anything. Strangers can name as many as they like, so nothing is stored.
    strangers: Cache<OwnedServerName, Backoff>,
    /// What was read, which is asked before each request, and after it.
    stored: Memos<Backoffs, Option<Arc<Backoff>>>,
}

impl Default for Failing {
    fn default() -> Self {
        let bytes = |backoff: &Option<Arc<Backoff>>| {
            backoff.as_ref().map_or(0, |backoff| size_of::<Backoff>() + backoff.reason.len())
        };
        Self { strangers: Cache::new(REMEMBERED), stored: Memos::new(READ_BYTES, bytes) }
    }
}

/// How a server fails that we send to; `None` if it does not.
pub fn get(snapshot: &Snapshot<'_>, server: &ServerName) -> store::Result<Option<Backoff>> {
    snapshot.get::<Backoffs>(&server.as_str())
}

/// How any server fails.
fn known(server: &Server, other: &ServerName) -> store::Result<Option<Backoff>> {
    let Failing { strangers, stored } = &server.federation.failing;
    let stored = stored.row(&server.store, &other.as_str())?;
    Ok(stored.map_or_else(|| strangers.get(other), |backoff| Some((*backoff).clone())))
}

/// The time before which `server` is left alone, in milliseconds since the Unix epoch; `None` if it may be tried now.
pub fn until(server: &Server, other: &ServerName) -> store::Result<Option<u64>> {
    Ok(known(server, other)?.and_then(|backoff| left_alone_until(&backoff, server.clock.now_ms())))
}

/// As [`until`], of a server that fails so. What is further off than its pause is of a clock that was set back since.
fn left_alone_until(backoff: &Backoff, now_ms: u64) -> Option<u64> {
    let left_ms = backoff.retry_at_ms.saturating_sub(now_ms);
    (left_ms > 0 && left_ms <= pause_ms(backoff.failures)).then_some(backoff.retry_at_ms)
}

/// An error while `other` is left alone.
pub(super) fn check(server: &Server, other: &ServerName) -> Result<()> {
    match until(server, other)? {
        Some(until_ms) => Err(Error::remote(other, RemoteError::BackingOff { until_ms })),
        None => Ok(()),
    }
}

/// Notes that `other` could not be reached or failed.
pub async fn failed(server: &Server, other: &ServerName, reason: &str) -> store::Result<()> {
    let (name, clock, reason) = (other.to_owned(), server.clock.clone(), shortened(reason));
    let in_memory = server.federation.failing.strangers.get(other);
    let note = move |tx: &mut Transaction<'_>| {
        let now = clock.now_ms(); // here, where it is later than that of any failure noted before
        let before = tx.get::<Backoffs>(&name.as_str())?.or(in_memory);
        let until_ms = before.as_ref().and_then(|before| left_alone_until(before, now));
        let failures = match &before {
            // Several requests that fail at once are one failure.
            Some(before) if until_ms.is_some() => before.failures,
            Some(before) => before.failures.saturating_add(1),
            None => 1,
        };
        let retry_at_ms = until_ms.unwrap_or_else(|| now.saturating_add(pause_ms(failures)));
        let since_ms = before.map_or(now, |before| before.since_ms);
        let backoff = Backoff { since_ms, retry_at_ms, failures, reason };
        if tx.before().contains::<Destinations>(&&*name)? || tx.before().contains::<Deliveries>(&&*name)? {
            tx.put::<Backoffs>(&name.as_str(), &backoff);
            return Ok(None);
        }
        Ok::<_, store::Error>(Some(backoff))
    };
    if let Some(backoff) = server.store.write(note).await?.value {
        server.federation.failing.strangers.insert(other.to_owned(), backoff);
    }
    Ok(())
}

/// Notes that `other` works: it answered, or sent us something.
pub async fn succeeded(server: &Server, other: &ServerName) -> store::Result<()> {
    let Failing { strangers, stored } = &server.federation.failing;
    strangers.remove(other);
    if stored.row(&server.store, &other.as_str())?.is_none() {
        return Ok(());
    }
    let name = other.to_owned();
    let forget = move |tx: &mut Transaction<'_>| {
        tx.delete::<Backoffs>(&name.as_str());
        Ok::<_, store::Error>(())
    };
    server.store.write(forget).await.map(drop)
}

/// How long a server is left alone that failed so often in a row.
pub fn pause_ms(failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(20);
    let pause = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn shortened(reason: &str) -> String {
    reason[..reason.floor_char_boundary(MAX_REASON)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Value;

    #[test]
    fn pauses_grow_up_to_an_hour() {
        assert_eq!([1, 2, 3].map(pause_ms), [5_000, 10_000, 20_000]);
        assert_eq!(pause_ms(u32::MAX), 3_600_000);
    }

    #[test]
    fn a_clock_that_was_set_back_keeps_no_server_out_of_reach() {
        let backoff = Backoff { since_ms: 0, retry_at_ms: 100_000, failures: 2, reason: String::new() };
        for (now_ms, is_left_alone) in [(89_999, false), (90_000, true), (99_999, true), (100_000, false)] {
            assert_eq!(left_alone_until(&backoff, now_ms), is_left_alone.then_some(100_000), "{now_ms}");
        }
    }

    #[test]
    fn what_the_first_version_wrote_is_read() {
        let mut of_first = Vec::new();
        of_first = postcard::to_extend(&(1_u64, 2_u64, 3_u32), of_first).unwrap();
        let expected = Backoff { since_ms: 1, retry_at_ms: 2, failures: 3, reason: String::new() };
        assert_eq!(<Backoff as Value>::read(1, &of_first).unwrap(), expected);
    }

    #[test]
    fn reasons_are_short() {
        assert_eq!(shortened(&"é".repeat(1_000)).len(), MAX_REASON);
        assert_eq!(shortened("refused"), "refused");
    }
}
