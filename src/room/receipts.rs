//! How far users have read.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#receipts>

use std::sync::Arc;

use ruma::{EventId, ID_MAX_BYTES, OwnedEventId, OwnedServerName, OwnedUserId, RoomId, UserId};
use serde_json::json;

use super::{
    Membership, View, read_markers,
    tables::{EventIds, Events, Receipt, ReceiptChanges, Receipts},
    threads,
    visibility::{Sight, not_in_room},
};
use crate::{
    Server,
    appservice::ephemeral,
    error::{Error, Result},
    event::StoredEvent,
    federation::queue::{self, Additions, tables::Item},
    push,
    store::{self, RoomNid, RoomPos, Snapshot, StreamPos, Table, Transaction},
};

/// The type of receipts that everybody is told.
pub const PUBLIC: &str = "m.read";

/// What somebody has read up to an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `m.read`: everybody in the room is told.
    Public,
    /// `m.read.private`: nobody else is told.
    Private,
    /// `m.fully_read`: account data, not a receipt.
    FullyRead,
}

/// The events that a receipt speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thread {
    /// Of all threads.
    Any,
    /// Of the main timeline only.
    Main,
    /// Of the thread of this root only.
    Of(OwnedEventId),
}

/// "Has read up to."
#[derive(Clone, Debug)]
pub struct Mark {
    pub kind: Kind,
    pub thread: Thread,
    pub event_id: OwnedEventId,
}

impl Kind {
    /// As what receipts of this kind are kept and told.
    fn receipt_type(self) -> Option<&'static str> {
        match self {
            Self::Public => Some(PUBLIC),
            Self::Private => Some("m.read.private"),
            Self::FullyRead => None,
        }
    }
}

impl Thread {
    /// From the `thread_id` of a receipt; `M_INVALID_PARAM` if it is neither `main` nor an event id.
    pub fn parse(thread_id: &str) -> Result<Self> {
        if thread_id == threads::MAIN {
            return Ok(Self::Main);
        }
        let root = OwnedEventId::try_from(thread_id).ok().filter(|root| root.as_str().len() <= ID_MAX_BYTES);
        root.map(Self::Of).ok_or_else(|| Error::invalid_param("thread_id is neither `main` nor an event id"))
    }

    fn key(&self) -> &str {
        match self {
            Self::Any => "",
            Self::Main => threads::MAIN,
            Self::Of(root) => root.as_str(),
        }
    }
}

/// Moves marks of a user who is joined to a room; one that would go back stays where it is.
///
/// Errors: `M_FORBIDDEN` if he is not joined, `M_NOT_FOUND` if an event is not in the room, `M_INVALID_PARAM` if it is
/// not in the thread.
pub async fn set(server: &Arc<Server>, user: &UserId, room_id: &RoomId, marks: Vec<Mark>) -> Result<()> {
    let (owner, room_id) = (user.to_owned(), room_id.to_owned());
    let work = move |server: &Server| Plan::work_out(server, owner, &room_id, marks);
    let plan = server.blocking(work).await?;
    let (server, user, room) = (Arc::clone(server), user.to_owned(), plan.room);
    // Who is told of it must be told even if the client hangs up.
    Server::detached(async move {
        let (moved, destinations) = server.store.commit(move |tx| plan.write(tx)).await?;
        destinations.into_iter().for_each(|destination| queue::wake(&server, destination));
        push::deliver::wake_user(&server, &user);
        tell_services(&server, room, &user, &moved)?;
        if moved.iter().any(|mark| mark.kind == Kind::Public) {
            server.wakers.room(&server, room);
        } else if !moved.is_empty() {
            server.wakers.user(&server, &user);
        }
        Ok(())
    })
    .await
}

