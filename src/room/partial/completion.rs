//! A room's state becomes whole: what came in meanwhile is judged and worked out anew, event by event, then the room.
//!
//! Each event is written for itself, in the order in which they came. A crash in between leaves the room partial, and all
//! of it is done once more.

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedEventId, OwnedServerName, OwnedUserId, events::TimelineEventType};
use tracing::info;

use super::{
    Partial, PartialEvent, clear,
    tables::{Completions, Introductions, PartialDevices, PartialEvents},
};
use crate::{
    Server,
    error::{Error, Result},
    event::{Refusal, StateRoot, StoredEvent},
    federation::{introducing, queue},
    room::{
        Membership, View,
        by_time::EventTimes,
        gaps::Gaps,
        member_change::{MemberChange, member_changes},
        plan::{
            Previous, check_against, check_against_auth_events, given_state, room_after, state_key_nid, states_after,
            write_effect, write_place,
        },
        redaction::{self, Effect},
        relations::Relation,
        search::index::Words,
        servers,
        state::{
            resolve,
            trie::{Difference, MadeNodes},
        },
        sticky,
        tables::{Events, Room, Rooms, StateChange, StateChanges, Timeline},
        view::membership_in,
    },
    store::{self, EventNid, RoomNid, RoomPos, Scan, Snapshot, StreamPos, Transaction},
    user::keys,
};

/// What is to be asked for of one event: its place among [`PartialEvents`], and the previous events whose state lacks
/// members.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub place: StreamPos,
    pub after: Vec<OwnedEventId>,
}

/// What must be asked for before the room can be completed.
pub fn wanted(snapshot: &Snapshot<'_>, room: RoomNid) -> store::Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    for row in snapshot.list::<PartialEvents>(&room) {
        let row = row?;
        let place = row.key()?.1;
        if !row.value.wanted.is_empty() {
            wanted.push(Wanted { place, after: row.value.wanted });
        }
    }
    Ok(wanted)
}

/// Keeps the states that another server told for one event, each the ids of its events, which are all known.
///
/// Errors: `M_FORBIDDEN` if that can't be the state there: it has no create event, or does not allow the event by which we
/// came in.
pub async fn keep_state(
    server: &Arc<Server>,
    room: RoomNid,
    place: StreamPos,
    told: Vec<Vec<OwnedEventId>>,
) -> Result<()> {
    let work = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        let Some(row) = snapshot.get::<PartialEvents>(&(room, place))? else { return Ok(None) };
        let mut tries = view.tries();
        let mut states = Vec::with_capacity(told.len());
        for ids in &told {
            states.push(given_state(&view, &mut tries, ids)?);
        }
        let state = resolve(&view, &mut tries, &states)?;
        let create = view.state_key_nid("m.room.create", "")?;
        let ours = create.map(|key| tries.get(view.current_state(), key)).transpose()?.flatten();
        if ours.is_none() || create.map(|key| tries.get(state, key)).transpose()?.flatten() != ours {
            return Err(Error::forbidden("That is not the state of this room"));
        }
        if let Err(Refusal(reason)) = check_against(&view, &tries, &*view.pdu(row.event)?, state)? {
            return Err(Error::forbidden(format!("That state does not allow the event after it: {reason}")));
        }
        let row = PartialEvent { given: Some(state), wanted: Vec::new(), ..row };
        Ok(Some((row, tries.into_made())))
    };
    let Some((row, nodes)) = server.blocking(work).await? else { return Ok(()) };
    let write = move |tx: &mut Transaction<'_>| {
        if tx.before().contains::<PartialEvents>(&(room, place))? {
            nodes.write(tx, room);
            tx.put::<PartialEvents>(&(room, place), &row);
        }
        Ok::<_, Error>(())
    };
    server.store.commit(write).await
}

