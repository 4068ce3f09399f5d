//! The one door by which events become part of rooms: worked out from a snapshot, written in one batch, told to whoever
//! waits. Nothing else writes events.

use std::sync::Arc;

use ruma::{
    EventId, OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId,
    events::{StateEventType, TimelineEventType},
};

use super::{
    Membership, View, local_event,
    lock::{NextNumbers, Numbers},
    power_levels,
    relations::Relation,
    state::{
        resolve,
        trie::{Difference, MadeNodes, Tries},
    },
    tables::{self, EventPlace, EventTransaction, Origin, Sent, StateChange, StateKeyName, UserRoom},
    view::{Pending, membership_in},
};
use crate::{
    Server,
    error::{Error, Result},
    event::{
        Draft, Pdu, Refusal, StateRoot, StoredEvent, Verified, authorize,
        authorize::Fallible,
        redact,
        stored::{Flags, Placement},
    },
    log,
    store::{self, EventNid, RoomNid, RoomPos, StateKeyNid, StreamPos, Transaction},
};
use tokio::sync::OwnedMutexGuard;

/// What became of an event that was given to its room.
#[derive(Clone, Debug)]
pub struct Appended {
    pub event_id: OwnedEventId,
    pub room: RoomNid,
    pub room_id: OwnedRoomId,
    pub event: EventNid,
    pub pos: StreamPos,
    pub verdict: Verdict,
    /// The members whose membership this event changed in the current state, and what it is now.
    pub memberships: Vec<(OwnedUserId, Membership)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// Allowed where it stands in the graph, but no longer by the current state: kept, not shown.
    SoftFailed(Refusal),
    /// Not allowed where it stands in the graph.
    Rejected(Refusal),
}

/// The transaction id that a device gave to an event, and what it asked for: `send/m.room.message`, `redact/$id`.
#[derive(Clone, Debug)]
pub struct TransactionKey {
    pub device_id: OwnedDeviceId,
    pub scope: String,
    pub txn_id: String,
}

/// What the request of a local user comes to, now that nobody else writes in the room.
#[derive(Debug)]
pub enum Step {
    /// A new event.
    Send(Draft),
    /// Nothing: the room has been as the request wants it since this event.
    Done(OwnedEventId),
}

/// Sends `draft` to a room as a local user and answers when it is durable. The same transaction again gets the same
/// event.
///
/// Errors: `M_FORBIDDEN` where the room's rules do not allow it, `M_BAD_JSON`, `M_TOO_LARGE`.
pub async fn send(
    server: &Arc<Server>,
    room: RoomNid,
    sender: &UserId,
    draft: Draft,
    transaction: Option<TransactionKey>,
) -> Result<OwnedEventId> {
    act(server, room, sender, transaction, |_, _| Ok(Step::Send(draft))).await
}

/// As [`send`], with an event that `decide` works out from the room as it is then: no other event can come between.
/// What it refuses is the answer. It is not asked about a transaction that was done before.
pub async fn act(
    server: &Arc<Server>,
    room: RoomNid,
    sender: &UserId,
    transaction: Option<TransactionKey>,
    decide: impl FnOnce(&Server, &View<'_>) -> Result<Step> + Send + 'static,
) -> Result<OwnedEventId> {
    let (server, sender) = (Arc::clone(server), sender.to_owned());
    // A client that hangs up must not leave the room locked, or an event that nobody is woken for.
    Server::detached(async move {
        let numbers = server.rooms.lock(room).await;
        let known = *numbers;
        let work = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            if let Some(sent) = transaction.as_ref().map(|key| already_sent(&view, &sender, key)).transpose()?.flatten()
            {
                return Ok(Err(sent));
            }
            let draft = match decide(server, &view)? {
                Step::Send(draft) => draft,
                Step::Done(event_id) => return Ok(Err(event_id)),
            };
            let event = local_event::make_next(server, &view, &sender, draft)?;
            let mut plan = Plan::work_out(&view, known.get(&snapshot, room)?, event, server)?;
            plan.check_local()?;
            plan.transaction = transaction.map(|key| (sender, key, server.clock.now_ms()));
            Ok(Ok(plan))
        };
        match server.blocking(work).await? {
            Ok(plan) => Ok(commit(&server, numbers, plan).await?.event_id),
            // That event may have been written a moment ago and not be durable yet.
            Err(event_id) => server.store.commit(move |_| Ok(event_id)).await,
        }
    })
    .await
}

