//! A room's timeline, page by page: what a reader may see of it and asked for.

use ruma::events::StateEventType;

use super::{event_filter::EventFilter, gaps, show::Reader, tables::Timeline, visibility::unreadable};
use crate::{
    error::Result,
    event::{StateRoot, StoredEvent},
    store::{Direction, EventNid, RoomPos, Scan},
    user::ignored::Ignored,
};

/// How many events are read from the disk at once.
const BATCH: usize = 32;

/// From how many bytes of events on a page is full.
pub(super) const PAGE_BYTES: usize = 4 << 20;

/// What one page may cost. Whoever may see only few of many events gets short or empty pages, each with a token to go on
/// with.
const PAGE_BUDGET: Budget = Budget { scanned: 5_000, bytes: PAGE_BYTES };

#[derive(Clone, Copy, Debug)]
struct Budget {
    /// How many events are looked at.
    scanned: usize,
    /// From how many bytes of events on a page is full.
    bytes: usize,
}

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
    /// A state whose events are shown even if the reader was not to see them when they came: he may read them there, and
    /// whoever follows the timeline has to end with that state.
    pub shows_state: Option<StateRoot>,
}

#[derive(Clone, Debug)]
pub struct Page {
    /// In the order of `direction`.
    pub entries: Vec<Entry>,
    /// The place (after all events up to and with this one) from which to go on in the same direction; `None` if the
    /// reader has nothing more to see there. No gap is between it and the last of the entries: what comes into that
    /// later is still ahead.
    pub next: Option<RoomPos>,
}

/// The next events that `reader` may see and asked for. A page that is not full, or empty, may still have a `next`.
pub fn page(reader: &Reader<'_, '_>, query: &Query<'_>) -> Result<Page> {
    page_within(PAGE_BUDGET, reader, query)
}

fn page_within(budget: Budget, reader: &Reader<'_, '_>, query: &Query<'_>) -> Result<Page> {
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
            let is_full = is_wanted && (entries.len() >= query.limit || bytes >= budget.bytes);
            if is_wanted && !is_full {
                bytes += event.common.len();
                entries.push(Entry { pos, nid, event });
            }
            if is_full || scanned >= budget.scanned {
                let next = if is_full { ahead_of(pos, query.direction) } else { behind(pos, query.direction) };
                let next = before_gap(reader, query, entries.last().map(|last| last.pos), next)?;
                return Ok(Page { entries, next: Some(next) });
            }
        }
    }
}

