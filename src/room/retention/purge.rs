//! Removes messages that have expired. What stays of one is what a redaction leaves, marked as purged, so that the graph,
//! the states and everybody's read positions stay as they are; it goes from the timeline and from all indexes, and is
//! answered to nobody, whatever the policy says later.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::error;

use crate::{
    Server,
    error::{Error, Result},
    event::{Flags, StoredEvent},
    room::{
        View,
        by_time::EventTimes,
        gaps::Gaps,
        partial,
        relations::Relation,
        relationships,
        search::index::Words,
        show, sticky,
        tables::{Events, Rooms, Timeline},
    },
    store::{self, EventNid, Family, Record, RoomNid, RoomPos, Scan, Snapshot, Table, TableInfo, Transaction},
};

pub const TABLES: [TableInfo; 2] = [TableInfo::of::<Purges>(), TableInfo::of::<PurgeLater>()];

/// How many rows are read for one look at a room, and how many events are removed while its writers wait.
const LOOK: usize = 10_000;
const BATCH: usize = 200;

/// How far each room was looked through.
pub struct Purges;
impl Table for Purges {
    const NAME: &'static str = "purges";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 220;
    type Key<'a> = RoomNid;
    type Value = Progress;
}

/// Of the events numbered below `next`, all messages that are before `sent_ms` and `event` in the order of [`EventTimes`]
/// were removed, but for those in [`PurgeLater`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub next: EventNid,
    pub sent_ms: u64,
    pub event: EventNid,
}

impl Record for Progress {}

/// Messages that must be looked at again and that nothing else would lead to: those without a place in the timeline, and those
/// on which the room goes on at present.
pub struct PurgeLater;
impl Table for PurgeLater {
    const NAME: &'static str = "purge_later";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 221;
    /// With the event's `origin_server_ts`.
    type Key<'a> = (RoomNid, u64, EventNid);
    type Value = ();
}

/// Removes what has expired in all rooms; how many events that were.
pub async fn sweep(server: &Arc<Server>) -> Result<usize> {
    if server.rooms.retention().is_none() {
        return Ok(0);
    }
    let rooms = |snapshot: &Snapshot<'_>| {
        let rows = snapshot.list::<Rooms>(&());
        rows.map(|row| row.and_then(|row| row.key()).map_err(Error::from)).collect::<Result<Vec<RoomNid>>>()
    };
    let mut removed = 0;
    for room in server.read(rooms).await? {
        if server.shutdown.is_cancelled() {
            break;
        }
        // What is wrong in one room keeps nothing in the others.
        match sweep_room(server, room).await {
            Ok(count) => removed += count,
            Err(error) => error!(%room, "expired messages can't be removed: {error:?}"),
        }
    }
    Ok(removed)
}

async fn sweep_room(server: &Arc<Server>, room: RoomNid) -> Result<usize> {
    let mut removed = 0;
    loop {
        let look = server.blocking(move |server| Look::at(server, room)).await?;
        let Some(Look { mut found, before, after, is_all }) = look else { return Ok(removed) };
        while !found.is_empty() {
            let later = found.split_off(found.len().min(BATCH));
            removed += purge(server, room, std::mem::replace(&mut found, later)).await?;
        }
        if after != before {
            let note = move |tx: &mut Transaction<'_>| {
                tx.put::<Purges>(&room, &after);
                Ok::<_, Error>(())
            };
            server.store.commit_when_full(note).await?;
        }
        if is_all {
            return Ok(removed);
        }
    }
}

/// What there is to do in a room, as far as one look goes.
struct Look {
    /// Messages that have expired, or will without anything leading to them then, with the times when they were sent.
    found: Vec<(u64, EventNid)>,
    before: Progress,
    /// When all of that is done.
    after: Progress,
    is_all: bool,
}

impl Look {
    /// `None` if messages do not expire in the room, or its state is not whole: events are judged again then.
    fn at(server: &Server, room: RoomNid) -> Result<Option<Self>> {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        let expired_before = view.expired_before()?;
        if expired_before == 0 || partial::is_partial(&snapshot, room)? {
            return Ok(None);
        }
        let before = snapshot.get::<Purges>(&room)?.unwrap_or_default();
        let mut after = before;
        // A policy may have become longer since: what it keeps now must be looked at again later.
        if after.sent_ms > expired_before {
            (after.sent_ms, after.event) = (expired_before, EventNid(0));
        }
        let mut look = Self { found: Vec::new(), before, after, is_all: true };
        look.at_new(&view, expired_before)?;
        look.at_old(&view, expired_before)?;
        look.at_later(&view, expired_before)?;
        look.found.sort_unstable(); // what is new may have expired, too
        look.found.dedup();
        Ok(Some(look))
    }

    /// What came since the last look, of whatever time and place.
    fn at_new(&mut self, view: &View<'_>, expired_before: u64) -> Result<()> {
        let scan = Scan::from::<Events>(&(view.nid, self.after.next), &view.nid);
        for (count, row) in view.snapshot.scan::<Events>(scan).enumerate() {
            if count == LOOK {
                self.is_all = false;
                break;
            }
            let row = row?;
            let ((_, nid), event) = (row.key()?, &row.value);
            if is_message(event) && (event.room_pos == 0 || event.origin_server_ts < expired_before) {
                self.found.push((event.origin_server_ts, nid));
            }
            self.after.next = EventNid(nid.0 + 1);
        }
        Ok(())
    }

