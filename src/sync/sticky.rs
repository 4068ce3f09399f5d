//! Sticky events (MSC4354), which a client is told whatever its timelines hold, and whatever the history visibility says.

use std::collections::HashSet;

use super::{answer::Context, json};
use crate::{
    error::Result,
    event::StoredEvent,
    room::{
        show::Reader,
        sticky::{self, StickyChanges},
    },
    store::{EventNid, Group, RoomNid, StreamPos},
};

/// A sticky event to tell.
pub struct Entry {
    /// When it became known.
    pub since: StreamPos,
    pub nid: EventNid,
    pub event: StoredEvent,
}

/// The sticky events of a room that its client has not been told, the first that became known first; without those of
/// users whom the reader ignores. `after`: up to where the client has been told; nothing, if `None`.
pub fn read(context: &Context<'_>, room: RoomNid, after: Option<StreamPos>) -> Result<Vec<Entry>> {
    let after = after.unwrap_or_default();
    if !context.may_have_changed::<StickyChanges>(Group::of(room), after) {
        return Ok(Vec::new());
    }
    let found = sticky::after(context.snapshot, room, after, context.server.clock.now_ms())?;
    let mut entries = Vec::with_capacity(found.len());
    for (since, nid) in found {
        let view = context.view(room)?;
        let event = view.event(nid)?;
        if !context.ignored.hides(&event) && !view.has_expired(&event)? {
            entries.push(Entry { since, nid, event });
        }
    }
    Ok(entries)
}

/// Writes what is not among the events that the timeline tells; `false` if that is nothing.
pub fn write(
    context: &Context<'_>,
    reader: &Reader<'_, '_>,
    after: Option<StreamPos>,
    told: &HashSet<EventNid>,
    out: &mut Vec<u8>,
) -> Result<bool> {
    let mut entries = read(context, reader.view().nid, after)?;
    entries.retain(|entry| !told.contains(&entry.nid));
    write_events(context, reader, &entries, out)?;
    Ok(!entries.is_empty())
}

pub fn write_events(
    context: &Context<'_>,
    reader: &Reader<'_, '_>,
    entries: &[Entry],
    out: &mut Vec<u8>,
) -> Result<()> {
    json::events(out, entries, |out, entry| context.write_event(out, reader, entry.nid, &entry.event))
}