/// Makes a room of `events`, of which the first creates it and each was built on those before it. Durable when it
/// returns. `with_create` is written together with the create event, and if it fails there is no room.
pub async fn found(
    server: &Arc<Server>,
    version: RoomVersionId,
    events: Vec<Verified>,
    with_create: impl FnOnce(&mut Transaction<'_>, RoomNid) -> Result<()> + Send + 'static,
) -> Result<()> {
    let server = Arc::clone(server);
    Server::detached(async move {
        let room = server.rooms.allot();
        let mut numbers = server.rooms.lock(room).await;
        let mut next = NextNumbers { event: EventNid(0), state_key: StateKeyNid(0) };
        let mut with_create = Some(with_create);
        let mut written = Vec::with_capacity(events.len());
        for event in events {
            let version = version.clone();
            let plan = server.blocking(move |server| plan_founding(server, room, version, next, event)).await?;
            next = plan.next;
            let with_create = with_create.take();
            let write = move |tx: &mut Transaction<'_>| {
                if let Some(with_create) = with_create {
                    plan.check_new(tx)?;
                    with_create(tx, room)?;
                }
                Ok::<_, Error>(plan.write(tx)?)
            };
            written.push(server.store.write(write).await?);
        }
        numbers.set(Some(next));
        drop(numbers);
        for event in written {
            server.wakers.event(&server, &event.durable().await?);
        }
        Ok(())
    })
    .await
}

/// The plan of one of the first events of a room; the first of all finds no room yet.
fn plan_founding(
    server: &Server,
    room: RoomNid,
    version: RoomVersionId,
    numbers: NextNumbers,
    event: Verified,
) -> Result<Plan> {
    let snapshot = server.store.snapshot();
    let view = if numbers.event == EventNid(0) {
        let room_id = event.pdu().room_id.clone();
        let empty = tables::Room { room_id, version, current_state: StateRoot::EMPTY, joined: 0, invited: 0 };
        View::new(&server.rooms, &snapshot, room, empty)?
    } else {
        View::of(&server.rooms, &snapshot, room)?
    };
    let plan = Plan::work_out(&view, numbers, event, server)?;
    plan.check_local()?;
    Ok(plan)
}

/// Makes an event of whatever origin part of a room that we know. `Rejected` and `SoftFailed` are answers, not errors.
///
/// The events before it and its auth events must be known already; it is refused otherwise.
pub async fn append(server: &Arc<Server>, room: RoomNid, event: Verified) -> Result<Appended> {
    let server = Arc::clone(server);
    Server::detached(async move {
        let numbers = server.rooms.lock(room).await;
        let known = *numbers;
        let work = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            if view.event_nid(&event.pdu().event_id)?.is_some() {
                return Err(Error::internal(format!("{} is known already", event.pdu().event_id)));
            }
            Plan::work_out(&view, known.get(&snapshot, room)?, event, server)
        };
        let plan = server.blocking(work).await?;
        commit(&server, numbers, plan).await
    })
    .await
}

/// Writes a plan, lets the room's next writer go on, and tells whoever waits when the event is durable.
async fn commit(server: &Server, mut numbers: OwnedMutexGuard<Numbers>, plan: Plan) -> Result<Appended> {
    numbers.set(None); // until the write has succeeded nobody knows
    let next = plan.next;
    let redacted = plan.redacted.as_ref().map(|redacted| redacted.event);
    let written = server.store.write(move |tx| plan.write(tx)).await?;
    numbers.set(Some(next));
    if let Some(target) = redacted {
        server.rooms.forget_pdu(written.value.room, target);
    }
    drop(numbers); // the next event can be planned while the disk is busy with this one
    let appended = written.durable().await?;
    server.wakers.event(server, &appended);
    Ok(appended)
}

fn already_sent(view: &View<'_>, sender: &UserId, key: &TransactionKey) -> Result<Option<OwnedEventId>> {
    let row =
        view.snapshot.get::<tables::Transactions>(&(view.nid, sender, &key.device_id, &key.scope, &key.txn_id))?;
    Ok(row.map(|sent| view.event_id(sent.event)).transpose()?)
}

