//! What clients read of a room's past: pages of its timeline, what is around an event, and a first look.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{
    EventId, OwnedRoomId, OwnedUserId,
    api::client::filter::{LazyLoadOptions, RoomEventFilter},
};

use super::{
    Membership, View,
    directory::ListedRooms,
    event_filter::{EventFilter, RelationFilter},
    gaps,
    read::{self, Found},
    show::Reader,
    tables::UserRooms,
    timeline::{self, Entry, Page, Query},
};
use crate::{
    Server,
    error::{Error, Result},
    event::StateRoot,
    store::{self, Direction, RoomNid, RoomPos},
    user::{
        ignored::Ignored,
        session::Caller,
        tables::{AccountData, AccountDatum},
    },
};

/// The most events that one answer holds, whatever a client asks for.
pub(super) const MAX_LIMIT: usize = 1_000;

/// How many events the first look at a room holds, unless the client says something else.
pub const INITIAL_LIMIT: usize = 20;

/// Runs `work` with `caller` as reader of a room, and with the newest place of its timeline that may be shown; answers once
/// everything that `work` can have read is durable. `None` if the server does not know the room.
pub async fn read<R: Send + 'static>(
    server: &Arc<Server>,
    caller: Caller,
    room_id: OwnedRoomId,
    work: impl FnOnce(&Reader<'_, '_>, RoomPos) -> Result<R> + Send + 'static,
) -> Result<Option<R>> {
    let work = move |server: &Server| {
        let newest = server.store.durable_pos().into(); // before the snapshot, which then holds all of that
        let snapshot = server.store.snapshot();
        let Some(view) = View::open(&server.rooms, &snapshot, &room_id)? else { return Ok(None) };
        let reader = Reader::open(&view, &caller.user_id, Some(&caller.device_id), server.clock.now_ms())?;
        Ok(Some((work(&reader, newest)?, snapshot.pos()?)))
    };
    let Some((answer, shown)) = server.blocking(work).await? else { return Ok(None) };
    server.store.until_durable(shown).await?;
    Ok(Some(answer))
}

/// A part of the timeline that a client asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'q> {
    /// Where to begin; `None` for the end of the timeline that `direction` comes from.
    pub from: Option<RoomPos>,
    /// Where to stop.
    pub to: Option<RoomPos>,
    pub direction: Direction,
    pub limit: usize,
    pub filter: &'q RoomEventFilter,
    pub relations: &'q RelationFilter,
    /// Whether to end where something is missing, unless that is where it begins.
    pub stops_at_gaps: bool,
}

#[derive(Clone, Debug)]
pub struct Chunk {
    pub start: RoomPos,
    /// `None` if there is nothing more for this reader.
    pub end: Option<RoomPos>,
    /// After a page that has all that there is yet: from where to ask for what comes later.
    pub later: Option<RoomPos>,
    pub entries: Vec<Entry>,
    /// The senders' member events, if members are loaded lazily.
    pub members: Vec<Found>,
    /// The room, and the place from which on backward something is missing here that other servers may have.
    pub gap: Option<(RoomNid, RoomPos)>,
}