/// Tells application services of receipts.
fn tell_services(server: &Server, room: RoomNid, user: &UserId, moved: &[Mark]) -> Result<()> {
    let now_ms = server.clock.now_ms();
    moved.iter().try_for_each(|Mark { kind, thread, event_id }| {
        tell_services_of(server, room, user, *kind, thread, event_id.as_str(), now_ms)
    })
}

/// Tells application services of one receipt, of whatever server's user.
fn tell_services_of(
    server: &Server,
    room: RoomNid,
    user: &UserId,
    kind: Kind,
    thread: &Thread,
    event_id: &str,
    ts_ms: u64,
) -> Result<()> {
    let Some(receipt_type) = kind.receipt_type() else { return Ok(()) };
    let mut shown = json!({ "ts": ts_ms });
    if *thread != Thread::Any {
        shown["thread_id"] = thread.key().into();
    }
    let content = json!({ event_id: { receipt_type: { user: shown } } });
    ephemeral::receipt(server, room, user, &content, kind == Kind::Private)
}

/// Marks that may be moved, and to where in the room.
struct Plan {
    room: RoomNid,
    user: OwnedUserId,
    marks: Vec<(Mark, RoomPos)>,
    /// The other servers that hear of public ones.
    others: Vec<OwnedServerName>,
    now_ms: u64,
}

impl Plan {
    fn work_out(server: &Server, user: OwnedUserId, room_id: &RoomId, marks: Vec<Mark>) -> Result<Self> {
        let snapshot = server.store.snapshot();
        let view = View::open(&server.rooms, &snapshot, room_id)?.ok_or_else(not_in_room)?;
        if view.membership(view.current_state(), &user)? != Some(Membership::Join) {
            return Err(not_in_room());
        }
        let sight = Sight::of(&view, &user)?;
        let mut placed = Vec::with_capacity(marks.len());
        for mark in marks {
            let pos = check(&sight, &mark)?;
            placed.push((mark, pos));
        }
        let room = view.nid;
        let others = queue::others_in(server, &snapshot, room)?;
        Ok(Self { room, user, marks: placed, others, now_ms: server.clock.now_ms() })
    }

    /// The marks that moved, and the servers that are told.
    fn write(self, tx: &mut Transaction<'_>) -> Result<(Vec<Mark>, Vec<OwnedServerName>)> {
        let mut moved = Vec::new();
        let mut additions = Additions::default();
        for (mark, pos) in self.marks {
            let has_moved = match mark.kind.receipt_type() {
                Some(receipt_type) => {
                    let key = (self.room, &*self.user, receipt_type, mark.thread.key());
                    put(tx, key, mark.event_id.as_str(), pos, self.now_ms)?
                }
                None => read_markers::put(tx, self.room, &self.user, &mark.event_id, pos)?,
            };
            if !has_moved {
                continue;
            }
            if mark.kind == Kind::Public {
                let (user, thread) = (self.user.clone(), mark.thread.key().to_owned());
                let item = Item::Receipt { room: self.room, user, thread };
                self.others.iter().for_each(|other| additions.add(other.clone(), item.clone()));
            }
            moved.push(mark);
        }
        if !moved.is_empty() {
            push::queue::has_read(tx, &self.user)?;
        }
        Ok((moved, additions.write(tx)?))
    }
}

/// Where the event of a mark lies.
fn check(sight: &Sight<'_, '_>, mark: &Mark) -> Result<RoomPos> {
    if mark.kind == Kind::FullyRead && mark.thread != Thread::Any {
        return Err(Error::invalid_param("m.fully_read knows no threads"));
    }
    let event = visible(sight, &mark.event_id)?.ok_or_else(|| Error::not_found("The room has no such event"))?;
    let is_in_thread = match &mark.thread {
        Thread::Any => true,
        Thread::Main => threads::root_of(sight.view, &event)?.is_none(),
        Thread::Of(root) => threads::is_readable_in(sight.view, &event, root)?,
    };
    if !is_in_thread {
        return Err(Error::invalid_param("The event is not in that thread"));
    }
    Ok(RoomPos(event.room_pos))
}