/// Everything that an event changes. Made by reading only.
#[derive(Debug)]
pub struct Plan {
    room: RoomNid,
    event: EventNid,
    stored: StoredEvent,
    verdict: Verdict,
    next: NextNumbers,
    /// The room after this event.
    room_row: tables::Room,
    is_new_room: bool,
    auth_edges: Option<tables::Edges>,
    nodes: MadeNodes,
    new_state_key: Option<(StateKeyNid, StateKeyName)>,
    /// How the current state changes.
    changes: Vec<Difference>,
    members: Vec<MemberChange>,
    ends_replaced: Vec<EventNid>,
    relation: Option<Relation>,
    redacted: Option<Redacted>,
    transaction: Option<(OwnedUserId, TransactionKey, u64)>,
}

/// The event that another one redacts.
#[derive(Debug)]
struct Redacted {
    event: EventNid,
    /// As it is from now on.
    stored: StoredEvent,
    /// What it related to.
    relation: Option<Relation>,
}

/// A change of one user's membership in the current state.
#[derive(Clone, Debug)]
struct MemberChange {
    user_id: OwnedUserId,
    origin: Origin,
    old: Option<Membership>,
    new: Option<(Membership, EventNid)>,
}

impl Plan {
    /// Checks the event against its auth events, the state before it and the current state, and works out what follows.
    fn work_out(view: &View<'_>, numbers: NextNumbers, event: Verified, server: &Server) -> Result<Self> {
        let nid = numbers.event;
        let pdu = event.pdu();
        let mut tries = view.tries();
        let prev_events = known(view, &pdu.prev_events, "previous")?;
        let before = resolve(view, &mut tries, &states_after(view, &prev_events)?)?;
        let verdict = judge(view, &tries, pdu, before)?;
        let is_rejected = matches!(verdict, Verdict::Rejected(_));
        let is_accepted = verdict == Verdict::Accepted;

        let pending = pending(view, pdu, numbers, is_rejected)?;
        let (auth_edges, new_state_key) = (pending.auth_edges.clone(), pending.new_key.clone());
        let view = &view.with_pending(pending);
        let state_key = state_key_nid(view, pdu, new_state_key.as_ref())?.filter(|_| !is_rejected);
        let replaces = state_key.map(|key| tries.get(before, key)).transpose()?.flatten();
        let after = state_key.map_or(Ok(before), |key| tries.set(before, key, Some(nid)))?;

        let (ends_replaced, ends_kept): (Vec<_>, Vec<_>) =
            view.forward_extremities()?.into_iter().partition(|end| is_accepted && prev_events.contains(end));
        let current = if is_accepted {
            let states = states_after(view, &ends_kept)?;
            resolve(view, &mut tries, &[states, vec![after]].concat())?
        } else {
            view.current_state()
        };
        let changes = tries.diff(view.current_state(), current)?;
        let members = member_changes(view, server, &changes)?;
        let flags =
            Flags { rejected: is_rejected, soft_failed: matches!(verdict, Verdict::SoftFailed(_)), ..Flags::default() };
        let placement =
            Placement { flags, room_pos: 0, state_after: Some(after), replaces: replaces.map(|replaced| replaced.0) };
        let stored = StoredEvent::new(&event, view.rules, placement);
        let next_state_key = numbers.state_key.0 + u32::from(new_state_key.is_some());
        Ok(Self {
            room: view.nid,
            event: nid,
            relation: is_accepted.then(|| Relation::of(&stored, nid)).flatten(),
            stored,
            next: NextNumbers { event: EventNid(nid.0 + 1), state_key: StateKeyNid(next_state_key) },
            room_row: room_after(view, current, &members),
            is_new_room: nid == EventNid(0),
            auth_edges: pdu.state_key.is_some().then_some(tables::Edges(auth_edges)),
            nodes: tries.into_made(),
            new_state_key,
            changes,
            members,
            ends_replaced,
            redacted: if is_accepted { redacted(view, pdu, nid)? } else { None },
            transaction: None,
            verdict,
        })
    }

    /// What our own user asks for and the room does not allow is refused instead of stored.
    fn check_local(&self) -> Result<()> {
        match &self.verdict {
            Verdict::Accepted => Ok(()),
            Verdict::SoftFailed(Refusal(reason)) | Verdict::Rejected(Refusal(reason)) => {
                Err(Error::forbidden(format!("The rules of the room do not allow this: {reason}")))
            }
        }
    }

