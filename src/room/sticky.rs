//! The events of rooms that are sticky at present (MSC4354): who tells them reads them here, and nobody looks for them in
//! timelines. Those that were soft-failed wait here: they are judged again when members change.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::error;

use super::{View, append};
use crate::{
    Server,
    error::{Error, Result},
    event::{StoredEvent, sticky},
    store::{self, EventNid, Family, Group, Record, RoomNid, Scan, Snapshot, StreamPos, Table, TableInfo, Transaction},
};

pub const TABLES: [TableInfo; 4] = [
    TableInfo::of::<StickyEvents>(),
    TableInfo::of::<StickyChanges>(),
    TableInfo::of::<StickyWaiting>(),
    TableInfo::of::<StickyEnds>(),
];

/// How many sticky events of the users of one server a room has at a time; further ones are events as all others.
/// Source: our choice, docs/security.md.
const MAX_OF_A_SERVER: usize = 500;

/// How many rows one transaction of the sweep removes.
const BATCH: usize = 500;

/// The sticky events of each room, until the sweep after their end.
pub struct StickyEvents;
impl Table for StickyEvents {
    const NAME: &'static str = "sticky_events";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 214;
    type Key<'a> = (RoomNid, EventNid);
    type Value = Sticky;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sticky {
    /// Milliseconds since the Unix epoch.
    pub ends_ms: u64,
    /// Since when clients may be told; `None` while it is soft-failed.
    pub since: Option<StreamPos>,
    /// The server of its sender.
    pub server: OwnedServerName,
}

impl Record for Sticky {}

/// In which order they became known: one row for each that clients may be told of.
pub struct StickyChanges;
impl Table for StickyChanges {
    const NAME: &'static str = "sticky_changes";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 215;
    type Key<'a> = (RoomNid, StreamPos, EventNid);
    type Value = ();

    fn group((room, ..): &Self::Key<'_>) -> Option<Group> {
        Some(Group::of(room))
    }
}

/// Those that are soft-failed.
pub struct StickyWaiting;
impl Table for StickyWaiting {
    const NAME: &'static str = "sticky_waiting";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 216;
    type Key<'a> = (RoomNid, EventNid);
    type Value = ();
}

/// All of them, by when they end.
pub struct StickyEnds;
impl Table for StickyEnds {
    const NAME: &'static str = "sticky_ends";
    const FAMILY: Family = Family::Queue;
    const ID: u8 = 217;
    type Key<'a> = (u64, RoomNid, EventNid);
    type Value = ();
}

/// What stickiness an event has that comes in now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stickiness {
    None,
    /// Until then, in milliseconds since the Unix epoch.
    Until(u64),
    /// None, since its server has too many.
    Refused,
}

impl Stickiness {
    pub fn of(view: &View<'_>, event: &StoredEvent, now_ms: u64) -> store::Result<Self> {
        let Some(duration_ms) = sticky::duration_ms(&event.common) else { return Ok(Self::None) };
        // Who claims to have sent it in the future does not make it last longer.
        let ends_ms = event.origin_server_ts.min(now_ms).saturating_add(duration_ms);
        if ends_ms <= now_ms {
            return Ok(Self::None);
        }
        let mut others = 0;
        for row in view.snapshot.list::<StickyEvents>(&view.nid) {
            let Sticky { ends_ms, server, .. } = row?.value;
            others += usize::from(ends_ms > now_ms && server == event.sender.server_name());
        }
        Ok(if others < MAX_OF_A_SERVER { Self::Until(ends_ms) } else { Self::Refused })
    }
}

/// Writes an event that is sticky until `ends_ms`, in the transaction that writes the event or accepts it later.
pub(super) fn put(
    tx: &mut Transaction<'_>,
    room: RoomNid,
    event: EventNid,
    server: &ServerName,
    ends_ms: u64,
    is_accepted: bool,
) {
    let since = is_accepted.then(|| tx.pos());
    match since {
        Some(since) => {
            tx.put::<StickyChanges>(&(room, since, event), &());
            tx.delete::<StickyWaiting>(&(room, event));
        }
        None => tx.put::<StickyWaiting>(&(room, event), &()),
    }
    tx.put::<StickyEvents>(&(room, event), &Sticky { ends_ms, since, server: server.to_owned() });
    tx.put::<StickyEnds>(&(ends_ms, room, event), &());
}

/// An event that is sticky no more, as after a redaction.
pub(super) fn forget(tx: &mut Transaction<'_>, room: RoomNid, event: EventNid) -> store::Result<()> {
    let Some(Sticky { ends_ms, since, .. }) = tx.get::<StickyEvents>(&(room, event))? else { return Ok(()) };
    if let Some(since) = since {
        tx.delete::<StickyChanges>(&(room, since, event));
    }
    tx.delete::<StickyWaiting>(&(room, event));
    tx.delete::<StickyEvents>(&(room, event));
    tx.delete::<StickyEnds>(&(ends_ms, room, event));
    Ok(())
}