/// `next`, or the place at the first gap on the way there from `last`, the last event that is shown; from the beginning, if
/// none is. Where a page that shows nothing begins at a gap, it leads beyond: else nobody would get there.
fn before_gap(reader: &Reader<'_, '_>, query: &Query<'_>, last: Option<RoomPos>, next: RoomPos) -> Result<RoomPos> {
    let view = reader.view();
    match query.direction {
        Direction::Backward => Ok(gaps::newest(view, next, last.unwrap_or(query.until))?.map_or(next, before)),
        Direction::Forward => {
            let Some(gap) = gaps::lowest(view, last.unwrap_or(query.after), beyond(next))? else { return Ok(next) };
            Ok(gaps::at(view, gap)?.last_before.filter(|place| *place > query.after).unwrap_or(next))
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
pub(super) fn beyond(pos: RoomPos) -> RoomPos {
    RoomPos(pos.0.saturating_add(1))
}

/// Whether there are events, of whatever kind, between `from` and the end of a range that is read in `direction`.
pub fn goes_on(
    reader: &Reader<'_, '_>,
    after: RoomPos,
    until: RoomPos,
    from: RoomPos,
    direction: Direction,
) -> Result<bool> {
    let (after, until) = match direction {
        Direction::Forward => (after.max(from), until),
        Direction::Backward => (after, until.min(from)),
    };
    if after >= until {
        return Ok(false);
    }
    Ok(places(reader, after, until, direction).next().transpose()?.is_some())
}

/// The last event at or before a place that the room goes on from, among some: what was soft-failed is none.
pub fn last_at(reader: &Reader<'_, '_>, pos: RoomPos) -> Result<Option<Entry>> {
    for place in places(reader, RoomPos::MIN, pos, Direction::Backward).take(PAGE_BUDGET.scanned) {
        let found = entry(reader, place?)?;
        if !found.event.flags.soft_failed {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The first event that we know of the room, but for its create event.
pub fn first_but_create(reader: &Reader<'_, '_>) -> Result<Option<Entry>> {
    for place in places(reader, RoomPos::MIN, RoomPos::MAX, Direction::Forward).take(2) {
        let found = entry(reader, place?)?;
        if found.event.event_type != "m.room.create" {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn entry(reader: &Reader<'_, '_>, (pos, nid): (RoomPos, EventNid)) -> Result<Entry> {
    Ok(Entry { pos, nid, event: reader.view().event(nid)? })
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
        && (reader.sight.may_see(nid, event)? || is_of_state(reader, query, nid, event)?))
}

fn is_of_state(reader: &Reader<'_, '_>, query: &Query<'_>, nid: EventNid, event: &StoredEvent) -> Result<bool> {
    let (Some(root), Some(state_key)) = (query.shows_state, event.state_key.as_deref()) else { return Ok(false) };
    let event_type = StateEventType::from(event.event_type.as_str());
    Ok(reader.view().state_nid(root, &event_type, state_key)? == Some(nid))
}

#[cfg(test)]
mod tests {
    use ruma::api::client::filter::RoomEventFilter;
    use serde_json::json;

    use super::*;
    use crate::room::testing::TestRoom;

    const EVERYTHING: (RoomPos, RoomPos) = (RoomPos::MIN, RoomPos::MAX);

    /// The numbers of the messages on each page that bob reads backward, with what the filter lets through.
    fn pages(room: &TestRoom, budget: Budget, limit: usize, filter: &serde_json::Value) -> Vec<Vec<String>> {
        let filter: RoomEventFilter = serde_json::from_value(filter.clone()).unwrap();
        let mut pages = Vec::new();
        let (after, mut until) = EVERYTHING;
        room.read("bob", |reader, _| {
            let ignored = Ignored::load(reader.view().snapshot, reader.sight.user_id).unwrap();
            loop {
                let query = Query {
                    after,
                    until,
                    direction: Direction::Backward,
                    limit,
                    filter: EventFilter::new(&filter, reader.view().room_id()),
                    ignored: &ignored,
                    shows_state: None,
                };
                let page = page_within(budget, reader, &query).unwrap();
                let body = |entry: &Entry| {
                    let content: serde_json::Value = serde_json::from_str(&entry.event.common).unwrap();
                    content["content"]["body"].as_str().unwrap_or("state").to_owned()
                };
                pages.push(page.entries.iter().map(body).collect());
                match page.next {
                    Some(next) => until = next,
                    None => return pages,
                }
            }
        })
    }

    /// A message that bob sees, then `hidden` ones that he does not, then one that he sees.
    fn room_with_hidden(hidden: usize) -> TestRoom {
        let room = TestRoom::new();
        room.visibility("joined");
        room.member("bob", "bob", "join");
        room.message("alice", "first");
        room.member("bob", "bob", "leave");
        (0..hidden).for_each(|_| drop(room.message("alice", "hidden")));
        room.member("bob", "bob", "join");
        room.message("alice", "last");
        room
    }

    const MESSAGES: &str = "m.room.message";

    #[test]
    fn a_page_goes_on_past_any_number_of_hidden_events() {
        let room = room_with_hidden(3 * BATCH);
        let filter = json!({ "types": [MESSAGES] });
        assert_eq!(pages(&room, PAGE_BUDGET, 10, &filter), [["last", "first"]]);
        assert_eq!(pages(&room, PAGE_BUDGET, 1, &filter), [["last"], ["first"]]);
    }

    #[test]
    fn a_budget_that_ends_among_hidden_events_ends_the_page_and_not_the_walk() {
        let room = room_with_hidden(25);
        let pages = pages(&room, Budget { scanned: 10, ..PAGE_BUDGET }, 10, &json!({ "types": [MESSAGES] }));
        assert_eq!(pages.concat(), ["last", "first"]);
        assert!(pages[0] == ["last"] && pages[1].is_empty() && pages.len() == 4, "{pages:?}");
    }

    #[test]
    fn a_page_has_a_size_in_bytes_and_at_least_one_event() {
        let room = room_with_hidden(0);
        let pages = pages(&room, Budget { bytes: 1, ..PAGE_BUDGET }, 10, &json!({ "types": [MESSAGES] }));
        assert_eq!(pages, [["last"], ["first"]]);
    }

    #[test]
    fn with_a_limit_of_none_a_page_tells_whether_there_is_anything() {
        let room = room_with_hidden(5);
        let everything = RoomEventFilter::default();
        room.read("bob", |reader, _| {
            let (after, until) = EVERYTHING;
            let filter = EventFilter::new(&everything, reader.view().room_id());
            let ignored = &Ignored::default();
            let query =
                Query { after, until, direction: Direction::Backward, limit: 0, filter, ignored, shows_state: None };
            let some = page(reader, &query).unwrap();
            assert!(some.entries.is_empty() && some.next.is_some());
            let none = page(reader, &Query { until: RoomPos(0), ..query }).unwrap();
            assert!(none.entries.is_empty() && none.next.is_none());
        });
    }

    #[test]
    fn messages_of_ignored_users_are_left_out_and_their_state_is_not() {
        let room = room_with_hidden(0);
        room.ignore("bob", "alice");
        let pages = pages(&room, PAGE_BUDGET, 100, &json!({ "senders": ["@alice:chappe.test"] }));
        assert_eq!(pages.len(), 1);
        assert!(!pages[0].is_empty() && pages[0].iter().all(|shown| shown == "state"), "{pages:?}");
    }
}