    /// No room may take the place of another: a clock that was set back could give two the same id.
    fn check_new(&self, tx: &Transaction<'_>) -> Result<()> {
        match tx.get::<tables::RoomIds>(&&*self.room_row.room_id)? {
            Some(_) => Err(Error::internal(format!("there is a room {} already", self.room_row.room_id))),
            None => Ok(()),
        }
    }

    /// The one list of everything that an event changes.
    fn write(mut self, tx: &mut Transaction<'_>) -> store::Result<Appended> {
        let (room, event, pos) = (self.room, self.event, tx.pos());
        if self.is_new_room {
            tx.put::<tables::RoomIds>(&&*self.room_row.room_id, &room);
        }
        tx.put::<tables::Rooms>(&room, &self.room_row);
        if self.verdict == Verdict::Accepted {
            self.stored.room_pos = RoomPos::from(pos).0;
            tx.put::<tables::Timeline>(&(room, pos.into()), &event);
            log::note(tx, room, event);
            tx.put::<tables::ForwardExtremities>(&(room, event), &());
        }
        tx.put::<tables::Events>(&(room, event), &self.stored);
        tx.put::<tables::EventIds>(&&*self.stored.event_id, &EventPlace { room, event });
        for end in &self.ends_replaced {
            tx.delete::<tables::ForwardExtremities>(&(room, *end));
        }
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
            change.write(tx, room)?;
        }
        if let Some(relation) = &self.relation {
            relation.put(tx, room, pos.into());
        }
        if let Some(Redacted { event, stored, relation }) = &self.redacted {
            tx.put::<tables::Events>(&(room, *event), stored);
            if let Some(relation) = relation {
                relation.delete(tx, room, RoomPos(stored.room_pos))?;
            }
        }
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
        })
    }
}

impl MemberChange {
    fn write(&self, tx: &mut Transaction<'_>, room: RoomNid) -> store::Result<()> {
        let user = &*self.user_id;
        if let Some(old) = self.old {
            tx.delete::<tables::Members>(&(room, old, self.origin, user));
        }
        let Some((membership, event)) = self.new else { return Ok(()) };
        tx.put::<tables::Members>(&(room, membership, self.origin, user), &event);
        if self.origin == Origin::Local {
            let before = tx.get::<tables::UserRooms>(&(user, room))?;
            let since = tx.pos();
            let stays = before.as_ref().is_some_and(|before| before.membership == Membership::Join);
            let joined_at = match (membership, before) {
                (Membership::Join, Some(before)) if stays => before.joined_at,
                (Membership::Join, _) => Some(since),
                (_, before) => before.and_then(|before| before.joined_at),
            };
            let is_forgotten = before.is_some_and(|before| before.is_forgotten)
                && matches!(membership, Membership::Leave | Membership::Ban);
            tx.put::<tables::UserRooms>(&(user, room), &UserRoom { membership, event, since, joined_at, is_forgotten });
        }
        Ok(())
    }
}

/// The numbers of events that must be known already.
fn known(view: &View<'_>, events: &[OwnedEventId], kind: &str) -> Result<Vec<EventNid>> {
    let number = |id: &OwnedEventId| {
        view.event_nid(id)?.ok_or_else(|| Error::internal(format!("the {kind} event {id} is not known")))
    };
    events.iter().map(number).collect()
}

fn states_after(view: &View<'_>, events: &[EventNid]) -> Result<Vec<StateRoot>> {
    let events = view.events(events)?;
    let state = |event: StoredEvent| {
        event.state_after.ok_or_else(|| Error::internal(format!("the state after {} is not known", event.event_id)))
    };
    events.into_iter().map(state).collect()
}

/// <https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu>
fn judge(view: &View<'_>, tries: &Tries<'_>, pdu: &Pdu, before: StateRoot) -> Result<Verdict> {
    let failed = Fallible::default();
    let fetch = |id: &EventId| failed.keep(view.event_nid(id).and_then(|nid| nid.map(|nid| view.pdu(nid)).transpose()));
    let by_auth_events = authorize::check_against_auth_events(view.rules, pdu, fetch);
    if let Err(refusal) = failed.check(by_auth_events)? {
        return Ok(Verdict::Rejected(refusal));
    }
    if let Err(refusal) = check_against(view, tries, pdu, before)? {
        return Ok(Verdict::Rejected(refusal));
    }
    if before != view.current_state()
        && let Err(refusal) = check_against(view, tries, pdu, view.current_state())?
    {
        return Ok(Verdict::SoftFailed(refusal));
    }
    Ok(Verdict::Accepted)
}