    /// What expired since the last look.
    fn at_old(&mut self, view: &View<'_>, expired_before: u64) -> Result<()> {
        let from = (view.nid, self.after.sent_ms, self.after.event);
        let scan = Scan::range::<EventTimes>(&from, &(view.nid, expired_before));
        for (count, row) in view.snapshot.scan::<EventTimes>(scan).enumerate() {
            if count == LOOK {
                self.is_all = false;
                return Ok(());
            }
            let (_, sent_ms, nid) = row?.key()?;
            if is_message(&view.event(nid)?) {
                self.found.push((sent_ms, nid));
            }
            (self.after.sent_ms, self.after.event) = (sent_ms, EventNid(nid.0 + 1));
        }
        Ok(())
    }

    /// What could not be removed then, or had no place.
    fn at_later(&mut self, view: &View<'_>, expired_before: u64) -> Result<()> {
        let scan = Scan::range::<PurgeLater>(&view.nid, &(view.nid, expired_before));
        for row in view.snapshot.scan::<PurgeLater>(scan).take(LOOK) {
            let (_, sent_ms, nid) = row?.key()?;
            self.found.push((sent_ms, nid));
        }
        Ok(())
    }
}

/// State is kept, and what is gone needs no look.
fn is_message(event: &StoredEvent) -> bool {
    event.state_key.is_none() && !event.flags.purged
}

/// Looks at events again, now that nobody else writes in their room, and removes those that have expired; how many.
async fn purge(server: &Arc<Server>, room: RoomNid, found: Vec<(u64, EventNid)>) -> Result<usize> {
    let server = Arc::clone(server);
    Server::detached(async move {
        let numbers = server.rooms.lock(room).await;
        let work = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            found.into_iter().map(|found| Change::work_out(&view, found)).collect::<Result<Vec<_>>>()
        };
        let changes = server.blocking(work).await?;
        let purged: Vec<EventNid> = changes.iter().filter_map(Change::purged).collect();
        let write = move |tx: &mut Transaction<'_>| {
            changes.iter().try_for_each(|change| change.write(tx, room))?;
            Ok::<_, Error>(tx.pos())
        };
        let written = server.store.write_when_full(write).await?;
        for &event in &purged {
            server.rooms.forget_pdu(room, event, written.value);
            server.unread.forget(room, event);
        }
        drop(numbers);
        written.durable().await?;
        Ok(purged.len())
    })
    .await
}

/// What becomes of an event that was looked at.
enum Change {
    Purge(Box<Purged>),
    /// Nothing would lead to it when it may be removed.
    Later(u64, EventNid),
    /// It is gone, or will be met by its time.
    Nothing(u64, EventNid),
}

/// An event, and what stays of it.
struct Purged {
    event: EventNid,
    before: StoredEvent,
    after: StoredEvent,
}

impl Change {
    fn work_out(view: &View<'_>, (sent_ms, nid): (u64, EventNid)) -> Result<Self> {
        let event = view.snapshot.get::<Events>(&(view.nid, nid))?;
        let Some(event) = event.filter(is_message) else { return Ok(Self::Nothing(sent_ms, nid)) };
        if view.has_expired(&event)? {
            return Ok(Self::Purge(Box::new(Purged::work_out(view, nid, event)?)));
        }
        let is_end = event.origin_server_ts < view.expired_before()?;
        if is_end || event.room_pos == 0 {
            return Ok(Self::Later(sent_ms, nid));
        }
        Ok(Self::Nothing(sent_ms, nid))
    }

    fn purged(&self) -> Option<EventNid> {
        match self {
            Self::Purge(purged) => Some(purged.event),
            Self::Later(..) | Self::Nothing(..) => None,
        }
    }

    fn write(&self, tx: &mut Transaction<'_>, room: RoomNid) -> store::Result<()> {
        match self {
            Self::Purge(purged) => purged.write(tx, room)?,
            Self::Later(sent_ms, event) => tx.put::<PurgeLater>(&(room, *sent_ms, *event), &()),
            Self::Nothing(sent_ms, event) => tx.delete::<PurgeLater>(&(room, *sent_ms, *event)),
        }
        Ok(())
    }
}

impl Purged {
    fn work_out(view: &View<'_>, event: EventNid, before: StoredEvent) -> Result<Self> {
        let after = show::without_content(view, &before)?;
        let after = StoredEvent {
            flags: Flags { purged: true, ..after.flags },
            redacts: before.redacts.clone(), // what it waits for may be state
            ..after
        };
        Ok(Self { event, before, after })
    }

    /// The one list of what goes.
    fn write(&self, tx: &mut Transaction<'_>, room: RoomNid) -> store::Result<()> {
        let Self { event, before, after } = self;
        let (event, place) = (*event, RoomPos(before.room_pos));
        tx.put::<Events>(&(room, event), after);
        tx.delete::<PurgeLater>(&(room, before.origin_server_ts, event));
        sticky::forget(tx, room, event)?;
        relationships::forget(tx, room, event)?;
        if before.room_pos == 0 {
            return Ok(());
        }
        if let Some(relation) = Relation::of(before, event) {
            relation.delete(tx, room, place)?;
        }
        if let Some(words) = Words::of(before, event) {
            words.delete(tx, room, place);
        }
        // What is missing before an event is known by the event's place.
        if !tx.before().contains::<Gaps>(&(room, place))? {
            tx.delete::<Timeline>(&(room, place));
            tx.delete::<EventTimes>(&(room, before.origin_server_ts, event));
        }
        Ok(())
    }
}
