//! What an event changes: worked out by reading only, then written in one transaction.

use std::{collections::BTreeSet, sync::Arc};

use http::StatusCode;
use ruma::{EventId, OwnedEventId, OwnedUserId, api::error::ErrorKind, events::StateEventType};

use super::{
    Membership, View,
    append::{Appended, TransactionKey, Verdict},
    by_time::EventTimes,
    gaps::{self, Gaps, placed},
    lock::NextNumbers,
    member_change::{MemberChange, member_changes},
    outliers,
    partial::{self, PartialEvent, tables::PartialEvents},
    policy_server::{self, PolicyServer},
    redaction::{self, EarlyRedactions, Effect, Redacted},
    relations::Relation,
    relationships::Relationship,
    search::index::Words,
    servers,
    state::{
        reset::{self, Reset},
        resolve,
        trie::{Difference, MadeNodes, Tries},
    },
    sticky::{self, Stickiness},
    tables::{self, EventPlace, EventTransaction, Sent, StateChange, StateKeyName},
    view::Pending,
};
use crate::{
    Server,
    error::{Error, Result},
    event::{
        Pdu, Refusal, StateRoot, StoredEvent, Verified, authorize,
        authorize::Fallible,
        stored::{Flags, Placement},
    },
    log,
    store::{self, EventNid, RoomNid, RoomPos, StateKeyNid, Transaction},
};

/// How many events that were not accepted are looked through for the accepted ones before them.
const MAX_UNACCEPTED: usize = 100;

/// An event, and as what it comes in.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub event: Verified,
    pub place: Place,
    /// States after those previous events that we do not have, as other servers told them: the ids of their events, which
    /// we must have all.
    pub given: Vec<Arc<[OwnedEventId]>>,
    /// What was given is without members.
    pub lacks_members: bool,
    /// Parts of what was given could not be had: it is no reason to refuse the event for good.
    pub is_incomplete: bool,
}

/// Where an event gets its place in its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At the end: it is new.
    Live,
    /// At the end, and only what was given counts of what was before: the server comes into the room by this event.
    Entry,
    /// At the end, of a room that we are in: a server that may know more of it let a user of ours in, so that the room
    /// as we know it does not decide alone.
    Admitted,
    /// In the past, at this place of the timeline.
    Past(RoomPos),
}

impl Incoming {
    pub fn live(event: Verified) -> Self {
        Self { event, place: Place::Live, given: Vec::new(), lacks_members: false, is_incomplete: false }
    }
}

/// Everything that an event changes. Made by reading only.
#[derive(Debug)]
pub(super) struct Plan {
    pub room: RoomNid,
    event: EventNid,
    stored: StoredEvent,
    place: Place,
    verdict: Verdict,
    pub next: NextNumbers,
    /// The room after this event.
    room_row: tables::Room,
    is_new_room: bool,
    /// The event was known without a place, and perhaps read.
    was_outlier: bool,
    auth_edges: Option<tables::Edges>,
    nodes: MadeNodes,
    new_state_key: Option<(StateKeyNid, StateKeyName)>,
    /// How the current state changes.
    changes: Vec<Difference>,
    resets: Vec<Reset>,
    pub members: Vec<MemberChange>,
    /// The state with which the server comes in lacks members.
    omits_members: bool,
    /// Events before it are missing.
    has_gap: bool,
    relation: Option<Relation>,
    words: Option<Words>,
    relationship: Option<Relationship>,
    effect: Effect,
    stickiness: Stickiness,
    /// The redactions that waited for this event.
    early_redactions: Vec<EventNid>,
    /// Its number so far, if it was stored before its auth events.
    moved_from: Option<EventNid>,
    /// By what it is worked out anew when the room's state is whole.
    partial: Option<PartialEvent>,
    pub transaction: Option<(OwnedUserId, TransactionKey, u64)>,
    /// What soft-fails the event is nothing but that this server has not signed it.
    pub lacks_signature_of: Option<PolicyServer>,
}