/// Completes a room for which nothing is wanted any more; `false` if something is.
pub async fn complete(server: &Arc<Server>, room: RoomNid) -> Result<bool> {
    let server = Arc::clone(server);
    Server::detached(async move {
        let numbers = server.rooms.lock(room).await;
        let read = move |snapshot: &Snapshot<'_>| {
            let rows = snapshot.list::<PartialEvents>(&room).map(|row| {
                let row = row?;
                Ok((row.key()?.1, row.value))
            });
            Ok(rows.collect::<store::Result<Vec<_>>>()?)
        };
        let rows = server.read(read).await?;
        if rows.iter().any(|(_, row)| !row.wanted.is_empty()) {
            return Ok(false);
        }
        let count = rows.len();
        for (_, row) in &rows {
            let again = again(&server, room, row.clone()).await?;
            if let Some(again) = again {
                let changed = again.changed();
                let at = server.store.write(move |tx| again.write(tx, room)).await?.value;
                changed.into_iter().for_each(|event| server.rooms.forget_pdu(room, event, at));
            }
        }
        let work = move |server: &Server| {
            let snapshot = server.store.snapshot();
            Whole::work_out(server, &View::of(&server.rooms, &snapshot, room)?, &rows)
        };
        let Some(whole) = server.blocking(work).await? else { return Ok(true) };
        let (room_id, joined) = (whole.room_row.room_id.clone(), whole.room_row.joined);
        let members: Vec<OwnedUserId> = whole
            .members
            .iter()
            .filter(|change| server.is_ours(&change.user_id))
            .map(|change| change.user_id.clone())
            .collect();
        let now_ms = server.clock.now_ms();
        let written = server.store.write(move |tx| whole.write(tx, room, now_ms)).await?;
        drop(numbers);
        let Completed { told, changed } = written.durable().await?;
        info!(%room_id, joined, events = count, "the state of a room is whole");
        server.sticky.note(room);
        server.partial.tell();
        server.wakers.room(&server, room);
        members.iter().for_each(|user| server.wakers.user(&server, user));
        changed.iter().for_each(|user| keys::announce(&server, user));
        told.into_iter().for_each(|destination| queue::wake(&server, destination));
        introducing::start(&server, room);
        Ok(true)
    })
    .await
}

async fn again(server: &Arc<Server>, room: RoomNid, row: PartialEvent) -> Result<Option<Again>> {
    let work = move |server: &Server| {
        let snapshot = server.store.snapshot();
        Again::work_out(&View::of(&server.rooms, &snapshot, room)?, row)
    };
    server.blocking(work).await
}

/// One event that is worked out anew.
struct Again {
    event: EventNid,
    before: StoredEvent,
    after: StoredEvent,
    nodes: MadeNodes,
    effect: Effect,
    /// Events before it are missing.
    has_gap: bool,
    /// The next event of the timeline.
    next: Option<RoomPos>,
}

impl Again {
    /// `None` if nothing changes.
    fn work_out(view: &View<'_>, row: PartialEvent) -> Result<Option<Self>> {
        let (event, pdu) = (row.event, view.pdu(row.event)?);
        let stored = view.event(event)?;
        let mut tries = view.tries();
        let mut states: Vec<StateRoot> = row.given.into_iter().collect();
        states.extend(states_after(view, &row.follows)?);
        let state = resolve(view, &mut tries, &states)?;
        let verdict = match check_against_auth_events(view, &pdu)? {
            Ok(()) => check_against(view, &tries, &pdu, state)?,
            refused => refused,
        };
        let is_rejected = verdict.is_err();
        let key = state_key_nid(view, &pdu, None)?.filter(|_| !is_rejected);
        let replaces = key.map(|key| tries.get(state, key)).transpose()?.flatten();
        let replaces = replaces.filter(|replaced| *replaced != event).map(|replaced| replaced.0);
        let state_after = key.map_or(Ok(state), |key| tries.set(state, key, Some(event)))?;
        let mut after = StoredEvent { replaces, state_after: Some(state_after), ..stored.clone() };
        after.flags.rejected = is_rejected;
        let is_shown = !is_rejected && !after.flags.soft_failed;
        let was_shown = stored.room_pos != 0;
        after.room_pos = match (is_shown, was_shown) {
            (true, true) => stored.room_pos,
            (true, false) => row.place,
            (false, _) => 0,
        };
        if after == stored {
            return Ok(None);
        }
        let is_new = is_shown && !was_shown;
        let effect = if is_new { redaction::effect(view, &tries, state, &pdu, event)? } else { Effect::Nothing };
        let next = Scan::from::<Timeline>(&(view.nid, RoomPos(stored.room_pos.saturating_add(1))), &view.nid);
        let next = view.snapshot.scan::<Timeline>(next).next().transpose()?;
        let next = next.map(|row| row.key().map(|key| key.1)).transpose()?;
        let has_gap = pdu.prev_events.len() > row.follows.len();
        Ok(Some(Self { event, before: stored, after, nodes: tries.into_made(), effect, has_gap, next }))
    }

