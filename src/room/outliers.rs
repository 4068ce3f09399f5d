//! Events without a place in their room: those that allow others, and those of states that other servers told us. They
//! are accepted after their own auth events, so that an event's auth events always have lower numbers.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, events::TimelineEventType};

use super::{
    View,
    lock::NextNumbers,
    plan::create_event,
    redaction::{self, EarlyRedactions},
    relationships::Relationship,
    tables::{self, AuthEdges, EventPlace, StateKeyName, UserRooms},
};
use crate::{
    Server,
    error::Result,
    event::{Pdu, StoredEvent, Verified, authorize, authorize::Fallible, stored::Placement},
    store::{self, EventNid, RoomNid, StateKeyNid, Transaction},
};

/// How many events are written in one transaction: others wait for it.
const BATCH: usize = 500;

/// Stores those of `events` that are not known yet. Those whose auth events are neither known nor among `events` are left
/// out, since nobody can say whether they are allowed; what the rules refuse is stored as rejected, such as what names an
/// auth event of another room. In what order they
/// come does not matter. Durable with whatever is committed next.
pub async fn store(server: &Arc<Server>, room: RoomNid, events: Vec<Verified>) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let server = Arc::clone(server);
    Server::detached(async move {
        let mut numbers = server.rooms.lock(room).await;
        let known = *numbers;
        let work = move |server: &Server| {
            let snapshot = server.store.snapshot();
            let view = View::of(&server.rooms, &snapshot, room)?;
            let mut outliers = Outliers::new(&view, known.get(&snapshot, room)?)?;
            for event in in_auth_order(events) {
                outliers.add(event)?;
            }
            Ok((outliers.rows, outliers.next))
        };
        let (mut rows, next) = server.blocking(work).await?;
        numbers.set(None); // until all is written
        while !rows.is_empty() {
            let later = rows.split_off(rows.len().min(BATCH));
            let batch = std::mem::replace(&mut rows, later);
            server.store.write(move |tx| batch.into_iter().try_for_each(|row| row.write(tx, room))).await?;
        }
        numbers.set(Some(next));
        Ok(())
    })
    .await
}

/// Whether an event was stored before its auth events were known: an invite from a room that we are not in, for example.
/// It takes no part in the auth graph, and gets a new number when it does.
pub(super) fn is_out_of_band(view: &View<'_>, nid: EventNid, event: &StoredEvent) -> Result<bool> {
    Ok(event.flags.outlier && event.state_key.is_some() && !view.snapshot.contains::<AuthEdges>(&(view.nid, nid))?)
}

/// Whether an event of the room is known together with its auth events.
pub fn is_in_auth_graph(view: &View<'_>, id: &EventId) -> Result<bool> {
    let Some(nid) = view.event_nid(id)? else { return Ok(false) };
    Ok(!is_out_of_band(view, nid, &view.event(nid)?)?)
}

/// The events, each after its auth events as far as those are among them.
pub fn in_auth_order(mut events: Vec<Verified>) -> Vec<Verified> {
    // Since version 12 nobody names the create event, which allows all others nonetheless.
    events.sort_by_key(|event| event.pdu().event_type != TimelineEventType::RoomCreate);
    in_order(events, |pdu| &pdu.auth_events)
}