impl Plan {
    /// Checks the event against its auth events, the state before it and the current state, and works out what follows.
    pub fn work_out(view: &View<'_>, numbers: NextNumbers, incoming: Incoming, server: &Server) -> Result<Self> {
        let Incoming { event, place, given, lacks_members, is_incomplete } = incoming;
        let pdu = event.pdu();
        if view.takes_id_away(&pdu.event_id)? {
            return Err(Error::bad_json(format!("{} is the id of an event of another room", pdu.event_id)));
        }
        let (outlier, moved_from) = match outlier(view, &pdu.event_id)? {
            Some((nid, outlier)) if outliers::is_out_of_band(view, nid, &outlier)? => (None, Some(nid)),
            outlier => (outlier, None),
        };
        let nid = outlier.as_ref().map_or(numbers.event, |(nid, _)| *nid);
        let mut tries = view.tries();
        let prev = Previous::find(view, pdu)?;
        let is_partial = partial::is_partial(view.snapshot, view.nid)?;
        if lacks_members && !is_partial {
            let message = "The members of the room became known meanwhile: try again";
            return Err(Error::refused(ErrorKind::Unknown, message));
        }
        let given = given_states(view, &mut tries, &given)?;
        let mut before = prev.state_before(view, &mut tries, place, &given)?;
        let mut partial = None;
        if is_partial {
            partial = Some(prev.as_partial(view, &mut tries, nid, (place, lacks_members), &given, pdu)?);
            before = partial::with_named_members(view, &mut tries, before, pdu)?;
        }
        let judged = match &outlier {
            Some((_, outlier)) if outlier.flags.rejected => {
                Judged::by_auth_events("it was rejected by its auth events before")
            }
            _ => {
                // Who was away may not know the room as it is: what another server told counts as well.
                let is_told = place == Place::Admitted || !given.is_empty();
                judge(view, &mut tries, pdu, before, (place, is_told), is_partial)?
            }
        };
        let Judged { verdict, is_final } = judged;
        if let (Verdict::Rejected(Refusal(reason)), false, true) = (&verdict, is_final, is_incomplete) {
            let message = format!("As much as could be had of the state before the event does not allow it: {reason}");
            return Err(Error::not_found(message));
        }
        let lacks_signature_of = match (&verdict, place) {
            (Verdict::Accepted, Place::Live) => policy_server::lacking(view, &event)?,
            _ => None,
        };
        let verdict = match &lacks_signature_of {
            Some(PolicyServer { via, .. }) => {
                Verdict::SoftFailed(Refusal(format!("the room's policy server {via} has not signed it")))
            }
            None => verdict,
        };
        let is_rejected = matches!(verdict, Verdict::Rejected(_));
        let is_accepted = verdict == Verdict::Accepted;
        // One that may be accepted later has all that takes.
        let is_rejected_for_good = is_rejected && (is_final || !is_partial);
        let is_at_the_end = is_accepted && !matches!(place, Place::Past(_));

        let mut pending = pending(view, pdu, numbers, is_rejected_for_good)?;
        pending.nid = nid;
        let (auth_edges, new_state_key) = (pending.auth_edges.clone(), pending.new_key.clone());
        let unplaced = view;
        let view = &view.with_pending(pending);
        let state_key = state_key_nid(view, pdu, new_state_key.as_ref())?.filter(|_| !is_rejected);
        let replaces = state_key.map(|key| tries.get(before, key)).transpose()?.flatten();
        let replaces = replaces.filter(|replaced| *replaced != nid);
        let after = state_key.map_or(Ok(before), |key| tries.set(before, key, Some(nid)))?;

        let mut ends = view.forward_extremities().to_vec();
        match place {
            Place::Entry if is_accepted => ends.clear(),
            Place::Live | Place::Admitted if is_accepted => {
                let followed = prev.accepted(view)?;
                ends.retain(|end| !followed.contains(end));
            }
            _ => {}
        }
        let current = if is_at_the_end {
            let states = [states_after(view, &ends)?, vec![after]].concat();
            ends.retain(|end| *end != nid);
            ends.push(nid);
            current_state(view, &mut tries, &states)?
        } else {
            view.current_state()
        };
        let changes = tries.diff(view.current_state(), current)?;
        let resets = if place == Place::Entry { Vec::new() } else { reset::among(view, &changes, nid)? };
        let members = member_changes(view, server, &changes)?;
        let flags =
            Flags { rejected: is_rejected, soft_failed: matches!(verdict, Verdict::SoftFailed(_)), ..Flags::default() };
        let placement =
            Placement { flags, room_pos: 0, state_after: Some(after), replaces: replaces.map(|replaced| replaced.0) };
        let effect = if is_accepted { redaction::effect(view, &tries, before, pdu, nid)? } else { Effect::Nothing };
        let (is_new, stored) = match outlier {
            Some((_, outlier)) => (false, placed_outlier(outlier, placement)),
            None => (true, StoredEvent::new(&event, view.rules, placement)),
        };
        let early_redactions = redaction::early(unplaced, &pdu.event_id)?;
        let stored = if early_redactions.is_empty() { stored } else { redaction::apply_early(unplaced, stored)? };
        // What the room's policy server does not sign is nothing that everybody is to get.
        let stickiness = if is_rejected || lacks_signature_of.is_some() {
            Stickiness::None
        } else {
            Stickiness::of(unplaced, &stored, server.clock.now_ms())?
        };
        let next_state_key = numbers.state_key.0 + u32::from(new_state_key.is_some());
        let next_event = numbers.event.0 + u32::from(is_new);
        Ok(Self {
            room: view.nid,
            event: nid,
            place,
            relation: is_accepted.then(|| Relation::of(&stored, nid)).flatten(),
            words: is_accepted.then(|| Words::of(&stored, nid)).flatten(),
            relationship: is_accepted.then(|| Relationship::of(&stored, nid)).flatten(),
            stored,
            next: NextNumbers { event: EventNid(next_event), state_key: StateKeyNid(next_state_key) },
            room_row: room_after(view, ends, current, &members),
            is_new_room: nid == EventNid(0) && is_new,
            was_outlier: !is_new,
            auth_edges: pdu.state_key.is_some().then_some(tables::Edges(auth_edges)),
            nodes: tries.into_made(),
            new_state_key,
            changes,
            resets,
            members,
            omits_members: place == Place::Entry && lacks_members,
            has_gap: !prev.unplaced.is_empty(),
            effect,
            stickiness,
            early_redactions,
            moved_from,
            partial,
            transaction: None,
            lacks_signature_of,
            verdict,
        })
    }