/// A page of the timeline. `M_FORBIDDEN` for whoever is not in the room, was not, and may not look in.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmessages>
pub fn messages(reader: &Reader<'_, '_>, newest: RoomPos, request: &Request<'_>) -> Result<Chunk> {
    reader.sight.readable_state()?;
    let horizon = reader.sight.horizon()?;
    let more_may_come = horizon >= newest && request.to.is_none();
    let newest = newest.min(horizon);
    let (start, after, until) = match request.direction {
        Direction::Forward => {
            let start = request.from.unwrap_or(RoomPos::MIN);
            (start, start, request.to.unwrap_or(newest).min(newest))
        }
        Direction::Backward => {
            let start = request.from.unwrap_or(newest);
            (start, request.to.unwrap_or(RoomPos::MIN), start.min(newest))
        }
    };
    let mut wanted = Wanted::new(reader, request.filter, request.limit)?;
    wanted.filter = wanted.filter.with_relations(request.relations);
    if request.stops_at_gaps
        && let Some(stop) = next_stop(reader, after, until, request.direction)?
    {
        let (after, until) = match request.direction {
            Direction::Forward => (after, stop),
            Direction::Backward => (stop, until),
        };
        let page = wanted.page(reader, after, until, request.direction, wanted.limit)?;
        let members = if wanted.is_lazy { read::senders(reader.view(), &page.entries)? } else { Vec::new() };
        return Ok(Chunk {
            start,
            end: page.next.or(Some(stop)),
            later: None,
            entries: page.entries,
            members,
            gap: None,
        });
    }
    let page = wanted.page(reader, after, until, request.direction, wanted.limit)?;
    let members = if wanted.is_lazy { read::senders(reader.view(), &page.entries)? } else { Vec::new() };
    let mut chunk = Chunk { start, end: page.next, later: None, entries: page.entries, members, gap: None };
    match (request.direction, request.from) {
        (Direction::Backward, _) => note_gap(reader, request.to, until, wanted.limit, &mut chunk)?,
        (Direction::Forward, Some(from)) => {
            let last = chunk.entries.last().filter(|_| chunk.end.is_some()).map_or(until, |entry| entry.pos);
            let gap = gaps::lowest(reader.view(), from, last)?;
            chunk.gap = gap.map(|gap| (reader.view().nid, timeline::behind(gap, Direction::Backward)));
        }
        (Direction::Forward, None) => {}
    }
    // NOTSPEC: `end` is to be left out if nothing is left, and a page of everything does so. After a page of what a
    // filter let through there is an `end` as long as the timeline goes on, although none of that passes the filter:
    // Synapse does so, and Complement's `TestRoomImageRoundtrip` asks for it. The page after it is empty, and the last.
    if chunk.end.is_none()
        && !request.filter.is_empty()
        && let Some(end) = chunk.entries.last().map(|last| timeline::behind(last.pos, request.direction))
        && timeline::goes_on(reader, after, until, end, request.direction)?
    {
        chunk.end = Some(end);
    }
    if more_may_come && request.direction == Direction::Forward && chunk.end.is_none() {
        chunk.later = chunk.entries.last().map(|last| last.pos);
    }
    Ok(chunk)
}

/// The place at the first gap that somebody meets who reads a range in `direction`; `None` if he meets none, or begins at
/// it.
fn next_stop(reader: &Reader<'_, '_>, after: RoomPos, until: RoomPos, direction: Direction) -> Result<Option<RoomPos>> {
    let view = reader.view();
    match direction {
        Direction::Backward => {
            Ok(gaps::newest(view, after, until)?.map(|gap| timeline::behind(gap, Direction::Backward)))
        }
        Direction::Forward => {
            let gap = gaps::lowest(view, after, until)?.map(|gap| gaps::at(view, gap)).transpose()?;
            Ok(gap.and_then(|gap| gap.last_before).filter(|place| *place > after))
        }
    }
}

/// Notes what `chunk`, read backward from `until`, lacks in between or at its end.
fn note_gap(
    reader: &Reader<'_, '_>,
    to: Option<RoomPos>,
    until: RoomPos,
    limit: usize,
    chunk: &mut Chunk,
) -> Result<()> {
    let Some(gap) = gaps::below(reader.view(), until)? else { return Ok(()) };
    if to.is_some_and(|to| gap.pos <= to) {
        return Ok(());
    }
    let lowest = chunk.entries.last().map(|entry| entry.pos);
    let is_full = chunk.entries.len() >= limit;
    let is_passed = match (lowest, chunk.end) {
        (Some(lowest), _) if is_full => gap.pos > lowest,
        (Some(lowest), Some(_)) => gap.pos > lowest,
        (None, Some(_)) => false,
        (_, None) => true,
    };
    if is_passed {
        chunk.gap = Some((reader.view().nid, until));
    } else if let (Some(lowest), None) = (lowest, chunk.end) {
        chunk.end = Some(timeline::behind(lowest, Direction::Backward));
    }
    Ok(())
}

