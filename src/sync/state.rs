//! What a client must be told of a room's state, so that it has that of the start, or of the end, of a timeline. It is chosen
//! first, and read while it is written: it may be much.

use std::collections::{BTreeMap, BTreeSet, HashSet, btree_map};

use ruma::{OwnedUserId, UserId};

use super::{
    answer::Context,
    json::Object,
    request::Request,
    stream::{HandOn, PIECE_BYTES},
    timeline::Timeline,
    told_members::Told,
};
use crate::{
    error::{Error, Result},
    event::StateRoot,
    room::{
        Membership, View,
        event_filter::EventFilter,
        show::Reader,
        tables::{StateChange, StateChanges, StateKeys},
        timeline::{self, Entry as Shown},
        view::{BATCH, membership_in},
    },
    store::{EventNid, RoomNid, RoomPos, Scan, Snapshot, StateKeyNid, StreamPos},
};

pub const MEMBER: &str = "m.room.member";

/// How the current state of a room changed over a range of positions, oldest change first.
#[derive(Debug, Default)]
pub struct Log(Vec<(StreamPos, StateKeyNid, StateChange)>);

/// A user whose membership changed over a range of positions.
#[derive(Debug)]
pub struct MemberChange {
    pub user_id: OwnedUserId,
    pub old: Option<Membership>,
    pub new: Option<Membership>,
}

impl Log {
    /// The changes after `after`, up to and with `until`.
    pub fn read(snapshot: &Snapshot<'_>, room: RoomNid, after: StreamPos, until: StreamPos) -> Result<Self> {
        let scan = Scan::range::<StateChanges>(&(room, after.next()), &(room, until.max(after).next()));
        let rows = snapshot.scan::<StateChanges>(scan).map(|row| {
            let row = row?;
            let (_, pos, key) = row.key()?;
            Ok((pos, key, row.value))
        });
        rows.collect::<Result<_>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Leaves out the members who were in the room before and became known only at `completed`, but for those of `wanted`: they
    /// may be very many, and clients that load members lazily ask for them.
    pub fn forget_members_known_since<'u>(
        &mut self,
        view: &View<'_>,
        completed: StreamPos,
        wanted: impl IntoIterator<Item = &'u str>,
    ) -> Result<()> {
        let is_of_then =
            |&(pos, _, change): &(StreamPos, StateKeyNid, StateChange)| pos == completed && change.old.is_none();
        if !self.0.iter().any(is_of_then) {
            return Ok(());
        }
        let mut kept: HashSet<StateKeyNid> = keys_without_members(view).collect::<Result<_>>()?;
        for user in wanted {
            kept.extend(view.state_key_nid(MEMBER, user)?);
        }
        self.0.retain(|entry| !is_of_then(entry) || kept.contains(&entry.1));
        Ok(())
    }

    /// What became of each entry that changed, up to and with `until`.
    pub fn ends(&self, until: StreamPos) -> BTreeMap<StateKeyNid, StateChange> {
        let mut ends: BTreeMap<StateKeyNid, StateChange> = BTreeMap::new();
        for &(_, key, change) in self.0.iter().filter(|(pos, ..)| *pos <= until) {
            ends.entry(key).and_modify(|end| end.new = change.new).or_insert(change);
        }
        ends
    }

    /// Whether the name of the room changed, or the alias that stands for one.
    pub fn changes_name(&self, view: &View<'_>) -> Result<bool> {
        if self.is_empty() {
            return Ok(false); // with most messages
        }
        for event_type in ["m.room.name", "m.room.canonical_alias"] {
            let key = view.state_key_nid(event_type, "")?;
            if self.0.iter().any(|(_, changed, _)| Some(*changed) == key) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The users who are joined after all changes and once were not: also those who only went in between.
    pub fn arrivals(&self, view: &View<'_>) -> Result<BTreeSet<OwnedUserId>> {
        let mut arrivals = BTreeSet::new();
        for &(_, key, StateChange { old, new }) in &self.0 {
            let name = view.state_key_name(key)?;
            if name.event_type != MEMBER {
                continue;
            }
            let Ok(user) = OwnedUserId::try_from(name.state_key) else { continue };
            if membership(view, new)? != Some(Membership::Join) {
                arrivals.remove(&user);
            } else if membership(view, old)? != Some(Membership::Join) {
                arrivals.insert(user);
            }
        }
        Ok(arrivals)
    }

    /// The users whose member events changed, with what they were before all changes and after them.
    pub fn members(&self, view: &View<'_>) -> Result<Vec<MemberChange>> {
        let mut members = Vec::new();
        for (key, StateChange { old, new }) in self.ends(StreamPos::MAX) {
            let name = view.state_key_name(key)?;
            if name.event_type != MEMBER || old == new {
                continue;
            }
            if let Ok(user_id) = OwnedUserId::try_from(name.state_key) {
                members.push(MemberChange { user_id, old: membership(view, old)?, new: membership(view, new)? });
            }
        }
        Ok(members)
    }
}

fn membership(view: &View<'_>, event: Option<EventNid>) -> Result<Option<Membership>> {
    let pdu = event.map(|event| view.pdu(event)).transpose()?;
    Ok(pdu.and_then(|pdu| membership_in(pdu.content.get())))
}

/// What the client has of the state already.
#[derive(Clone, Copy, Debug)]
pub enum Known<'l> {
    /// Nothing, or it asks for everything.
    Nothing,
    /// What was there before the log.
    Before(&'l Log),
}

/// What the state of a room is read for.
#[derive(Debug)]
pub struct Query<'q> {
    pub request: &'q Request,
    pub timeline: &'q Timeline,
    /// The state at the end of the timeline, and its place.
    pub root: StateRoot,
    pub until: StreamPos,
    pub known: Known<'q>,
    /// Whose member events are needed, with lazy loading, besides those of the senders.
    pub needed: &'q [OwnedUserId],
    /// Which of these the client has; `None` if they are told anyway.
    pub told: Option<Told>,
}

impl Query<'_> {
    fn has(&self, member: StateKeyNid, event: Option<EventNid>) -> bool {
        event.is_some_and(|event| self.told.as_ref().is_some_and(|told| told.has(member, event)))
    }
}