/// An event of the room's timeline that its reader may see, or could until it expired: clients keep what they have.
fn visible(sight: &Sight<'_, '_>, event_id: &EventId) -> Result<Option<StoredEvent>> {
    let Some(nid) = sight.view.event_nid(event_id)? else { return Ok(None) };
    let event = sight.view.event(nid)?;
    let is_in_timeline = !(event.flags.outlier || event.flags.rejected || event.flags.soft_failed);
    Ok(if is_in_timeline && sight.could_see(nid, &event)? { Some(event) } else { None })
}

/// Where an event lies in its room, if it is one of this room.
pub fn position(snapshot: &Snapshot<'_>, room: RoomNid, event_id: impl AsRef<str>) -> store::Result<Option<RoomPos>> {
    let Ok(event_id) = <&EventId>::try_from(event_id.as_ref()) else { return Ok(None) };
    let place = snapshot.get::<EventIds>(&event_id)?.filter(|place| place.room == room);
    let event = place.map(|place| snapshot.get::<Events>(&(room, place.event))).transpose()?.flatten();
    Ok(event.map(|event| RoomPos(event.room_pos)))
}

/// Replaces a receipt by one that is further on; `false` if it is not.
fn put(
    tx: &mut Transaction<'_>,
    key: <Receipts as Table>::Key<'_>,
    event_id: &str,
    pos: RoomPos,
    ts_ms: u64,
) -> Result<bool> {
    let (room, user, receipt_type, thread) = key;
    if let Some(before) = tx.get::<Receipts>(&key)? {
        if position(tx.before(), room, &before.event_id)?.is_some_and(|before| before >= pos) {
            return Ok(false);
        }
        tx.delete::<ReceiptChanges>(&(room, before.changed, user, receipt_type, thread));
    }
    let changed = tx.pos();
    tx.put::<ReceiptChanges>(&(room, changed, user, receipt_type, thread), &());
    tx.put::<Receipts>(&key, &Receipt { event_id: event_id.to_owned(), ts_ms, changed });
    Ok(true)
}

/// A public receipt that another server sent for its user.
#[derive(Clone, Debug)]
pub struct Remote {
    pub room: RoomNid,
    pub user: OwnedUserId,
    pub thread: Thread,
    /// An event that may not have come yet, or anything else.
    pub event_id: String,
    pub ts_ms: u64,
}

impl Remote {
    /// `false` if the user has read further, or in a thread that is not known.
    pub fn put(&self, tx: &mut Transaction<'_>) -> Result<bool> {
        let Self { room, user, thread, event_id, ts_ms } = self;
        if let Thread::Of(root) = thread
            && position(tx.before(), *room, root)?.is_none()
        {
            return Ok(false);
        }
        let pos = position(tx.before(), *room, event_id)?.unwrap_or(RoomPos::MAX);
        put(tx, (*room, user, PUBLIC, thread.key()), event_id, pos, *ts_ms)
    }

    pub fn tell_services(&self, server: &Server) -> Result<()> {
        let Self { room, user, thread, event_id, ts_ms } = self;
        tell_services_of(server, *room, user, Kind::Public, thread, event_id, *ts_ms)
    }
}

/// One receipt of one user.
#[derive(Clone, Debug)]
pub struct Own {
    /// As [`Receipts`] has it: empty, `main`, or a root's id.
    pub thread: String,
    pub event_id: String,
    pub changed: StreamPos,
}

/// The receipts of one user in a room, public and private.
pub fn of_user(snapshot: &Snapshot<'_>, room: RoomNid, user: &UserId) -> store::Result<Vec<Own>> {
    let rows = snapshot.list::<Receipts>(&(room, user)).map(|row| {
        let row = row?;
        let thread = row.key()?.3.to_owned();
        Ok(Own { thread, event_id: row.value.event_id, changed: row.value.changed })
    });
    rows.collect()
}