    /// What our own user asks for and the room does not allow is refused instead of stored.
    pub fn check_local(&self) -> Result<()> {
        match &self.verdict {
            Verdict::Accepted if self.stickiness == Stickiness::Refused => {
                let error = Error::forbidden("This room has as many sticky events of this server as it may have");
                Err(error.with_status(StatusCode::TOO_MANY_REQUESTS))
            }
            Verdict::Accepted => Ok(()),
            Verdict::SoftFailed(Refusal(reason)) | Verdict::Rejected(Refusal(reason)) => {
                Err(Error::forbidden(format!("The rules of the room do not allow this: {reason}")))
            }
        }
    }

    /// No room may take the place of another: a clock that was set back could give two the same id.
    pub fn check_new(&self, tx: &Transaction<'_>) -> Result<()> {
        match tx.get::<tables::RoomIds>(&&*self.room_row.room_id)? {
            Some(_) => Err(Error::internal(format!("there is a room {} already", self.room_row.room_id))),
            None => Ok(()),
        }
    }

    /// The events whose parsed form is no longer what is kept of them.
    pub fn changed_events(&self) -> Vec<EventNid> {
        let redacted = match &self.effect {
            Effect::Redacts(redacted) => Some(redacted.event),
            Effect::Nothing | Effect::Waits => None,
        };
        redacted.into_iter().chain(self.was_outlier.then_some(self.event)).collect()
    }