/// An event with those before and after it.
#[derive(Clone, Debug)]
pub struct Around {
    pub event: Entry,
    /// Newest first.
    pub before: Vec<Entry>,
    /// Oldest first.
    pub after: Vec<Entry>,
    /// The places from which to read on, before the earliest of these events and after the last.
    pub start: RoomPos,
    pub end: RoomPos,
    /// Of the room at the last of these events, as far as the reader may read it.
    pub state: Vec<Found>,
}

/// What is around an event: `limit` events, half of them before it. `None` if the reader may not see the event, or
/// nothing of the room around it, or there is none of this id in the room.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidcontexteventid>
pub fn around(
    reader: &Reader<'_, '_>,
    newest: RoomPos,
    event_id: &EventId,
    limit: usize,
    filter: &RoomEventFilter,
) -> Result<Option<Around>> {
    let Some((nid, event)) = visible(reader, event_id)? else { return Ok(None) };
    if event.state_after.is_none() {
        return Ok(None);
    }
    let entry = Entry { pos: RoomPos(event.room_pos), nid, event };
    let wanted = Wanted::new(reader, filter, limit)?;
    let (limit_before, limit_after) = (wanted.limit / 2, wanted.limit - wanted.limit / 2);
    let just_before = timeline::behind(entry.pos, Direction::Backward);
    let before = wanted.page_to_gap(reader, RoomPos::MIN, just_before, Direction::Backward, limit_before)?;
    let after = wanted.page_to_gap(reader, entry.pos, newest, Direction::Forward, limit_after)?;
    let shown = after.entries.iter().rev().chain([&entry]);
    let last_state = shown.map(|entry| reader.sight.readable_state_at(&entry.event)).find_map(Result::transpose);
    let Some(last_state) = last_state.transpose()? else { return Ok(None) };
    let senders = wanted.is_lazy.then(|| {
        let events = before.entries.iter().chain(&after.entries).chain([&entry]);
        events.map(|entry| entry.event.sender.clone()).collect::<BTreeSet<OwnedUserId>>()
    });
    Ok(Some(Around {
        start: place_after(&before, &entry, Direction::Backward),
        end: place_after(&after, &entry, Direction::Forward),
        state: read::filtered(reader.view(), last_state, &wanted.filter, senders.as_ref())?,
        event: entry,
        before: before.entries,
        after: after.entries,
    }))
}

/// What is just before and after an event.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Newest first.
    pub before: Vec<Entry>,
    /// Oldest first.
    pub after: Vec<Entry>,
    /// The places from which to read on.
    pub start: RoomPos,
    pub end: RoomPos,
}

/// The events around one that the reader may see: as many before and after it as `limits` says.
pub fn beside(reader: &Reader<'_, '_>, newest: RoomPos, entry: &Entry, limits: (usize, usize)) -> Result<Beside> {
    let filter = RoomEventFilter::default();
    let wanted = Wanted::new(reader, &filter, MAX_LIMIT)?;
    let just_before = timeline::behind(entry.pos, Direction::Backward);
    let before = wanted.page_to_gap(reader, RoomPos::MIN, just_before, Direction::Backward, limits.0)?;
    let after = wanted.page_to_gap(reader, entry.pos, newest, Direction::Forward, limits.1)?;
    Ok(Beside {
        start: place_after(&before, entry, Direction::Backward),
        end: place_after(&after, entry, Direction::Forward),
        before: before.entries,
        after: after.entries,
    })
}

/// Where to read on after a page that began at `first`.
fn place_after(page: &Page, first: &Entry, direction: Direction) -> RoomPos {
    let last = page.entries.last().unwrap_or(first);
    page.next.unwrap_or_else(|| timeline::behind(last.pos, direction))
}

