//! The one door by which events become part of rooms: worked out from a snapshot, written in one batch, told to whoever
//! waits. Nothing else gives an event a place, but `founding` to those with which a room begins; `outliers` and `invited`
//! keep those that have none, under the same lock.

use std::sync::{Arc, atomic::Ordering};

use ruma::{OwnedDeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, UserId, room_version_rules::RoomVersionRules};
use tokio::sync::OwnedMutexGuard;
use tracing::warn;

pub use super::plan::{Incoming, Place};
use super::{
    Membership, View, local_event,
    lock::Numbers,
    plan::{Late, Plan},
    policy_server::PolicyServer,
    retention, server_notices,
    state::reset::Reset,
    tables,
};
use crate::{
    Server,
    error::{Error, Result},
    event::{Draft, Flags, Pdu, Refusal, Verified},
    federation::policy_server,
    store::{EventNid, RoomNid, StreamPos, Transaction, Written},
    user::moderation,
};

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
    pub resets: Vec<Reset>,
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
        let local = Local { room, sender, transaction };
        let work = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            if let Some(sent) = local.already_sent(&view)? {
                return Ok((Worked::Done(sent), local));
            }
            let draft = match decide(server, &view)? {
                Step::Send(draft) => draft,
                Step::Done(event_id) => return Ok((Worked::Done(event_id), local)),
            };
            moderation::check_draft(&view, &local.sender, &draft)?;
            server_notices::check_draft(&view, &local.sender, &draft)?;
            retention::check_draft(&draft)?;
            let event = local_event::make_next(server, &view, &local.sender, draft)?;
            Ok((local.work_out(server, &view, known, event)?, local))
        };
        match server.blocking(work).await? {
            (Worked::Planned(plan), _) => Ok(commit(&server, numbers, *plan).await?.event_id),
            (Worked::Done(event_id), _) => when_durable(&server, event_id).await,
            (Worked::Unsigned(event, asked, rules), local) => {
                drop(numbers); // others can write in the room while its policy server thinks
                let signed = policy_server::sign(&server, rules, *event, &asked).await?;
                append_signed(&server, local, signed).await
            }
        }
    })
    .await
}

/// Writes an event of a local user that was worked out before and has got the signature that it lacked.
async fn append_signed(server: &Arc<Server>, local: Local, event: Verified) -> Result<OwnedEventId> {
    let room = local.room;
    let numbers = server.rooms.lock(room).await;
    let known = *numbers;
    let work = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        match local.already_sent(&view)? {
            Some(sent) => Ok(Worked::Done(sent)),
            None => local.work_out(server, &view, known, event),
        }
    };
    match server.blocking(work).await? {
        Worked::Planned(plan) => Ok(commit(server, numbers, *plan).await?.event_id),
        Worked::Done(event_id) => when_durable(server, event_id).await,
        Worked::Unsigned(..) => Err(Error::forbidden("The room got another policy server meanwhile")),
    }
}

/// An event that may have been written a moment ago and not be durable yet.
async fn when_durable(server: &Server, event_id: OwnedEventId) -> Result<OwnedEventId> {
    server.store.commit(move |_| Ok(event_id)).await
}

/// Who sends what to which room.
struct Local {
    room: RoomNid,
    sender: OwnedUserId,
    transaction: Option<TransactionKey>,
}

/// What was worked out of a request.
enum Worked {
    Planned(Box<Plan>),
    Done(OwnedEventId),
    /// The room allows it, if its policy server signs it.
    Unsigned(Box<Verified>, PolicyServer, &'static RoomVersionRules),
}

impl Local {
    fn already_sent(&self, view: &View<'_>) -> Result<Option<OwnedEventId>> {
        let Some(key) = &self.transaction else { return Ok(None) };
        let row = view.snapshot.get::<tables::Transactions>(&(
            view.nid,
            &self.sender,
            &key.device_id,
            &key.scope,
            &key.txn_id,
        ))?;
        Ok(row.map(|sent| view.event_id(sent.event)).transpose()?)
    }

