use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::OwnedMutexGuard;

use super::{acl, remote::Entering, retention::Retention, state::trie::KnownNodes, tables};
use crate::{
    event::Pdu,
    metrics::CacheUse,
    store::{EventNid, Result, RoomNid, Scan, Snapshot, StateKeyNid, Store, StreamPos},
};

/// How many events are kept in the form that the authorization rules read. They are mostly the create, power-level,
/// join-rules and member events of rooms in use, at about 1 KB each.
const CACHED_PDUS: usize = 10_000;

/// From how many writers' locks on the unused ones are removed.
const KEPT_LOCKS: usize = 1_000;

/// What the server keeps of rooms in memory: a lock for the writer of each, parsed events, and nodes of their states.
pub struct Rooms {
    next_room: AtomicU64,
    /// When the last room was made, in milliseconds since the Unix epoch.
    last_creation_ms: AtomicU64,
    writers: Mutex<HashMap<RoomNid, Arc<tokio::sync::Mutex<Numbers>>>>,
    pdus: Cache<(RoomNid, EventNid), Arc<Pdu>>,
    /// The newest change after which an event had to be parsed anew.
    pdus_changed: AtomicU64,
    pub state_nodes: KnownNodes,
    pub(super) acl_verdicts: Cache<acl::Question, bool>,
    pub(super) entering: Entering,
    retention: Option<Retention>,
}

/// The next free numbers of a room, known to its writer; `None` until looked up, and after a failed write.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers(Option<NextNumbers>);

#[derive(Clone, Copy, Debug)]
pub struct NextNumbers {
    pub event: EventNid,
    pub state_key: StateKeyNid,
}

impl Numbers {
    pub fn get(self, snapshot: &Snapshot<'_>, room: RoomNid) -> Result<NextNumbers> {
        if let Some(known) = self.0 {
            return Ok(known);
        }
        let last_event = snapshot.scan::<tables::Events>(Scan::prefix::<tables::Events>(&room).backward()).next();
        let event = match last_event {
            Some(row) => row?.key()?.1.0 + 1,
            None => 0,
        };
        let names = Scan::prefix::<tables::StateKeyNames>(&room).backward();
        let state_key = match snapshot.scan::<tables::StateKeyNames>(names).next() {
            Some(row) => row?.key()?.1.0 + 1,
            None => 0,
        };
        Ok(NextNumbers { event: EventNid(event), state_key: StateKeyNid(state_key) })
    }

    pub fn set(&mut self, next: Option<NextNumbers>) {
        self.0 = next;
    }
}

impl Rooms {
    pub fn open(store: &Store) -> Result<Self> {
        let snapshot = store.snapshot();
        let last = snapshot.scan::<tables::Rooms>(Scan::prefix::<tables::Rooms>(&()).backward()).next();
        let next_room = match last {
            Some(row) => row?.key()?.0 + 1,
            None => 1,
        };
        Ok(Self {
            next_room: AtomicU64::new(next_room),
            last_creation_ms: AtomicU64::new(0),
            writers: Mutex::default(),
            pdus: Cache::new(CACHED_PDUS),
            pdus_changed: AtomicU64::new(0),
            state_nodes: KnownNodes::default(),
            acl_verdicts: Cache::new(acl::CACHED_VERDICTS),
            entering: Entering::default(),
            retention: None,
        })
    }

    /// The same, of which messages expire.
    pub fn with_retention(self, retention: Option<Retention>) -> Self {
        Self { retention, ..self }
    }

    /// `None` if messages never expire.
    pub fn retention(&self) -> Option<&Retention> {
        self.retention.as_ref()
    }

    pub fn use_of_pdus(&self) -> CacheUse {
        CacheUse::of(&self.pdus)
    }

    pub fn use_of_acl_verdicts(&self) -> CacheUse {
        CacheUse::of(&self.acl_verdicts)
    }

    /// A number for a new room. One that no room comes to use does no harm.
    pub fn allot(&self) -> RoomNid {
        RoomNid(self.next_room.fetch_add(1, Ordering::Relaxed))
    }

    /// The time for a create event, in milliseconds since the Unix epoch: never the same one twice, since the id of a
    /// room may be the hash of that event, and two rooms must not be one.
    pub fn creation_time_ms(&self, now_ms: u64) -> u64 {
        let next = |last: u64| Some(now_ms.max(last + 1));
        let last = self.last_creation_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        last.map_or(now_ms, |last| now_ms.max(last + 1))
    }

    /// Waits for the right to write in `room`; one holder at a time. Readers use snapshots and never wait.
    pub async fn lock(&self, room: RoomNid) -> OwnedMutexGuard<Numbers> {
        let writer = {
            let mut writers = self.writers.lock();
            if writers.len() >= KEPT_LOCKS && !writers.contains_key(&room) {
                writers.retain(|_, writer| Arc::strong_count(writer) > 1);
            }
            Arc::clone(writers.entry(room).or_default())
        };
        writer.lock_owned().await
    }

    pub(super) fn known_pdu(&self, room: RoomNid, event: EventNid) -> Option<Arc<Pdu>> {
        self.pdus.get(&(room, event))
    }

    /// Keeps an event that was read from a snapshot of `as_of` and parsed.
    pub(super) fn keep_pdu(&self, room: RoomNid, event: EventNid, pdu: Arc<Pdu>, as_of: StreamPos) {
        self.pdus.insert((room, event), pdu);
        // Looked at last: whatever changes from now on forgets what was kept.
        if as_of.0 < self.pdus_changed.load(Ordering::SeqCst) {
            self.pdus.remove(&(room, event));
        }
    }

    /// Forgets a parsed event after the change at `at`, a redaction for example. Who still looks at an older snapshot must
    /// not bring it back.
    pub(super) fn forget_pdu(&self, room: RoomNid, event: EventNid, at: StreamPos) {
        self.pdus_changed.fetch_max(at.0, Ordering::SeqCst);
        self.pdus.remove(&(room, event));
    }
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;

    use super::*;
    use crate::{event::testing::Forge, store::Options};

    #[test]
    fn who_looks_at_an_old_snapshot_does_not_bring_back_what_was_redacted_since() {
        let directory = tempfile::tempdir().unwrap();
        let rooms = Rooms::open(&Store::open(&Options::for_tests(directory.path())).unwrap()).unwrap();
        let pdu = Arc::new(Forge::new(RoomVersionId::V11).create("alice").pdu().clone());
        let (room, event) = (RoomNid(1), EventNid(1));
        let keep = |as_of| {
            rooms.keep_pdu(room, event, Arc::clone(&pdu), StreamPos(as_of));
            rooms.known_pdu(room, event).is_some()
        };
        assert!(keep(3));
        rooms.forget_pdu(room, event, StreamPos(5));
        assert!(rooms.known_pdu(room, event).is_none());
        assert!(!keep(4));
        assert!(keep(5));
    }
}