/// An event of the room that the reader may see.
///
/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomideventeventid>
pub fn visible(reader: &Reader<'_, '_>, event_id: &EventId) -> Result<Option<Found>> {
    let Some(nid) = reader.view().event_nid(event_id)? else { return Ok(None) };
    let event = reader.view().event(nid)?;
    Ok(reader.sight.may_see(nid, &event)?.then_some((nid, event)))
}

/// Why an event is not shown: the same whether it does not exist, is in another room, or is not the reader's to see.
pub fn event_not_found() -> Error {
    Error::not_found("Event not found")
}

/// A first look at a room.
#[derive(Clone, Debug)]
pub struct FirstLook {
    /// The newest events, oldest first.
    pub entries: Vec<Entry>,
    /// The places before and after them; nothing to see before them if `None`.
    pub start: Option<RoomPos>,
    pub end: RoomPos,
    pub state: Vec<Found>,
    /// Whether the room is in the directory.
    pub is_listed: bool,
    /// Of the reader, if he ever had one.
    pub membership: Option<Membership>,
    /// The reader's own, of this room: type and content.
    pub account_data: Vec<(String, AccountDatum)>,
}

/// <https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidinitialsync>
pub fn first_look(reader: &Reader<'_, '_>, newest: RoomPos, limit: usize) -> Result<FirstLook> {
    let (view, user_id) = (reader.view(), reader.sight.user_id);
    let state = reader.sight.readable_state()?;
    let filter = RoomEventFilter::default();
    let request = Request {
        from: None,
        to: None,
        direction: Direction::Backward,
        limit,
        filter: &filter,
        relations: &RelationFilter::default(),
        stops_at_gaps: true,
    };
    let mut chunk = messages(reader, newest, &request)?;
    chunk.entries.reverse();
    let rows = view.snapshot.list::<AccountData>(&(user_id, view.nid));
    let account_data = rows.map(|row| row.and_then(|row| Ok((row.key()?.2.to_owned(), row.value))));
    let account_data = account_data.filter(|row| row.as_ref().map_or(true, |(_, datum)| !datum.is_deleted()));
    Ok(FirstLook {
        entries: chunk.entries,
        start: chunk.end,
        end: chunk.start,
        state: read::all(view, state)?,
        is_listed: view.snapshot.contains::<ListedRooms>(&view.nid)?,
        membership: view.snapshot.get::<UserRooms>(&(user_id, view.nid))?.map(|row| row.membership),
        account_data: account_data.collect::<store::Result<_>>()?,
    })
}

/// The state that a reader may read as that of the room, or that of the place `at`. `M_FORBIDDEN` if there is none, or
/// if he may not see what was said at that place. A place before the room had its first member is taken as the one after
/// he came.
pub fn state_at(reader: &Reader<'_, '_>, newest: RoomPos, at: Option<RoomPos>) -> Result<StateRoot> {
    let readable = reader.sight.readable_state()?;
    let newest = newest.min(reader.sight.horizon()?);
    let Some(at) = at.filter(|at| *at < newest) else { return Ok(readable) };
    let last = match timeline::last_at(reader, at)? {
        Some(last) if last.event.event_type != "m.room.create" => last,
        _ => match timeline::first_but_create(reader)? {
            Some(first) => first,
            None => return Ok(readable),
        },
    };
    // The state after an event is that of its branch of the graph: where there were several, a client that asks for the
    // members at a place is told those of the branch that we had heard of last. No client need be shown the event itself.
    let is_shown = reader.sight.history_shows(&last.event)?;
    let state = last.event.state_after.filter(|_| is_shown);
    state.ok_or_else(|| Error::forbidden("You may not see the room as it was then"))
}

/// What a client wants of a timeline.
struct Wanted<'f> {
    filter: EventFilter<'f>,
    ignored: Ignored,
    limit: usize,
    is_lazy: bool,
}

impl<'f> Wanted<'f> {
    fn new(reader: &Reader<'_, '_>, filter: &'f RoomEventFilter, limit: usize) -> Result<Self> {
        let filter_limit = filter.limit.map_or(MAX_LIMIT, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Self {
            filter: EventFilter::new(filter, reader.view().room_id()),
            ignored: Ignored::load(reader.view().snapshot, reader.sight.user_id)?,
            limit: limit.min(filter_limit).min(MAX_LIMIT),
            is_lazy: matches!(filter.lazy_load_options, LazyLoadOptions::Enabled { .. }),
        })
    }