/// The events, each after those that `before` names of it, as far as they are among them. What goes round in a circle,
/// which no honest events do, is left out.
pub fn in_order(events: Vec<Verified>, before: impl Fn(&Pdu) -> &[OwnedEventId]) -> Vec<Verified> {
    let mut slots: Vec<Option<Verified>> = Vec::with_capacity(events.len());
    let mut index: HashMap<OwnedEventId, usize> = HashMap::new();
    for event in events {
        index.entry(event.pdu().event_id.clone()).or_insert_with(|| {
            slots.push(Some(event));
            slots.len() - 1
        });
    }
    let mut followers = vec![Vec::new(); slots.len()];
    let mut waits_for = vec![0_usize; slots.len()];
    for (at, event) in slots.iter().enumerate() {
        let named: HashSet<usize> =
            event.iter().flat_map(|event| before(event.pdu())).filter_map(|id| index.get(id).copied()).collect();
        waits_for[at] = named.len();
        named.into_iter().for_each(|earlier| followers[earlier].push(at));
    }
    let mut ready: VecDeque<usize> = (0..slots.len()).filter(|at| waits_for[*at] == 0).collect();
    let mut ordered = Vec::with_capacity(slots.len());
    while let Some(at) = ready.pop_front() {
        ordered.extend(slots[at].take());
        for &follower in &followers[at] {
            waits_for[follower] -= 1;
            if waits_for[follower] == 0 {
                ready.push_back(follower);
            }
        }
    }
    ordered
}

/// Outliers that are being worked out, each of which can rely on those before it.
struct Outliers<'v, 's> {
    view: &'v View<'s>,
    next: NextNumbers,
    /// The one that the room has, if we know any.
    create: Option<OwnedEventId>,
    made: HashMap<OwnedEventId, (EventNid, Arc<Pdu>)>,
    new_keys: HashMap<StateKeyName, StateKeyNid>,
    rows: Vec<Row>,
}

/// What one outlier changes.
#[derive(Debug)]
struct Row {
    nid: EventNid,
    stored: StoredEvent,
    auth_edges: Option<tables::Edges>,
    new_key: Option<(StateKeyNid, StateKeyName)>,
    early_redactions: Vec<EventNid>,
    /// What it replies to: trees of replies have events without a place, too.
    relationship: Option<Relationship>,
    /// Its number so far, if it was stored before its auth events.
    moved_from: Option<EventNid>,
}

impl<'v, 's> Outliers<'v, 's> {
    fn new(view: &'v View<'s>, next: NextNumbers) -> Result<Self> {
        let create = create_event(view)?;
        Ok(Self { view, next, create, made: HashMap::new(), new_keys: HashMap::new(), rows: Vec::new() })
    }

    fn known(&self, id: &EventId) -> store::Result<Option<EventNid>> {
        match self.made.get(id) {
            Some((nid, _)) => Ok(Some(*nid)),
            None => self.view.event_nid(id),
        }
    }

    fn fetch(&self, id: &EventId) -> store::Result<Option<Arc<Pdu>>> {
        match self.made.get(id) {
            Some((_, pdu)) => Ok(Some(Arc::clone(pdu))),
            None => self.view.event_nid(id)?.map(|nid| self.view.pdu(nid)).transpose(),
        }
    }

    fn add(&mut self, event: Verified) -> Result<()> {
        let view = self.view;
        let mut moved_from = None;
        if let Some(nid) = self.known(&event.pdu().event_id)? {
            if self.made.contains_key(&event.pdu().event_id) || !is_out_of_band(view, nid, &view.event(nid)?)? {
                return Ok(());
            }
            moved_from = Some(nid);
        }
        let mut auth_edges = Vec::with_capacity(event.pdu().auth_events.len());
        let mut names_another_room = false;
        for id in &event.pdu().auth_events {
            match self.known(id)? {
                Some(nid) => auth_edges.push(nid),
                // What follows on it may be fine, and needs it to be known.
                None if view.is_elsewhere(id)? && !view.takes_id_away(id)? => names_another_room = true,
                None => return Ok(()),
            }
        }
        let pdu = event.pdu();
        if pdu.room_id != view.room.room_id || view.takes_id_away(&pdu.event_id)? || !self.has_create_event(pdu)? {
            return Ok(());
        }
        let failed = Fallible::default();
        let verdict =
            authorize::check_against_auth_events(view.rules, event.pdu(), |id: &EventId| failed.keep(self.fetch(id)));
        let is_only = authorize::check_only_create(event.pdu(), self.create.as_deref()).is_ok();
        let is_rejected = failed.check(verdict)?.is_err() || !is_only || names_another_room;
        if !is_rejected && event.pdu().event_type == TimelineEventType::RoomCreate {
            self.create = Some(event.pdu().event_id.clone());
        }
        if is_rejected {
            auth_edges.clear();
        }
        let flags = crate::event::Flags { outlier: true, rejected: is_rejected, ..Default::default() };
        let stored = StoredEvent::new(&event, view.rules, Placement { flags, ..Placement::default() });
        let early_redactions = redaction::early(view, &stored.event_id)?;
        let stored = if early_redactions.is_empty() { stored } else { redaction::apply_early(view, stored)? };
        let new_key = if is_rejected { None } else { self.new_key(&stored)? };
        let nid = self.next.event;
        self.next.event.0 += 1;
        let pdu = Pdu { rejected: is_rejected, ..event.pdu().clone() };
        self.made.insert(pdu.event_id.clone(), (nid, Arc::new(pdu)));
        let auth_edges = stored.state_key.is_some().then_some(tables::Edges(auth_edges));
        let relationship = if is_rejected { None } else { Relationship::of(&stored, nid) };
        self.rows.push(Row { nid, stored, auth_edges, new_key, early_redactions, relationship, moved_from });
        Ok(())
    }