    /// The one list of everything that an event changes.
    pub fn write(mut self, tx: &mut Transaction<'_>) -> store::Result<Appended> {
        if self.has_gap && !matches!(self.place, Place::Past(_)) {
            tx.skip(gaps::PLACES);
        }
        let (room, event, pos) = (self.room, self.event, tx.pos());
        if self.is_new_room {
            tx.put::<tables::RoomIds>(&&*self.room_row.room_id, &room);
        }
        tx.put::<tables::Rooms>(&room, &self.room_row);
        if self.verdict == Verdict::Accepted {
            let place = match self.place {
                Place::Live | Place::Entry | Place::Admitted => {
                    log::note(tx, room, event);
                    RoomPos::from(pos)
                }
                Place::Past(pos) => pos,
            };
            self.stored.room_pos = place.0;
            write_place(tx, room, event, &self.stored, self.relation.as_ref(), self.words.as_ref());
            if let Some(relationship) = &self.relationship {
                relationship.put(tx, room);
            }
            if self.has_gap {
                tx.put::<Gaps>(&(room, place), &());
            }
        }
        if let Some(partial) = &mut self.partial {
            partial.place = match self.place {
                Place::Past(place) => place.0,
                _ => RoomPos::from(pos).0,
            };
            tx.put::<PartialEvents>(&(room, pos), partial);
        }
        if let Stickiness::Until(ends_ms) = self.stickiness {
            let is_accepted = self.verdict == Verdict::Accepted;
            sticky::put(tx, room, event, self.stored.sender.server_name(), ends_ms, is_accepted);
        }
        if let Some(old) = self.moved_from {
            outliers::move_number(tx, room, old, event, &self.stored)?;
        }
        tx.put::<tables::Events>(&(room, event), &self.stored);
        tx.put::<tables::EventIds>(&&*self.stored.event_id, &EventPlace { room, event });
        if let Some(edges) = &self.auth_edges {
            tx.put::<tables::AuthEdges>(&(room, event), edges);
        }
        if let Some((key, name)) = &self.new_state_key {
            tx.put::<tables::StateKeys>(&(room, &name.event_type, &name.state_key), key);
            tx.put::<tables::StateKeyNames>(&(room, *key), name);
        }
        self.nodes.write(tx, room);
        for &(key, old, new) in &self.changes {
            tx.put::<tables::StateChanges>(&(room, pos, key), &StateChange { old, new });
        }
        for change in &self.members {
            change.write(tx, room, self.moved_from, self.omits_members)?;
        }
        servers::note(tx, room, self.members.iter().map(MemberChange::as_noted), None)?;
        self.write_redactions(tx)?;
        if let Some((sender, TransactionKey { device_id, scope, txn_id }, at_ms)) = self.transaction {
            tx.put::<tables::Transactions>(&(room, &sender, &device_id, &scope, &txn_id), &Sent { event, at_ms });
            tx.put::<tables::EventTransactions>(&(room, event), &EventTransaction { device_id, txn_id });
        }
        let now = |change: MemberChange| (change.user_id, change.new.map_or(Membership::Leave, |(new, _)| new));
        Ok(Appended {
            event_id: self.stored.event_id,
            room,
            room_id: self.room_row.room_id,
            event,
            pos,
            verdict: self.verdict,
            memberships: self.members.into_iter().map(now).collect(),
            resets: self.resets,
        })
    }

