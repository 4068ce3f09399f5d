//! Which threads a room has, and which of them an event belongs to.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#threaded-read-receipts>

use std::collections::HashSet;

use ruma::{EventId, serde::Raw};

use super::{
    View, history,
    relations::Relations,
    show::{Format, Reader},
    timeline::{Entry, Page},
};
use crate::{
    error::Result,
    event::StoredEvent,
    store::{self, EventNid, Family, RoomNid, RoomPos, Scan, Table},
};

/// How many relations are followed from an event to one that names its thread. Source: the specification.
const MAX_HOPS: usize = 3;

/// The thread that is none: all that belongs to no other.
pub const MAIN: &str = "main";

/// The root of the thread that an event is in; `None` for the main timeline, and for threads whose root we do not know.
pub fn root_of(view: &View<'_>, event: &StoredEvent) -> store::Result<Option<EventNid>> {
    let mut relation = event.relation.clone();
    for _ in 0..=MAX_HOPS {
        let Some(parent) = relation else { return Ok(None) };
        let nid = view.event_nid(&parent.event_id)?;
        if parent.rel_type == "m.thread" {
            return Ok(nid);
        }
        let Some(nid) = nid else { return Ok(None) };
        relation = view.event(nid)?.relation;
    }
    Ok(None)
}

/// Whether somebody can have read up to `event` in the thread of `root`: it is in the thread, is the root, or refers to
/// either.
pub fn is_readable_in(view: &View<'_>, event: &StoredEvent, root: &EventId) -> store::Result<bool> {
    let mut event_id = event.event_id.clone();
    let mut relation = event.relation.clone();
    for _ in 0..=MAX_HOPS {
        if event_id == root {
            return Ok(true);
        }
        let Some(parent) = relation else { return Ok(false) };
        relation = view.event_by_id(&parent.event_id)?.and_then(|parent| parent.relation);
        event_id = parent.event_id;
    }
    Ok(event_id == root)
}

/// The events of threads in the order of the room: which threads there are, and which had the last word.
pub struct ThreadEvents;
impl Table for ThreadEvents {
    const NAME: &'static str = "thread_events";
    const FAMILY: Family = Family::Room;
    const ID: u8 = 150;
    /// The place of an event, and the root of the thread that it is in, which we need not have.
    type Key<'a> = (RoomNid, RoomPos, &'a EventId);
    type Value = EventNid;
}

/// How many threads a page has at most, and how many events of threads are looked at for one. A page that ends early
/// has a token to go on with.
const MAX_LIMIT: usize = 100;
const MAX_EVENTS: usize = 5_000;

/// What a client asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Where to go on; `None` to begin with the newest.
    pub from: Option<RoomPos>,
    pub limit: usize,
    /// Whether only threads are wanted that the reader took part in.
    pub only_participated: bool,
}

/// The roots of the room's threads, those with the newest events first, each at the place of its thread's newest event:
/// of the events that the reader may see, and of users whom he does not ignore.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidthreads>
pub fn list(reader: &Reader<'_, '_>, newest: RoomPos, request: &Request) -> Result<Page> {
    reader.sight.readable_state()?;
    let view = reader.view();
    let newest = newest.min(reader.sight.horizon()?);
    let until = request.from.unwrap_or(newest).min(newest);
    let scan = Scan::range::<ThreadEvents>(&(view.nid, RoomPos::MIN), &(view.nid, RoomPos(until.0.saturating_add(1))));
    let mut entries = Vec::new();
    let mut seen = HashSet::new();
    for (looked_at, row) in view.snapshot.scan::<ThreadEvents>(scan.backward()).enumerate() {
        let row = row?;
        let (_, pos, root_id) = row.key()?;
        if looked_at == MAX_EVENTS {
            return Ok(Page { entries, next: Some(pos) });
        }
        if seen.contains(root_id) || !is_shown(reader, row.value)? {
            continue;
        }
        seen.insert(root_id.to_owned());
        if request.from.is_some() && has_event_after(reader, root_id, until)? {
            continue; // it was on an earlier page
        }
        let Some((nid, event)) = history::visible(reader, root_id)? else { continue };
        let is_root = event.relation.is_none() && event.state_key.is_none();
        if !is_root || request.only_participated && !has_participated(reader, &event)? {
            continue;
        }
        if entries.len() == request.limit.min(MAX_LIMIT) {
            return Ok(Page { entries, next: Some(pos) });
        }
        entries.push(Entry { pos, nid, event });
    }
    Ok(Page { entries, next: None })
}

/// The root of a thread in its client format: without its content if the reader ignores its sender.
pub fn show_root<T>(reader: &Reader<'_, '_>, root: &Entry) -> Result<Raw<T>> {
    if reader.ignored()?.hides(&root.event) {
        return reader.show_without_content(root.nid, &root.event, Format::WithRoomId).map(Raw::from_json);
    }
    reader.raw(root.nid, &root.event, Format::WithRoomId)
}

/// Whether the reader's list of threads counts an event of one.
fn is_shown(reader: &Reader<'_, '_>, nid: EventNid) -> Result<bool> {
    let event = reader.view().event(nid)?;
    Ok(!reader.ignored()?.contains(&event.sender) && reader.sight.may_see(nid, &event)?)
}

fn has_event_after(reader: &Reader<'_, '_>, root: &EventId, after: RoomPos) -> Result<bool> {
    let view = reader.view();
    let scan = Scan::prefix::<Relations>(&(view.nid, root, "m.thread")).backward();
    for row in view.snapshot.scan::<Relations>(scan).take(MAX_EVENTS) {
        let row = row?;
        if row.key()?.3 <= after {
            break;
        }
        if is_shown(reader, row.value.event)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_participated(reader: &Reader<'_, '_>, root: &StoredEvent) -> Result<bool> {
    let me = reader.sight.user_id;
    if root.sender == me {
        return Ok(true);
    }
    let rows = reader.view().snapshot.list::<Relations>(&(reader.view().nid, &*root.event_id, "m.thread"));
    for row in rows {
        if row?.value.sender == me {
            return Ok(true);
        }
    }
    Ok(false)
}
