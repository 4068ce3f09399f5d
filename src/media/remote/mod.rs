//! Media of other servers: fetched when one of our users asks, then kept as long as there is room. Pictures of web pages
//! are kept like them, under our own name.

mod fetch;
mod multipart;
pub mod tables;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ruma::{OwnedServerName, OwnedUserId, ServerName};
use tracing::warn;

use self::tables::{Cached, RemoteFiles, RemoteMedia, RemoteUse};
use super::{
    disk_failed,
    files::{FileId, Settled},
    tables::{Stored, Usage},
};
use crate::{
    Server,
    error::{Error, Result},
    federation::{self, turns::Turns},
    keyed_locks::KeyedLocks,
    store::{self, Snapshot, Transaction},
    user::session::Caller,
};

/// How exactly it is known when a file was last asked for, in milliseconds: each step is a write.
const USE_STEP_MS: u64 = 60 * 60 * 1_000;
/// How many users' downloads are remembered; who has not downloaded for long is forgotten first.
const REMEMBERED_USERS: usize = 10_000;

/// How many files are fetched at a time for one user: what one client shows at once.
const AT_ONCE: usize = 16;
/// And how many of them from one server, which may be slow. Source: our choice, docs/security.md.
const AT_ONCE_FROM_SERVER: usize = 8;

/// What is being fetched, and by whom.
pub struct Fetching {
    locks: KeyedLocks<(OwnedServerName, String)>,
    turns: Turns<OwnedUserId>,
    turns_at_server: Turns<(OwnedUserId, OwnedServerName)>,
    buckets: Mutex<HashMap<OwnedUserId, Bucket>>,
}

impl Default for Fetching {
    fn default() -> Self {
        Self {
            locks: KeyedLocks::default(),
            turns: Turns::new(AT_ONCE),
            turns_at_server: Turns::new(AT_ONCE_FROM_SERVER),
            buckets: Mutex::default(),
        }
    }
}

/// How much somebody has fetched: it leaks away with time.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    bytes: u64,
    at_ms: u64,
}

/// The file behind a URI of another server, from here or from there.
///
/// Errors: `M_NOT_FOUND`, `M_TOO_LARGE`, `M_LIMIT_EXCEEDED`, `M_FORBIDDEN` for servers with which nothing is exchanged.
pub async fn find(
    server: &Arc<Server>,
    caller: &Caller,
    other: &ServerName,
    media_id: &str,
    patience: Duration,
) -> Result<Stored> {
    federation::check_allowed(server, other)?;
    if let Some(found) = cached(server, other, media_id).await? {
        return Ok(found);
    }
    let Fetching { locks, turns, turns_at_server, .. } = &server.media.fetching;
    // First, so that who waits for a slow server takes no turn from the files of others.
    let _turn_at_server = turns_at_server.take((caller.user_id.clone(), other.to_owned())).await;
    let _turn = turns.take(caller.user_id.clone()).await;
    let _one_at_a_time = locks.lock(&(other.to_owned(), media_id.to_owned())).await;
    if let Some(found) = cached(server, other, media_id).await? {
        return Ok(found);
    }
    check_bucket(server, caller, 0)?;
    let received = fetch::fetch(server, caller, other, media_id, patience).await?;
    let (stored, file) = received.settle(server).await?;
    let (server_, other, media_id) = (Arc::clone(server), other.to_owned(), media_id.to_owned());
    let keep = async move { keep(&server_, &other, &media_id, stored, file).await };
    Server::detached(keep).await
}

/// What is kept of that file; it was asked for now.
pub(super) async fn cached(server: &Arc<Server>, other: &ServerName, media_id: &str) -> Result<Option<Stored>> {
    let key = (other.to_owned(), media_id.to_owned());
    let read = move |snapshot: &Snapshot<'_>| Ok(snapshot.get::<RemoteMedia>(&(key.0.as_str(), &key.1))?);
    let Some(cached) = server.read(read).await? else { return Ok(None) };
    let now = server.clock.now_ms();
    if now.saturating_sub(cached.used_at_ms) >= USE_STEP_MS {
        touch(server, other, media_id, now).await?;
    }
    Ok(Some(cached.stored))
}

/// Notes that a file was asked for.
async fn touch(server: &Server, other: &ServerName, media_id: &str, now: u64) -> Result<()> {
    let key = (other.to_owned(), media_id.to_owned());
    let note = move |tx: &mut Transaction<'_>| {
        let key = (key.0.as_str(), key.1.as_str());
        if let Some(mut cached) = tx.get::<RemoteMedia>(&key)? {
            let file = cached.stored.file.to_bytes();
            tx.delete::<RemoteUse>(&(cached.used_at_ms, file));
            cached.used_at_ms = now;
            tx.put::<RemoteUse>(&(now, file), &());
            tx.put::<RemoteMedia>(&key, &cached);
        }
        Ok::<_, store::Error>(())
    };
    server.store.write(note).await?;
    Ok(())
}