    fn write_redactions(&self, tx: &mut Transaction<'_>) -> store::Result<()> {
        let room = self.room;
        for &redaction in &self.early_redactions {
            tx.delete::<EarlyRedactions>(&(room, &self.stored.event_id, redaction));
        }
        write_effect(tx, room, self.event, &self.stored, &self.effect)
    }
}

/// Writes what an accepted event does to others by being a redaction.
pub(super) fn write_effect(
    tx: &mut Transaction<'_>,
    room: RoomNid,
    event: EventNid,
    stored: &StoredEvent,
    effect: &Effect,
) -> store::Result<()> {
    match effect {
        Effect::Nothing => {}
        Effect::Waits => {
            if let Some(target) = &stored.redacts {
                tx.put::<EarlyRedactions>(&(room, target, event), &());
            }
        }
        Effect::Redacts(redacted) => {
            let Redacted { event, stored, relation, words, relationship } = &**redacted;
            tx.put::<tables::Events>(&(room, *event), stored);
            sticky::forget(tx, room, *event)?;
            if let Some(relation) = relation {
                relation.delete(tx, room, RoomPos(stored.room_pos))?;
            }
            if let Some(words) = words {
                words.delete(tx, room, RoomPos(stored.room_pos));
            }
            if let Some(relationship) = relationship {
                relationship.delete(tx, room);
            }
        }
    }
    Ok(())
}

/// Writes what an accepted event has beside itself: its place, and the indexes of what it says.
pub(super) fn write_place(
    tx: &mut Transaction<'_>,
    room: RoomNid,
    event: EventNid,
    stored: &StoredEvent,
    relation: Option<&Relation>,
    words: Option<&Words>,
) {
    let place = RoomPos(stored.room_pos);
    tx.put::<tables::Timeline>(&(room, place), &event);
    tx.put::<EventTimes>(&(room, stored.origin_server_ts, event), &());
    if let Some(relation) = relation {
        relation.put(tx, room, place);
    }
    if let Some(words) = words {
        words.put(tx, room, place);
    }
}

/// A soft-failed event that is sticky, and that the room as it is now allows. It gets a place at the end of the timeline,
/// but is no end of the graph.
#[derive(Debug)]
pub(super) struct Late {
    event: EventNid,
    stored: StoredEvent,
    ends_ms: u64,
}

impl Late {
    /// `None` if it is not allowed now either, or has ended.
    pub fn work_out(view: &View<'_>, event: EventNid, now_ms: u64) -> Result<Option<Self>> {
        let stored = view.event(event)?;
        // A state event would have to become part of the state, where what came since stands on another one; and what a
        // redaction would take away was shown meanwhile.
        if !stored.flags.soft_failed || stored.state_key.is_some() || stored.redacts.is_some() {
            return Ok(None);
        }
        // Nobody knows what that would have said.
        if policy_server::of(view)?.is_some() {
            return Ok(None);
        }
        let Some(ends_ms) = sticky::end_ms(view, event, &stored, now_ms)? else { return Ok(None) };
        let verdict = check_against(view, &view.tries(), &*view.pdu(event)?, view.current_state())?;
        Ok(verdict.is_ok().then_some(Self { event, stored, ends_ms }))
    }

    pub fn write(mut self, tx: &mut Transaction<'_>, room: RoomNid) {
        let event = self.event;
        self.stored.flags.soft_failed = false;
        self.stored.room_pos = RoomPos::from(tx.pos()).0;
        let (relation, words) = (Relation::of(&self.stored, event), Words::of(&self.stored, event));
        if let Some(relationship) = Relationship::of(&self.stored, event) {
            relationship.put(tx, room);
        }
        tx.put::<tables::Events>(&(room, event), &self.stored);
        write_place(tx, room, event, &self.stored, relation.as_ref(), words.as_ref());
        sticky::put(tx, room, event, self.stored.sender.server_name(), self.ends_ms, true);
        log::note(tx, room, event);
    }
}