    /// Whether the create event is known, where it allows an event without being named.
    fn has_create_event(&self, pdu: &Pdu) -> Result<bool> {
        if !self.view.rules.authorization.room_create_event_id_as_room_id
            || pdu.event_type == TimelineEventType::RoomCreate
        {
            return Ok(true);
        }
        match EventId::parse(format!("${}", pdu.room_id.strip_sigil())) {
            Ok(id) => Ok(self.known(&id)?.is_some()),
            Err(_) => Ok(false),
        }
    }

    fn new_key(&mut self, event: &StoredEvent) -> Result<Option<(StateKeyNid, StateKeyName)>> {
        let Some(state_key) = &event.state_key else { return Ok(None) };
        let name = StateKeyName { event_type: event.event_type.clone(), state_key: state_key.clone() };
        if self.new_keys.contains_key(&name) || self.view.state_key_nid(&name.event_type, state_key)?.is_some() {
            return Ok(None);
        }
        let nid = self.next.state_key;
        self.next.state_key.0 += 1;
        self.new_keys.insert(name.clone(), nid);
        Ok(Some((nid, name)))
    }
}

impl Row {
    fn write(self, tx: &mut Transaction<'_>, room: RoomNid) -> store::Result<()> {
        let event = self.nid;
        if let Some(old) = self.moved_from {
            move_number(tx, room, old, event, &self.stored)?;
        }
        tx.put::<tables::Events>(&(room, event), &self.stored);
        tx.put::<tables::EventIds>(&&*self.stored.event_id, &EventPlace { room, event });
        if let Some(edges) = &self.auth_edges {
            tx.put::<AuthEdges>(&(room, event), edges);
        }
        if let Some((key, name)) = &self.new_key {
            tx.put::<tables::StateKeys>(&(room, &name.event_type, &name.state_key), key);
            tx.put::<tables::StateKeyNames>(&(room, *key), name);
        }
        if let Some(relationship) = self.relationship {
            relationship.put(tx, room);
        }
        for redaction in self.early_redactions {
            tx.delete::<EarlyRedactions>(&(room, &self.stored.event_id, redaction));
        }
        Ok(())
    }
}

/// Takes the number `old` from a member event that was stored out of band and gets the number `new`.
pub(super) fn move_number(
    tx: &mut Transaction<'_>,
    room: RoomNid,
    old: EventNid,
    new: EventNid,
    event: &StoredEvent,
) -> store::Result<()> {
    tx.delete::<tables::Events>(&(room, old));
    let user = event.state_key.as_deref().and_then(|user| <&ruma::UserId>::try_from(user).ok());
    if let Some(user) = user
        && let Some(row) = tx.get::<UserRooms>(&(user, room))?
        && row.event == old
    {
        tx.put::<UserRooms>(&(user, room), &tables::UserRoom { event: new, ..row });
    }
    Ok(())
}