    /// The events whose parsed form is no longer what is kept of them.
    fn changed(&self) -> Vec<EventNid> {
        let redacted = match &self.effect {
            Effect::Redacts(redacted) => Some(redacted.event),
            Effect::Nothing | Effect::Waits => None,
        };
        redacted.into_iter().chain([self.event]).collect()
    }

    fn write(self, tx: &mut Transaction<'_>, room: RoomNid) -> Result<StreamPos> {
        let Self { event, before, after, nodes, effect, has_gap, next } = self;
        nodes.write(tx, room);
        tx.put::<Events>(&(room, event), &after);
        let (relation, words) = (Relation::of(&after, event), Words::of(&after, event));
        match (before.room_pos != 0, after.room_pos != 0) {
            (false, true) => {
                write_place(tx, room, event, &after, relation.as_ref(), words.as_ref());
                write_effect(tx, room, event, &after, &effect)?;
                if has_gap {
                    tx.put::<Gaps>(&(room, RoomPos(after.room_pos)), &());
                }
            }
            (true, false) => {
                let place = RoomPos(before.room_pos);
                tx.delete::<Timeline>(&(room, place));
                tx.delete::<EventTimes>(&(room, after.origin_server_ts, event));
                sticky::forget(tx, room, event)?;
                if let Some(relation) = relation {
                    relation.delete(tx, room, place)?;
                }
                if let Some(words) = words {
                    words.delete(tx, room, place);
                }
                if tx.before().contains::<Gaps>(&(room, place))? {
                    tx.delete::<Gaps>(&(room, place));
                    next.into_iter().for_each(|next| tx.put::<Gaps>(&(room, next), &()));
                }
            }
            _ => {}
        }
        Ok(tx.pos())
    }
}

/// The room with all of its state.
struct Whole {
    room_row: Room,
    nodes: MadeNodes,
    changes: Vec<Difference>,
    members: Vec<MemberChange>,
    /// When this server came in.
    since: Option<StreamPos>,
    /// Our members, and the servers that may have been told too little of their devices.
    ours: Vec<OwnedUserId>,
    unheard: Vec<OwnedServerName>,
    /// Users who are there and whose devices changed meanwhile.
    changed_devices: Vec<OwnedUserId>,
}

/// Whom to tell that a room is complete.
struct Completed {
    told: Vec<OwnedServerName>,
    changed: Vec<OwnedUserId>,
}

impl Whole {
    /// `None` if the room is whole already.
    fn work_out(server: &Server, view: &View<'_>, rows: &[(StreamPos, PartialEvent)]) -> Result<Option<Self>> {
        let Some(partial) = super::of(view.snapshot, view.nid)? else { return Ok(None) };
        let mut tries = view.tries();
        let ends = ends(view, &partial, rows)?;
        let states = states_after(view, &ends)?;
        let current = resolve(view, &mut tries, &states)?;
        let changes = tries.diff(view.current_state(), current)?;
        let members = member_changes(view, server, &changes)?;
        let mut ours = view.local_members()?;
        for change in members.iter().filter(|change| server.is_ours(&change.user_id)) {
            ours.retain(|user| *user != change.user_id);
            ours.extend(joined(change).then(|| change.user_id.clone()));
        }
        let come: BTreeSet<_> =
            members.iter().filter(|change| joined(change)).map(|change| change.user_id.clone()).collect();
        let gone: BTreeSet<_> =
            members.iter().filter(|change| !joined(change)).map(|change| change.user_id.clone()).collect();
        let mut changed_devices = Vec::new();
        for row in view.snapshot.list::<PartialDevices>(&view.nid) {
            let row = row?;
            let user = row.key()?.1;
            let is_there = servers::is_joined(server, view.snapshot, view.nid, user)?;
            if come.contains(user) || is_there && !gone.contains(user) {
                changed_devices.push(user.to_owned());
            }
        }
        Ok(Some(Self {
            unheard: unheard(server, view, &partial, &come, rows)?,
            room_row: room_after(view, ends, current, &members),
            nodes: tries.into_made(),
            changes,
            members,
            since: rows.first().map(|(pos, _)| *pos),
            ours,
            changed_devices,
        }))
    }