    fn page(
        &self,
        reader: &Reader<'_, '_>,
        after: RoomPos,
        until: RoomPos,
        direction: Direction,
        limit: usize,
    ) -> Result<Page> {
        let query =
            Query { after, until, direction, limit, filter: self.filter, ignored: &self.ignored, shows_state: None };
        timeline::page(reader, &query)
    }

    /// A page that ends where something is missing, even if it begins there: nobody fetches that meanwhile, and what is
    /// beyond is not what is beside.
    fn page_to_gap(
        &self,
        reader: &Reader<'_, '_>,
        after: RoomPos,
        until: RoomPos,
        direction: Direction,
        limit: usize,
    ) -> Result<Page> {
        let view = reader.view();
        let stop = match direction {
            Direction::Forward => match gaps::lowest(view, after, until)? {
                Some(gap) => Some(gaps::at(view, gap)?.last_before.unwrap_or(after).max(after)),
                None => None,
            },
            Direction::Backward => {
                gaps::newest(view, after, timeline::beyond(until))?.map(|gap| timeline::behind(gap, direction))
            }
        };
        let Some(stop) = stop else { return self.page(reader, after, until, direction, limit) };
        let page = match direction {
            Direction::Forward => self.page(reader, after, stop, direction, limit)?,
            Direction::Backward => self.page(reader, stop, until, direction, limit)?,
        };
        Ok(Page { next: page.next.or(Some(stop)), ..page })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::OwnedEventId;
    use serde_json::json;

    use super::*;
    use crate::room::testing::TestRoom;

    /// Something that happens in a room of alice, with bob coming and going.
    #[derive(Clone, Debug)]
    enum Step {
        Say,
        Topic,
        Bob(&'static str),
        Visibility(&'static str),
    }

    fn step() -> impl Strategy<Value = Step> {
        let visibilities = vec!["joined", "invited", "shared", "world_readable"];
        prop_oneof![
            4 => Just(Step::Say),
            1 => Just(Step::Topic),
            2 => prop::sample::select(vec!["join", "invite", "leave"]).prop_map(Step::Bob),
            1 => prop::sample::select(visibilities).prop_map(Step::Visibility),
        ]
    }

    fn room_of(steps: &[Step]) -> TestRoom {
        let room = TestRoom::new();
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Say => drop(room.message("alice", &number.to_string())),
                Step::Topic => drop(room.state("alice", "m.room.topic", "", &json!({ "topic": number }))),
                Step::Bob(membership) => {
                    let by = if *membership == "invite" { "alice" } else { "bob" };
                    let content = serde_json::value::to_raw_value(&json!({ "membership": membership })).unwrap();
                    let bob = crate::room::testing::user("bob");
                    let draft = crate::event::Draft::state("m.room.member".into(), bob.as_str(), content);
                    let _ = room.send(by, draft); // what the rules do not allow does not happen
                }
                Step::Visibility(visibility) => drop(room.visibility(visibility)),
            }
        }
        room
    }

    #[test]
    fn the_state_of_a_time_is_told_though_its_last_event_is_shown_to_nobody() {
        let room = TestRoom::new();
        let empty = serde_json::value::to_raw_value(&json!({})).unwrap();
        room.send("alice", crate::event::Draft::message(crate::room::ends::DUMMY.into(), empty)).unwrap();
        let at = room.read("alice", |_, newest| newest);
        room.message("alice", "later");
        room.read("alice", |reader, newest| {
            assert_eq!(state_at(reader, newest, Some(at)).unwrap(), reader.view().current_state());
        });
    }

    /// Every event of the room that the reader sees by itself and may reach, oldest first.
    fn all_visible(reader: &Reader<'_, '_>, newest: RoomPos) -> Vec<OwnedEventId> {
        let horizon = reader.sight.horizon().unwrap();
        let rows = reader.view().snapshot.list::<crate::room::tables::Timeline>(&reader.view().nid);
        let mut found = Vec::new();
        for row in rows {
            let row = row.unwrap();
            let event = reader.view().event(row.value).unwrap();
            if row.key().unwrap().1 <= horizon.min(newest) && reader.sight.may_see(row.value, &event).unwrap() {
                found.push(event.event_id);
            }
        }
        found
    }

    /// What somebody reads who asks for page after page until he is told that there is no more.
    fn walk(
        reader: &Reader<'_, '_>,
        newest: RoomPos,
        direction: Direction,
        limit: usize,
    ) -> Result<(Vec<OwnedEventId>, usize)> {
        let (mut ids, mut from, mut pages) = (Vec::new(), None, 0);
        let filter = RoomEventFilter::default();
        loop {
            let chunk = messages(
                reader,
                newest,
                &Request {
                    from,
                    to: None,
                    direction,
                    limit,
                    filter: &filter,
                    relations: &RelationFilter::default(),
                    stops_at_gaps: false,
                },
            )?;
            pages += 1;
            assert!(chunk.entries.len() <= limit);
            ids.extend(chunk.entries.into_iter().map(|entry| entry.event.event_id));
            match chunk.end {
                Some(end) => from = Some(end),
                None => return Ok((ids, pages)),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn walking_a_room_shows_each_visible_event_once(
            steps in prop::collection::vec(step(), 0..30),
            limit in 1_usize..12,
        ) {
            let room = room_of(&steps);
            for user in ["alice", "bob", "stranger"] {
                room.read(user, |reader, newest| -> Result<(), TestCaseError> {
                    let expected = all_visible(reader, newest);
                    if reader.sight.readable_state().is_err() {
                        prop_assert!(walk(reader, newest, Direction::Forward, limit).is_err());
                        return Ok(());
                    }
                    let (forward, pages) = walk(reader, newest, Direction::Forward, limit).unwrap();
                    prop_assert_eq!(&forward, &expected);
                    prop_assert_eq!(pages, expected.len().div_ceil(limit).max(1), "no page is empty for nothing");
                    let (mut backward, _) = walk(reader, newest, Direction::Backward, limit).unwrap();
                    backward.reverse();
                    prop_assert_eq!(&backward, &expected);
                    Ok(())
                })?;
            }
        }

        #[test]
        fn what_is_around_an_event_adds_up_to_the_room(
            steps in prop::collection::vec(step(), 1..20),
            limit in 0_usize..50,
        ) {
            let room = room_of(&steps);
            room.read("alice", |reader, newest| -> Result<(), TestCaseError> {
                let expected = all_visible(reader, newest);
                let filter = RoomEventFilter::default();
                for (index, id) in expected.iter().enumerate() {
                    let found = around(reader, newest, id, limit, &filter).unwrap().unwrap();
                    let ids = |entries: Vec<Entry>| entries.into_iter().map(|entry| entry.event.event_id);
                    let mut shown: Vec<_> = ids(found.before).collect();
                    shown.reverse();
                    shown.extend(ids(vec![found.event]).chain(ids(found.after)));
                    let (first, last) = (index.saturating_sub(limit / 2), index + (limit - limit / 2));
                    prop_assert_eq!(&shown, &expected[first..=last.min(expected.len() - 1)]);

                    let before = Request { from: Some(found.start), to: None, direction: Direction::Backward, limit: 99, filter: &filter, relations: &RelationFilter::default(), stops_at_gaps: false };
                    let mut rest: Vec<_> = ids(messages(reader, newest, &before).unwrap().entries).collect();
                    rest.reverse();
                    let after = Request { from: Some(found.end), direction: Direction::Forward, ..before };
                    rest.extend(shown);
                    rest.extend(ids(messages(reader, newest, &after).unwrap().entries));
                    prop_assert_eq!(&rest, &expected);
                }
                Ok(())
            })?;
        }
    }
}
