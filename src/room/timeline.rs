//! A room's timeline, page by page: what a reader may see of it and asked for.

use super::{event_filter::EventFilter, show::Reader, tables::Timeline, visibility::unreadable};
use crate::{
    error::Result,
    event::StoredEvent,
    store::{Direction, EventNid, RoomPos, Scan},
    user::ignored::Ignored,
};

/// How many events are read from the disk at once.
const BATCH: usize = 32;

/// How many events are looked at for one page. Whoever may see only few of many gets short or empty pages, each with a
/// token to go on with.
const MAX_SCANNED: usize = 5_000;

/// From how many bytes of events on a page is full.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// An event at its place in the timeline.
#[derive(Clone, Debug)]
pub struct Entry {
    pub pos: RoomPos,
    pub nid: EventNid,
    pub event: StoredEvent,
}

/// What to read: from the events after `after`, up to and with `until`.
#[derive(Clone, Copy, Debug)]
pub struct Query<'q> {
    pub after: RoomPos,
    pub until: RoomPos,
    /// Whether to begin with the oldest or with the newest.
    pub direction: Direction,
    /// At most so many events. With 0 the page says only whether there are any.
    pub limit: usize,
    pub filter: EventFilter<'q>,
    pub ignored: &'q Ignored,
}

#[derive(Clone, Debug)]
pub struct Page {
    /// In the order of `direction`.
    pub entries: Vec<Entry>,
    /// The place (after all events up to and with this one) from which to go on in the same direction; `None` if the
    /// reader has nothing more to see there.
    pub next: Option<RoomPos>,
}

/// The next events that `reader` may see and asked for. A page that is not full, or empty, may still have a `next`.
pub fn page(reader: &Reader<'_, '_>, query: &Query<'_>) -> Result<Page> {
    let mut entries = Vec::new();
    let until = query.until.min(reader.sight.horizon()?);
    if query.after >= until || query.filter.is_nothing() {
        return Ok(Page { entries, next: None });
    }
    let (mut scanned, mut bytes) = (0, 0);
    let mut rows = places(reader, query.after, until, query.direction);
    loop {
        let batch: Vec<_> = rows.by_ref().take(BATCH).collect::<Result<_>>()?;
        if batch.is_empty() {
            return Ok(Page { entries, next: None });
        }
        let nids: Vec<_> = batch.iter().map(|(_, nid)| *nid).collect();
        for ((pos, nid), event) in std::iter::zip(batch, reader.view().events(&nids)?) {
            scanned += 1;
            let is_wanted = wants(reader, query, nid, &event)?;
            if is_wanted && (entries.len() >= query.limit || bytes >= MAX_PAGE_BYTES) {
                return Ok(Page { entries, next: Some(ahead_of(pos, query.direction)) });
            }
            if is_wanted {
                bytes += event.common.len();
                entries.push(Entry { pos, nid, event });
            }
            if scanned >= MAX_SCANNED {
                return Ok(Page { entries, next: Some(behind(pos, query.direction)) });
            }
        }
    }
}

/// The place at which somebody who goes in `direction` has not yet passed the event at `pos`.
pub fn ahead_of(pos: RoomPos, direction: Direction) -> RoomPos {
    match direction {
        Direction::Forward => before(pos),
        Direction::Backward => pos,
    }
}

/// The place at which somebody who goes in `direction` has just passed the event at `pos`.
pub fn behind(pos: RoomPos, direction: Direction) -> RoomPos {
    match direction {
        Direction::Forward => pos,
        Direction::Backward => before(pos),
    }
}

/// The place just before the event at `pos`.
fn before(pos: RoomPos) -> RoomPos {
    RoomPos(pos.0.saturating_sub(1))
}

/// The place just after the event at `pos`, as the bound of a scan.
fn beyond(pos: RoomPos) -> RoomPos {
    RoomPos(pos.0.saturating_add(1))
}

/// The last event of the room at or before a place.
pub fn last_at(reader: &Reader<'_, '_>, pos: RoomPos) -> Result<Option<Entry>> {
    let Some(last) = places(reader, RoomPos::MIN, pos, Direction::Backward).next() else { return Ok(None) };
    let (pos, nid) = last?;
    Ok(Some(Entry { pos, nid, event: reader.view().event(nid)? }))
}

fn places<'r>(
    reader: &'r Reader<'_, '_>,
    after: RoomPos,
    until: RoomPos,
    direction: Direction,
) -> impl Iterator<Item = Result<(RoomPos, EventNid)>> + 'r {
    let view = reader.view();
    let scan = Scan::range::<Timeline>(&(view.nid, beyond(after)), &(view.nid, beyond(until)));
    let scan = if direction == Direction::Backward { scan.backward() } else { scan };
    view.snapshot.scan::<Timeline>(scan).map(|row| {
        let row = row?;
        Ok((row.key()?.1, row.value))
    })
}

fn wants(reader: &Reader<'_, '_>, query: &Query<'_>, nid: EventNid, event: &StoredEvent) -> Result<bool> {
    Ok(!query.ignored.hides(event)
        && query.filter.allows(event).map_err(unreadable)?
        && reader.sight.may_see(nid, event)?)
}