/// One entry of the state, at three moments.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// What the client has.
    known: Option<EventNid>,
    /// Before the first event of the timeline.
    start: Option<EventNid>,
    end: Option<EventNid>,
    /// The timeline shows a change of it.
    is_shown: bool,
    /// Told even if the client should have it.
    is_needed: bool,
}

impl Entry {
    fn unchanged(event: Option<EventNid>) -> Self {
        Self { known: None, start: event, end: event, is_shown: false, is_needed: false }
    }

    /// What the client has to go on from. A client goes on from the start by the events of the timeline; what changed without
    /// being shown there (left out by a filter, or changed back when a fork was resolved) it must be told beforehand.
    fn before(self, is_after: bool) -> Option<EventNid> {
        if self.is_shown && !is_after { self.start } else { self.end }
    }

    /// The event to tell.
    fn to_tell(self, is_after: bool) -> Option<EventNid> {
        let told = self.before(is_after);
        told.filter(|_| self.is_needed || told != self.known)
    }
}

/// The events that may have to be told, in the order in which the room first had such state.
pub fn choose(reader: &Reader<'_, '_>, query: &Query<'_>) -> Result<Vec<EventNid>> {
    let view = reader.view();
    if EventFilter::new(&query.request.filter.room.state, view.room_id()).is_nothing() {
        return Ok(Vec::new());
    }
    let mut entries = entries(reader, query)?;
    if query.request.is_lazy() {
        need_members(view, query, &mut entries)?;
    }
    if let Some(told) = &query.told {
        told.note(shown_members(query.timeline, &entries));
    }
    let is_after = query.request.state_form.is_after();
    Ok(entries.values().filter_map(|entry| entry.to_tell(is_after)).collect())
}

/// Writes those of the chosen events that the client wants to hear of; `false` if these are none. What becomes much is handed on.
///
/// NOTSPEC: may be left out where that is nothing, but Synapse never does, and clients are used to it.
pub fn write(
    context: &Context<'_>,
    reader: &Reader<'_, '_>,
    chosen: &[EventNid],
    told: Option<&Told>,
    room: &mut Object<'_>,
    hand_on: &mut HandOn<'_>,
) -> Result<bool> {
    let view = reader.view();
    let filter = EventFilter::new(&context.request.filter.room.state, view.room_id());
    let out = room.key(context.request.state_form.key());
    out.extend_from_slice(b"{\"events\":[");
    let mut any = false;
    for batch in chosen.chunks(BATCH) {
        for (nid, event) in std::iter::zip(batch, view.events(batch)?) {
            if !filter.allows(&event).map_err(|e| Error::internal(e.to_string()))? {
                continue;
            }
            if std::mem::replace(&mut any, true) {
                out.push(b',');
            }
            context.write_event(out, reader, *nid, &event)?;
            if let Some(told) = told.filter(|_| event.event_type == MEMBER) {
                let key = view.state_key_nid(MEMBER, event.state_key.as_deref().unwrap_or_default())?;
                told.note(key.map(|key| (key, *nid)));
            }
        }
        if out.len() >= PIECE_BYTES {
            hand_on(out)?;
        }
    }
    out.extend_from_slice(b"]}");
    Ok(any)
}

