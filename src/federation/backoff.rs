//! Servers that fail are left alone, for longer each time. Every request and the queue of what is to be sent obey.

use std::time::Duration;

use ruma::ServerName;

use super::tables::{Backoff, Backoffs};
use crate::{
    Server,
    error::{Error, RemoteError, Result},
    store::{self, Snapshot},
};

/// How long a server is left alone after its first failure; twice as long after each further one.
const FIRST: Duration = Duration::from_secs(5);
/// And at most so long. A server that sends us something is tried at once.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// How `server` fails; `None` if it does not.
pub fn get(snapshot: &Snapshot<'_>, server: &ServerName) -> store::Result<Option<Backoff>> {
    snapshot.get::<Backoffs>(&server.as_str())
}

/// The time before which `server` is left alone, in milliseconds since the Unix epoch; `None` if it may be tried now.
pub fn until(server: &Server, other: &ServerName) -> store::Result<Option<u64>> {
    let backoff = get(&server.store.snapshot(), other)?;
    Ok(backoff.map(|backoff| backoff.retry_at_ms).filter(|retry_at| *retry_at > server.clock.now_ms()))
}

/// An error while `other` is left alone.
pub(super) fn check(server: &Server, other: &ServerName) -> Result<()> {
    match until(server, other)? {
        Some(until_ms) => Err(Error::remote(other, RemoteError::BackingOff { until_ms })),
        None => Ok(()),
    }
}

/// Notes that `other` could not be reached or failed.
pub async fn failed(server: &Server, other: &ServerName) -> store::Result<()> {
    let (name, now) = (other.to_owned(), server.clock.now_ms());
    let note = move |tx: &mut store::Transaction<'_>| {
        let before = tx.get::<Backoffs>(&name.as_str())?;
        let next = match before {
            // Several requests that fail at once are one failure.
            Some(before) if before.retry_at_ms > now => return Ok(()),
            Some(before) => before.failures.saturating_add(1),
            None => 1,
        };
        let since_ms = before.map_or(now, |before| before.since_ms);
        tx.put::<Backoffs>(
            &name.as_str(),
            &Backoff { since_ms, retry_at_ms: now.saturating_add(pause_ms(next)), failures: next },
        );
        Ok::<_, store::Error>(())
    };
    server.store.write(note).await.map(drop)
}

/// Notes that `other` works: it answered, or sent us something.
pub async fn succeeded(server: &Server, other: &ServerName) -> store::Result<()> {
    if get(&server.store.snapshot(), other)?.is_none() {
        return Ok(());
    }
    let name = other.to_owned();
    let forget = move |tx: &mut store::Transaction<'_>| {
        tx.delete::<Backoffs>(&name.as_str());
        Ok::<_, store::Error>(())
    };
    server.store.write(forget).await.map(drop)
}

fn pause_ms(failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(20);
    let pause = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_an_hour() {
        assert_eq!([1, 2, 3].map(pause_ms), [5_000, 10_000, 20_000]);
        assert_eq!(pause_ms(u32::MAX), 3_600_000);
    }
}