/// An event that we have and that has no place in the room yet.
fn outlier(view: &View<'_>, id: &EventId) -> Result<Option<(EventNid, StoredEvent)>> {
    let known = gaps::known(view, id)?;
    if known.as_ref().is_some_and(|(_, event)| !event.flags.outlier) {
        return Err(Error::internal(format!("{id} is known already")));
    }
    Ok(known)
}

/// An outlier that gets its place; what a redaction or its age has left of it stays as it is.
fn placed_outlier(outlier: StoredEvent, placement: Placement) -> StoredEvent {
    StoredEvent {
        flags: Flags { redacted: outlier.flags.redacted, purged: outlier.flags.purged, ..placement.flags },
        room_pos: placement.room_pos,
        state_after: placement.state_after,
        replaces: placement.replaces,
        ..outlier
    }
}

/// The previous events of one that comes in.
pub(super) struct Previous {
    /// Those that have a place in the room.
    placed: Vec<(EventNid, StoredEvent)>,
    /// Those that we do not have, or only as outliers.
    unplaced: Vec<OwnedEventId>,
}

impl Previous {
    pub fn find(view: &View<'_>, pdu: &Pdu) -> Result<Self> {
        let mut found = Self { placed: Vec::new(), unplaced: Vec::new() };
        for id in &pdu.prev_events {
            match placed(view, id)? {
                Some(event) => found.placed.push(event),
                None => found.unplaced.push(id.clone()),
            }
        }
        Ok(found)
    }

    fn state_before(
        &self,
        view: &View<'_>,
        tries: &mut Tries<'_>,
        place: Place,
        given: &[StateRoot],
    ) -> Result<StateRoot> {
        if let (Some(missing), []) = (self.unplaced.first(), given) {
            return Err(Error::internal(format!("the state after the previous event {missing} is not known")));
        }
        let mut states = given.to_vec();
        if place != Place::Entry {
            states.extend(self.placed.iter().filter_map(|(_, event)| event.state_after));
        }
        resolve(view, tries, &states)
    }

    /// What is kept of an event, the one numbered `event`, that comes into a room whose state is not whole.
    fn as_partial(
        &self,
        view: &View<'_>,
        tries: &mut Tries<'_>,
        event: EventNid,
        (place, lacks_members): (Place, bool),
        given: &[StateRoot],
        pdu: &Pdu,
    ) -> Result<PartialEvent> {
        let is_entry = place == Place::Entry;
        let follows = if is_entry { Vec::new() } else { self.placed.iter().map(|(nid, _)| *nid).collect() };
        let given = if given.is_empty() { None } else { Some(resolve(view, tries, given)?) };
        let wanted = match (lacks_members, is_entry) {
            (false, _) => Vec::new(),
            (true, true) => pdu.prev_events.clone(),
            (true, false) => self.unplaced.clone(),
        };
        Ok(PartialEvent { event, place: 0, follows, given, wanted })
    }

    /// The accepted events that these come down to. Those that were not accepted are no ends of the graph, so what
    /// follows on them follows on what was before them.
    pub fn accepted(&self, view: &View<'_>) -> Result<BTreeSet<EventNid>> {
        let mut accepted = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open: Vec<EventNid> = self.placed.iter().map(|(nid, _)| *nid).collect();
        while let Some(nid) = open.pop() {
            let flags = view.event(nid)?.flags;
            if !flags.rejected && !flags.soft_failed {
                accepted.insert(nid);
            } else if seen.len() < MAX_UNACCEPTED && seen.insert(nid) {
                for id in &view.pdu(nid)?.prev_events {
                    open.extend(placed(view, id)?.map(|(nid, _)| nid));
                }
            }
        }
        Ok(accepted)
    }
}

fn given_states(view: &View<'_>, tries: &mut Tries<'_>, given: &[Arc<[OwnedEventId]>]) -> Result<Vec<StateRoot>> {
    given.iter().map(|ids| given_state(view, tries, ids)).collect()
}