/// The member events that the timeline shows, so far as they are those of its end.
fn shown_members(timeline: &Timeline, entries: &BTreeMap<StateKeyNid, Entry>) -> Vec<(StateKeyNid, EventNid)> {
    let shown: HashSet<EventNid> =
        timeline.events.iter().filter(|entry| entry.event.event_type == MEMBER).map(|entry| entry.nid).collect();
    if shown.is_empty() {
        return Vec::new();
    }
    let ends = entries.iter().filter_map(|(key, entry)| Some((*key, entry.end?)));
    ends.filter(|(_, end)| shown.contains(end)).collect()
}

fn entries(reader: &Reader<'_, '_>, query: &Query<'_>) -> Result<BTreeMap<StateKeyNid, Entry>> {
    let (view, start) = (reader.view(), query.timeline.start);
    let shown = shown(reader, query)?;
    let since_start;
    let (mut entries, log) = match query.known {
        Known::Nothing => {
            let after = StreamPos(u64::try_from(start.0).unwrap_or_default());
            since_start = Log::read(view.snapshot, view.nid, after, query.until)?;
            (whole(view, query)?, &since_start)
        }
        Known::Before(log) => (BTreeMap::new(), log),
    };
    for &(pos, key, change) in log.0.iter().rev().filter(|(pos, ..)| *pos <= query.until) {
        let entry = entries.entry(key).or_insert(Entry::unchanged(change.new));
        if RoomPos::from(pos) > start {
            entry.start = change.old;
        }
        if matches!(query.known, Known::Before(_)) {
            entry.known = change.old;
        }
        entry.is_shown |= change.new.is_some_and(|new| shown.contains(&new));
    }
    Ok(entries)
}

/// The events of the timeline by which the client goes on from its start. To one that knows nothing of the room, what came late
/// from an older branch is told beforehand, too: by the graph it was there before events that the timeline lacks.
///
/// NOTSPEC: `/sync` is ordered by arrival, and what is in its timeline need not be in the state. Synapse, which orders a first answer by the
/// graph, tells it there, and clients are used to it.
fn shown(reader: &Reader<'_, '_>, query: &Query<'_>) -> Result<HashSet<EventNid>> {
    let events = &query.timeline.events;
    let is_first = matches!(query.known, Known::Nothing) && events.iter().any(|entry| entry.event.state_key.is_some());
    let before = if is_first { timeline::last_at(reader, query.timeline.start)? } else { None };
    let depth = before.map_or(0, |before| before.event.depth);
    let is_late = |entry: &Shown| entry.event.state_key.is_some() && entry.event.depth < depth;
    Ok(events.iter().filter(|entry| !is_late(entry)).map(|entry| entry.nid).collect())
}

/// The state at the end; without members, if they are loaded lazily.
fn whole(view: &View<'_>, query: &Query<'_>) -> Result<BTreeMap<StateKeyNid, Entry>> {
    if !query.request.is_lazy() {
        let state = view.state(query.root)?;
        return Ok(state.into_iter().map(|(key, event)| (key, Entry::unchanged(Some(event)))).collect());
    }
    let others = without_members(view, query.root)?;
    Ok(others.into_iter().map(|(key, event)| (key, Entry::unchanged(Some(event)))).collect())
}

/// A state but for its member events, which may be very many.
pub fn without_members(view: &View<'_>, root: StateRoot) -> Result<Vec<(StateKeyNid, EventNid)>> {
    let tries = view.tries();
    let mut state = Vec::new();
    for key in keys_without_members(view) {
        let key = key?;
        state.extend(tries.get(root, key)?.map(|event| (key, event)));
    }
    Ok(state)
}

/// All state keys of a room but those of members.
fn keys_without_members(view: &View<'_>) -> impl Iterator<Item = Result<StateKeyNid>> {
    let members = (view.nid, MEMBER);
    let others = [Scan::before::<StateKeys>(&members, &view.nid), Scan::after::<StateKeys>(&members, &view.nid)];
    others.into_iter().flat_map(|scan| view.snapshot.scan::<StateKeys>(scan)).map(|row| Ok(row?.value))
}

/// Adds the member events without which a client can't show the timeline.
fn need_members(view: &View<'_>, query: &Query<'_>, entries: &mut BTreeMap<StateKeyNid, Entry>) -> Result<()> {
    let tries = view.tries();
    let is_after = query.request.state_form.is_after();
    let senders = query.timeline.events.iter().map(|entry| &*entry.event.sender);
    let users: HashSet<&UserId> = senders.chain(query.needed.iter().map(|user| &**user)).collect();
    for user in users {
        let Some(key) = view.state_key_nid(MEMBER, user.as_str())? else { continue };
        let entry = match entries.entry(key) {
            btree_map::Entry::Occupied(entry) => entry.into_mut(),
            btree_map::Entry::Vacant(entry) => {
                let event = tries.get(query.root, key)?;
                if query.has(key, event) {
                    continue;
                }
                entry.insert(Entry::unchanged(event))
            }
        };
        entry.is_needed = !query.has(key, entry.before(is_after));
    }
    Ok(())
}