/// Writes the row of a new file, and removes the files that were not asked for the longest if there is no room for it.
pub(super) async fn keep(
    server: &Arc<Server>,
    other: &ServerName,
    media_id: &str,
    stored: Stored,
    file: Settled,
) -> Result<Stored> {
    let (now, room) = (server.clock.now_ms(), server.config.media.remote_cache_size.bytes());
    let key = (other.to_owned(), media_id.to_owned());
    let cached = Cached { stored: stored.clone(), used_at_ms: now };
    let put = move |tx: &mut Transaction<'_>| {
        let removed = make_room(tx, room.saturating_sub(cached.stored.size))?;
        let freed: u64 = removed.iter().map(|(_, size)| size).sum();
        let mut usage = tx.get::<tables::RemoteUsage>(&())?.unwrap_or_default();
        usage.files = (usage.files + 1).saturating_sub(removed.len() as u64);
        usage.bytes = (usage.bytes + cached.stored.size).saturating_sub(freed);
        tx.put::<tables::RemoteUsage>(&(), &usage);
        let key = (key.0.as_str(), key.1.as_str());
        let file = cached.stored.file.to_bytes();
        tx.put::<RemoteUse>(&(now, file), &());
        tx.put::<RemoteFiles>(&file, &(key.0.to_owned(), key.1.to_owned()));
        tx.put::<RemoteMedia>(&key, &cached);
        Ok::<_, Error>(removed)
    };
    let removed = match server.store.commit(put).await {
        Ok(removed) => removed,
        Err(error) => {
            if !super::upload::may_be_written(&error) {
                server.blocking(move |server| file.discard().map_err(|e| disk_failed(server, e))).await?;
            }
            return Err(error);
        }
    };
    let remove = move |server: &Server| {
        for (id, _) in removed {
            // What stays behind has no row, so the next start removes it.
            if let Err(error) = server.media.files.remove_with_thumbnails(id) {
                warn!(%error, "a file of another server can't be removed");
            }
        }
        Ok(())
    };
    server.blocking(remove).await?;
    Ok(stored)
}

/// Removes rows until at most `room` bytes are kept; which files they were, and their sizes.
fn make_room(tx: &mut Transaction<'_>, room: u64) -> Result<Vec<(FileId, u64)>> {
    let mut left = tx.get::<tables::RemoteUsage>(&())?.unwrap_or_default().bytes;
    let mut removed = Vec::new();
    if left <= room {
        return Ok(removed);
    }
    let mut rows = Vec::new();
    for row in tx.before().list::<RemoteUse>(&()) {
        if left <= room {
            break;
        }
        let (used_at_ms, file) = row?.key()?;
        let missing = || Error::internal("a file of another server has no row");
        let key = tx.get::<RemoteFiles>(&file)?.ok_or_else(missing)?;
        let size = tx.get::<RemoteMedia>(&(&key.0, &key.1))?.ok_or_else(missing)?.stored.size;
        left = left.saturating_sub(size);
        removed.push((FileId::from_bytes(file), size));
        rows.push((used_at_ms, file, key));
    }
    for (used_at_ms, file, key) in rows {
        tx.delete::<RemoteUse>(&(used_at_ms, file));
        tx.delete::<RemoteFiles>(&file);
        tx.delete::<RemoteMedia>(&(&key.0, &key.1));
    }
    Ok(removed)
}

/// Counts `bytes` of a file as they come, `taken` of which came before; `M_LIMIT_EXCEEDED` as [`check_bucket`] has it.
fn take(server: &Server, caller: &Caller, taken: &mut u64, bytes: u64) -> Result<()> {
    check_bucket(server, caller, *taken)?;
    fill_bucket(server, caller, bytes);
    *taken += bytes;
    Ok(())
}

/// `M_LIMIT_EXCEEDED` for who has fetched too much lately. `taken` is what came of the file itself, which does not count
/// against it: one that is larger than what is allowed at once would never be whole.
fn check_bucket(server: &Server, caller: &Caller, taken: u64) -> Result<()> {
    if !server.config.rate_limits.enabled || caller.is_unlimited() {
        return Ok(());
    }
    let (size, per_hour) = bucket_size(server);
    let buckets = server.media.fetching.buckets.lock();
    let Some(bucket) = buckets.get(&caller.user_id) else { return Ok(()) };
    let bytes = bucket.left(server.clock.now_ms(), per_hour).saturating_sub(taken);
    if bytes < size {
        return Ok(());
    }
    let seconds = (bytes - size + 1).saturating_mul(3_600).div_ceil(per_hour.max(1));
    Err(Error::limit_exceeded(Duration::from_secs(seconds)))
}

fn fill_bucket(server: &Server, caller: &Caller, bytes: u64) {
    let (_, per_hour) = bucket_size(server);
    let mut buckets = server.media.fetching.buckets.lock();
    let now = server.clock.now_ms(); // here, where nobody else can have filled one later
    if buckets.len() >= REMEMBERED_USERS && !buckets.contains_key(&caller.user_id) {
        buckets.retain(|_, bucket| bucket.left(now, per_hour) > 0);
    }
    let bucket = buckets.entry(caller.user_id.clone()).or_default();
    *bucket = Bucket { bytes: bucket.left(now, per_hour).saturating_add(bytes), at_ms: now };
}

fn bucket_size(server: &Server) -> (u64, u64) {
    let config = &server.config.media;
    (config.remote_download_burst.bytes(), config.remote_download_per_hour.bytes())
}

impl Bucket {
    fn left(self, now_ms: u64, per_hour: u64) -> u64 {
        // Since the clock was set back, nobody knows how long ago that was.
        let Some(passed_ms) = now_ms.checked_sub(self.at_ms) else { return 0 };
        let leaked = u128::from(passed_ms) * u128::from(per_hour) / 3_600_000;
        self.bytes.saturating_sub(u64::try_from(leaked).unwrap_or(u64::MAX))
    }
}

/// For `chappe check`: what the rows add up to.
pub fn usage(snapshot: &Snapshot<'_>) -> store::Result<Usage> {
    Ok(snapshot.get::<tables::RemoteUsage>(&())?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_leaks_and_is_empty_once_the_clock_was_set_back() {
        let bucket = Bucket { bytes: 3_600, at_ms: 10_000 };
        for (now_ms, left) in [(10_000, 3_600), (11_000, 3_599), (9_999, 0)] {
            assert_eq!(bucket.left(now_ms, 3_600), left, "{now_ms}");
        }
    }
}