fn check_against(view: &View<'_>, tries: &Tries<'_>, pdu: &Pdu, state: StateRoot) -> Result<Result<(), Refusal>> {
    let failed = Fallible::default();
    let fetch = |event_type: &StateEventType, key: &str| failed.keep(view.state_pdu_in(tries, state, event_type, key));
    let verdict = authorize::check_against_state(view.rules, pdu, fetch);
    Ok(failed.check(verdict)?)
}

/// The event as it can be read while it is not stored.
fn pending(view: &View<'_>, pdu: &Pdu, numbers: NextNumbers, is_rejected: bool) -> Result<Pending> {
    let new_key = match &pdu.state_key {
        Some(state_key) if !is_rejected => {
            let event_type = pdu.event_type.to_string();
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

fn state_key_nid(view: &View<'_>, pdu: &Pdu, new: Option<&(StateKeyNid, StateKeyName)>) -> Result<Option<StateKeyNid>> {
    match (&pdu.state_key, new) {
        (None, _) => Ok(None),
        (Some(_), Some((new, _))) => Ok(Some(*new)),
        (Some(state_key), None) => Ok(view.state_key_nid(&pdu.event_type.to_string(), state_key)?),
    }
}

/// The membership changes among `changes` of the current state.
fn member_changes(view: &View<'_>, server: &Server, changes: &[Difference]) -> Result<Vec<MemberChange>> {
    let membership = |event: Option<EventNid>| -> Result<Option<(Membership, EventNid)>> {
        let Some(event) = event else { return Ok(None) };
        Ok(membership_in(view.pdu(event)?.content.get()).map(|membership| (membership, event)))
    };
    let mut members = Vec::new();
    for &(key, old, new) in changes {
        let name = view.state_key_name(key)?;
        if name.event_type != "m.room.member" {
            continue;
        }
        // The rules let no member event into a state whose key is not a user id.
        let Ok(user_id) = OwnedUserId::try_from(name.state_key) else { continue };
        let origin = if server.is_ours(&user_id) { Origin::Local } else { Origin::Remote };
        let old = membership(old)?.map(|(old, _)| old);
        members.push(MemberChange { user_id, origin, old, new: membership(new)? });
    }
    Ok(members)
}

fn room_after(view: &View<'_>, current_state: StateRoot, members: &[MemberChange]) -> tables::Room {
    let counted = |before: u64, counts: Membership| {
        let gone = members.iter().filter(|change| change.old == Some(counts)).count() as u64;
        let come = members.iter().filter(|change| change.new.is_some_and(|(new, _)| new == counts)).count() as u64;
        (before + come).saturating_sub(gone)
    };
    tables::Room {
        current_state,
        joined: counted(view.room.joined, Membership::Join),
        invited: counted(view.room.invited, Membership::Invite),
        ..view.room.clone()
    }
}

/// The event that a redaction removes the content of, if its sender may do that.
///
/// <https://spec.matrix.org/v1.19/rooms/v3/#handling-redactions>
fn redacted(view: &View<'_>, redaction: &Pdu, nid: EventNid) -> Result<Option<Redacted>> {
    let Some(target_id) =
        redaction.redacts.as_ref().filter(|_| redaction.event_type == TimelineEventType::RoomRedaction)
    else {
        return Ok(None);
    };
    let Some(target_nid) = view.event_nid(target_id)? else { return Ok(None) };
    let target = view.event(target_nid)?;
    if target.flags.redacted {
        return Ok(None);
    }
    let is_same_server = redaction.sender.server_name() == target.sender.server_name();
    if !is_same_server && !power_levels(view)?.user_can_redact_event_of_other(&redaction.sender) {
        return Ok(None);
    }
    let stored = redact::redact_stored(&target.view(), view.room_id(), view.rules, nid.0);
    let stored = stored.map_err(|e| Error::internal(e.to_string()))?;
    Ok(Some(Redacted { event: target_nid, stored, relation: Relation::of(&target, target_nid) }))
}