/// The state of these events. Rejected ones are left out: no state of ours holds one.
///
/// NOTSPEC: one that only the state before it did not allow would count, so that servers that disagree come together.
/// It would be shown as if it was allowed; the next event of its key brings them together, too.
pub(super) fn given_state(view: &View<'_>, tries: &mut Tries<'_>, ids: &[OwnedEventId]) -> Result<StateRoot> {
    let nids = known(view, ids, "state")?;
    let mut entries = std::collections::BTreeMap::new();
    for (nid, event) in std::iter::zip(&nids, view.events(&nids)?) {
        let Some(state_key) = event.state_key.as_deref().filter(|_| !event.flags.rejected) else { continue };
        let key = view.state_key_nid(&event.event_type, state_key)?;
        let key = key.ok_or_else(|| Error::internal(format!("{} has no state key of the room", event.event_id)))?;
        entries.insert(key, *nid);
    }
    Ok(tries.of(&entries)?)
}

/// The numbers of events that must be known already.
fn known(view: &View<'_>, events: &[OwnedEventId], kind: &str) -> Result<Vec<EventNid>> {
    let number = |id: &OwnedEventId| {
        view.event_nid(id)?.ok_or_else(|| Error::internal(format!("the {kind} event {id} is not known")))
    };
    events.iter().map(number).collect()
}

pub(super) fn states_after(view: &View<'_>, events: &[EventNid]) -> Result<Vec<StateRoot>> {
    let events = view.events(events)?;
    let state = |event: StoredEvent| {
        event.state_after.ok_or_else(|| Error::internal(format!("the state after {} is not known", event.event_id)))
    };
    events.into_iter().map(state).collect()
}

/// The current state of a room whose ends have these states.
fn current_state(view: &View<'_>, tries: &mut Tries<'_>, states: &[StateRoot]) -> Result<StateRoot> {
    let distinct: BTreeSet<&StateRoot> = states.iter().collect();
    // In a fork most events leave the states of all branches as they are, and resolving reads much of the room.
    if distinct.len() > 1 && distinct == states_after(view, view.forward_extremities())?.iter().collect() {
        return Ok(view.current_state());
    }
    resolve(view, tries, states)
}

/// What is said of an event, and whether a better known state could say something else.
struct Judged {
    verdict: Verdict,
    is_final: bool,
}

impl Judged {
    fn by_auth_events(reason: &str) -> Self {
        Self { verdict: Verdict::Rejected(Refusal(reason.to_owned())), is_final: true }
    }
}

/// <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>
fn judge(
    view: &View<'_>,
    tries: &mut Tries<'_>,
    pdu: &Pdu,
    before: StateRoot,
    (place, is_told): (Place, bool),
    is_partial: bool,
) -> Result<Judged> {
    if let Err(refusal) = authorize::check_only_create(pdu, create_event(view)?.as_deref()) {
        return Ok(Judged { verdict: Verdict::Rejected(refusal), is_final: true });
    }
    if let Err(refusal) = check_against_auth_events(view, pdu)? {
        return Ok(Judged { verdict: Verdict::Rejected(refusal), is_final: true });
    }
    let verdict = match check_against(view, tries, pdu, before)? {
        Err(refusal) => Verdict::Rejected(refusal),
        // The current state of a room whose members are not all known is no reason to hide an event.
        Ok(()) if is_partial || matches!(place, Place::Entry | Place::Past(_)) || before == view.current_state() => {
            Verdict::Accepted
        }
        Ok(()) => match check_against_current(view, tries, pdu, before, is_told)? {
            Err(refusal) => Verdict::SoftFailed(refusal),
            Ok(()) => Verdict::Accepted,
        },
    };
    Ok(Judged { verdict, is_final: false })
}