/// When an event that is sticky at `now_ms` ends to be that.
pub fn end_ms(view: &View<'_>, nid: EventNid, event: &StoredEvent, now_ms: u64) -> store::Result<Option<u64>> {
    if sticky::duration_ms(&event.common).is_none() {
        return Ok(None);
    }
    let row = view.snapshot.get::<StickyEvents>(&(view.nid, nid))?;
    Ok(row.map(|row| row.ends_ms).filter(|ends_ms| *ends_ms > now_ms))
}

/// The sticky events of a room that clients may be told of since after `after`, and since when; the first that became
/// known first.
pub fn after(
    snapshot: &Snapshot<'_>,
    room: RoomNid,
    after: StreamPos,
    now_ms: u64,
) -> store::Result<Vec<(StreamPos, EventNid)>> {
    let mut found = Vec::new();
    for row in snapshot.scan::<StickyChanges>(Scan::from::<StickyChanges>(&(room, after.next()), &room)) {
        let (_, since, event) = row?.key()?;
        if snapshot.get::<StickyEvents>(&(room, event))?.is_some_and(|row| row.ends_ms > now_ms) {
            found.push((since, event));
        }
    }
    Ok(found)
}

/// Those of them that users of our server sent: a server that comes into the room is to get them.
pub fn of_ours(server: &Server, snapshot: &Snapshot<'_>, room: RoomNid) -> store::Result<Vec<(StreamPos, EventNid)>> {
    let now_ms = server.clock.now_ms();
    let mut found = Vec::new();
    for row in snapshot.list::<StickyEvents>(&room) {
        let row = row?;
        if let Some(since) = row.value.since
            && row.value.ends_ms > now_ms
            && row.value.server == server.name()
        {
            found.push((since, row.key()?.1));
        }
    }
    Ok(found)
}

/// The rooms whose members changed, in which events may wait.
#[derive(Default)]
pub struct Changed {
    rooms: Mutex<BTreeSet<RoomNid>>,
    any: Notify,
}

impl Changed {
    pub fn note(&self, room: RoomNid) {
        self.rooms.lock().insert(room);
        self.any.notify_one();
    }
}

/// Judges events that wait again when the members of their rooms change, until the server ends: first all, since what
/// changed before a crash is forgotten.
///
/// <https://github.com/matrix-org/matrix-spec-proposals/pull/4354>
pub async fn run(server: Arc<Server>) {
    let mut rooms = match server.read(|snapshot| waiting(snapshot, &())).await {
        Ok(waiting) => waiting.into_iter().map(|(room, _)| room).collect(),
        Err(error) => {
            error!(?error, "the sticky events that wait can't be read");
            BTreeSet::new()
        }
    };
    loop {
        for room in std::mem::take(&mut rooms) {
            if let Err(error) = judge_again(&server, room).await {
                error!(?error, "sticky events can't be judged again");
            }
        }
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = server.sticky.any.notified() => rooms = std::mem::take(&mut *server.sticky.rooms.lock()),
        }
    }
}

async fn judge_again(server: &Arc<Server>, room: RoomNid) -> Result<()> {
    for (_, event) in server.read(move |snapshot| waiting(snapshot, &room)).await? {
        append::accept_late(server, room, event).await?;
    }
    Ok(())
}

fn waiting<'a>(snapshot: &Snapshot<'_>, prefix: &impl store::Key<'a>) -> Result<Vec<(RoomNid, EventNid)>> {
    let rows = snapshot.list::<StickyWaiting>(prefix);
    rows.map(|row| row.and_then(|row| row.key()).map_err(Error::from)).collect()
}

/// Removes the rows of those that have ended; how many they were.
pub async fn sweep(server: &Arc<Server>) -> Result<usize> {
    let now_ms = server.clock.now_ms();
    let mut removed = 0;
    loop {
        let ended: Vec<(RoomNid, EventNid)> = server
            .read(move |snapshot| {
                let ended = Scan::range::<StickyEnds>(&0_u64, &now_ms.saturating_add(1));
                let rows = snapshot.scan::<StickyEnds>(ended).take(BATCH);
                rows.map(|row| row.and_then(|row| row.key().map(|(_, room, event)| (room, event))).map_err(Error::from))
                    .collect()
            })
            .await?;
        if ended.is_empty() {
            return Ok(removed);
        }
        removed += ended.len();
        let write = move |tx: &mut Transaction<'_>| {
            for (room, event) in ended {
                forget(tx, room, event)?;
            }
            Ok::<_, Error>(())
        };
        server.store.commit_when_full(write).await?;
    }
}