    fn write(self, tx: &mut Transaction<'_>, room: RoomNid, now_ms: u64) -> Result<Completed> {
        let pos = tx.pos();
        tx.put::<Rooms>(&room, &self.room_row);
        self.nodes.write(tx, room);
        for &(key, old, new) in &self.changes {
            tx.put::<StateChanges>(&(room, pos, key), &StateChange { old, new });
        }
        for change in &self.members {
            change.write(tx, room, None, false)?;
        }
        servers::note(tx, room, self.members.iter().map(MemberChange::as_noted), self.since)?;
        clear(tx, room)?;
        tx.put::<Completions>(&room, &pos);
        if !self.ours.is_empty() {
            tx.put::<Introductions>(&room, &pos);
        }
        for user in &self.changed_devices {
            keys::changed(tx, user, keys::Changed::Remote)?;
        }
        let told = queue::introduce(tx, &self.ours, &self.unheard, now_ms)?;
        Ok(Completed { told, changed: self.changed_devices })
    }
}

fn joined(change: &MemberChange) -> bool {
    change.new.is_some_and(|(membership, _)| membership == Membership::Join)
}

/// The ends of the graph, as the events that came meanwhile make them.
fn ends(view: &View<'_>, partial: &Partial, rows: &[(StreamPos, PartialEvent)]) -> Result<Vec<EventNid>> {
    let mut ends = view.forward_extremities().to_vec();
    let Some(entry) = rows.iter().position(|(_, row)| view.event_id(row.event).is_ok_and(|id| id == partial.entry))
    else {
        return Err(Error::internal(format!("{} has no place in its room", partial.entry)));
    };
    for (at, (pos, row)) in rows.iter().enumerate().skip(entry) {
        let stored = view.event(row.event)?;
        let is_live = row.place == RoomPos::from(*pos).0;
        if stored.room_pos == 0 || !is_live {
            continue;
        }
        if at == entry {
            ends.clear();
        }
        let followed = Previous::find(view, &*view.pdu(row.event)?)?.accepted(view)?;
        ends.retain(|end| !followed.contains(end) && *end != row.event);
        ends.push(row.event);
    }
    Ok(ends)
}

/// The servers that were in the room since we are there and of which we did not know that all the time.
fn unheard(
    server: &Server,
    view: &View<'_>,
    partial: &Partial,
    come: &BTreeSet<OwnedUserId>,
    rows: &[(StreamPos, PartialEvent)],
) -> Result<Vec<OwnedServerName>> {
    let mut unheard: BTreeSet<OwnedServerName> = come.iter().map(|user| user.server_name().to_owned()).collect();
    if let Some(state) = rows.first().and_then(|(_, row)| row.given) {
        for (_, event) in view.state(state)? {
            unheard.extend(server_of_joined(view, event)?);
        }
    }
    for (_, row) in rows {
        if view.event(row.event)?.room_pos != 0 {
            unheard.extend(server_of_joined(view, row.event)?);
        }
    }
    unheard.retain(|name| !partial.has(name) && queue::may_tell(server, name));
    Ok(unheard.into_iter().collect())
}

fn server_of_joined(view: &View<'_>, event: EventNid) -> Result<Option<OwnedServerName>> {
    let pdu = view.pdu(event)?;
    let is_join =
        pdu.event_type == TimelineEventType::RoomMember && membership_in(pdu.content.get()) == Some(Membership::Join);
    let user = pdu.state_key.as_deref().and_then(|user| <&ruma::UserId>::try_from(user).ok());
    Ok(user.filter(|_| is_join).map(|user| user.server_name().to_owned()))
}