    fn work_out(&self, server: &Server, view: &View<'_>, known: Numbers, event: Verified) -> Result<Worked> {
        let numbers = known.get(view.snapshot, self.room)?;
        let mut plan = Plan::work_out(view, numbers, Incoming::live(event.clone()), server)?;
        if let Some(asked) = plan.lacks_signature_of {
            return Ok(Worked::Unsigned(Box::new(event), asked, view.rules));
        }
        plan.check_local()?;
        let transaction = self.transaction.clone();
        plan.transaction = transaction.map(|key| (self.sender.clone(), key, server.clock.now_ms()));
        Ok(Worked::Planned(Box::new(plan)))
    }
}

/// What the request of a local user comes to, before anything is written.
#[derive(Debug)]
pub enum Prepared {
    /// A new event that the room allows as it is now.
    Event(Box<Verified>),
    Done(OwnedEventId),
}

/// As [`act`], for an event that somebody else must sign before it becomes part of the room: nothing is written, and
/// the room goes on meanwhile.
pub async fn prepare(
    server: &Arc<Server>,
    room: RoomNid,
    sender: &UserId,
    decide: impl FnOnce(&Server, &View<'_>) -> Result<Step> + Send + 'static,
) -> Result<Prepared> {
    let local = Local { room, sender: sender.to_owned(), transaction: None };
    let work = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        let draft = match decide(server, &view)? {
            Step::Send(draft) => draft,
            Step::Done(event_id) => return Ok((Worked::Done(event_id), None)),
        };
        moderation::check_draft(&view, &local.sender, &draft)?;
        let event = local_event::make_next(server, &view, &local.sender, draft)?;
        Ok((local.work_out(server, &view, Numbers::default(), event.clone())?, Some(event)))
    };
    match server.blocking(work).await? {
        (Worked::Done(event_id), _) => Ok(Prepared::Done(event_id)),
        (Worked::Unsigned(event, asked, rules), _) => {
            Ok(Prepared::Event(Box::new(policy_server::sign(server, rules, *event, &asked).await?)))
        }
        (Worked::Planned(_), event) => {
            let event = event.ok_or_else(|| Error::internal("a plan has no event"))?;
            Ok(Prepared::Event(Box::new(event)))
        }
    }
}

/// Makes an event of whatever origin part of a room that we know, and says what became of it. `Rejected` and `SoftFailed`
/// are answers, not errors. What is part of the room already stays as it is: two requests may bring the same at once.
///
/// The events before it and its auth events must be known already; it is refused otherwise.
pub async fn append(server: &Arc<Server>, room: RoomNid, event: Verified) -> Result<(EventNid, Verdict)> {
    let pdu = event.pdu().clone();
    if let Some(appended) = take_in(server, room, vec![Incoming::live(event)]).await?.pop() {
        return Ok((appended.event, appended.verdict));
    }
    let known = server.blocking(move |server| known(server, room, &pdu)).await?;
    server.store.commit(move |_| Ok(known)).await // it may have been written a moment ago and not be durable yet
}

/// What became of an event that is part of the room.
fn known(server: &Server, room: RoomNid, pdu: &Pdu) -> Result<(EventNid, Verdict)> {
    let snapshot = server.store.snapshot();
    let view = View::of(&server.rooms, &snapshot, room)?;
    let event = view.event_nid(&pdu.event_id)?;
    let event = event.ok_or_else(|| Error::internal("an event that came in is not among those that did"))?;
    let stored = view.event(event)?;
    // In room versions 1 and 2 anybody can give an event the id of another.
    if stored.sender != pdu.sender || stored.state_key != pdu.state_key {
        return Err(Error::bad_json(format!("{} is the id of another event", pdu.event_id)));
    }
    let refusal = || Refusal("it was refused before".to_owned());
    let verdict = match stored.flags {
        Flags { rejected: true, .. } => Verdict::Rejected(refusal()),
        Flags { soft_failed: true, .. } => Verdict::SoftFailed(refusal()),
        _ => Verdict::Accepted,
    };
    Ok((event, verdict))
}

/// Makes events of whatever origin part of a room that we know, in the order in which they are to be worked out, each with
/// its place and the states that others told us. What is part of the room already is left out.
pub async fn take_in(server: &Arc<Server>, room: RoomNid, incoming: Vec<Incoming>) -> Result<Vec<Appended>> {
    let server = Arc::clone(server);
    Server::detached(async move {
        let mut numbers = server.rooms.lock(room).await;
        let mut written = Vec::with_capacity(incoming.len());
        let mut failed = None;
        for incoming in incoming {
            match write_one(&server, room, &mut numbers, incoming).await {
                Ok(one) => written.extend(one),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        drop(numbers);
        let mut appended = Vec::with_capacity(written.len());
        for one in written {
            let one = one.durable().await?;
            tell(&server, &one);
            appended.push(one);
        }
        failed.map_or(Ok(appended), Err)
    })
    .await
}

/// Works out and writes one event; `None` if it is part of the room already.
async fn write_one(
    server: &Arc<Server>,
    room: RoomNid,
    numbers: &mut OwnedMutexGuard<Numbers>,
    incoming: Incoming,
) -> Result<Option<Written<Appended>>> {
    let known = **numbers;
    let work = move |server: &Server| {
        let snapshot = server.store.snapshot();
        let view = View::of(&server.rooms, &snapshot, room)?;
        let event = view.event_by_id(&incoming.event.pdu().event_id)?;
        if event.is_some_and(|event| !event.flags.outlier) {
            return Ok(None);
        }
        Plan::work_out(&view, known.get(&snapshot, room)?, incoming, server).map(Some)
    };
    match server.blocking(work).await? {
        Some(plan) => write(server, numbers, plan).await.map(Some),
        None => Ok(None),
    }
}

/// Writes a plan, lets the room's next writer go on, and tells whoever waits when the event is durable.
async fn commit(server: &Server, mut numbers: OwnedMutexGuard<Numbers>, plan: Plan) -> Result<Appended> {
    let written = write(server, &mut numbers, plan).await?;
    drop(numbers); // the next event can be planned while the disk is busy with this one
    let appended = written.durable().await?;
    tell(server, &appended);
    Ok(appended)
}

/// Wakes whoever waits for an event that is durable now, and the administrator if the room went astray.
pub(super) fn tell(server: &Server, appended: &Appended) {
    server.wakers.event(server, appended);
    if !appended.memberships.is_empty() {
        server.sticky.note(appended.room);
    }
    for Reset { event_type, state_key, lost } in &appended.resets {
        let (room_id, event_id) = (&appended.room_id, &appended.event_id);
        warn!(
            %room_id, %event_id, %event_type, state_key, %lost,
            "the state of a room fell back behind an event: a fork that conflicts was settled, or this is a state reset, \
             which only an upgrade to room version 12 or later prevents"
        );
        server.metrics.state_resets.fetch_add(1, Ordering::Relaxed);
    }
}

/// Gives a soft-failed event its place if it is sticky and the room now allows it.
///
/// <https://github.com/matrix-org/matrix-spec-proposals/pull/4354>
pub(super) async fn accept_late(server: &Arc<Server>, room: RoomNid, event: EventNid) -> Result<()> {
    let server = Arc::clone(server);
    Server::detached(async move {
        let numbers = server.rooms.lock(room).await;
        let work = move |server: &Server| {
            let snapshot = server.store.snapshot();
            Late::work_out(&View::of(&server.rooms, &snapshot, room)?, event, server.clock.now_ms())
        };
        let Some(late) = server.blocking(work).await? else { return Ok(()) };
        let write = move |tx: &mut Transaction<'_>| {
            late.write(tx, room);
            Ok::<_, Error>(())
        };
        let written = server.store.write(write).await?;
        drop(numbers);
        written.durable().await?;
        server.wakers.room(&server, room);
        Ok(())
    })
    .await
}

async fn write(server: &Server, numbers: &mut OwnedMutexGuard<Numbers>, plan: Plan) -> Result<Written<Appended>> {
    numbers.set(None); // until the write has succeeded nobody knows
    let (next, changed) = (plan.next, plan.changed_events());
    let members = if plan.members.is_empty() { None } else { server.local_members.before(server, plan.room) };
    let written = server.store.write(move |tx| plan.write(tx)).await?;
    numbers.set(Some(next));
    if let Some(members) = members {
        server.local_members.change(server, members, &written.value);
    }
    for event in changed {
        server.rooms.forget_pdu(written.value.room, event, written.value.pos);
    }
    Ok(written)
}