/// Whether the current state allows an event that comes at the end of a room that we are in; if `is_told`, that resolved
/// with the state before the event, which another server told.
fn check_against_current(
    view: &View<'_>,
    tries: &mut Tries<'_>,
    pdu: &Pdu,
    before: StateRoot,
    is_told: bool,
) -> Result<Result<(), Refusal>> {
    let allowed = check_against(view, tries, pdu, view.current_state())?;
    if allowed.is_ok() || !is_told {
        return Ok(allowed);
    }
    // What the other server knows and we do not counts, such as an invite or a join; that it leaves out a ban of ours
    // does not.
    let state = resolve(view, tries, &[view.current_state(), before])?;
    check_against(view, tries, pdu, state)
}

/// The id of the event that created the room; `None` while we know no state of it.
pub(super) fn create_event(view: &View<'_>) -> Result<Option<OwnedEventId>> {
    let create = view.state_nid(view.current_state(), &StateEventType::RoomCreate, "")?;
    Ok(create.map(|create| view.event_id(create)).transpose()?)
}

pub(super) fn check_against_auth_events(view: &View<'_>, pdu: &Pdu) -> Result<Result<(), Refusal>> {
    let failed = Fallible::default();
    let fetch = |id: &EventId| failed.keep(view.event_nid(id).and_then(|nid| nid.map(|nid| view.pdu(nid)).transpose()));
    let verdict = authorize::check_against_auth_events(view.rules, pdu, fetch);
    Ok(failed.check(verdict)?)
}

pub(super) fn check_against(
    view: &View<'_>,
    tries: &Tries<'_>,
    pdu: &Pdu,
    state: StateRoot,
) -> Result<Result<(), Refusal>> {
    let failed = Fallible::default();
    let fetch = |event_type: &StateEventType, key: &str| failed.keep(view.state_pdu_in(tries, state, event_type, key));
    let verdict = authorize::check_against_state(view.rules, pdu, fetch);
    Ok(failed.check(verdict)?)
}

/// The event as it can be read while it is not stored.
fn pending(view: &View<'_>, pdu: &Pdu, numbers: NextNumbers, is_rejected: bool) -> Result<Pending> {
    let new_key = match &pdu.state_key {
        Some(state_key) if !is_rejected => {
            let event_type = pdu.r#type.clone();
            let is_known = view.state_key_nid(&event_type, state_key)?.is_some();
            (!is_known).then(|| (numbers.state_key, StateKeyName { event_type, state_key: state_key.clone() }))
        }
        _ => None,
    };
    // A rejected event may name auth events that we do not have.
    let auth_events = if pdu.state_key.is_some() && !is_rejected { pdu.auth_events.as_slice() } else { &[] };
    let auth_edges = known(view, auth_events, "auth")?;
    Ok(Pending { nid: numbers.event, pdu: Arc::new(pdu.clone()), auth_edges, new_key })
}

pub(super) fn state_key_nid(
    view: &View<'_>,
    pdu: &Pdu,
    new: Option<&(StateKeyNid, StateKeyName)>,
) -> Result<Option<StateKeyNid>> {
    match (&pdu.state_key, new) {
        (None, _) => Ok(None),
        (Some(_), Some((new, _))) => Ok(Some(*new)),
        (Some(state_key), None) => Ok(view.state_key_nid(&pdu.r#type, state_key)?),
    }
}

pub(super) fn room_after(
    view: &View<'_>,
    forward_extremities: Vec<EventNid>,
    current_state: StateRoot,
    members: &[MemberChange],
) -> tables::Room {
    let counted = |before: u64, counts: Membership| {
        let gone = members.iter().filter(|change| change.old == Some(counts)).count() as u64;
        let come = members.iter().filter(|change| change.new.is_some_and(|(new, _)| new == counts)).count() as u64;
        (before + come).saturating_sub(gone)
    };
    tables::Room {
        forward_extremities,
        current_state,
        joined: counted(view.room.joined, Membership::Join),
        invited: counted(view.room.invited, Membership::Invite),
        ..view.room.clone()
    }
}
